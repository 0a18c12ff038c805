"""dcgan.py: its mathematics, its step against one by hand, augmentation and averages, exact resume, its complaints."""

import copy
import csv
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import cells, count, differences, far, log_of, of_type
from PIL import Image

import datasets
import dcgan
import metrics

SMALL = "--image-size 16 --batch-size 4 --nz 8 --ngf 4 --ndf 4 --device cpu --save-every 0 --sample-every 0".split()
KINDS = ("minimax", "nonsat", "lsgan", "hinge")


def networks(size=16, channels=3, width=4, arch="conv"):
    torch.manual_seed(0)
    G = dcgan.Generator(8, channels, width, size, arch)
    D = dcgan.Discriminator(channels, width, size, arch)
    dcgan.init_weights(G), dcgan.init_weights(D)
    return G, D


# ---------------------------------------------------------------------------------------------------------- networks


def test_parameter_counts():
    assert count(dcgan.Generator(100, 3, 128, 64)) == 12_658_432  # the course, STL-10
    assert count(dcgan.Discriminator(3, 128, 64)) == 11_036_160
    assert count(dcgan.Generator(100, 3, 64, 64)) == 3_576_704  # pytorch/examples
    assert count(dcgan.Discriminator(3, 64, 64)) == 2_765_568
    assert count(dcgan.Generator(100, 1, 256, 32)) == 12_131_840  # the course, MNIST
    assert count(dcgan.Discriminator(1, 128, 32)) == 2_633_216


def test_the_courses_layers():
    convs = of_type(dcgan.Generator(100, 3, 128, 64), torch.nn.ConvTranspose2d)
    assert [c.in_channels for c in convs] == [100, 1024, 512, 256, 128] and convs[-1].out_channels == 3
    assert [(c.kernel_size[0], c.stride[0], c.padding[0]) for c in convs] == [(4, 1, 0)] + 4 * [(4, 2, 1)]
    convs = of_type(dcgan.Discriminator(3, 128, 64), torch.nn.Conv2d)
    assert [c.in_channels for c in convs] == [3, 128, 256, 512, 1024] and convs[-1].out_channels == 1
    assert [(c.kernel_size[0], c.stride[0], c.padding[0]) for c in convs] == 4 * [(4, 2, 1)] + [(4, 1, 0)]
    assert all(r.negative_slope == 0.2 for r in of_type(dcgan.Discriminator(3, 128, 64), torch.nn.LeakyReLU))


@pytest.mark.parametrize("arch", ["conv", "mlp"])
@pytest.mark.parametrize("size", [28, 32, 48, 64, 128])
def test_shapes_at_every_size(size, arch):
    for channels in (1, 3):
        G, D = networks(size, channels, 2, arch)
        fake = G(torch.randn(2, 8))
        assert fake.shape == (2, channels, size, size) and fake.dtype == torch.float32 and fake.abs().max() <= 1
        logits = D(fake)
        assert logits.shape == (2,) and logits.dtype == torch.float32


@pytest.mark.parametrize("size", [30, 9, 4, 7, 0, -28, 36])
def test_sizes_that_do_not_halve_evenly_are_refused(size):
    with pytest.raises(datasets.DataError, match=f"--image-size {size}:"):
        dcgan.widths(8, size)
    assert dcgan.widths(8, 28) == ([8, 16], 7) and dcgan.widths(8, 256) == ([8, 16, 32, 64, 64, 64], 4)


@pytest.mark.parametrize("size", [16, 28, 64])
def test_no_batchnorm_at_the_borders_no_bias_no_sigmoid(size):
    G, D = networks(size)
    convs, norms = (torch.nn.Conv2d, torch.nn.ConvTranspose2d), torch.nn.BatchNorm2d
    g, d = ([type(m) for m in of_type(net, *convs, norms)] for net in (G, D))
    assert g[-2:] == [norms, torch.nn.ConvTranspose2d] and g.count(norms) == g.count(torch.nn.ConvTranspose2d) - 1
    assert d[:2] == 2 * [torch.nn.Conv2d] and d[-1] is torch.nn.Conv2d  # neither its first layer nor its last
    assert d.count(norms) == d.count(torch.nn.Conv2d) - 2
    assert all(m.eps == 1e-5 for net in (G, D) for m in of_type(net, norms))  # a well-known copy has 0.8
    assert all(m.bias is None for net in (G, D) for m in of_type(net, *convs))
    assert isinstance(G.net[-1], torch.nn.Tanh) and isinstance(D.net[-1], torch.nn.Conv2d)
    for arch in ("conv", "mlp"):
        assert not of_type(dcgan.Discriminator(3, 4, size, arch), torch.nn.Sigmoid, torch.nn.LogSigmoid)
    assert not of_type(dcgan.Generator(8, 3, 4, size, "mlp"), norms, torch.nn.BatchNorm1d)


