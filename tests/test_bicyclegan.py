"""bicyclegan.py: its mathematics, whose gradient reaches whom, exact resume, its command line and its complaints."""

import csv
import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, count, differences, log_of, same
from PIL import Image

import bicyclegan as B

SMALL = "--image-size 32 --batch-size 4 --ngf 4 --ndf 4 --nef 4 --device cpu --save-every 0 --sample-every 0".split()
NETS = ("G", "E", "D_VAE", "D_LR")


def generator(size=32, nz=8, **options):
    G = B.Generator(3, 3, nz, 4, size, **options)
    B.init_weights(G)
    return G


# ---------------------------------------------------------------------------------------------------------- networks


def test_parameter_counts_are_the_official_ones():
    official = dict(nz=8, image_size=128)
    assert count(B.Generator(3, 3, ngf=64, head=False, **official)) == 42_145_155
    assert count(B.Encoder(3, nef=64, **official)) == 1_344_080
    assert count(B.Discriminator(3, 64, 128)) == 830_626
    assert count(B.Generator(1, 3, ngf=64, nz=8, image_size=256, head=False)) == 54_792_579
    assert count(B.Encoder(3, nef=64, nz=8, image_size=256)) == 2_590_032
    assert count(B.Discriminator(3, 64, 256)) == 3_458_978


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("batch, c_in", [(1, 1), (2, 3)])
def test_shapes_at_every_size(size, batch, c_in):
    A, real, z = torch.randn(batch, c_in, size, size), torch.randn(batch, 3, size, size), torch.randn(batch, 8)
    for options in ({}, {"head": False}, {"skips": False}):
        fake = B.Generator(c_in, 3, 8, 4, size, **options)(A, z)
        assert fake.shape == (batch, 3, size, size) and fake.abs().max() <= 1
    mu, logvar = B.Encoder(3, 8, 4, size)(real)
    assert mu.shape == logvar.shape == (batch, 8)
    large, small = B.Discriminator(3, 4, size)(real)
    assert large.shape[:2] == small.shape[:2] == (batch, 1) and large.shape[2] > small.shape[2]
    assert [s.shape for s in B.Discriminator(3, 4, size, "vanilla")(real)] == [(batch, 1, 1, 1)]


def receptive_field(net, size):
    """Side in pixels of what one score in the middle of the map depends on."""
    x = torch.randn(1, 3, size, size, requires_grad=True)
    convs = torch.nn.Sequential(*(m for m in net if not isinstance(m, torch.nn.InstanceNorm2d)))
    scores = convs(x)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    return (x.grad.abs().sum((0, 1, 2)) > 0).sum().item()


def test_patches_are_34_pixels_wide_below_256_and_70_there():
    assert receptive_field(B.Discriminator(3, 4, 128).nets[0], 128) == 34
    assert receptive_field(B.Discriminator(3, 4, 256).nets[0], 256) == 70


@pytest.mark.parametrize("head", [True, False])
def test_the_code_changes_the_picture_from_the_start(head):
    torch.manual_seed(0)
    G, A = generator(head=head), torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        a, b = G(A, torch.randn(4, 8)), G(A, torch.randn(4, 8))
    assert (a - b).abs().mean() > 0.01  # the official Xavier initialisation starts at 0.004


def share_near(size=64, **options):
    """The part of a pixel's effect on the picture that stays within 8 pixels of it, averaged over some networks."""
    shares, A = [], torch.zeros(1, 3, size, size)
    dot = A.clone()
    dot[:, :, 32, 32] = 1.0
    for seed in range(5):
        torch.manual_seed(seed)
        G = generator(size, **options)
        with torch.no_grad():
            effect = (G(A, torch.zeros(1, 8)) - G(dot, torch.zeros(1, 8))).abs().sum((0, 1))
        shares.append((effect[24:41, 24:41].sum() / effect.sum()).item())
    return sum(shares) / len(shares)


def test_skips_keep_a_line_where_it_was_drawn():
    everywhere = (17 / 64) ** 2
    lost, kept, sharp = share_near(head=False, skips=False), share_near(head=False), share_near()
    assert lost < 1.5 * everywhere  # through 1 x 1 only: anywhere
    assert kept > 2 * everywhere and sharp > 2 * everywhere


