"""wgan.py: each pitfall of the Wasserstein GANs, whose gradient reaches whom, exact resume, points, its complaints."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from conftest import count, differences, log_of, of_type
from PIL import Image

import datasets
import metrics
import wgan

SMALL = "--nz 4 --ngf 4 --ndf 4 --device cpu --save-every 0 --sample-every 0".split()
POINTS = [*SMALL, "--dataset", "8gaussians", "--batch-size", "1000"]  # 10 steps an epoch
MODES = ("clip", "gp", "sn")


def networks(lipschitz, channels=3, *flags):
    """G and D of a tiny model; channels 0: for points."""
    torch.manual_seed(0)
    args = wgan.build_parser().parse_args([*SMALL, "--image-size", "16", "--lipschitz", lipschitz, *flags])
    return wgan.build(args, channels, "cpu").values()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of 27 training images and 5 test images, 16 px, of two classes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, n in (("train", 27), ("test", 5)):
        for i in range(n):
            (folder / split / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
            image.save(folder / split / "ab"[i % 2] / f"{i}.png")
    return folder


@pytest.fixture
def flags(data_dir):
    return [*POINTS, "--data-dir", data_dir]


@pytest.fixture
def of(pictures):
    """of["images"]: the flags that follow those of points where a run is to be one on the folder's images."""
    return {"points": [], "images": ["--dataset", pictures, "--image-size", 16, "--batch-size", 4]}


@pytest.fixture
def no_curves(no_curves, monkeypatch):
    """Nor pictures of points: matplotlib takes longer than all the rest."""
    monkeypatch.setattr(wgan, "draw_points", lambda *_: None)


# ---------------------------------------------------------------------------------------------------------- networks


def test_parameter_counts_are_the_official_ones():
    assert count(wgan.Critic(3, 64, 64, batch_norm=True)) == 2_765_568
    assert count(wgan.Generator(100, 3, 64, 64)) == 3_576_704
    without = 2_765_568 - 2 * (128 + 256 + 512) + (64 + 128 + 256 + 512)  # a bias in place of scale and shift
    assert count(wgan.Critic(3, 64, 64)) == without


@pytest.mark.parametrize("lipschitz", MODES)
@pytest.mark.parametrize("flags", [(), ("--arch", "mlp")])
@pytest.mark.parametrize("channels", [0, 1, 3])
def test_shapes_and_a_last_layer_without_limits(lipschitz, channels, flags):
    G, D = networks(lipschitz, channels, *flags)
    fake = G(torch.randn(5, 4))
    assert fake.shape == ((5, channels, 16, 16) if channels else (5, 2)) and fake.dtype == torch.float32
    scores = D(fake)
    assert scores.shape == (5,) and scores.dtype == torch.float32
    assert isinstance(D.net[-1], (torch.nn.Linear, torch.nn.Conv2d))
    assert not of_type(D, torch.nn.Sigmoid, torch.nn.LogSigmoid, torch.nn.Tanh)
    with torch.no_grad():
        far = 1e4 * fake
        assert lipschitz == "clip" or D(far).abs().max() > 10  # BatchNorm undoes any scale
        if not channels:
            assert isinstance(G[-1], torch.nn.Linear)  # points have no bounds


@pytest.mark.parametrize("lipschitz", ["gp", "sn"])
def test_no_score_depends_on_the_rest_of_the_batch(lipschitz):
    _, D = networks(lipschitz)
    assert not [m for m in D.modules() if "Norm" in type(m).__name__ and "Spectral" not in type(m).__name__]
    D.eval()  # sn: no power iteration between the two calls
    x = torch.randn(4, 3, 16, 16)
    y = torch.cat([x[:1], 10 * torch.randn(3, 3, 16, 16)])
    with torch.no_grad():
        assert torch.allclose(D(x)[0], D(y)[0], atol=1e-5)


def test_batch_norm_stands_in_the_clipped_critic_alone_and_keeps_no_statistics():
    _, D = networks("clip")
    assert of_type(D, torch.nn.BatchNorm2d) and not list(D.buffers())
    assert all(conv.bias is None for conv in of_type(D, torch.nn.Conv2d))
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(D.train()(x), D.eval()(x))