def test_a_logit_has_no_limit():
    _, D = networks()
    torch.nn.init.constant_(D.net[-1].weight, 10.0)
    with torch.no_grad():
        logits = D(torch.rand(50, 3, 16, 16) * 2 - 1)
    assert logits.abs().max() > 1.5  # behind a sigmoid or a tanh it would be 1


def test_weights_begin_as_the_paper_says():
    torch.manual_seed(0)
    for net in (dcgan.Generator(100, 3, 32, 64), dcgan.Discriminator(3, 64, 64)):
        dcgan.init_weights(net)
        for conv in of_type(net, torch.nn.Conv2d, torch.nn.ConvTranspose2d):
            n = conv.weight.numel()
            assert abs(conv.weight.mean()) < 5 * 0.02 / n**0.5
            assert conv.weight.std().item() == pytest.approx(0.02, rel=5 / (2 * n) ** 0.5)
        scales = torch.cat([norm.weight for norm in of_type(net, torch.nn.BatchNorm2d)])
        n = len(scales)
        assert abs(scales.mean() - 1) < 5 * 0.02 / n**0.5
        assert scales.std().item() == pytest.approx(0.02, rel=5 / (2 * n) ** 0.5)
        assert all((norm.bias == 0).all() for norm in of_type(net, torch.nn.BatchNorm2d))


def test_build_initialises_and_loads():
    args = dcgan.build_parser().parse_args([*SMALL, "--ngf", "16", "--ema", "0.5"])
    torch.manual_seed(0)
    first = dcgan.build(args, 3, "cpu")
    second = dcgan.build(args, 3, "cpu", {name: net.state_dict() for name, net in first.items()})
    assert list(first) == ["G", "D", "G_ema"]
    assert first["G"].net[0].weight.std().item() == pytest.approx(0.02, rel=0.1)  # torch's own would be 0.06
    assert (
        differences(*({name: dict(net.state_dict()) for name, net in nets.items()} for nets in (first, second))) == []
    )
    assert differences(dict(first["G"].state_dict()), dict(first["G_ema"].state_dict())) == []
    assert not any(p.requires_grad for p in first["G_ema"].parameters())
    assert list(dcgan.build(dcgan.build_parser().parse_args(SMALL), 3, "cpu")) == ["G", "D"]


def test_an_image_does_not_depend_on_the_others_of_its_picture():
    for arch in ("conv", "mlp"):
        G, _ = networks(arch=arch)
        with torch.no_grad():
            for _ in range(20):
                G(torch.randn(16, 8))  # running statistics
        z, before = torch.randn(205, 8), copy.deepcopy(G.state_dict())
        images = datasets.generate(G, z)
        assert images.shape == (205, 3, 16, 16) and not images.requires_grad
        for i in (0, 99, 100, 204):
            assert torch.allclose(images[i], datasets.generate(G, z[i : i + 1])[0], atol=1e-6)
        assert all(module.training for module in G.modules())  # training goes on as before
        assert differences(dict(before), dict(G.state_dict())) == []
    G, _ = networks()
    assert (G(z[:4])[0] - G(z[:40])[0]).abs().max() > 0.01  # in training mode it does


# ------------------------------------------------------------------------------------------------------------ losses


def softplus(x):
    return math.log1p(math.exp(x))


def test_losses_in_closed_form():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0, -4.0, 1.0])
    log_d = (softplus(-2) + softplus(1)) / 2 + sum(softplus(x) for x in fake.tolist()) / 4
    expected = {
        "minimax": (log_d, -sum(softplus(x) for x in fake.tolist()) / 4),
        "nonsat": (log_d, sum(softplus(-x) for x in fake.tolist()) / 4),
        "lsgan": ((1 + 4) / 2 + (0.25 + 9 + 16 + 1) / 4, (0.25 + 4 + 25 + 0) / 4),
        "hinge": ((0 + 2) / 2 + (1.5 + 4 + 0 + 2) / 4, -(0.5 + 3 - 4 + 1) / 4),
    }
    assert set(expected) == set(KINDS)
    for kind, (d, g) in expected.items():
        assert dcgan.d_loss(real, fake, kind).item() == pytest.approx(d, rel=1e-5), kind
        assert dcgan.g_loss(fake, kind).item() == pytest.approx(g, rel=1e-5), kind
    D = torch.sigmoid(real).double(), torch.sigmoid(fake).double()  # equation 1 of the first GAN
    assert dcgan.d_loss(real, fake, "minimax").item() == pytest.approx(-(D[0].log().mean() + (1 - D[1]).log().mean()))
    assert dcgan.g_loss(fake, "minimax").item() == pytest.approx((1 - D[1]).log().mean().item())


def slope(loss, at):
    logit = torch.tensor([float(at)], requires_grad=True)
    return torch.autograd.grad(loss(logit), logit)[0].item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_d_that_is_sure_and_wrong_still_learns(kind):
    """With a sigmoid and BCELoss both gradients are 0."""
    none = torch.zeros(1)
    assert slope(lambda logit: dcgan.d_loss(logit, none, kind), -100) < -0.9
    assert slope(lambda logit: dcgan.d_loss(none, logit, kind), 20) > 0.9
    assert math.isfinite(dcgan.d_loss(torch.tensor([-1e4]), torch.tensor([1e4]), kind))
    if kind != "minimax":
        assert slope(lambda logit: dcgan.g_loss(logit, kind), -100) < -0.9


