"""metrics.py's run folder: the log's means, checkpoints that are whole or absent, flags that come from a checkpoint."""

import argparse
import csv
import json
import os

import pytest
import torch

import metrics
from metrics import MetricError

FIGURES = {"losses": ["loss_a"], "vector": ["v_0", "v_1"]}


def rows(folder):
    return list(csv.DictReader(open(folder / "log.csv")))


def add(log, step):
    log.add(4, loss_a=torch.tensor(float(step), requires_grad=True), v=torch.tensor([1.0, step]))


# --------------------------------------------------------------------------------------------------------------- log


def test_a_row_holds_the_means_since_the_row_before(tmp_path):
    log = metrics.RunLog(tmp_path, FIGURES, every=3)
    for step in range(1, 7):
        add(log, step)
        if step % 3 == 0:
            row = log.write(step, 0, extra=7)
    assert [float(r["loss_a"]) for r in rows(tmp_path)] == [2, 5]
    assert [float(r["v_1"]) for r in rows(tmp_path)] == [2, 5] and row["v_0"] == 1 and row["extra"] == 7
    assert all(float(r["images_per_s"]) > 0 for r in rows(tmp_path))


def test_an_extra_row_at_the_end_of_a_run_does_not_disturb_the_next(tmp_path):
    """A run that stops at step 4 writes a row there; continued, its row of step 6 is the mean of steps 4, 5 and 6."""
    log = metrics.RunLog(tmp_path, FIGURES, every=3)
    for step in range(1, 5):
        add(log, step)
        if step in (3, 4):
            log.write(step, 0)
    state = log.state()
    log = metrics.start_run(tmp_path, {"log_every": 3}, FIGURES, {"step": 4, "log": state})
    for step in (5, 6):
        add(log, step)
    log.write(6, 0)
    assert [float(r["loss_a"]) for r in rows(tmp_path)] == [2, 4, 5]


def test_a_loss_that_is_not_finite_is_named_and_no_checkpoint_is_taken(tmp_path):
    log = metrics.RunLog(tmp_path, FIGURES)
    log.add(1, loss_a=torch.tensor(1.0), v=torch.tensor([0.0, float("nan")]))
    with pytest.raises(MetricError, match="^v_1 is not finite"):
        log.write(1, 0)
    with pytest.raises(MetricError, match="v_1"):
        log.state()


def test_seconds_go_on_over_a_resume(tmp_path):
    log = metrics.start_run(tmp_path, {"log_every": 1}, FIGURES)
    add(log, 1)
    first = log.state()["seconds"]
    log = metrics.start_run(tmp_path, {"log_every": 1}, FIGURES, {"step": 1, "log": log.state() | {"seconds": 100.0}})
    assert 0 < first < 50 and 100 < log.state()["seconds"] < 150


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_comes_back(tmp_path):
    metrics.save_checkpoint(tmp_path / "last.pt", {"script": "vae", "net": {"w": torch.arange(3)}, "step": 2})
    state = metrics.load_checkpoint(tmp_path / "last.pt", "vae")
    assert state["step"] == 2 and torch.equal(state["net"]["w"], torch.arange(3))
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch, error):
    path = tmp_path / "last.pt"
    metrics.save_checkpoint(path, {"script": "vae", "step": 1})

    def save(state, target):
        target.write_bytes(b"half a che")
        raise error

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(MetricError, match="last.pt cannot be written .*--out"):
        metrics.save_checkpoint(path, {"script": "vae", "step": 2})
    assert metrics.load_checkpoint(path, "vae")["step"] == 1 and os.listdir(tmp_path) == ["last.pt"]


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    metrics.start_run(tmp_path / "run", {"log_every": 1}, FIGURES)
    metrics.start_run(tmp_path / "run", {"log_every": 1}, FIGURES)  # begun, but nothing kept: begin again
    metrics.save_checkpoint(tmp_path / "run" / "last.pt", {"script": "vae"})
    with pytest.raises(MetricError, match="holds a run; continue it with --resume auto"):
        metrics.start_run(tmp_path / "run", {"log_every": 1}, FIGURES)