@pytest.mark.parametrize("lipschitz", ["gp", "sn"])
def test_without_batch_norm_the_signal_keeps_its_scale(lipschitz):
    torch.manual_seed(0)
    args = wgan.build_parser().parse_args(["--lipschitz", lipschitz, "--image-size", "64", "--nz", "8"])
    D = wgan.build(args, 3, "cpu")["D"]
    with torch.no_grad():
        assert D(torch.rand(64, 3, 64, 64) * 2 - 1).std() > 0.01  # from N(0, 0.02) on: 0.004


def test_he_and_dcgan_initialisation():
    torch.manual_seed(0)
    with_norm, without = wgan.Critic(3, 32, 64, batch_norm=True), wgan.Critic(3, 32, 64)
    wgan.init_weights(with_norm), wgan.init_weights(without)
    for conv in of_type(with_norm, torch.nn.Conv2d)[1:]:
        assert conv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for conv in of_type(without, torch.nn.Conv2d)[1:-1]:
        fan_in = conv.in_channels * 16
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / 1.04 / fan_in), rel=0.05)
        assert (conv.bias == 0).all()


# ------------------------------------------------------------------------------------------------- the gradient penalty


class Linear(torch.nn.Module):
    """D(x) = w.x, whose slope is |w| everywhere."""

    def __init__(self, *shape):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return (x * self.w).flatten(1).sum(1)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 7), (2,)])
def test_penalty_of_a_linear_critic_in_closed_form(shape):
    """norm(dim=1) of an NCHW gradient would be one slope for each pixel."""
    D, real, fake = Linear(*shape), torch.randn(6, *shape), torch.randn(6, *shape)
    assert torch.allclose(wgan.slopes(D, real), D.w.norm().expand(6))
    penalty = wgan.gradient_penalty(D, real, fake, torch.rand(6, 1))
    assert penalty.item() == pytest.approx((D.w.norm().item() - 1) ** 2, rel=1e-4)
    penalty.backward()  # create_graph: d(|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|
    assert torch.allclose(D.w.grad, (2 * (D.w.norm() - 1) * D.w / D.w.norm()).detach(), rtol=1e-3)


def test_a_dead_critic_gives_numbers():
    """The slope is 0 everywhere: sqrt(sum of squares) would give NaN."""
    D = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
    torch.nn.init.constant_(D[1].bias, -1e6)
    penalty = wgan.gradient_penalty(D, torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2), torch.rand(4, 1))
    penalty.backward()
    assert penalty.item() == 1.0
    assert all(p.grad is None or p.grad.isfinite().all() for p in D.parameters())


@pytest.mark.parametrize("channels", [0, 3])
def test_the_penalty_alone_teaches_the_critic(channels):
    G, D = networks("gp", channels)
    fake = G(torch.randn(4, 4))
    D.zero_grad()
    wgan.gradient_penalty(D, torch.randn_like(fake), fake, torch.rand(4, 1)).backward()
    assert all(p.grad.abs().sum() > 0 for name, p in D.named_parameters() if name.endswith("weight"))
    assert all(p.grad is None for p in G.parameters())


@pytest.mark.parametrize("shape", [(3, 4, 4), (2,)])
def test_interpolates_lie_on_segments_each_with_its_own_share(shape):
    real, fake, a = torch.randn(16, *shape), torch.randn(16, *shape), torch.rand(16, 1)
    x = wgan.between(real, fake, a)
    along = ((x - fake) / (real - fake)).flatten(1)  # one number for all pixels of an image
    assert torch.allclose(along, a.expand_as(along), atol=1e-3)
    assert torch.equal(wgan.between(real, fake, torch.ones(16, 1)), real)


def test_training_draws_a_share_for_each_image(train_here, of, tmp_path, monkeypatch):
    shares, real_between = [], wgan.between
    monkeypatch.setattr(wgan, "between", lambda *a: shares.append(a[2]) or real_between(*a))
    train_here(tmp_path / "run", *of["images"], "--max-steps", 2, "--log-every", 0)
    training = [a.flatten().tolist() for a in shares if a.ndim == 2]
    assert [len(set(a)) for a in training] == [4, 4] and training[0] != training[1]
    assert all(0 <= x < 1 for a in training for x in a)


# ------------------------------------------------------------------------------------------------ one step of training