def test_minimax_gives_g_nothing_while_d_wins():
    minimax, nonsat = (slope(lambda logit, kind=kind: dcgan.g_loss(logit, kind), -6) for kind in ("minimax", "nonsat"))
    assert minimax == pytest.approx(-1 / (1 + math.exp(6)), rel=1e-4)  # -0.0025
    assert nonsat == pytest.approx(-1 / (1 + math.exp(-6)), rel=1e-4)  # -0.9975: the same direction
    assert nonsat / minimax == pytest.approx(math.exp(6), rel=1e-3)


# ------------------------------------------------------------------------------------- augmentation, walks and monitors


def draws(n, **given):
    """(n, 7) draws that change nothing but for a hole in the first corner; `given` replaces some of them."""
    names = ("brightness", "saturation", "contrast", "down", "right", "hole_y", "hole_x")
    values = dict(brightness=0.5, saturation=0.5, contrast=0.5, down=0.5, right=0.5, hole_y=0.0, hole_x=0.0) | given
    return torch.stack([torch.as_tensor(values[name]).float().expand(n) for name in names], dim=1)


def outside(x, size=16):
    """x where the hole of `draws` is not."""
    return x.masked_fill(torch.arange(size).lt(size // 4)[:, None] & torch.arange(size).lt(size // 4), 0)


def test_middle_draws_change_nothing_but_the_hole():
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    assert torch.allclose(datasets.diff_augment(x, draws(3)), outside(x), atol=1e-6)


def test_each_colour_draw_does_what_its_name_says():
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    brighter = datasets.diff_augment(x, draws(2, brightness=0.9))
    assert torch.allclose(brighter, outside(x + 0.4), atol=1e-6)
    for draw, factor in ((0.0, 0.0), (0.75, 1.5)):
        grey = x.mean(dim=1, keepdim=True)
        assert torch.allclose(
            datasets.diff_augment(x, draws(2, saturation=draw)), outside(grey + factor * (x - grey)), atol=1e-6
        )
    for draw, factor in ((0.0, 0.5), (0.75, 1.25)):
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        assert torch.allclose(
            datasets.diff_augment(x, draws(2, contrast=draw)), outside(mean + factor * (x - mean)), atol=1e-6
        )
    grey = x[:, :1]  # of one channel: saturation does nothing
    assert torch.allclose(datasets.diff_augment(grey, draws(2, saturation=0.1)), outside(grey), atol=1e-6)


@pytest.mark.parametrize("size", [16, 28])
def test_shifts_reach_an_eighth_either_way_equally_often(size):
    n, reach = 20 * (2 * (size // 8) + 1), size // 8
    steps = (torch.arange(n) + 0.5) / n
    x = torch.zeros(n, 1, size, size)
    x[:, :, size - 6, size - 6] = 100.0  # far from the hole
    moved = datasets.diff_augment(x, draws(n, contrast=0.5, down=steps, right=steps.flip(0)))
    at = (moved > 50).nonzero()
    assert len(at) == n
    for shifts in (size - 6 - at[:, 2], at[:, 3] - (size - 6)):
        assert torch.equal(
            shifts.bincount(minlength=0) if shifts.min() >= 0 else (shifts + reach).bincount(),
            torch.full((2 * reach + 1,), 20),
        )
    x = torch.ones(1, 1, size, size)
    moved = datasets.diff_augment(x, draws(1, brightness=0.5, down=0.999, right=0.999, hole_y=0.0, hole_x=0.0))[0, 0]
    assert (moved[-reach:] == 0).all() and (moved[:, -reach:] == 0).all()  # grey comes in from the border
    assert (moved[size // 2 : -reach, size // 2 : -reach] == 1).all()


def test_the_hole_is_half_a_side_and_anywhere():
    n, size = 4000, 16
    centres = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    x = datasets.diff_augment(torch.ones(n, 3, size, size), draws(n, hole_y=centres[:, 0], hole_x=centres[:, 1]))
    holes = x == 0
    assert torch.equal(holes[:, 0], holes[:, 1]) and torch.equal(holes[:, 0], holes[:, 2])
    high, wide = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    assert high.max() == wide.max() == size // 2 and high.min() >= size // 4
    assert torch.equal(high * wide, holes[:, 0].sum((1, 2)))  # a rectangle
    side = np.mean([min(p + size / 4, size) - max(p - size / 4, 0) for p in range(size)]) / size
    assert holes.float().mean().item() == pytest.approx(side**2, abs=0.005)
    assert (holes[:, 0].float().mean(0) > 0.05).all()  # no pixel is never seen to go


def test_every_image_is_augmented_by_its_own_draw():
    x, u = torch.rand(6, 3, 16, 16) * 2 - 1, torch.rand(6, 7)
    together = datasets.diff_augment(x, u)
    for i in range(6):
        assert torch.allclose(together[i], datasets.diff_augment(x[i : i + 1], u[i : i + 1])[0], atol=1e-6)
    same = datasets.diff_augment(x[:1].expand(6, -1, -1, -1), u)
    assert all((same[i] - same[j]).abs().max() > 0.05 for i in range(6) for j in range(i))


def test_augmentation_passes_the_gradient_on():
    x, u = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True), torch.rand(2, 7).double()
    assert torch.autograd.gradcheck(lambda x: datasets.diff_augment(x, u), x)
    (grad,) = torch.autograd.grad(datasets.diff_augment(x, draws(2).double()).sum(), x)
    assert (grad[:, :, 2:, 2:].abs() > 0.5).all()


def test_walks_keep_to_the_sphere():
    torch.manual_seed(0)
    a, b = torch.randn(2, 100)
    b = b * a.norm() / b.norm()
    walk = datasets.slerp(a, b, 9)
    assert walk.shape == (9, 100) and torch.allclose(walk[0], a, atol=1e-4) and torch.allclose(walk[-1], b, atol=1e-4)
    assert torch.allclose(walk.norm(dim=1), a.norm().expand(9), rtol=1e-4)  # a straight line has 0.7 of it half-way
    strides = (walk[1:] - walk[:-1]).norm(dim=1)
    assert torch.allclose(strides, strides[:1].expand(8), rtol=1e-3)
    longer = datasets.slerp(a, 2 * b, 5)
    assert torch.allclose(longer[-1], 2 * b, atol=1e-4) and a.norm() < longer[2].norm() < 2 * a.norm()
    for end in (a, -a):
        assert datasets.slerp(a, end, 5).isfinite().all()
    assert torch.allclose(datasets.slerp(a, a, 5), a.expand(5, -1), atol=1e-2)


def test_distinct_tells_copies_from_samples():
    torch.manual_seed(0)
    real, noise = torch.rand(2, 64, 3, 16, 16) * 2 - 1
    one = noise[:1].expand(64, -1, -1, -1)
    assert metrics.distinct(one, real) == 0 and metrics.distinct(one + 0.01 * torch.randn_like(one), real) == 0
    assert metrics.distinct(noise, real) == 1
    assert metrics.distinct(torch.cat([noise[1:17], one[:48]]), real) == 0.25
    assert metrics.distinct(noise[:32].repeat(2, 1, 1, 1), real) == 0  # each twice
    assert metrics.distinct(noise[:1], real[:1]) == 1  # a batch of one: nothing to be a copy of
    fake = noise.clone().requires_grad_()
    assert not metrics.distinct(fake, real).requires_grad


def test_gradient_norms_are_torchs():
    G, D = networks()
    D(G(torch.randn(4, 8))).sum().backward()
    norms = metrics.grad_norms(D=D, G=G)
    expected = {f"grad_{n}": torch.nn.utils.clip_grad_norm_(net.parameters(), 1e9) for n, net in (("D", D), ("G", G))}
    assert norms == pytest.approx({name: norm.item() for name, norm in expected.items()}, rel=1e-5)
    G.net[0].weight.grad = None  # one that the loss does not reach
    assert metrics.grad_norms(G=G)["grad_G"] < norms["grad_G"]


def test_the_state_of_the_game_in_a_sentence():
    row = dict(acc_real=0.75, acc_fake=0.6, distinct=0.98, grad_D=0.123, grad_G=4.56)
    facts = "D is right on 75% of real and 60% of fake images; 98% of the samples are distinct; gradients D 0.12, G 4.6"
    assert metrics.gan_health(row) == facts
    assert metrics.gan_health(row | dict(distinct=0.2)).endswith(": G is collapsing")
    assert metrics.gan_health(row | dict(acc_real=0.99, acc_fake=0.97)).endswith(": D is winning")
    assert "winning" not in metrics.gan_health(row | dict(acc_real=0.99))  # of all it says that it is real
    assert metrics.gan_health(row | dict(acc_real=1, acc_fake=1, distinct=0)).endswith(": G is collapsing")


# ------------------------------------------------------------------------------------------------ one step of training


@pytest.fixture(scope="session")
def flat(tmp_path_factory):
    """A folder of 19 pictures of 16 x 16: two of the split "test", 17 of "train", which in batches of 4 leave one."""
    folder = tmp_path_factory.mktemp("flat")
    rng = np.random.default_rng(0)
    for i in range(19):
        corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), np.uint8))
        corners.resize((16, 16), Image.Resampling.BILINEAR).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def flags(flat, data_dir):
    return [*SMALL, "--dataset", str(flat), "--data-dir", str(data_dir)]


def by_hand(flags, steps):
    """The algorithm as the papers have it, with torch's own losses -> networks, and the gradients of the last step."""
    args = dcgan.build_parser().parse_args(flags)
    data = dcgan.load_images(args, "train")
    torch.manual_seed(args.seed)
    nets = dcgan.build(args, 3, "cpu")
    G, D, average = nets["G"], nets["D"], copy.deepcopy(nets["G"])
    opts = {n: torch.optim.Adam(net.parameters(), lr=args.lr, betas=(0.5, 0.999)) for n, net in (("G", G), ("D", D))}
    noise, loader = (
        torch.Generator().manual_seed(args.seed),
        datasets.make_loader(data, args.batch_size, seed=args.seed),
    )
    bce = F.binary_cross_entropy_with_logits
    for _, _, batch in metrics.steps(loader, 0, steps):
        real, z = batch["image"].float() / 127.5 - 1, torch.randn(args.batch_size, args.nz, generator=noise)
        yes, no, fake, grads = torch.ones(len(real)), torch.zeros(len(real)), G(z), {}
        for net, name in ((D, "D"), (G, "G")):
            loss = bce(D(real), yes) + bce(D(fake.detach()), no) if net is D else bce(D(fake), yes)
            grads[name] = torch.autograd.grad(loss, list(net.parameters()))
            for p, grad in zip(net.parameters(), grads[name], strict=True):
                p.grad = grad
            opts[name].step()
        with torch.no_grad():
            for old, new in zip(average.parameters(), G.parameters(), strict=True):
                old.copy_(args.ema * old + (1 - args.ema) * new)
    average.load_state_dict(dict(G.state_dict()) | dict(average.named_parameters()))  # BatchNorm's statistics: G's
    return {"G": G, "D": D, "G_ema": average}, grads


def test_three_steps_equal_three_by_hand(flags, watched):
    more = ["--ema", "0.9", "--max-steps", "3", "--lr", "1e-3"]
    seen = watched(*more)
    nets, grads = by_hand([*flags, *more], 3)
    start = {n: net.state_dict() for n, net in seen["start"].items()}
    for name in ("D", "G"):
        assert far(seen["state"][name], nets[name].state_dict()) < 1e-5, name
        assert far(start[name], nets[name].state_dict()) > 1e-3, name
        for p, expected in zip(seen["nets"][name].parameters(), grads[name], strict=True):
            assert torch.allclose(p.grad, expected, rtol=1e-3, atol=1e-5), name


def test_the_average_is_one_of_weights_with_g_s_own_statistics(flags, watched):
    more = ["--ema", "0.9", "--max-steps", "2", "--lr", "1e-3"]
    state, expected = watched(*more)["state"], by_hand([*flags, *more], 2)[0]["G_ema"]
    assert far(state["G_ema"], expected.state_dict()) < 1e-5
    buffers = [name for name in state["G"] if "running" in name or "tracked" in name]
    assert len(buffers) == 6 and all(torch.equal(state["G_ema"][name], state["G"][name]) for name in buffers)
    assert far(state["G_ema"], state["G"]) > 1e-4
    assert "G_ema" not in watched("--max-steps", 1)["state"]


@pytest.mark.parametrize("more", [(), ("--diffaug", "--loss", "hinge")])
def test_each_step_leaves_the_other_player_alone(watched, more):
    seen = watched("--max-steps", 1, *more)
    (first, after_d), (second, after_g) = seen["after"]
    assert first == (seen["nets"]["D"],) and second == (seen["nets"]["G"],)  # D first
    assert all(g is None for g in after_d["G"])  # detached
    assert all(g.abs().sum() > 0 for g in after_d["D"] + after_g["G"])
    for a, b in zip(after_d["D"], after_g["D"], strict=True):  # D's gradient is still that of its own loss alone
        assert torch.equal(a, b)
    if more:
        return
    D, ((real, _), (fake, _), _) = seen["start"]["D"], seen["D"]
    expected = torch.autograd.grad(dcgan.d_loss(D(real), D(fake), "nonsat"), list(D.parameters()))
    for p, grad in zip(seen["nets"]["D"].parameters(), expected, strict=True):
        assert torch.allclose(p.grad, grad, rtol=1e-4, atol=1e-7)


def test_real_and_fake_pass_d_on_their_own(watched, flags):
    seen = watched("--max-steps", 1)
    (real, of_real), (fake, of_fake), (again, _) = seen["D"]
    assert real.shape == fake.shape == (4, 3, 16, 16) and torch.equal(fake, again)  # as many codes as images
    args = dcgan.build_parser().parse_args(flags)
    known = {
        datasets.to_float(torch.from_numpy(x), "cpu").numpy().tobytes() for x in dcgan.load_images(args, "train").images
    }
    assert all(x.contiguous().numpy().tobytes() in known for x in real)
    D = seen["start"]["D"]
    with torch.no_grad():
        alone = [D(real), D(fake)]
        shared = D(torch.cat([real, fake]))
    for logits, expected in zip((of_real, of_fake), alone, strict=True):
        assert torch.allclose(logits, expected, atol=1e-6)
    assert (shared - torch.cat(alone)).abs().max() > 1e-4  # statistics of one batch of both would show
    assert seen["nets"]["D"].net[3].num_batches_tracked == 3


def test_a_last_batch_of_one_is_left_out(watched):
    seen = watched("--epochs", 2)
    assert seen["state"]["step"] == 2 * 4  # 17 images
    assert {len(x) for x, _ in seen["D"]} == {4} and len(seen["D"]) == 3 * 8


def test_d_sees_everything_augmented(watched, monkeypatch):
    calls, diff_augment = [], datasets.diff_augment

    def spy(x, u):
        calls.append((x.detach(), u, diff_augment(x, u)))
        return calls[-1][-1]

    monkeypatch.setattr(datasets, "diff_augment", spy)
    seen = watched("--max-steps", 1, "--diffaug")
    assert len(calls) == len(seen["D"]) == 3
    for (_, u, shown), (got, _) in zip(calls, seen["D"], strict=True):
        assert torch.equal(shown, got) and u.shape == (4, 7) and 0 <= u.min() and u.max() < 1
    assert torch.equal(calls[1][0], calls[2][0]) and calls[2][2].requires_grad  # G learns through it
    assert not any(torch.equal(calls[i][1], calls[j][1]) for i, j in ((0, 1), (1, 2), (0, 2)))
    calls.clear()
    watched("--max-steps", 1)
    assert calls == []


def test_flip_mirrors_half_of_the_real_images(watched):
    plain, flipped = (watched("--epochs", 1, *more)["D"][::3] for more in ((), ("--flip",)))
    pairs = [pair for a, b in zip(plain, flipped, strict=True) for pair in zip(a[0], b[0], strict=True)]
    as_it_was, mirrored = ([torch.equal(a if not m else a.flip(-1), b) for a, b in pairs] for m in (False, True))
    assert all(a != m for a, m in zip(as_it_was, mirrored, strict=True)) and 3 <= sum(mirrored) <= 13


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_trains(train_here, tmp_path, kind):
    more = ["--loss", kind] + (["--arch", "mlp"] if kind == "minimax" else [])
    train_here(tmp_path / "run", *more, "--max-steps", 2, "--log-every", 1)
    rows = log_of(tmp_path / "run")
    assert len(rows) == 2 and all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("acc_real", "acc_fake", "distinct"))
    if kind == "lsgan":  # scores begin near 0: "fake", whatever it is
        assert rows[0]["acc_real"] == "0" and rows[0]["acc_fake"] == "1"


def test_the_log_says_what_d_said(watched, tmp_path):
    seen = watched("--max-steps", 1)
    (row,) = csv.DictReader(open(next(tmp_path.iterdir()) / "log.csv"))
    (x, real), (x_fake, fake), (_, after) = seen["D"]
    assert float(row["loss_D"]) == pytest.approx(dcgan.d_loss(real, fake, "nonsat").item(), rel=1e-4)
    assert float(row["loss_G"]) == pytest.approx(dcgan.g_loss(after, "nonsat").item(), rel=1e-4)
    assert float(row["acc_real"]) == (real > 0).float().mean() and float(row["acc_fake"]) == (fake < 0).float().mean()
    assert {f"grad_{n}": float(row[f"grad_{n}"]) for n in "DG"} == pytest.approx(
        metrics.grad_norms(D=seen["nets"]["D"], G=seen["nets"]["G"]), rel=1e-4
    )
    assert float(row["distinct"]) == metrics.distinct(x_fake, x)


def test_amp_on_a_cpu(train_here, tmp_path):
    state = train_here(tmp_path / "run", "--amp", "--diffaug", "--max-steps", 1)
    assert all(t.dtype == torch.float32 for t in state["G"].values() if t.is_floating_point())
    assert math.isfinite(float(log_of(tmp_path / "run")[0]["loss_G"]))


@pytest.mark.parametrize("more", [("--ngf", 8, "--ndf", 8, "--lr", 2e-3), ("--arch", "mlp", "--lr", 3e-4)])
def test_it_learns_a_colour(train_here, tmp_path, monkeypatch, more):
    """Every image is of one red, from light to dark: the samples must come to be of it, in every channel."""
    shades = np.random.default_rng(0).integers(180, 250, 64).astype(np.uint8)
    images = np.full((64, 3, 8, 8), 40, np.uint8)
    images[:, 0] = shades[:, None, None]
    monkeypatch.setattr(dcgan, "load_images", lambda *a: datasets.ImageSet("reds", "train", images))
    flags = ["--image-size", 8, "--batch-size", 16, "--epochs", 35, *more]
    state = train_here(tmp_path / "run", *flags)
    args = dcgan.build_parser().parse_args([*SMALL, *map(str, flags)])
    nets = dcgan.build(args, 3, "cpu", state)
    colour = datasets.generate(nets["G"], torch.randn(200, 8)).mean(dim=(0, 2, 3))
    wanted = torch.from_numpy(images).float().div(127.5).sub(1).mean(dim=(0, 2, 3))
    assert wanted.abs().min() > 0.6  # grey, where it begins, is that far off
    assert (colour - wanted).abs().max() < 0.3, colour


# -------------------------------------------------------------------------------------------- resume, several processes

ALL = "--ema 0.9 --diffaug --flip".split()


def test_2n_epochs_equal_n_and_n_resumed_to_the_bit(in_two_parts, tmp_path):
    assert in_two_parts(("--epochs", 1), *ALL, "--epochs", 2, "--log-every", 3)["step"] == 8
    assert len(log_of(tmp_path / "whole")) == 3


def test_a_run_continues_in_the_middle_of_an_epoch(in_two_parts):
    in_two_parts(("--max-steps", 5), *ALL, "--epochs", 2, "--loss", "hinge")


def test_ctrl_c_and_sigterm_end_a_run_after_a_checkpoint(stops_cleanly):
    stops_cleanly()


def test_the_same_command_gives_the_same_bits_and_another_seed_does_not(reproducible):
    reproducible(*ALL, "--max-steps", 2)


PROCESS = """
leave, metrics.leave_processes = metrics.leave_processes, lambda: None  # one group for both runs
for arch in ("conv", "mlp"):
    train(f"{out}/{arch}", *flags, "--arch", arch)
leave()
"""


def test_two_processes_keep_equal_weights_and_equal_one_with_twice_the_batch(torchrun, flags, train_here, tmp_path):
    """BatchNorm's statistics are those of a process, so that only the networks without it equal one process's."""
    more = [*ALL, "--max-steps", 3]
    torchrun(tmp_path / "two", *flags, *more, "--batch-size", 2, code=PROCESS)
    for arch in ("conv", "mlp"):
        out = tmp_path / "two" / arch
        a, b, saved = (torch.load(out / f"{name}.pt", weights_only=True) for name in ("0", "1", "last"))
        for name in ("G", "D", "G_ema"):
            weights = [key for key in a[name] if "running" not in key]
            assert len(weights) > 3 and all(torch.equal(a[name][key], b[name][key]) for key in weights)
            assert far(a[name], saved[name]) == 0  # rank 0 saves
        if arch == "conv":
            assert far(a["D"], b["D"]) > 0  # each has seen images of its own
    one = train_here(tmp_path / "one", *more, "--arch", "mlp", "--batch-size", 4)
    start = train_here(tmp_path / "start", *more, "--arch", "mlp", "--batch-size", 4, "--lr", 1e-12)
    for name in ("G", "D", "G_ema"):
        assert far(one[name], saved[name]) < 2e-5 < 1e-4 < far(one[name], start[name])


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="session")
def trained(flat, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = [*SMALL, "--dataset", flat, "--data-dir", data_dir, "--ema", 0.5, "--max-steps", 2, "--out", out]
    dcgan.main([*map(str, flags)])
    return out / "last.pt"


def test_smoke_train_sample_resume(smoke, tmp_path):
    assert "step 1: D is right on" in smoke(*ALL)
    assert Image.open(tmp_path / "run" / "samples" / "samples.png").size == (6 * 18 + 2, 6 * 18 + 2)


def test_samples_and_walks_between_them(trained, tmp_path):
    for name in "ab":
        dcgan.main(["--sample", str(trained), "--out", str(tmp_path / name), "--num-samples", "12"])
    pictures = [tmp_path / name / "samples" / "samples.png" for name in "ab"]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert sorted(p.name for p in pictures[0].parent.iterdir()) == ["interpolation.png", "samples.png"]
    samples, walks = cells(pictures[0]), cells(pictures[0].with_name("interpolation.png"))
    assert samples.shape[:2] == (4, 3) and walks.shape[:2] == (6, 10)
    flat_samples = samples.reshape(12, 16, 16, 3)
    assert abs(walks[:, 0] - flat_samples[0::2]).max() <= 1 and abs(walks[:, -1] - flat_samples[1::2]).max() <= 1
    assert all((flat_samples[i] != flat_samples[0]).any() for i in range(1, 12))
    dcgan.main(["--sample", str(trained), "--out", str(tmp_path / "c"), "--num-samples", "12", "--seed", "5"])
    assert (cells(tmp_path / "c/samples/samples.png") != samples).any()


@pytest.mark.parametrize("grey, changed", [("G_ema", True), ("G", False)])
def test_samples_are_of_the_average_and_black_is_not_stretched_to_white(trained, tmp_path, grey, changed):
    """A network whose last weights are 0 makes 0, which is mid-grey: the picture is not rescaled to its own range."""
    state = torch.load(trained, weights_only=True)
    last = [key for key in state["G"] if key.endswith("weight")][-1]
    state[grey][last].zero_()
    torch.save(state, tmp_path / "grey.pt")
    dcgan.main(["--sample", str(tmp_path / "grey.pt"), "--num-samples", "4"])
    samples = cells(tmp_path / "samples" / "samples.png")
    assert ((samples == 128).all() or (samples == 127).all()) == changed


def test_pictures_along_the_way_are_of_the_same_codes(train_here, tmp_path, monkeypatch):
    asked, generate = [], datasets.generate

    def spy(G, z):
        asked.append((G.training, z.clone()))
        return generate(G, z)

    monkeypatch.setattr(datasets, "generate", spy)
    state = train_here(tmp_path / "run", *ALL, "--max-steps", 3, "--sample-every", 1, "--num-samples", 4)
    assert len(asked) == 3 and all(torch.equal(z, asked[0][1]) for _, z in asked) and asked[0][1].shape == (4, 8)
    args = dcgan.build_parser().parse_args([*SMALL, *ALL])
    nets = dcgan.build(args, 3, "cpu", state)
    expected = datasets.to_uint8(generate(nets["G_ema"], asked[0][1])).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(cells(tmp_path / "run/samples/0000003.png").reshape(4, 16, 16, 3), expected)


def test_evaluate_writes_every_score(train_here, tmp_path, monkeypatch):
    """Of a set with classes: its own classifier is the judge. The fakes are G_ema's, as many as asked for."""
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (3, 3))
    folder, rng = tmp_path / "shades", np.random.default_rng(0)
    for name, shade in (("dark", 0), ("light", 150)):
        (folder / name).mkdir(parents=True)
        for i in range(31):  # 27 for training, 4 for the test
            image = rng.integers(shade, shade + 100, (16, 16, 3), np.uint8)
            Image.fromarray(image).save(folder / name / f"{i:02}.png")
    fakes, judge = [], metrics.judge

    def spy(fake, *others):
        fakes.append(fake)
        return judge(fake, *others)

    monkeypatch.setattr(metrics, "judge", spy)
    state = train_here(tmp_path / "run", "--dataset", folder, "--max-steps", 2, "--eval-every", 2, "--ema", 0.5)
    dcgan.main(["--evaluate", str(tmp_path / "run" / "last.pt")])
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert facts["step"] == 2 and facts["minutes"] > 0 and facts["args"]["ema"] == 0.5
    fid = next(score for score in facts["scores"] if score["metric"].endswith("FID"))
    assert fid["n_fake"] == fid["n_real"] == 8 and fid["value"] > 0 and fid["floor"] > 0 and "too few" in fid["note"]
    assert sum("IS" in score["metric"] for score in facts["scores"]) == 2  # and its ceiling
    assert json.loads((tmp_path / "run" / "metrics-0000002.json").read_text())["scores"] == facts["scores"]
    args = dcgan.build_parser().parse_args([*SMALL, "--ema", "0.5"])
    z = datasets.draw_noise((8, 8), torch.Generator().manual_seed(0))
    expected = datasets.to_uint8(datasets.generate(dcgan.build(args, 3, "cpu", state)["G_ema"], z))
    assert len(fakes) == 2 and all(torch.equal(fake, expected) for fake in fakes)
    dcgan.main(["--evaluate", str(tmp_path / "run" / "last.pt"), "--fid-images", "5"])
    assert fakes[-1].shape == (5, 3, 16, 16) and fakes[-1].dtype == torch.uint8