def test_training_and_evaluation_mode_compute_the_same():
    torch.manual_seed(0)
    G, E, D = generator(), B.Encoder(3, 8, 4, 32), B.Discriminator(3, 4, 32)
    A, z = torch.randn(2, 3, 32, 32), torch.randn(2, 8)
    for net, inputs in ((G, (A, z)), (E, (A,)), (D, (A,))):
        before, after = net.train()(*inputs), net.eval()(*inputs)
        for a, b in zip(*((x,) if torch.is_tensor(x) else x for x in (before, after)), strict=True):
            assert torch.equal(a, b)
    assert torch.allclose(G(A, z)[:1], G(A[:1], z[:1]), atol=1e-6)  # no picture sees another


# ------------------------------------------------------------------------------------------------------------ losses


def test_gan_loss_in_closed_form():
    scores = [torch.full((2, 1, 3, 3), 0.5), torch.full((2, 1, 1, 1), 2.0)]
    assert B.gan_loss(scores, True, "lsgan").item() == pytest.approx(0.25 + 1.0)
    assert B.gan_loss(scores, False, "lsgan").item() == pytest.approx(0.25 + 4.0)
    assert B.gan_loss(scores, True, "bce").item() == pytest.approx(
        math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-2))
    )
    assert B.gan_loss(scores, False, "bce").item() == pytest.approx(math.log1p(math.exp(0.5)) + math.log1p(math.exp(2)))


def test_bce_still_learns_from_a_confident_discriminator():
    score = torch.tensor([[[[-100.0]]]], requires_grad=True)
    B.gan_loss([score], True, "bce").backward()
    assert score.grad.item() < -0.9  # a sigmoid in D and BCELoss would give 0


def test_d_loss_equals_two_separate_passes():
    torch.manual_seed(0)
    D, real, fake = B.Discriminator(3, 4, 32), torch.randn(3, 3, 32, 32), torch.randn(2, 3, 32, 32)
    expected = B.gan_loss(D(real), True, "lsgan") + B.gan_loss(D(fake), False, "lsgan")
    assert B.d_loss(D, real, fake, "lsgan").item() == pytest.approx(expected.item(), rel=1e-5)


def test_kl_is_that_of_torch_and_does_not_grow_with_the_batch():
    torch.manual_seed(0)
    mu, logvar = torch.randn(5, 8), torch.randn(5, 8)
    q = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert B.kl_per_dim(mu, logvar).sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(B.kl_per_dim(mu.repeat(4, 1), logvar.repeat(4, 1)), B.kl_per_dim(mu, logvar))
    assert B.kl_per_dim(torch.zeros(2, 8), torch.zeros(2, 8)).abs().max() == 0


# ------------------------------------------------------------------------------------------------ one step of training


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """A folder of 12 pairs, 64 x 32, in the layout of pix2pix; A red on the left, B of any colour."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for split, n in (("train", 12), ("val", 4)):
        (folder / split).mkdir()
        for i in range(n):
            pair = np.zeros((32, 64, 3), np.uint8)
            pair[:, :32, 0] = 255
            pair[:, 32:] = rng.integers(0, 256, 3)
            Image.fromarray(pair).save(folder / split / f"{i}_AB.jpg")
    return folder


@pytest.fixture
def flags(pairs, data_dir):
    return [*SMALL, "--dataset", pairs, "--data-dir", data_dir]


@pytest.fixture
def gradients(watched):
    """gradients(*flags) -> the networks' gradients (lists, of None where there is none) after each of two backwards."""
    return lambda *more: [grads for _, grads in watched("--max-steps", 1, *more)["after"]]


def test_the_latent_loss_reaches_g_and_not_e(gradients):
    (without, _), (with_it, _) = gradients("--lambda-latent", 0), gradients("--lambda-latent", 0.5)
    assert same(without["E"], with_it["E"])
    assert not same(without["G"], with_it["G"])


def test_the_kl_reaches_e_and_not_g(gradients):
    (without, _), (with_it, _) = gradients("--lambda-kl", 0), gradients("--lambda-kl", 1)
    assert not same(without["E"], with_it["E"])
    assert same(without["G"], with_it["G"])