def test_scores_are_printed_and_kept(tmp_path, capsys):
    score = metrics.Score("FID", 12.5, dims=768, n_real=10, n_fake=20, floor=1.5)
    metrics.write_scores(tmp_path / "metrics.json", [score], step=3)
    facts = json.loads((tmp_path / "metrics.json").read_text())
    assert facts["step"] == 3 and facts["scores"][0]["value"] == 12.5 and facts["scores"][0]["floor"] == 1.5
    assert capsys.readouterr().out.startswith("FID-768 12.5")
    (tmp_path / "file").write_text("")
    with pytest.raises(MetricError, match="cannot be written"):
        metrics.write_scores(tmp_path / "file" / "metrics.json", [score])


# --------------------------------------------------------------------------------------------------------------- flags


@pytest.fixture
def parse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser_flags = "out resume sample evaluate weights-dir input".split()

    def parse(*argv):
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("--dataset", default="faces")
        counts = {"epochs": 20, "seed": 0, "width": 24, "max-steps": 0, "batch-size": 8, "num-samples": 4, "workers": 0}
        for name, default in counts.items():
            parser.add_argument(f"--{name}", type=int, default=default)
        for name in ("beta1", "beta2"):
            parser.add_argument(f"--{name}", type=float, default=0.5)
        for name in parser_flags:
            parser.add_argument(f"--{name}", default="")
        return metrics.parse_args(parser, argv, "vae", ("input",))

    return parse


@pytest.mark.parametrize("wrong", ["--beta1 1", "--beta2 -0.1", "--workers -1", "--epochs 0", "--num-samples 0"])
def test_common_flags_out_of_range(parse, wrong):
    with pytest.raises(metrics.MetricError, match=wrong.split()[0]):
        parse(*wrong.split())


@pytest.fixture
def run(parse, tmp_path):
    """The folder of a run with --width 32 --epochs 5."""
    args, checkpoint = parse("--width", "32", "--epochs", "5")
    assert checkpoint is None and args.out == "runs/vae-faces-s0"
    (tmp_path / args.out).mkdir(parents=True)
    metrics.save_checkpoint(tmp_path / args.out / "last.pt", {"script": "vae", "args": vars(args), "step": 9})
    return args.out


def test_a_checkpoint_brings_its_flags(parse, run):
    for how in (["--resume", "auto"], ["--resume", f"{run}/last.pt"]):
        args, checkpoint = parse(*how, "--epochs", "7")
        assert (args.width, args.epochs, args.resume, args.out) == (32, 7, f"{run}/last.pt", run)
        assert checkpoint["step"] == 9
    args, _ = parse("--sample", f"{run}/last.pt", "--dataset", "digits", "--input", "x.png")
    assert (args.width, args.dataset, args.input, args.sample, args.resume) == (
        32,
        "digits",
        "x.png",
        f"{run}/last.pt",
        "",
    )
    assert args.out == run
    assert parse("--evaluate", f"{run}/last.pt", "--out", "elsewhere")[0].out == "elsewhere"


def test_flags_that_contradict_the_checkpoint_are_named(parse, run):
    for flags in (["--width", "24"], ["--seed", "3"], ["--dataset", "digits"]):
        with pytest.raises(MetricError, match=rf"was trained with {flags[0]} "):
            parse("--resume", f"{run}/last.pt", *flags)
    with pytest.raises(MetricError, match="--width 32"):
        parse("--sample", f"{run}/last.pt", "--width", "24")


def test_auto_begins_where_there_is_nothing(parse):
    args, checkpoint = parse("--resume", "auto", "--seed", "4")
    assert checkpoint is None and args.resume == "" and args.out == "runs/vae-faces-s4"