# --------------------------------------------------------------------------------------------------------- bad input


def test_complaints_name_the_thing_and_the_remedy(complaint, trained, flags, tmp_path):
    flags = [*flags, "--max-steps", 1, "--out", tmp_path / "run"]
    assert "unknown data set 'cats'" in complaint(*flags, "--dataset", "cats")
    assert "--image-size 30: use" in complaint(*flags, "--image-size", 30)
    for flag in ("--num-samples", "--lr", "--nz", "--ngf", "--ndf", "--fid-images"):
        assert flag in complaint(*flags, flag, 0)
    for decay in (-0.1, 1, 1.5):
        assert "--ema" in complaint(*flags, "--ema", decay)
    for flag in ("--beta1", "--beta2"):
        assert flag in complaint(*flags, flag, 1)
    assert "17 images" in complaint(*flags, "--batch-size", 64)
    assert "holds a run" in complaint(*flags, "--out", trained.parent)
    assert "no checkpoint" in complaint("--sample", tmp_path / "none.pt")
    assert "--ngf 4" in complaint("--resume", trained, "--ngf", 8, "--epochs", 2)
    assert "--ema 0.5" in complaint("--resume", trained, "--ema", 0.9, "--epochs", 2)
    assert "at its end" in complaint("--resume", trained, "--max-steps", 2)
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_points_are_no_images(complaint, flags, tmp_path):
    assert "8gaussians" in complaint(*flags, "--dataset", "8gaussians", "--out", tmp_path / "run")


def test_foreign_and_broken_checkpoints(refuses_foreign_and_broken, trained):
    refuses_foreign_and_broken(trained)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(stops_at_nan):
    stops_at_nan()