@pytest.fixture
def watch(monkeypatch, train_here, tmp_path):
    """watch(look, *flags): after each backward, look("G" or "D", {"G": net, "D": net}, arguments of G's calls).

    Not `watched`: what is looked at, weights and whether they are frozen, has changed when the run is over.
    """

    def watch(look, *flags):
        nets, inputs, build = {}, [], wgan.build

        def built(*args):
            nets.update(build(*args))
            nets["G"].register_forward_pre_hook(lambda net, args: inputs.append(args[0].clone()))
            return nets

        def averaged(net):
            look("G" if net is nets["G"] else "D", nets, inputs)

        with monkeypatch.context() as patch:
            patch.setattr(wgan, "build", built)
            patch.setattr(metrics, "average_gradients", averaged)
            return train_here(tmp_path / "run", *flags, "--log-every", 0)

    return watch


def grads(net):
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


@pytest.mark.parametrize("lipschitz", MODES)
@pytest.mark.parametrize("kind", ["points", "images"])
def test_each_step_leaves_the_other_player_alone(watch, of, lipschitz, kind):
    seen = []

    def look(player, nets, _):
        if player == "D":
            assert all(p.requires_grad for p in nets["D"].parameters())
            if not any(who == "G" for who, _ in seen):
                assert all(g is None for g in grads(nets["G"]))  # the fakes were detached
            else:
                assert differences(grads(nets["G"]), seen_g[-1]) == []
            seen.append(("D", grads(nets["D"])))
        else:
            assert all(g is not None and g.abs().sum() > 0 for g in grads(nets["G"])[-2:])
            assert not any(p.requires_grad for p in nets["D"].parameters())
            assert differences(grads(nets["D"]), seen[-1][1]) == []
            seen.append(("G", None)), seen_g.append(grads(nets["G"]))

    seen_g = []
    watch(look, *of[kind], "--lipschitz", lipschitz, "--n-critic", 2, "--max-steps", 5)
    assert "".join(who for who, _ in seen) == "DDGDDGD"


def test_five_critic_steps_before_each_of_the_generator_and_fresh_noise(watch):
    order, noise = [], []

    def look(player, nets, inputs):
        order.append(player)
        noise.extend(inputs), inputs.clear()

    state = watch(look, "--max-steps", 11)
    assert "".join(order) == "DDDDDGDDDDDGD"
    codes = {tuple(z[0].tolist()) for z in noise if len(z) == 1000}
    assert len(codes) == 13  # one for each critic step and each step of G
    assert state["opt_G"]["state"][0]["step"] == 2 and state["opt_D"]["state"][0]["step"] == 11


@pytest.mark.parametrize("kind", ["points", "images"])
def test_weights_are_clipped_after_each_critic_step(watch, of, kind):
    largest = []

    def look(player, nets, _):  # before the optimiser's step: what the step before left
        largest.append(max(p.abs().max().item() for p in nets["D"].parameters()))

    state = watch(look, *of[kind], "--lipschitz", "clip", "--n-critic", 1, "--clip", 0.02, "--max-steps", 6)
    assert all(x <= 0.02 for x in largest[1:]) and largest[0] > 0.02  # G never sees more
    assert max(w.abs().max() for w in state["D"].values()) <= 0.02
    assert max(w.abs().max() for w in state["G"].values()) > 0.02


@pytest.mark.parametrize("kind", ["points", "images"])
def test_every_layer_has_a_largest_singular_value_of_one(train_here, of, tmp_path, kind):
    flags = "--lipschitz", "sn", "--max-steps", 30, "--epochs", 9, "--lr", 1e-3
    state = train_here(tmp_path / "run", *of[kind], *flags)
    args = wgan.build_parser().parse_args([*SMALL, "--lipschitz", "sn", "--image-size", "16"])
    D = wgan.build(args, 3 if kind == "images" else 0, "cpu", state)["D"].eval()
    layers = of_type(D, torch.nn.Conv2d, torch.nn.Linear)
    assert len(layers) == (3 if kind == "images" else 4)
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
        assert largest == pytest.approx(1, abs=0.05)
    assert any("_u" in key for key in state["D"])  # the vectors of the power iteration are in the checkpoint


@pytest.mark.parametrize("lipschitz", MODES)
def test_scores_of_data_rise_above_those_of_samples(train_here, tmp_path, lipschitz):
    """G stands still: the critic's estimate must rise above 0, on held-out points as well."""
    flags = "--lipschitz", lipschitz, "--n-critic", 10**9, "--max-steps", 60, "--log-every", 20, "--lr", 1e-3
    train_here(tmp_path / "run", *flags, "--dataset", "25gaussians", "--epochs", 99)
    last = log_of(tmp_path / "run")[-1]
    assert float(last["wasserstein"]) > 0 and float(last["wasserstein_test"]) > 0


