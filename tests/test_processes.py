"""Several processes: BatchNorm over all, another number of them later, shared evaluation, a worker that dies."""

import copy
import importlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, differences, far, log_of
from forks import torchrun_forks
from PIL import Image
from test_in_step import SCRIPTS

import metrics

SMALL = "--image-size 16 --ngf 4 --device cpu --sample-every 0 --log-every 1 --lr 1e-4 --batch-size".split()
NORMED = {  # a script whose networks have BatchNorm: its flags
    "vae": "--arch conv --nef 4 --nz 3",
    "dcgan": "--ndf 4 --nz 8",
    "cgan": "--ndf 4 --nz 8",
    "wgan": "--lipschitz clip --ndf 4 --nz 8 --n-critic 2",
    "vaegan": "--norm-d batch --unit-variance --nef 4 --ndf 4 --nz 3 --fc 8 --num-samples 4 --decay-from 0",
}

PROCESS = """
import os, signal, sys
sys.path.insert(0, {root!r})
import importlib, torch, metrics
metrics.RunLog.plot = lambda log: None
out, data, data_dir = sys.argv[1:]

def train(script, folder, *flags, save=True):
    module, made = importlib.import_module(script), {{}}
    build, module.build = module.build, lambda *a: made.setdefault("nets", build(*a))
    where = ["--dataset", data, "--data-dir", data_dir, "--out", f"{{out}}/{{folder}}"]
    module.main([*map(str, flags), *where])
    module.build = build
    if save:
        states = {{name: net.state_dict() for name, net in made["nets"].items()}}
        torch.save(states, f"{{out}}/{{folder}}-{{os.environ['RANK']}}.pt")

NORMED, SMALL = {normed!r}, {small!r}
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Class folders: 24 pictures of 16 px of each of three colours."""
    root, rng = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for k, name in enumerate(("blue", "green", "red")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (16, 16, 3), np.uint8)
                pixels[4:12, 4:12, 2 - k] = 255
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def launch(kinds, data_dir, tmp_path):
    """launch(code): two processes of torchrun itself do it -> CompletedProcess, whatever their end; by forks=True forks
    do it, which must end well. `train` there is that of PROCESS."""

    def launch(code, forks=False):
        file = tmp_path / "process.py"
        file.write_text(PROCESS.format(root=str(ROOT), normed=NORMED, small=SMALL) + code)
        if forks:
            return torchrun_forks(tmp_path, file, tmp_path, kinds, data_dir)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*map(str, [*launcher, file, tmp_path, kinds, data_dir])]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)

    return launch


@pytest.fixture
def train_one(kinds, data_dir, tmp_path, no_curves):
    """train_one(script, folder, *flags) -> the checkpoint of a run of one process, in here."""

    def train_one(script, folder, *flags):
        where = ["--dataset", kinds, "--data-dir", data_dir, "--out", tmp_path / folder]
        importlib.import_module(script).main([*map(str, [*flags, *where])])
        return torch.load(tmp_path / folder / "last.pt", weights_only=True)

    return train_one


TOGETHER = """
leave, metrics.leave_processes = metrics.leave_processes, lambda: None  # one group for all runs
for script, own in NORMED.items():
    for sync in ("--sync-bn", "--no-sync-bn"):
        train(script, f"{script}{sync}", *SMALL, 4, *own.split(), "--max-steps", 3, sync)
train("dcgan", "half", *SMALL, 4, *NORMED["dcgan"].split(), "--max-steps", 3, "--arch", "mlp", "--eval-every", 3)
leave()
"""


