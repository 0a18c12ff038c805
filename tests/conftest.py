"""Threads are pinned (small steps stall when threads outnumber free cores) and one folder of data serves all tests."""

import os
import subprocess
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # inherited by every subprocess

import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def run():
    """run("bicyclegan.py", "--max-steps", 1) -> CompletedProcess of a user's command, started from the repository."""

    def run(script, *flags, launcher=(), timeout=120, check=True):
        command = [sys.executable, *launcher, str(ROOT / script), *map(str, flags)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)
        if check:
            assert done.returncode == 0, done.stderr[-3000:]
        return done

    return run