def test_each_step_leaves_the_other_players_alone(watched):
    seen = watched("--max-steps", 1)
    G, E, D_VAE, D_LR = (seen["nets"][name] for name in NETS)
    (first, after_g), (second, after_d) = seen["after"]
    assert first == (G, E) and second == (D_VAE, D_LR)
    assert all(g is None for g in after_g["D_VAE"] + after_g["D_LR"])  # frozen while G and E learn
    assert same(after_g["G"], after_d["G"]) and same(after_g["E"], after_d["E"])  # no D loss in G's or E's gradient
    assert all(g is not None and g.abs().sum() > 0 for g in after_d["D_VAE"][-2:] + after_d["D_LR"][-2:])
    assert all(p.requires_grad for net in seen["nets"].values() for p in net.parameters())


def test_it_learns_what_the_drawing_does_not_say(train_here, flags, tmp_path):
    """Every drawing is the same red square, every picture a plain colour: only the code can tell them apart."""
    more = "--ngf 8 --nef 16 --epochs 40 --decay-from 15 --lr 6e-3 --beta2 0.99 --lambda-l1 100".split()
    state = train_here(tmp_path / "run", *more, "--log-every", 10)
    args = B.build_parser().parse_args([*map(str, flags), *more])
    nets = B.build(args, state["channels"], "cpu", state)
    batch = B.datasets.fixed_batch(B.load_pairs(args, "train", (0, 0)), 12, "cpu")
    with torch.no_grad():
        mu, _ = nets["E"](batch["target"])
        far = ((nets["G"](batch["image"], mu.roll(k, 0)) - batch["target"]).abs().mean().item() for k in range(12))
        own, *foreign = far  # from the picture: by its own code, by those of the others
    assert own < 0.6 * sum(foreign) / 11  # 0.28 times here; 0.28 to 0.54 at nine seeds
    rows = list(csv.DictReader(open(tmp_path / "run" / "log.csv")))
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert float(rows[-1]["loss_l1"]) < 0.7 * float(rows[0]["loss_l1"]) and float(rows[-1]["diversity"]) > 0.1


# -------------------------------------------------------------------------------------- resume, kill, several processes


def test_2n_epochs_equal_n_and_n_resumed_to_the_bit(in_two_parts):
    assert in_two_parts(("--epochs", 1), "--flip", "--log-every", 2, "--epochs", 2)["step"] == 6


def test_a_run_continues_in_the_middle_of_an_epoch_and_of_a_decay(in_two_parts):
    in_two_parts(("--max-steps", 4), "--epochs", 3, "--decay-from", 1)


def test_kill_9_at_any_moment_loses_nothing_but_time(train_here, flags, tmp_path):
    more = ["--epochs", 12, "--log-every", 3]
    whole = train_here(tmp_path / "whole", *more)
    out = tmp_path / "killed"
    command = [sys.executable, ROOT / "bicyclegan.py", *flags, *more, "--out", out, "--save-every", 1]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.time() + 60
    while not (out / "last.pt").exists() and time.time() < deadline:
        time.sleep(0.02)
    time.sleep(0.15)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cut = torch.load(out / "last.pt", weights_only=True)["step"]
    assert 0 < cut < whole["step"], "killed too late to show anything"
    resumed = train_here(out, *more, "--resume", "auto")
    assert differences(whole, resumed) == []
    assert log_of(out) == log_of(tmp_path / "whole")


def test_ctrl_c_and_sigterm_end_a_run_after_a_checkpoint(stops_cleanly):
    stops_cleanly()


def test_the_same_command_gives_the_same_bits_and_another_seed_does_not(reproducible):
    reproducible("--max-steps", 2)


