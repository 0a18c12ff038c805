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


# ---------------------------------------------------------------------------------------------------- what main() needs


def new_parser(**changes):
    own = dict(image_size=(28, "pixels"), epochs=(3, "passes"), batch_size=(8, "images"), lr=(1e-3, "rate"))
    own |= dict(beta1=(0.9, "mean"), beta2=(0.99, "square"), num_samples=(4, "samples"))
    return metrics.new_parser("vae", "What it is.", dataset="digits", **own | changes)


def test_a_new_parser_has_the_scripts_defaults_and_its_description(capsys):
    args = new_parser(sample_every=7).parse_args(["--lr", "2", "--amp", "--num-samples", "9"])
    assert (args.dataset, args.image_size, args.epochs, args.batch_size, args.beta1) == ("digits", 28, 3, 8, 0.9)
    assert (args.lr, args.amp, args.compile, args.num_samples, args.sample_every) == (2.0, True, False, 9, 7)
    for wrong in (["--image-size", "big"], ["--device", "tpu"], ["--epoch", "3"]):  # no abbreviations
        with pytest.raises(SystemExit):
            new_parser().parse_args(wrong)
    assert "What it is." in new_parser().format_help() and "vae.py" in new_parser().format_usage()


@pytest.mark.parametrize("error", [MetricError("no weights"), OSError("no disk"), ZeroDivisionError("ours")])
def test_an_error_with_a_sentence_ends_without_a_traceback(error, capsys, monkeypatch):
    left = []
    monkeypatch.setattr(metrics, "leave_processes", lambda: left.append(1))
    with pytest.raises(SystemExit) as end, metrics.one_sentence(new_parser(), ZeroDivisionError):
        raise error
    assert end.value.code == 2 and capsys.readouterr().err == f"vae.py: {error}\n" and left == [1]


def test_a_fault_of_ours_shows_its_traceback_and_ctrl_c_says_how_to_go_on(capsys):
    with pytest.raises(ZeroDivisionError), metrics.one_sentence(new_parser()):
        raise ZeroDivisionError
    with pytest.raises(SystemExit) as end, metrics.one_sentence(new_parser()):
        raise KeyboardInterrupt
    assert end.value.code == 130 and "--resume auto continues" in capsys.readouterr().err


def test_the_last_step_of_a_run():
    def last(epochs, max_steps, done=0):
        return metrics.last_step(argparse.Namespace(epochs=epochs, max_steps=max_steps), 10, done)

    assert [last(3, 0), last(3, 7), last(3, 50), last(3, 0, 29)] == [30, 7, 30, 30]
    for flags in ((3, 0, 30), (3, 7, 7), (3, 7, 9)):
        with pytest.raises(MetricError, match=f"at its end, step {flags[2]}; .* --epochs or --max-steps"):
            last(*flags)


def test_rates_fall_from_what_each_optimiser_began_with():
    nets = {name: torch.nn.Linear(1, 1) for name in "ab"}
    opts = {"a": torch.optim.Adam(nets["a"].parameters(), 0.4), "b": torch.optim.Adam(nets["b"].parameters(), 0.1)}
    for epoch, factor in ((0, 1), (2, 1), (3, 0.5), (3.5, 0.25), (4, 0)):  # never a product of the rate before
        metrics.decay_rates(opts, epoch, epochs=4, decay_from=2)
        assert [opt.param_groups[0]["lr"] for opt in opts.values()] == pytest.approx([0.4 * factor, 0.1 * factor])


def test_a_saved_run_brings_back_optimisers_noise_and_step(tmp_path):
    def new(seed):
        torch.manual_seed(seed)
        net = torch.nn.Linear(2, 2)
        return net, {"D": torch.optim.Adam(net.parameters(), 0.1)}, torch.Generator().manual_seed(seed)

    def learn(net, opt, noise):
        opt.zero_grad()
        net(torch.randn(3, 2, generator=noise)).square().sum().backward()
        opt.step()
        return [p.detach().clone() for p in net.parameters()]

    net, opts, noise = new(1)
    learn(net, opts["D"], noise)
    args, log = argparse.Namespace(epochs=3), metrics.RunLog(tmp_path, FIGURES)
    metrics.save_run(tmp_path, "vae", args, 5, log, noise, {"D": net}, opts, channels=3)
    expected = learn(net, opts["D"], noise)
    state = metrics.load_checkpoint(tmp_path / "last.pt", "vae")
    assert (state["channels"], state["args"], state["step"]) == (3, {"epochs": 3}, 5)
    net, opts, noise = new(2)
    net.load_state_dict(state["D"])
    assert metrics.restore(state, noise, opts) == 5
    assert all(torch.equal(a, b) for a, b in zip(learn(net, opts["D"], noise), expected, strict=True))
    assert metrics.restore(None, noise, opts) == 0


def test_ranges_name_every_flag_that_is_wrong():
    args = argparse.Namespace(lr=-1.0, nz=1, n_critic=0, beta=-2.0, gamma=0.0, slope=float("nan"))
    metrics.check_ranges(args, "nz", "nz gamma")
    told = "--lr -1.0 must be above 0; --n-critic 0 must be above 0; --beta -2.0 must be 0 or above; --slope nan"
    with pytest.raises(metrics.MetricError, match=told):
        metrics.check_ranges(args, "lr nz n_critic", "beta gamma slope")


def test_memory_is_kept_where_the_c_library_can(monkeypatch):
    asked = []
    for library in (argparse.Namespace(mallopt=lambda *how: asked.append(how)), argparse.Namespace()):  # glibc, another
        monkeypatch.setattr(metrics.ctypes, "CDLL", lambda _, library=library: library)
        metrics.keep_freed_memory()
    assert asked == [(-4, 0), (-1, 2**31 - 1)]


@pytest.mark.parametrize("rank, told", [(0, "found checkpoints of steps 3, 0: put --out on a disk"), (1, "^$")])
def test_processes_that_found_different_checkpoints_stop(monkeypatch, rank, told):
    """On two machines without a common disk one finds last.pt and the other does not."""
    monkeypatch.setattr(metrics.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(metrics.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(metrics.dist, "get_rank", lambda: rank)
    monkeypatch.setattr(metrics.dist, "all_gather_object", lambda found, own: found.__setitem__(slice(None), [3, 0]))
    with pytest.raises(MetricError, match=told):
        metrics.restore(None, torch.Generator(), {})


def test_results_say_what_they_were_made_with(tmp_path, monkeypatch, capsys):
    made = metrics.made_with()
    assert made["torch"] == torch.__version__ and made["threads"] == torch.get_num_threads() and " x " in made["device"]
    checkpoint = {"step": 3, "log": {"seconds": 120.0}, "made": made | {"commit": "of the training"}, "processes": 2}
    metrics.write_evaluation(argparse.Namespace(out=str(tmp_path)), checkpoint, [metrics.Score("FID", 1.5)])
    facts = json.loads((tmp_path / "metrics.json").read_text())
    assert (facts["made"]["commit"], facts["processes"], facts["minutes"]) == ("of the training", 2, 2.0)
    monkeypatch.setattr(metrics.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(OSError("no git")))
    assert metrics.made_with.__wrapped__()["commit"] == "unknown"