def test_each_papers_optimiser(train_here, of, tmp_path):
    for lipschitz, (lr, betas) in {"clip": (5e-5, None), "gp": (1e-4, (0.0, 0.9)), "sn": (2e-4, (0.0, 0.9))}.items():
        state = train_here(tmp_path / lipschitz, *of["images"], "--lipschitz", lipschitz, "--max-steps", 1)
        for name in ("opt_G", "opt_D"):
            group = state[name]["param_groups"][0]
            assert group["lr"] == lr
            assert group["betas"] == betas if betas else "betas" not in group and group["alpha"] == 0.99  # RMSprop
        assert (state["args"]["lr"], state["args"]["beta1"]) == (lr, betas[0] if betas else None)
        assert json.loads((tmp_path / lipschitz / "args.json").read_text())["lr"] == lr
        points = train_here(tmp_path / f"{lipschitz} points", "--lipschitz", lipschitz, "--max-steps", 1)["args"]
        assert points["lr"] == 10 * lr and (points["lambda_gp"], state["args"]["lambda_gp"]) == (0.1, 10)
    state = train_here(tmp_path / "mine", "--lr", 3e-4, "--beta1", 0.5, "--max-steps", 1)
    assert state["opt_D"]["param_groups"][0]["betas"] == (0.5, 0.9)
    defaults = wgan.build_parser().parse_args([])
    assert (defaults.n_critic, defaults.clip, defaults.lipschitz) == (5, 0.01, "gp")


@pytest.mark.parametrize("kind", ["points", "images"])
def test_half_precision_keeps_the_penalty_finite(train_here, of, tmp_path, kind, monkeypatch):
    kinds, real_slopes = set(), wgan.slopes

    def spy(D, x):
        assert not torch.is_autocast_enabled("cpu") and x.dtype == torch.float32
        result = real_slopes(D, x)
        kinds.add(result.dtype)
        return result

    monkeypatch.setattr(wgan, "slopes", spy)
    train_here(tmp_path / "run", *of[kind], "--amp", "--max-steps", 5, "--log-every", 1)
    assert kinds == {torch.float32}
    assert all(math.isfinite(float(row["loss_gp"])) for row in log_of(tmp_path / "run"))


def test_the_log_changes_nothing(train_here, of, tmp_path):
    for lipschitz in MODES:
        flags = *of["images"], "--lipschitz", lipschitz, "--max-steps", 6
        often = train_here(tmp_path / f"{lipschitz}1", *flags, "--log-every", 1)
        never = train_here(tmp_path / f"{lipschitz}0", *flags, "--log-every", 0)
        names = ("G", "D", "opt_G", "opt_D", "noise")
        assert differences({n: often[n] for n in names}, {n: never[n] for n in names}) == []


@pytest.mark.parametrize("lipschitz", MODES)
def test_columns_of_the_log(train_here, tmp_path, lipschitz):
    train_here(tmp_path / "run", "--lipschitz", lipschitz, "--max-steps", 6, "--log-every", 2)
    rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(open(tmp_path / "run" / "log.csv"))]
    extra = {"gp": {"loss_gp"}, "clip": {"at_bound"}, "sn": set()}[lipschitz]
    common = {"step", "epoch", "wasserstein", "wasserstein_test", "loss_G", "slope", "distinct", "images_per_s"}
    assert set(rows[0]) == common | extra and len(rows) == 3
    assert all(0 <= row["distinct"] <= 1 and row["slope"] >= 0 for row in rows)
    if lipschitz == "clip":
        assert 0 < rows[-1]["at_bound"] <= 1


# ----------------------------------------------------------------------------------------- resume, several processes


@pytest.mark.parametrize("lipschitz", MODES)
@pytest.mark.parametrize("kind", ["points", "images"])
def test_2n_epochs_equal_n_and_n_resumed_to_the_bit(in_two_parts, of, lipschitz, kind):
    more = "--lipschitz", lipschitz, "--n-critic", 4, "--log-every", 3  # 4 divides neither 6 nor 10 steps
    whole = in_two_parts(("--epochs", 1), *of[kind], *more, "--epochs", 2)
    assert whole["step"] == (12 if kind == "images" else 20)


def test_ctrl_c_and_sigterm_end_a_run_after_a_checkpoint(stops_cleanly):
    stops_cleanly("--n-critic", 2)


