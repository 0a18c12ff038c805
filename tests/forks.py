"""Processes that need not import torch, which takes seconds: forks of one that has imported what is slow, and no more.

What each runs is a file, as `python FILE ...` would: as __main__, with the arguments, and its folder first in sys.path.
"""

import multiprocessing
import os
import runpy
import sys
import uuid
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy

SLOW = ["torch", "torch._dynamo", "torch.distributed.run", "matplotlib.figure", "matplotlib.backends.backend_agg"]
# torch.optim imports torch._dynamo; pytest is the __main__ that a fork looks at first
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload([*SLOW, "pytest"])


def work(told, path, *flags):
    """What a fork does; it writes to the folder `told`, in files by rank: out0, err0."""
    sys.stdout.flush(), sys.stderr.flush()
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{told}/{name}{os.environ.get('RANK', 0)}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    numpy.random.seed()  # two new interpreters would not draw alike either
    sys.argv, sys.path[0] = [path, *flags], os.path.dirname(path)
    runpy.run_path(path, run_name="__main__")


def output(told):
    """-> what is written to stdout, and to stderr, by all processes."""
    return ["".join(file.read_text() for file in sorted(Path(told).glob(f"{name}*"))) for name in ("out", "err")]


def run_fork(told, path, *flags, timeout=120):
    """`python PATH FLAGS` -> the exit status."""
    process = forkserver.Process(target=work, args=(str(told), str(path), *map(str, flags)))
    process.start()
    process.join(timeout)
    process.kill()
    process.join()
    return process.exitcode


def torchrun_forks(told, path, *flags, timeout=120):
    """`torchrun --standalone --nproc-per-node 2 PATH FLAGS`; RuntimeError if a process fails."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # not what a fork needs

    meet = {"run_id": uuid.uuid4().hex, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = LaunchConfig(1, 1, 2, start_method="forkserver", max_restarts=0, **meet)
    try:
        with ThreadPool(1) as pool:  # which can be left when the time is over
            pool.apply_async(elastic_launch(config, work), (str(told), str(path), *map(str, flags))).get(timeout)
    except Exception as error:
        for process in multiprocessing.active_children():
            process.kill()  # else the end of Python waits for one that hangs
        raise RuntimeError(output(told)[1][-3000:]) from error
