"""Threads are pinned (small steps stall when threads outnumber free cores) and one folder of data serves all tests.

What the tests of several scripts need stands here once. A fixture knows the script by the name of the test's module,
and finds that module's own fixture `flags`: those of a small run.
"""

import copy
import csv
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # inherited by every subprocess

import numpy as np
import pytest
import torch
from forks import output, run_fork, torchrun_forks
from PIL import Image

import metrics

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


# ----------------------------------------------------------------------------------------------------- plain functions


def count(net):
    return sum(p.numel() for p in net.parameters())


def of_type(net, *types):
    return [module for module in net.modules() if isinstance(module, types)]


def same(a, b):
    """Two lists of tensors, or of None."""
    return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in zip(a, b, strict=True))


def far(a, b):
    """Largest difference between two dicts of tensors."""
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


def differences(a, b, path=""):
    """Where two checkpoints differ, ignoring flags and clocks."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return [d for k in a if k not in ("args", "seconds", "made") for d in differences(a[k], b[k], f"{path}/{k}")]
    if isinstance(a, (list, tuple)):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")]
    return [] if (torch.equal(a, b) if torch.is_tensor(a) else a == b) else [path]


def log_of(folder):
    rows = list(csv.DictReader(open(folder / "log.csv")))
    return [{k: v for k, v in row.items() if k != "images_per_s"} for row in rows]


def cells(path, size=16):
    """A picture -> (rows, columns, size, size, its channels), without the titles."""
    sheet = np.asarray(Image.open(path)).astype(int)
    rows, columns = ((side - 2) // (size + 2) for side in sheet.shape[:2])
    sheet = sheet[-rows * (size + 2) :, 2:].reshape(rows, size + 2, columns, size + 2, *sheet.shape[2:])
    return sheet.swapaxes(1, 2)[:, :, :size, :size]


# ------------------------------------------------------------------------------------------------------- runs in here


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """What a power failure leaves behind no test can see; that the file is open is seen here too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def script(request):
    """The module under test: dcgan in test_dcgan.py."""
    return importlib.import_module(request.module.__name__.removeprefix("test_"))


@pytest.fixture
def no_curves(monkeypatch):
    """They take most of the time of so short a run; the smoke test draws them."""
    monkeypatch.setattr(metrics.RunLog, "plot", lambda self: None)


@pytest.fixture
def train_here(script, flags, no_curves):
    """train_here(folder, *more) -> the checkpoint of a run in this process."""

    def train_here(out, *more):
        script.main([*map(str, (*flags, "--out", out, *more))])
        return torch.load(out / "last.pt", weights_only=True)

    return train_here


@pytest.fixture
def watched(monkeypatch, script, train_here, tmp_path):
    """watched(*flags) -> what one run does: its `nets` and how they `start`; under the name of each its calls in
    training, [*inputs, *outputs]; `after` each backward (the networks that learn, all gradients by name); its `state`.
    """

    def note(calls):
        def hook(net, inputs, outputs):
            if net.training:
                outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
                calls.append([x.detach().clone() for x in (*inputs, *outputs)])

        return hook

    def watched(*more):
        seen, build, average_gradients = {"after": []}, script.build, metrics.average_gradients

        def spy_build(*a):
            seen["nets"] = build(*a)
            seen["start"] = copy.deepcopy(seen["nets"])
            for name, net in seen["nets"].items():
                seen[name] = []
                net.register_forward_hook(note(seen[name]))
            return seen["nets"]

        def spy_gradients(*nets):
            average_gradients(*nets)
            grads = {name: [p.grad for p in net.parameters()] for name, net in seen["nets"].items()}
            seen["after"].append((nets, {n: [g if g is None else g.clone() for g in gs] for n, gs in grads.items()}))

        with monkeypatch.context() as patch:
            patch.setattr(script, "build", spy_build)
            patch.setattr(metrics, "average_gradients", spy_gradients)
            seen["state"] = train_here(tmp_path / f"run{len(list(tmp_path.iterdir()))}", *more)
        return seen

    return watched


@pytest.fixture
def in_two_parts(train_here, tmp_path):
    """in_two_parts(first, *flags): a run equals, to the bit, one that ends early by the flags `first` and is resumed.

    -> its checkpoint; the folders are "whole" and "half".
    """

    def in_two_parts(first, *more):
        whole = train_here(tmp_path / "whole", *more)
        assert train_here(tmp_path / "half", *more, *first)["step"] < whole["step"]
        resumed = train_here(tmp_path / "half", "--max-steps", 0, *more, "--resume", "auto")
        assert whole["step"] == resumed["step"] and differences(whole, resumed) == []
        rows = log_of(tmp_path / "whole")
        steps = {row["step"] for row in rows}  # the shorter run logged its last step too
        assert [row for row in log_of(tmp_path / "half") if row["step"] in steps] == rows
        return whole

    return in_two_parts