def test_two_processes_equal_one_with_batchnorm_too_evaluate_together_and_hand_on_to_one(launch, train_one, tmp_path):
    launch(TOGETHER, forks=True)
    for script, own in NORMED.items():
        one = train_one(script, f"{script}-one", *SMALL, 8, *own.split(), "--max-steps", 3)
        start = train_one(script, f"{script}-start", *SMALL, 8, *own.split(), "--max-steps", 1, "--lr", 1e-12)
        apart = {}
        for sync in ("--sync-bn", "--no-sync-bn"):
            a, b = (torch.load(tmp_path / f"{script}{sync}-{rank}.pt", weights_only=True) for rank in (0, 1))
            for name in a:
                weights = [key for key in a[name] if "running" not in key]
                assert all(torch.equal(a[name][key], b[name][key]) for key in weights), (script, name)
            apart[sync] = max(far(a[name], one[name]) for name in a)
            if sync == "--sync-bn":  # running averages too
                assert all(far(a[name], b[name]) == 0 for name in a)
        moved = max(far(start[name], one[name]) for name in a)
        assert apart["--sync-bn"] < 2e-5 < moved / 3, (script, apart, moved)
        assert apart["--no-sync-bn"] > 10 * apart["--sync-bn"], (script, apart)

    # one process goes on where two stood, with their whole batches; what two measured together, one measures too
    flags = [*SMALL, 8, *NORMED["dcgan"].split(), "--arch", "mlp", "--eval-every", 3]
    whole = train_one("dcgan", "whole", *flags, "--max-steps", 6)
    two = json.loads((tmp_path / "half" / "metrics-0000003.json").read_text())["scores"]
    alone = json.loads((tmp_path / "whole" / "metrics-0000003.json").read_text())["scores"]
    assert [s["metric"] for s in two] == [s["metric"] for s in alone] and two[0]["n_fake"] == 24
    assert [s["value"] for s in two] == pytest.approx([s["value"] for s in alone], rel=1e-2)
    assert torch.load(tmp_path / "half" / "last.pt", weights_only=True)["processes"] == 2
    done = train_one("dcgan", "half", "--resume", tmp_path / "half" / "last.pt", "--max-steps", 6, "--sync-bn")
    assert (done["args"]["batch_size"], done["processes"], done["step"]) == (8, 1, 6)
    assert all(far(whole[name], done[name]) < 2e-5 for name in "GD") and torch.equal(whole["noise"], done["noise"])
    assert [row["step"] for row in log_of(tmp_path / "half")] == list("123456")


def test_processes_that_cannot_share_a_batch_are_refused(train_one, tmp_path, monkeypatch, capsys):
    train_one("vae", "run", *SMALL, 4, "--max-steps", 1)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit) as end:
        train_one("vae", "run", "--resume", tmp_path / "run" / "last.pt", "--max-steps", 2)
    assert end.value.code == 2
    assert "batches of 4, by 1 processes; 3 processes cannot share them evenly" in capsys.readouterr().err


DYING = """
add = metrics.average_gradients
def average(*nets, seen=[]):
    add(*nets)
    seen.append(1)
    if len(seen) == {call} and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.{signal})
metrics.average_gradients = average
train("dcgan", "run", *SMALL, 4, *NORMED["dcgan"].split(), "--save-every", 2, "--epochs", 9, save=False)
"""


def test_a_killed_worker_ends_the_job_in_a_sentence_and_the_checkpoint_is_whole(launch, tmp_path):
    began = time.time()
    done = launch(DYING.format(call=9, signal="SIGKILL"))  # in step 5
    assert done.returncode != 0 and time.time() - began < 60
    told = [line for line in done.stderr.splitlines() if line.startswith("dcgan.py:")]
    assert told == [
        "dcgan.py: another process of this job has ended, and so this one does; start all with --resume auto to "
        "continue from the last checkpoint"
    ]
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["step"] == 4 and not list((tmp_path / "run").glob("*.tmp"))


def test_sigterm_to_one_process_ends_all_after_the_same_step(launch, train_one, tmp_path):
    done = launch(DYING.format(call=9, signal="SIGTERM"))
    assert done.returncode != 0
    assert "dcgan.py: stopped after step 10; the same command with --resume auto continues" in done.stderr
    assert "another process" not in done.stderr
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 10


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_hands_the_flag_on(script):
    """Under torchrun --sync-bn works where broadcast_weights is told of it."""
    assert "broadcast_weights(*nets.values(), sync_bn=args.sync_bn)" in (ROOT / f"{script}.py").read_text()


def test_batchnorm_of_one_process_in_training_and_in_evaluation(monkeypatch):
    """With one process it is torch's own: outputs, gradients, running averages; in 1 and in 2 dimensions."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for norm, shape in ((torch.nn.BatchNorm2d(3), (4, 3, 5, 6)), (torch.nn.BatchNorm1d(3), (8, 3))):
            torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
            own = copy.deepcopy(norm)
            metrics.broadcast_weights(own, sync_bn=True)
            assert type(own) is metrics.SyncBatchNorm and list(own.state_dict()) == list(norm.state_dict())
            x = (torch.randn(shape) * 3 + 2).requires_grad_(True)
            outputs, grads = [], []
            for net in (norm, own):
                y = net(x)
                grads.append(torch.autograd.grad(y.sin().sum(), [x, *net.parameters()]))
                outputs += [y, net.eval()(x)]
            assert torch.allclose(outputs[0], outputs[2], atol=1e-5) and torch.allclose(
                outputs[1], outputs[3], atol=1e-5
            )
            assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*grads, strict=True))
            assert (
                differences(norm.state_dict(), own.state_dict()) == []
                or far(norm.state_dict(), own.state_dict()) < 1e-5
            )
    finally:
        torch.distributed.destroy_process_group()