def test_the_same_command_gives_the_same_bits_and_another_seed_does_not(reproducible):
    reproducible("--max-steps", 5)


def test_two_processes_equal_one_with_twice_the_batch(torchrun, train_here, flags, tmp_path):
    more = ["--max-steps", 5, "--n-critic", 2, "--log-every", 1, "--lr", 1e-4]
    code = "script.draw_points = lambda *_: None; train(out, *flags)"
    torchrun(tmp_path / "two", *flags, *more, "--batch-size", 16, code=code)
    one = train_here(tmp_path / "one", *more, "--batch-size", 32)
    two = torch.load(tmp_path / "two" / "last.pt", weights_only=True)
    start = {name: net.state_dict() for name, net in zip("GD", networks("gp", 0), strict=True)}
    for net in "GD":
        for key, value in one[net].items():
            assert torch.allclose(value, two[net][key], atol=2e-5), (net, key)
            moved = (value - start[net][key]).abs().max()
            assert moved > 1e-5 or key == "net.7.bias"  # the last bias of D cancels in E D(x) - E D(G(z))


# ------------------------------------------------------------------------------------------------------------ points


def test_sliced_distance_in_closed_form():
    points = np.random.default_rng(0).standard_normal((500, 2)).astype(np.float32)
    assert metrics.sliced_distance(points, points[::-1]) == pytest.approx(0, abs=1e-6)
    moved = metrics.sliced_distance(points, points + np.array([3.0, 4.0]))  # by 5: the mean of |5 cos| is 10 / pi
    assert moved == pytest.approx(10 / math.pi, rel=1e-3)


def test_scores_of_points():
    train, test = (datasets.load("8gaussians", split, points=True).points for split in ("train", "test"))
    good = {s.metric: s for s in metrics.score_points("8gaussians", train[:2000], test, train)}
    assert good["share within 4 std of a centre"].value > 0.99 and good["clusters found"].value == 8
    assert good["sliced Wasserstein"].value == good["sliced Wasserstein"].floor
    half = {s.metric: s.value for s in metrics.score_points("8gaussians", np.abs(train[:2000]), test, train)}
    assert half["clusters found"] == 3 and half["sliced Wasserstein"] > 10 * good["sliced Wasserstein"].value
    grid = [datasets.load("25gaussians", split, points=True).points for split in ("train", "test")]
    scores = {s.metric: s.value for s in metrics.score_points("25gaussians", grid[0][:2000], grid[1], grid[0])}
    assert scores["share within 4 std of a centre"] > 0.99 and scores["clusters found"] == 25
    noise = np.random.default_rng(0).standard_normal((2000, 2))
    bad = {s.metric: s.value for s in metrics.score_points("8gaussians", noise, test, train)}
    assert bad["share within 4 std of a centre"] < 0.05 and bad["clusters found"] == 0
    assert len(metrics.score_points("swissroll", noise, test, train)) == 1


def test_it_learns(train_here, tmp_path):
    flags = "--ngf 16 --ndf 16 --nz 2 --batch-size 64 --n-critic 3 --lr 2e-3 --max-steps 1000".split()
    state, distances = train_here(tmp_path / "run", *flags, "--log-every", 0), []
    args, test = wgan.build_parser().parse_args(flags), datasets.load("8gaussians", "test", points=True).points
    torch.manual_seed(0)
    z = torch.randn(len(test), 2)
    for checkpoint in (None, state):
        G = wgan.build(args, 0, "cpu", checkpoint)["G"]
        distances.append(metrics.sliced_distance(datasets.generate(G, z).numpy(), test))
    assert distances[1] < 0.5 * distances[0], distances  # 0.54 at the start, 0.19 after


@pytest.mark.parametrize("name", datasets.TOYS)
def test_pictures_of_points(flags, tmp_path, monkeypatch, name):
    monkeypatch.setattr(metrics.RunLog, "plot", lambda log: None)  # not the curves
    flags = [*flags, "--dataset", name, "--max-steps", 2, "--sample-every", 1, "--out", tmp_path / "run"]
    wgan.main([*map(str, flags)])
    made = {p.name for p in (tmp_path / "run" / "samples").iterdir()}
    assert made == {"0000001.png", "0000002.png"}
    wgan.main(["--sample", str(tmp_path / "run" / "last.pt")])
    with Image.open(tmp_path / "run" / "samples" / "samples.png") as picture:
        assert min(picture.size) >= 400 and np.asarray(picture.convert("RGB")).std() > 10