@pytest.fixture
def stops_cleanly(train_here, monkeypatch, tmp_path, capfd):
    """stops_cleanly(*flags): Ctrl-C, or SIGTERM, in the middle of step 2 ends a run after step 3, with a checkpoint, a
    line, and a status that says which; resumed, it ends in the bits and the log of a run that nobody stopped."""

    def stops_cleanly(*more):
        flags = [*more, "--log-every", 2, "--save-every", 0, "--max-steps", 5]
        whole, add = train_here(tmp_path / "whole", *flags), metrics.RunLog.add
        for number in (signal.SIGINT, signal.SIGTERM):
            out, calls = tmp_path / f"signal{number}", []

            def interrupted(log, *losses, _number=number, _calls=calls, **more):
                add(log, *losses, **more)
                _calls.append(1)
                if len(_calls) == 2:
                    os.kill(os.getpid(), _number)

            with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
                patch.setattr(metrics.RunLog, "add", interrupted)
                handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may run where it is ignored
                try:
                    train_here(out, *flags)
                finally:
                    signal.signal(signal.SIGINT, handler)
            assert end.value.code == 128 + number
            text = capfd.readouterr().err
            assert "stopping soon, with a checkpoint" in text and "stopped after step 3; the same command" in text
            assert torch.load(out / "last.pt", weights_only=True)["step"] == 3 and len(log_of(out)) == 1
            assert differences(whole, train_here(out, *flags, "--resume", "auto")) == []
            assert log_of(out) == log_of(tmp_path / "whole")

    return stops_cleanly


@pytest.fixture
def reproducible(train_here, tmp_path):
    """reproducible(*flags): the same command gives the same bits, with workers and looked on too; another seed not."""

    def reproducible(*more):
        a, b = (train_here(tmp_path / name, *more) for name in "ab")
        c, d = train_here(tmp_path / "c", *more, "--seed", 1), train_here(tmp_path / "d", *more, "--workers", 1)
        e = train_here(tmp_path / "e", *more, "--log-every", 1, "--sample-every", 1, "--num-samples", 3)
        assert differences(a, b) == [] and differences(a, d) == [] and differences(a, c) != []
        a.pop("log"), e.pop("log")
        assert differences(a, e) == []  # looking on changes nothing

    return reproducible


# -------------------------------------------------------------------------------------------------- complaints in here


@pytest.fixture
def complaint(script, capsys):
    """complaint(*flags) -> the one sentence on stderr of a command that must fail without a traceback."""

    def complaint(*flags):
        with pytest.raises(SystemExit) as stop:
            script.main([*map(str, flags)])
        text = capsys.readouterr().err
        assert stop.value.code == 2 and "Traceback" not in text
        return text[text.find(f"{script.__name__}.py: ") :]  # what comes before is the progress bar

    return complaint


@pytest.fixture
def refuses_foreign_and_broken(complaint, tmp_path):
    """refuses_foreign_and_broken(checkpoint): another script's, or half of one."""

    def refuses_foreign_and_broken(trained):
        torch.save({**torch.load(trained, weights_only=True), "script": "other"}, tmp_path / "foreign.pt")
        (tmp_path / "short.pt").write_bytes(trained.read_bytes()[:5000])
        for way in ("--sample", "--evaluate", "--resume"):
            assert "a checkpoint of other.py" in complaint(way, tmp_path / "foreign.pt")
            assert "short.pt" in complaint(way, tmp_path / "short.pt")

    return refuses_foreign_and_broken


@pytest.fixture
def stops_at_nan(complaint, train_here, tmp_path):
    """stops_at_nan(loss, net): where that network's first weights are no numbers, a run ends with a sentence that names
    a loss, and the checkpoint stays as it was."""

    def stops_at_nan(loss="loss_", net="G"):
        state, last = train_here(tmp_path / "run", "--max-steps", 1, "--log-every", 1), tmp_path / "run" / "last.pt"
        next(iter(state[net].values())).fill_(float("nan"))
        torch.save(state, last)
        before = last.read_bytes()
        text = complaint("--resume", last, "--max-steps", 9)
        assert loss in text and "not finite" in text and last.read_bytes() == before

    return stops_at_nan


# ------------------------------------------------------------------------------------------- processes of their own


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


@pytest.fixture
def smoke(script, flags, no_curves, tmp_path):
    """smoke(*flags) -> stdout of one step in a process of its own; then --sample, and --resume for one step more."""

    def smoke(*more):
        out = tmp_path / "run"
        status = run_fork(tmp_path, ROOT / f"{script.__name__}.py", *flags, *more, "--max-steps", 1, "--out", out)
        told, complained = output(tmp_path)
        assert status == 0, complained[-3000:]
        made = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
        assert made == {"args.json", "log.csv", "curves.png", "last.pt", "samples/0000001.png"}
        script.main(["--sample", str(out / "last.pt")])
        script.main(["--resume", str(out / "last.pt"), "--max-steps", "2"])
        assert [row["step"] for row in log_of(out)] == ["1", "2"]
        return told

    return smoke


PROCESS = """
import os, sys
sys.path.insert(0, {root!r})
import torch, metrics, {script} as script
metrics.RunLog.plot = lambda log: None
out, *flags = sys.argv[1:]

def train(out, *flags):
    made, build = {{}}, script.build
    script.build = lambda *a: made.setdefault("nets", build(*a))
    script.main([*flags, "--out", out])
    script.build = build
    states = {{name: net.state_dict() for name, net in made["nets"].items()}}
    torch.save(states, f"{{out}}/{{os.environ['RANK']}}.pt")

"""


@pytest.fixture
def torchrun(script, tmp_path):
    """torchrun(out, *flags): a run of two processes, of which each leaves its networks in out/0.pt or out/1.pt.

    `code` is what both do, where it is more.
    """

    def torchrun(out, *flags, code="train(out, *flags)"):
        (tmp_path / "process.py").write_text(PROCESS.format(root=str(ROOT), script=script.__name__) + code)
        torchrun_forks(tmp_path, tmp_path / "process.py", out, *flags)

    return torchrun