def test_two_processes_equal_one_with_twice_the_batch(torchrun, train_here, flags, tmp_path):
    more = ["--flip", "--max-steps", 3, "--log-every", 1]
    torchrun(tmp_path / "two", *flags, *more, "--batch-size", 2)
    one = train_here(tmp_path / "one", *more, "--batch-size", 4)
    two = torch.load(tmp_path / "two" / "last.pt", weights_only=True)
    images, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 8)
    results = []
    for state in (one, two):
        args = B.build_parser().parse_args([*SMALL])
        nets = B.build(args, state["channels"], "cpu", state)
        with torch.no_grad():
            both = torch.cat([images, images], dim=1)  # what D sees: A and B
            results.append([nets["G"](images, z), *nets["E"](images), *nets["D_VAE"](both), *nets["D_LR"](both)])
    for a, b in zip(*results, strict=True):  # not the weights: those before a normalisation are free to differ
        assert torch.allclose(a, b, atol=2e-3), (a - b).abs().max()
    start = B.build(B.build_parser().parse_args([*SMALL]), one["channels"], "cpu")
    assert (start["G"](images, z) - results[0][0]).abs().mean() > 0.01  # and they did move


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="session")
def trained(data_dir, tmp_path_factory):
    """Of the default set, whose drawings are grey."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = [*SMALL, "--dataset", "edges2faces", "--data-dir", data_dir, "--max-steps", 2, "--out", out]
    B.main([*map(str, flags)])
    return out / "last.pt"


def test_smoke_train_sample_resume(smoke, tmp_path):
    smoke("--dataset", "edges2faces")
    picture = Image.open(tmp_path / "run" / "samples" / "samples.png")
    assert picture.width > 12 * 32 and np.asarray(picture).std() > 10


def test_one_pair_a_step_and_every_option(train_here, tmp_path):
    train_here(tmp_path / "a", "--batch-size", 1, "--max-steps", 1)
    options = "--net-g vanilla --net-d vanilla --no-conditional-d --gan-loss bce --no-head --flip --amp".split()
    rates = "--lr-e 5e-6 --lr-g 8e-4 --lr-d-vae 4e-7 --lr-d-lr 3e-7 --direction BtoA --input-channels 1".split()
    state = train_here(tmp_path / "b", "--max-steps", 1, *options, *rates)
    assert state["channels"] == (1, 3)
    assert [state[f"opt_{n}"]["param_groups"][0]["lr"] for n in NETS] == [8e-4, 5e-6, 4e-7, 3e-7]


def test_direction_decides_what_is_painted(flags):
    args = B.build_parser().parse_args([*map(str, flags)])
    forward = B.load_pairs(args, "train", (0, 0))
    args.direction = "BtoA"
    backward = B.load_pairs(args, "train", (0, 0))
    assert forward.images[:, 0].mean() > 240 and forward.images[:, 1:].mean() < 15  # A is red
    assert np.array_equal(forward.images, backward.targets) and np.array_equal(forward.targets, backward.images)


def test_translating_own_drawings_in_a_given_style(trained, tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (50, 40), 255).save(tmp_path / "in" / "grey.png")
    Image.new("RGBA", (33, 70), (0, 0, 0, 0)).save(tmp_path / "in" / "clear.png")
    Image.new("CMYK", (64, 64)).save(tmp_path / "in" / "print.jpg")
    Image.new("RGB", (80, 80), "teal").save(tmp_path / "style.jpg")
    flags = ["--input", str(tmp_path / "in"), "--style-from", str(tmp_path / "style.jpg"), "--num-samples", "3"]
    B.main(["--sample", str(trained), "--out", str(tmp_path / "out"), *flags])
    made = sorted(p.name for p in (tmp_path / "out" / "samples").iterdir())
    each = ["style", "z1", "z2", "z3"]
    assert made == sorted(
        [f"{i:04d}_{n}_{s}.png" for i, n in enumerate(("clear", "grey", "print")) for s in each]
        + ["samples.png", "interpolation.png"]
    )
    assert Image.open(tmp_path / "out" / "samples" / "0001_grey_z1.png").size == (32, 32)


def test_the_same_code_paints_the_same_picture(trained, tmp_path):
    for name in "ab":
        B.main(["--sample", str(trained), "--out", str(tmp_path / name)])
    assert (tmp_path / "a/samples/samples.png").read_bytes() == (tmp_path / "b/samples/samples.png").read_bytes()


def test_evaluate_writes_every_score(train_here, tmp_path):
    weights = ROOT.parent / "shared" / "weights"
    if not weights.exists():
        pytest.skip("no Inception and LPIPS weights on this machine")
    flags = ["--weights-dir", str(weights), "--fid-dims", "64"]
    train_here(tmp_path, "--max-steps", 2, "--eval-every", 2, *flags)
    B.main(["--evaluate", str(tmp_path / "last.pt"), *flags])
    facts = json.loads((tmp_path / "metrics.json").read_text())
    scores = {score["metric"]: score for score in facts["scores"]}
    assert facts["step"] == 2 and facts["minutes"] > 0 and len(scores) == 5
    assert 0.3 < scores["|z - mu(G(A, z))|"]["value"] < 1.5
    fid = scores["FID"]
    assert fid["dims"] == 64 and fid["n_fake"] == fid["n_real"] == 4 and fid["weights"] and fid["resize"]
    assert fid["value"] > 0 and fid["floor"] > 0 and scores["LPIPS diversity"]["n_fake"] == 4 * 20
    assert scores["LPIPS of true pictures (ceiling)"]["value"] > 0.05  # plain colours, all different
    along = json.loads((tmp_path / "metrics-0000002.json").read_text())
    assert along["scores"] == facts["scores"]


# --------------------------------------------------------------------------------------------------------- bad input


def test_complaints_name_the_thing_and_the_remedy(complaint, trained, flags, tmp_path):
    flags = [*flags, "--max-steps", 1, "--out", tmp_path / "run"]
    assert "unknown data set 'edges2cats'" in complaint(*flags, "--dataset", "edges2cats")
    assert "48" in complaint(*flags, "--image-size", 48)
    assert "--lr" in complaint(*flags, "--lr", -1) and "--ndf" in complaint(*flags, "--ndf", 0)
    assert "not a set of pairs" in complaint(*flags, "--dataset", "digits")
    assert "no checkpoint" in complaint("--sample", tmp_path / "none.pt")
    assert "ngf 4" in complaint("--resume", trained, "--ngf", 8, "--epochs", 2)
    assert "holds a run" in complaint(*flags, "--out", trained.parent)
    assert "12 images" in complaint(*flags, "--batch-size", 64)
    assert "at its end" in complaint("--resume", trained, "--max-steps", 2)
    if not torch.cuda.is_available():
        assert "cuda" in complaint(*flags, "--device", "cuda")
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_foreign_and_broken_checkpoints(complaint, refuses_foreign_and_broken, trained, tmp_path, capsys):
    refuses_foreign_and_broken(trained)
    (tmp_path / "text.pt").write_text("not a checkpoint")
    assert "text.pt" in complaint("--resume", tmp_path / "text.pt")

    class Hostile:
        def __reduce__(self):
            return (print, ("this must not run",))

    torch.save({"script": Hostile()}, tmp_path / "hostile.pt")
    assert "hostile.pt" in complaint("--sample", tmp_path / "hostile.pt")
    assert "must not run" not in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_noticed_before_training(complaint, flags, tmp_path):
    (tmp_path / "file").write_text("in the way")
    text = complaint(*flags, "--max-steps", 1, "--out", tmp_path / "file" / "run")
    assert str(tmp_path / "file") in text


def test_bad_files_are_named_and_left_out(capsys, complaint, train_here, flags, pairs, tmp_path):
    folder = tmp_path / "mixed"
    (folder / "train").mkdir(parents=True)
    (folder / "val").mkdir()
    good = sorted((pairs / "train").iterdir())
    for split in ("train", "val"):
        for file in good[:5]:
            (folder / split / file.name).write_bytes(file.read_bytes())
    (folder / "train" / "words.jpg").write_text("I am not a picture")
    (folder / "train" / "torn.jpg").write_bytes(good[0].read_bytes()[:300])
    Image.new("RGB", (32, 32)).save(folder / "train" / "only_A.png")
    Image.new("L", (66, 33), 200).save(folder / "train" / "grey.png")  # not bad
    Image.new("RGBA", (40, 20), (9, 9, 9, 99)).save(folder / "train" / "clear.png")
    Image.new("CMYK", (200, 100)).save(folder / "train" / "print.jpg")
    train_here(tmp_path / "run", "--dataset", folder, "--max-steps", 1)
    text = capsys.readouterr().err
    assert "words.jpg" in text and "torn.jpg" in text and "only_A.png" in text
    (tmp_path / "empty" / "train").mkdir(parents=True)
    flags = [*flags, "--max-steps", 1, "--out", tmp_path / "none"]
    assert str(tmp_path / "empty") in complaint(*flags, "--dataset", tmp_path / "empty")
    for file in (folder / "train").iterdir():
        Image.new("RGB", (32, 32)).save(file.with_suffix(".png"))
        if file.suffix != ".png":
            file.unlink()
    assert "side by side" in complaint(*flags, "--dataset", folder)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(stops_at_nan):
    stops_at_nan()