# ------------------------------------------------------------------------------------------------------- command line


def test_smoke_train_sample_resume(smoke, of, tmp_path):
    smoke(*of["images"])
    for name, columns, rows in (("samples", 6, 6), ("interpolation", 10, 6)):
        with Image.open(tmp_path / "run" / "samples" / f"{name}.png") as picture:
            assert picture.size == (2 + columns * 18, 2 + rows * 18)


def test_evaluate_points(train_here, tmp_path):
    train_here(tmp_path / "run", "--max-steps", 2, "--eval-every", 2)
    wgan.main(["--evaluate", str(tmp_path / "run" / "last.pt")])
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert facts["step"] == 2 and facts["minutes"] > 0
    names = ["sliced Wasserstein", "share within 4 std of a centre", "clusters found"]
    assert [score["metric"] for score in facts["scores"]] == names
    assert 0 < facts["scores"][0]["floor"] < facts["scores"][0]["value"]
    assert json.loads((tmp_path / "run" / "metrics-0000002.json").read_text())["scores"] == facts["scores"]


def test_evaluate_images_asks_the_judges(train_here, of, tmp_path, monkeypatch):
    asked = {}

    def judge(fake, test, train, judges):
        asked.update(fake=fake, test=test, train=train, judges=judges)
        return [metrics.Score("FID", 1.0)]

    monkeypatch.setattr(metrics, "load_judges", lambda *a: a[0], raising=False)
    monkeypatch.setattr(metrics, "judge", judge, raising=False)
    train_here(tmp_path / "run", *of["images"], "--max-steps", 1)
    wgan.main(["--evaluate", str(tmp_path / "run" / "last.pt"), "--fid-images", "3", "--fid-dims", "64"])
    assert asked["fake"].shape == (3, 3, 16, 16) and asked["fake"].dtype == torch.uint8 and asked["judges"] == 64
    assert len(asked["train"]) == 27 and len(asked["test"]) == 5
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["scores"][0]["value"] == 1.0


@pytest.mark.parametrize("lipschitz", MODES)
def test_fully_connected_images(train_here, of, tmp_path, lipschitz):
    flags = *of["images"], "--arch", "mlp", "--lipschitz", lipschitz, "--max-steps", 2, "--n-critic", 1
    state = train_here(tmp_path / "run", *flags)
    assert state["channels"] == 3


# --------------------------------------------------------------------------------------------------------- bad input


def test_complaints_name_the_thing_and_the_remedy(complaint, train_here, flags, of, pictures, tmp_path):
    train_here(tmp_path / "run", "--max-steps", 1)
    trained, flags = tmp_path / "run" / "last.pt", [*flags, "--out", tmp_path / "new"]
    assert "--lipschitz" in complaint(*flags, "--lipschitz", "wc")
    assert "RMSprop" in complaint(*flags, "--lipschitz", "clip", "--beta1", 0.5)
    for flag, value in (("--n-critic", 0), ("--clip", 0), ("--lr", -1), ("--nz", 0), ("--lambda-gp", -1)):
        assert flag in complaint(*flags, flag, value)
    assert "--image-size 30" in complaint(*flags, "--dataset", pictures, "--image-size", 30)
    assert "unknown data set" in complaint(*flags, "--dataset", "9gaussians")
    assert "no checkpoint" in complaint("--sample", tmp_path / "none.pt")
    assert "holds a run" in complaint(*flags, "--out", tmp_path / "run")
    assert "at its end" in complaint("--resume", trained, "--max-steps", 1)
    assert "lipschitz gp" in complaint("--resume", trained, "--lipschitz", "sn", "--max-steps", 2)
    assert "makes points" in complaint("--evaluate", trained, "--dataset", pictures)
    assert not (tmp_path / "new").exists()  # nothing was begun
    train_here(tmp_path / "images", *of["images"], "--max-steps", 1)
    assert "makes images" in complaint("--evaluate", tmp_path / "images" / "last.pt", "--dataset", "swissroll")


def test_foreign_and_broken_checkpoints(refuses_foreign_and_broken, train_here, tmp_path):
    train_here(tmp_path / "run", "--max-steps", 1)
    refuses_foreign_and_broken(tmp_path / "run" / "last.pt")


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(stops_at_nan):
    stops_at_nan("loss_G")
