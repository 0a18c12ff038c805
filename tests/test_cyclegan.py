"""cyclegan.py: its mathematics, its step against one by hand, the pool, consistency, exact resume, its complaints."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import cells, count, log_of, of_type, same
from PIL import Image

import cyclegan
import datasets
import metrics

SMALL = "--image-size 32 --batch-size 2 --ngf 4 --ndf 4 --blocks 1 --device cpu --save-every 0 --sample-every 0".split()
NETS = ("G_AB", "G_BA", "D_A", "D_B")


def generator(width=4, blocks=1, **options):
    torch.manual_seed(0)
    G = cyclegan.Generator(3, width, blocks, **options)
    cyclegan.init_weights(G)
    return G


def parse(*flags):
    return cyclegan.build_parser().parse_args([*SMALL, *map(str, flags)])


# ---------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("up", ["transposed", "upsample"])
def test_parameter_counts_are_the_official_ones_without_dead_biases(up):
    for blocks, official in ((5, 6_657_539), (6, 7_837_699), (9, 11_378_179)):
        dead = 64 + 128 + 256 + 2 * blocks * 256 + 128 + 64  # a bias for each channel before an InstanceNorm
        assert count(cyclegan.Generator(3, 64, blocks, up)) == official - dead
    assert count(cyclegan.Generator(3, 64, 9, up)) == 11_372_931
    for kind in ("patch", "four-stride"):
        assert count(cyclegan.Discriminator(3, 64, kind)) == 2_763_841 == 2_764_737 - 128 - 256 - 512


def test_blocks_by_size():
    for flags, blocks in (((), 1), (("--blocks", 0), 6), (("--blocks", 0, "--image-size", 256), 9)):
        nets = cyclegan.build(parse(*flags), 3, "cpu")
        assert list(nets) == list(NETS) and len(of_type(nets["G_AB"], cyclegan.ResnetBlock)) == blocks
        assert nets["G_AB"].net[0].weight.std().item() == pytest.approx(0.02, rel=0.1)  # torch's own would be 0.05
        assert not torch.equal(nets["G_AB"].net[0].weight, nets["G_BA"].net[0].weight)


@pytest.mark.parametrize("size", [32, 64, 112, 256])
def test_shapes_at_every_size(size):
    x = torch.rand(1, 3, size, size) * 2 - 1
    for options in ({}, {"up": "upsample"}, {"mask": True}, {"dropout": True}):
        fake = generator(2, **options)(x)
        assert fake.shape == x.shape and fake.dtype == torch.float32 and fake.abs().max() <= 1
    assert cyclegan.Discriminator(3, 2)(x).shape == (1, 1, size // 8 - 2, size // 8 - 2)
    assert cyclegan.Discriminator(3, 2, "four-stride")(x).shape == (1, 1, size // 16, size // 16)


def test_reflection_at_the_borders_and_no_bias_before_a_norm():
    G = generator(blocks=2)
    kept = [c for c in of_type(G, torch.nn.Conv2d) if c.stride == (1, 1)]
    assert all(c.padding_mode == "reflect" for c in kept) and len(kept) == 2 + 2 * 2
    convs = of_type(G, torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    assert [c.bias is not None for c in convs] == [False] * (len(convs) - 1) + [True]
    convs = of_type(cyclegan.Discriminator(3, 4), torch.nn.Conv2d)
    assert [c.bias is not None for c in convs] == [True, False, False, False, True]
    assert [c.stride[0] for c in convs] == [2, 2, 2, 1, 1]
    convs = of_type(cyclegan.Discriminator(3, 4, "four-stride"), torch.nn.Conv2d)
    assert [c.stride[0] for c in convs] == [2, 2, 2, 2, 1]
    D = cyclegan.Discriminator(3, 4)
    torch.nn.init.zeros_(D.net[-1].weight), torch.nn.init.constant_(D.net[-1].bias, 5.0)
    assert (D(torch.zeros(1, 3, 32, 32)) == 5).all()  # no sigmoid


def test_up_is_what_it_says():
    assert [len(of_type(generator(up=up), torch.nn.ConvTranspose2d)) for up in ("transposed", "upsample")] == [2, 0]
    assert [len(of_type(generator(up=up), torch.nn.Upsample)) for up in ("transposed", "upsample")] == [0, 2]
    assert all(module.mode == "nearest" for module in of_type(generator(up="upsample"), torch.nn.Upsample))


@pytest.mark.parametrize("kind, side", [("patch", 70), ("four-stride", 94)])
def test_receptive_field(kind, side):
    layers = cyclegan.Discriminator(3, 4, kind).net
    convs = torch.nn.Sequential(*(m for m in layers if not isinstance(m, torch.nn.InstanceNorm2d)))
    x = torch.randn(1, 3, 256, 256, requires_grad=True)
    scores = convs(x)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert (x.grad.abs().sum((0, 1, 2)) > 0).sum().item() == side


def test_training_and_evaluation_mode_compute_the_same_and_no_picture_sees_another():
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    for net in (generator(), generator(mask=True), cyclegan.Discriminator(3, 4)):
        assert torch.equal(net.train()(x), net.eval()(x))
        assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-6)
        assert not list(net.buffers())  # no running statistics
        assert all(not norm.affine for norm in of_type(net, torch.nn.InstanceNorm2d))
    G = generator(dropout=True)
    assert not torch.equal(G(x), G(x)) and torch.equal(G.eval()(x), G(x))
    assert len(of_type(generator(dropout=True, blocks=3), torch.nn.Dropout)) == 3


def test_mask_says_where_g_paints():
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    G = generator(mask=True)
    torch.nn.init.zeros_(G.net[-1].weight)
    for where, paint, expected in (
        (-50.0, 3.0, x),
        (50.0, 3.0, torch.tanh(torch.tensor(3.0)).expand_as(x)),
        (0, 0, x / 2),
    ):
        torch.nn.init.constant_(G.net[-1].bias[:3], paint), torch.nn.init.constant_(G.net[-1].bias[3:], where)
        assert torch.allclose(G(x), expected, atol=1e-6)
    assert count(generator(mask=True)) == count(generator()) + 7 * 7 * 4 + 1  # one channel more at the end
    G = generator()
    torch.nn.init.zeros_(G.net[-1].weight)
    assert G(x).abs().max() == 0  # all anew
    channels = [cyclegan.build(parse(flag), 3, "cpu")["G_BA"].net[-1].out_channels for flag in ("--mask", "--no-mask")]
    assert channels == [4, 3]


# ------------------------------------------------------------------------------------------------------------ losses


def test_gan_loss_is_least_squares():
    scores = torch.tensor([[[[0.5, 0.5]]], [[[2.0, -3.0]]]])
    assert cyclegan.gan_loss(scores, True).item() == pytest.approx((0.25 + 0.25 + 1 + 16) / 4)
    assert cyclegan.gan_loss(scores, False).item() == pytest.approx((0.25 + 0.25 + 4 + 9) / 4)
    assert cyclegan.gan_loss(torch.full((1, 1, 6, 6), 0.5), True).item() == 0.25  # no sigmoid: it would be 0.14


def test_d_loss_is_half_of_two_separate_passes():
    torch.manual_seed(0)
    D, real, fake = cyclegan.Discriminator(3, 4), torch.randn(3, 3, 32, 32), torch.randn(2, 3, 32, 32)
    expected = 0.5 * ((D(real) - 1).square().mean() + D(fake).square().mean())
    assert cyclegan.d_loss(D, real, fake).item() == pytest.approx(expected.item(), rel=1e-5)


class Column(torch.nn.Module):
    """A D whose map is the picture's first column of the first channel: it notices flips and shifts."""

    def forward(self, x):
        return x[:, :1, :, :1]


def test_consistency_in_closed_form():
    x, y = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    asked = []

    def flip(padded, crop, flip):
        asked.append((padded.shape[-1], crop, flip))
        return padded[:, :, 2:-2, 2:-2].flip(-1)

    def term(x):  # the score is the mean of the map
        return (x[:, 0, :, 0].mean(1) - x[:, 0, :, -1].mean(1)).square().mean()

    assert cyclegan.cr_loss(Column(), [x], flip).item() == pytest.approx(term(x).item(), rel=1e-5)
    assert cyclegan.cr_loss(Column(), [x, y], flip).item() == pytest.approx((term(x) + term(y)).item(), rel=1e-5)
    assert asked == [(36, 32, True)] * 3  # shifts by up to 2 pixels either way
    assert cyclegan.cr_loss(Column(), [], flip) == 0
    D = cyclegan.Discriminator(3, 4)
    cyclegan.cr_loss(D, [x], flip).backward()
    assert all(p.grad is not None for p in D.parameters())


# -------------------------------------------------------------------------------------------------------------- pool


def tags(*values):
    """Pictures that are numbers."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2)


def numbers(images):
    return [int(image[0, 0, 0]) for image in images]


def test_pool_fills_then_swaps_half_of_the_time():
    pool, noise = cyclegan.ImagePool(5), torch.Generator().manual_seed(0)
    assert numbers(pool.query(tags(0, 1, 2), noise)) == [0, 1, 2]
    assert numbers(pool.query(tags(3, 4), noise)) == [3, 4] and numbers(pool.images) == [0, 1, 2, 3, 4]
    new, places, n = 0, [0] * 5, 4000
    for i in range(5, 5 + n):
        before = numbers(pool.images)
        (answer,) = numbers(pool.query(tags(i), noise))
        after = numbers(pool.images)
        if answer == i:
            new += 1
            assert after == before
        else:
            place = before.index(answer)
            places[place] += 1
            assert after == [*before[:place], i, *before[place + 1 :]]
    assert abs(new / n - 0.5) < 0.03 and min(places) > 0.8 * (n - new) / 5


def test_pool_decides_for_each_picture_and_loses_none():
    pool, noise = cyclegan.ImagePool(3), torch.Generator().manual_seed(0)
    mixed = 0
    given, back = [], []
    for i in range(0, 400, 4):
        batch = list(range(i, i + 4))
        answer = numbers(pool.query(tags(*batch), noise))
        given, back = given + batch, back + answer
        mixed += 0 < len(set(batch) & set(answer)) < 4
    assert mixed > 30  # one coin a batch would give all or nothing
    left = numbers(pool.images)
    assert len(left) == 3 and set(back) <= set(given) and set(left) <= set(given)
    assert set(given) == set(back) | set(left)  # each comes to D in the end


def test_pool_of_none_and_restored():
    noise = torch.Generator().manual_seed(0)
    pool = cyclegan.ImagePool(0)
    for i in range(20):
        assert numbers(pool.query(tags(i, i + 1), noise)) == [i, i + 1] and pool.images == []
    a, na = cyclegan.ImagePool(4), torch.Generator().manual_seed(1)
    a.query(tags(*range(9)), na)
    b, nb = cyclegan.ImagePool(4, [x.clone() for x in a.images]), torch.Generator()
    nb.set_state(na.get_state())
    for i in range(30):
        assert numbers(a.query(tags(i), na)) == numbers(b.query(tags(i), nb))


def test_pool_keeps_detached_copies():
    pool, noise = cyclegan.ImagePool(2), torch.Generator().manual_seed(0)
    fakes = tags(1, 2).clone().requires_grad_()
    answer = pool.query(fakes * 1, noise)
    assert not answer.requires_grad and not any(image.requires_grad for image in pool.images)
    fakes = tags(3, 4).clone()
    pool = cyclegan.ImagePool(2)
    answer = pool.query(fakes, noise)
    fakes.fill_(9), answer.fill_(8)
    assert numbers(pool.images) == [3, 4]
    for _ in range(9):  # likewise where it takes another's place
        fakes = tags(5, 5).clone()
        pool.query(fakes, noise)
        fakes.fill_(9)
    assert numbers(pool.images) == [5, 5]
    assert all(image.untyped_storage().nbytes() == image.numel() * 4 for image in pool.images)  # not of a whole batch


# ------------------------------------------------------------------------------------------------ one step of training


@pytest.fixture(scope="session")
def domains(tmp_path_factory):
    """trainA, trainB, testA, testB: 5 rough reds and 8 blues for training, 4 each for the test, 32 x 32."""
    folder, rng = tmp_path_factory.mktemp("domains"), np.random.default_rng(0)
    for name, n, channel in (("trainA", 5, 0), ("trainB", 8, 2), ("testA", 4, 0), ("testB", 4, 2)):
        (folder / name).mkdir()
        for i in range(n):
            image = rng.integers(0, 120, (32, 32, 3), np.uint8)
            image[:, :, channel] += rng.integers(90, 130, dtype=np.uint8)
            Image.fromarray(image).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture
def flags(domains, data_dir):
    return [*SMALL, "--dataset", str(domains), "--data-dir", str(data_dir)]


def by_hand(flags, steps):
    """The algorithm as the official code has it: six calls of G, torch's own losses, nothing frozen, lists as pools."""
    args = cyclegan.build_parser().parse_args(flags)
    data = cyclegan.load_domains(args, "train")
    torch.manual_seed(args.seed)
    nets = cyclegan.build(args, 3, "cpu")
    G_AB, G_BA, D_A, D_B = nets.values()
    groups = {"G": (G_AB, G_BA), "D": (D_A, D_B)}
    weights = {name: [p for net in group for p in net.parameters()] for name, group in groups.items()}
    opts = {name: torch.optim.Adam(ps, lr=args.lr, betas=(0.5, 0.999)) for name, ps in weights.items()}
    noise, pools = torch.Generator().manual_seed(args.seed), {"A": [], "B": []}
    loader = datasets.make_loader(data, args.batch_size, seed=args.seed)
    one, zero, l1, grads = torch.ones, torch.zeros, F.l1_loss, {}

    def pooled(side, fakes):
        answer = []
        for fake in fakes.detach():
            coin, place = torch.rand(2, generator=noise).tolist()
            if len(pools[side]) < args.pool_size:
                pools[side] += [fake]
            elif args.pool_size and coin < 0.5:
                i = int(place * args.pool_size)
                fake, pools[side][i] = pools[side][i], fake
            answer.append(fake)
        return torch.stack(answer)

    def update(name, loss):
        grads[name] = torch.autograd.grad(loss, weights[name])
        for p, grad in zip(weights[name], grads[name], strict=True):
            p.grad = grad
        opts[name].step()

    for _, _, batch in metrics.steps(loader, 0, steps):
        A, B = (batch[key].float() / 127.5 - 1 for key in ("image", "target"))
        torch.rand(2, len(A), 3, generator=noise)  # cuts and flips, asked for or not
        fake_B, fake_A = G_AB(A), G_BA(B)
        map_B, map_A = D_B(fake_B), D_A(fake_A)
        loss = F.mse_loss(map_B, one(map_B.shape)) + F.mse_loss(map_A, one(map_A.shape))
        loss = loss + args.lambda_cyc * (l1(G_BA(fake_B), A) + l1(G_AB(fake_A), B))
        update("G", loss + args.lambda_idt * (l1(G_AB(B), B) + l1(G_BA(A), A)))
        loss = 0
        for D, side, real, fake in ((D_A, "A", A, fake_A), (D_B, "B", B, fake_B)):
            on_real, on_fake = D(real), D(pooled(side, fake))
            loss = loss + (F.mse_loss(on_real, one(on_real.shape)) + F.mse_loss(on_fake, zero(on_fake.shape))) / 2
        update("D", loss)
    return nets, grads


@pytest.mark.parametrize("more", [(), ("--lambda-idt", 0, "--pool-size", 0), ("--no-mask", "--lambda-cyc", 3)])
@pytest.mark.parametrize("steps, tolerance", [(1, 1e-5), (3, 0.1)])
def test_steps_are_the_official_ones(watched, flags, monkeypatch, more, steps, tolerance):
    """With plain gradient descent: Adam makes a whole step of a gradient that is nothing but rounding. In later steps
    rounding changes the sign of a pixel's difference here and there."""
    monkeypatch.setattr(torch.optim, "Adam", lambda weights, lr, **how: torch.optim.SGD(weights, lr=1e-4))
    more = ["--pool-size", 3, "--decay-from", 0, "--batch-size", 2, *more]
    seen = watched(*more, "--max-steps", steps)
    nets, grads = by_hand([*flags, *map(str, more)], steps)
    mine = {"G": seen["after"][-2][1], "D": seen["after"][-1][1]}
    for player, names in (("G", ("G_AB", "G_BA")), ("D", ("D_A", "D_B"))):
        got = torch.cat([g.flatten() for name in names for g in mine[player][name]])
        wanted = torch.cat([g.flatten() for g in grads[player]])
        assert (got - wanted).norm() < tolerance * wanted.norm(), player
    for name in NETS:
        ended, wanted, start = (
            torch.nn.utils.parameters_to_vector(net[name].parameters()) for net in (seen["nets"], nets, seen["start"])
        )
        assert (ended - wanted).norm() < max(tolerance, 1e-3) * (wanted - start).norm(), name


def test_optimisers(train_here, tmp_path):
    state = train_here(tmp_path / "run", "--max-steps", 1, "--lr", 3e-4, "--beta1", 0.4)
    for name, nets in (("G", NETS[:2]), ("D", NETS[2:])):
        (group,) = state[f"opt_{name}"]["param_groups"]
        assert (group["lr"], group["betas"], group["weight_decay"]) == (3e-4, (0.4, 0.999), 0)
        assert len(group["params"]) == sum(len(state[net]) for net in nets)  # one for both G, one for both D


def test_each_step_leaves_the_other_players_alone(watched):
    seen = watched("--max-steps", 1)
    (_, after_g), (_, after_d) = seen["after"]
    for name in ("D_A", "D_B"):
        assert all(grad is None for grad in after_g[name])  # frozen while G learns
        assert all(grad is not None and grad.abs().sum() > 0 for grad in after_d[name])
    for name in ("G_AB", "G_BA"):
        assert all(grad is not None and grad.abs().sum() > 0 for grad in after_g[name])
        assert same(after_g[name], after_d[name])  # nothing of D's loss
    assert all(p.requires_grad for net in seen["nets"].values() for p in net.parameters())


def test_d_is_shown_real_pictures_and_the_answer_of_its_pool(watched, monkeypatch):
    query, d_loss, answers, seen = cyclegan.ImagePool.query, cyclegan.d_loss, [], []
    monkeypatch.setattr(cyclegan.ImagePool, "query", lambda *a: answers.append(query(*a)) or answers[-1])
    monkeypatch.setattr(cyclegan, "d_loss", lambda *a: seen.append(a) or d_loss(*a))
    nets = watched("--max-steps", 2)["nets"]
    assert [net for net, _, _ in seen] == [nets["D_A"], nets["D_B"]] * 2
    assert all(fake is answer for (_, _, fake), answer in zip(seen, answers, strict=True))
    assert all((real[:, 0].mean() > real[:, 2].mean()) == (net is nets["D_A"]) for net, real, _ in seen)  # A is red


def test_consistency_is_of_what_it_says_and_teaches_d_alone(watched, monkeypatch):
    cr_loss, queries, kinds = cyclegan.cr_loss, [], []
    query = cyclegan.ImagePool.query

    def spy_query(*a):
        queries.append(query(*a))
        return queries[-1]

    def spy(D, pictures, augment):
        kinds.append([any(torch.equal(x, fake) for fake in queries) for x in pictures])
        return cr_loss(D, pictures, augment)

    monkeypatch.setattr(cyclegan.ImagePool, "query", spy_query)
    _, without = watched("--max-steps", 1)["after"][1]
    monkeypatch.setattr(cyclegan, "cr_loss", spy)
    for kind, expected in (("real", [False]), ("fake", [True]), ("both", [False, True]), ("none", [])):
        _, grads = watched("--max-steps", 1, "--cr", kind, "--cr-weight", 10)["after"][1]
        assert kinds[-2:] == [expected] * 2, kind
        assert all(same(grads[n], without[n]) for n in ("G_AB", "G_BA"))
        assert same(grads["D_A"], without["D_A"]) == (kind == "none")
        assert same(grads["D_B"], without["D_B"]) == (kind == "none")
    _, weightless = watched("--max-steps", 1, "--cr", "both", "--cr-weight", 0)["after"][1]
    for name in ("D_A", "D_B"):
        for a, b in zip(weightless[name], without[name], strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_consistency_is_logged(train_here, tmp_path):
    train_here(tmp_path / "a", "--cr", "both", "--max-steps", 2, "--log-every", 1)
    assert all(float(row[f"loss_cr_{side}"]) > 0 for row in log_of(tmp_path / "a") for side in "AB")
    train_here(tmp_path / "b", "--max-steps", 1)
    assert float(log_of(tmp_path / "b")[0]["loss_cr_A"]) == 0


def test_the_rate_falls_to_zero_step_by_step(train_here, tmp_path, monkeypatch):
    rates, decay = [], metrics.decay_rates

    def spy(opts, *how):
        decay(opts, *how)
        rates.append([opt.param_groups[0]["lr"] for opt in opts.values()])

    monkeypatch.setattr(metrics, "decay_rates", spy)
    train_here(tmp_path / "run", "--epochs", 4, "--decay-from", 2, "--lr", 1.0e-3)  # 4 steps an epoch
    expected = [1e-3] * 8 + [1e-3 * (8 - i) / 8 for i in range(8)]  # the step after the last would have 0
    assert rates == [pytest.approx([rate, rate]) for rate in expected]


def test_jitter_cuts_both_kinds_each_in_its_own_way_and_never_the_test(train_here, tmp_path, monkeypatch):
    loaded, cuts = [], []
    load, augment = cyclegan.load_domains, datasets.augment

    def spy_load(*a):
        loaded.append((a[1], load(*a)))
        return loaded[-1][1]

    def spy_augment(x, **how):
        y = augment(x, **how)
        cuts.append((x.shape[-1], y.shape[-1], how["crop"], how["flip"]))
        return y

    monkeypatch.setattr(cyclegan, "load_domains", spy_load)
    monkeypatch.setattr(datasets, "augment", spy_augment)
    train_here(tmp_path / "a", "--jitter", "--max-steps", 1)
    assert [(split, data.A.images.shape[-1]) for split, data in loaded] == [
        ("train", 36),
        ("test", 32),
    ]  # 32 * 286 / 256
    assert cuts == [(36, 32, 32, False)] * 2
    train_here(tmp_path / "b", "--flip", "--max-steps", 1)
    assert cuts[2:] == [(32, 32, 0, True)] * 2


def test_amp_and_every_option(train_here, tmp_path):
    options = (
        "--amp --up upsample --net-d four-stride --no-mask --dropout --cr real --lambda-idt 0 --pool-size 0".split()
    )
    state = train_here(tmp_path / "run", *options, "--max-steps", 2)
    assert all(t.dtype == torch.float32 for name in NETS for t in state[name].values())
    (row,) = log_of(tmp_path / "run")
    assert all(math.isfinite(float(value)) for value in row.values())
    assert float(row["loss_idt_A"]) == float(row["loss_idt_B"]) == 0 and state["pools"] == {"A": [], "B": []}


@pytest.mark.parametrize("more", [("--no-mask", "--lr", 4e-3), "--lr 1.5e-3 --lambda-cyc 2 --lambda-idt 1".split()])
def test_it_learns_to_paint_a_square_and_to_take_it_away(train_here, tmp_path, monkeypatch, more):
    """The pictures of B have a bright square in the middle; those of A have none."""
    rng = np.random.default_rng(0)
    A, B = (rng.integers(0, 140, (48, 3, 32, 32), np.uint8) for _ in range(2))
    B[:, :, 12:20, 12:20] = 240
    data = datasets.Unpaired(datasets.ImageSet("A", "train", A), datasets.ImageSet("B", "train", B), ("A", "B"))
    monkeypatch.setattr(cyclegan, "load_domains", lambda *a: data)
    flags = ["--epochs", 5, "--batch-size", 4, "--ngf", 8, "--ndf", 8, *more]
    state = train_here(tmp_path / "run", *flags)
    nets = cyclegan.build(parse(*flags), 3, "cpu", state)
    columns = cyclegan.triplets(nets, *(datasets.to_float(torch.from_numpy(x[:8]), "cpu") for x in (A, B)))
    square = {name: x[:, :, 13:19, 13:19].mean().item() for name, x in columns.items()}
    around = {name: x[:, :, :, :8].mean().item() for name, x in columns.items()}
    assert square["real_A"] < -0.4 and square["real_B"] > 0.8
    assert square["fake_B"] > -0.1 and square["rec_A"] < -0.2 and square["fake_A"] < 0.3, square
    assert all(-0.8 < value < -0.1 for value in around.values()), around


# -------------------------------------------------------------------------------------------- resume, several processes

ALL = "--flip --jitter --dropout --cr both --pool-size 5".split()


def test_2n_epochs_equal_n_and_n_resumed_to_the_bit_with_the_pool(in_two_parts, tmp_path):
    whole = in_two_parts(("--epochs", 1), *ALL, "--epochs", 2, "--log-every", 3)
    assert whole["step"] == 8 and len(whole["pools"]["A"]) == 5 and len(log_of(tmp_path / "whole")) == 3


def test_a_run_continues_in_the_middle_of_an_epoch_and_of_a_decay(in_two_parts):
    in_two_parts(("--max-steps", 6), "--epochs", 3, "--decay-from", 1, "--pool-size", 3)


def test_ctrl_c_and_sigterm_end_a_run_after_a_checkpoint(stops_cleanly):
    stops_cleanly()


def test_the_same_command_gives_the_same_bits_and_looking_on_changes_nothing(reproducible):
    reproducible(*ALL, "--max-steps", 4)


def test_two_processes_equal_one_with_twice_the_batch_pool_and_all(torchrun, train_here, flags, tmp_path):
    more = ["--flip", "--jitter", "--cr", "both", "--pool-size", 3, "--max-steps", 4, "--epochs", 9]
    more += ["--log-every", 1, "--decay-from", 1]
    torchrun(tmp_path / "two", *flags, *more, "--batch-size", 2)
    one = train_here(tmp_path / "one", *more, "--batch-size", 4)
    two = torch.load(tmp_path / "two" / "last.pt", weights_only=True)
    for side in "AB":
        pools = [torch.stack(state["pools"][side]) for state in (one, two)]
        assert pools[0].shape == pools[1].shape == (3, 3, 32, 32) and (pools[0] - pools[1]).abs().max() < 2e-3
    assert torch.equal(one["noise"], two["noise"])
    x, nets = torch.rand(4, 3, 32, 32) * 2 - 1, [cyclegan.build(parse(), 3, "cpu", state) for state in (one, two)]
    torch.manual_seed(0)
    start = cyclegan.build(parse(), 3, "cpu")
    for name in NETS:
        a, b, before = (some[name](x) for some in (*nets, start))
        assert (a - b).abs().max() < 2e-3 and (a - before).abs().mean() > 1e-3, name


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="session")
def trained(domains, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = [*SMALL, "--dataset", domains, "--data-dir", data_dir, "--max-steps", 2, "--out", out]
    cyclegan.main([*map(str, flags)])
    return out / "last.pt"


def test_smoke_train_sample_resume(smoke, tmp_path):
    smoke()
    made = {path.name for path in (tmp_path / "run" / "samples").iterdir()}
    assert made == {"0000001.png", "0000002.png", "translations.png", "two_by_two.png"}


@pytest.fixture
def expected(trained, domains, data_dir):
    """Columns of the test pictures, as uint8 (n, 32, 32, 3)."""
    args = parse("--dataset", domains, "--data-dir", data_dir)
    nets, test = (
        cyclegan.build(args, 3, "cpu", torch.load(trained, weights_only=True)),
        cyclegan.load_domains(args, "test"),
    )
    A, B = (datasets.to_float(torch.from_numpy(side.images), "cpu") for side in (test.A, test.B))
    with torch.no_grad():
        fake_B, fake_A = nets["G_AB"](A), nets["G_BA"](B)
        columns = dict(real_A=A, fake_B=fake_B, rec_A=nets["G_BA"](fake_B), real_B=B, fake_A=fake_A)
        columns["rec_B"] = nets["G_AB"](fake_A)
    return {name: datasets.to_uint8(x).permute(0, 2, 3, 1).numpy() for name, x in columns.items()}


def test_layout_of_the_pictures(trained, expected, tmp_path):
    cyclegan.main(["--sample", str(trained), "--out", str(tmp_path)])
    rows = cells(tmp_path / "samples" / "translations.png", 32)
    assert rows.shape[:2] == (4, 6)
    for i, name in enumerate(("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B")):
        assert np.abs(rows[:, i] - expected[name]).max() <= 1, name
    square = cells(tmp_path / "samples" / "two_by_two.png", 32)
    assert square.shape[:2] == (2, 8)
    for i in range(4):
        for (y, x), name in {(0, 0): "real_A", (0, 1): "fake_B", (1, 0): "real_B", (1, 1): "fake_A"}.items():
            assert np.abs(square[y, 2 * i + x] - expected[name][i]).max() <= 1
    along = cells(trained.parent / "samples" / "0000002.png", 32)
    assert np.array_equal(along, rows)  # along the run: the same columns, of the same pictures


@pytest.mark.parametrize("direction, columns", [("AtoB", "real_A fake_B rec_A"), ("BtoA", "real_B fake_A rec_B")])
def test_one_direction(trained, expected, tmp_path, direction, columns):
    cyclegan.main(["--sample", str(trained), "--out", str(tmp_path), "--direction", direction, "--num-samples", "3"])
    rows = cells(tmp_path / "samples" / "translations.png", 32)
    assert rows.shape[:2] == (3, 3) and [p.name for p in (tmp_path / "samples").iterdir()] == ["translations.png"]
    shown = [0, 1, 2]  # 3 of 4, evenly spaced
    for i, name in enumerate(columns.split()):
        assert np.abs(rows[:, i] - expected[name][shown]).max() <= 1


def test_own_pictures_one_file_each(trained, tmp_path):
    (tmp_path / "in").mkdir()
    for name, colour in (("a", "teal"), ("b", "pink"), ("c", "gold")):
        Image.new("RGB", (50, 40), colour).save(tmp_path / "in" / f"{name}.png")
    flags = ["--sample", str(trained), "--out", str(tmp_path / "out"), "--input", str(tmp_path / "in")]
    cyclegan.main([*flags, "--direction", "AtoB", "--num-samples", "2"])
    made = {p.name for p in (tmp_path / "out" / "samples").iterdir()}
    assert made == {"translations.png", "0000_a_fake_B.png", "0001_b_fake_B.png", "0002_c_fake_B.png"}
    args, state = parse(), torch.load(trained, weights_only=True)
    x, _ = datasets.read_images(tmp_path / "in" / "b.png", 32)
    with torch.no_grad():
        fake = datasets.to_uint8(cyclegan.build(args, 3, "cpu", state)["G_AB"](datasets.to_float(x, "cpu")))
    got = np.asarray(Image.open(tmp_path / "out" / "samples" / "0001_b_fake_B.png"))
    assert np.abs(got.astype(int) - fake[0].permute(1, 2, 0).numpy()).max() <= 1
    cyclegan.main(flags)
    assert len(list((tmp_path / "out" / "samples").glob("000?_*.png"))) == 6


def test_domains_by_attribute_pair_and_class(data_dir, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_domains", lambda *a, **how: asked.append((a, how["attribute"], how["classes"])))
    for more, attribute, classes in (
        ((), "Eyeglasses", ""),
        (("--dataset", "celeba"), "Eyeglasses", ""),
        (("--attribute", "Smiling"), "Smiling", ""),
        (("--dataset", "edges2faces"), "", ""),
        (("--dataset", "digits", "--classes", "3,8"), "", "3,8"),
    ):
        cyclegan.load_domains(parse("--data-dir", data_dir, *more), "train")
        assert asked[-1][1:] == (attribute, classes)
    cyclegan.load_domains(parse("--data-dir", data_dir), "test", 40)
    assert asked[-1][0] == ("faces", "test", 40)


def test_grey_pictures_become_colours(tmp_path, data_dir):
    for name in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / "grey" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L" if name[-1] == "A" else "RGB", (40, 32), 20 * i).save(tmp_path / "grey" / name / f"{i}.png")
    data = cyclegan.load_domains(parse("--dataset", tmp_path / "grey", "--data-dir", data_dir), "train")
    assert data.A.images.shape == data.B.images.shape == (3, 3, 32, 32)


# --------------------------------------------------------------------------------------------------------- evaluation


class Same(torch.nn.Module):
    def forward(self, x):
        return x


class Scale(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


@pytest.fixture
def judged(domains, data_dir, monkeypatch):
    """judged(nets) -> {metric: Score} by a classifier that has trained for a few steps."""
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (8, 8))
    args = parse("--dataset", domains, "--data-dir", data_dir)
    train, test = cyclegan.load_domains(args, "train"), cyclegan.load_domains(args, "test")
    judges = metrics.load_judges(0, train.both(), test.both(), "", data_dir)

    def judged(G_AB, G_BA):
        scores = cyclegan.measure({"G_AB": G_AB, "G_BA": G_BA}, train, test, args, "cpu", judges)
        assert len({score.metric for score in scores}) == len(scores) == 14
        assert scores[0].metric == "in-domain FID AtoB" and scores[7].metric == "in-domain FID BtoA"
        return {score.metric: score for score in scores}

    return judged


def test_no_translation_scores_the_ceiling(judged):
    scores = judged(Same(), Same())
    for way in ("AtoB", "BtoA"):
        fid, ceiling = scores[f"in-domain FID {way}"], scores[f"in-domain FID {way} ceiling"]
        assert fid.value == pytest.approx(ceiling.value, rel=1e-6) and fid.value > fid.floor
        assert fid.n_real == fid.n_fake == fid.floor_n == 4
        kids = [scores[f"in-domain KID {way}{end}"].value for end in ("", " ceiling")]
        assert kids[0] == pytest.approx(kids[1])
    shares = [scores["AtoB taken for B"].value, scores["BtoA taken for A"].value]
    assert shares == [0, 0]  # the classifier is right on all


def test_a_perfect_translation_scores_the_floor(judged, domains, data_dir):
    class Swap(torch.nn.Module):  # red to blue
        def forward(self, x):
            return x.flip(1)

    scores = judged(Swap(), Swap())
    assert scores["AtoB taken for B"].value == scores["BtoA taken for A"].value == 1
    for way in ("AtoB", "BtoA"):
        assert scores[f"in-domain FID {way}"].value < 0.2 * scores[f"in-domain FID {way} ceiling"].value
    assert scores["|A - rec_A|"].value == pytest.approx(0, abs=1e-6)
    noise = scores["|A - rec_A| after 8 bits and noise"].value
    assert noise == pytest.approx(2 / 127.5 * math.sqrt(2 / math.pi), rel=0.05)  # the noise itself, no more


def test_a_cycle_that_hides_the_picture_is_found_out(judged):
    scores = judged(Scale(1e-3), Scale(1e3))
    for side in "AB":
        assert scores[f"|{side} - rec_{side}|"].value < 1e-4
        assert scores[f"|{side} - rec_{side}| after 8 bits and noise"].value > 0.3


def test_evaluate_writes_every_score_and_the_best_is_kept(train_here, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (8, 8))
    fids, measure = iter([5.0, 3.0, 4.0, 9.0, 2.0, 1.0]), cyclegan.measure

    def scripted(*a):
        scores = measure(*a)
        scores[0].value, scores[7].value = next(fids), 1.0
        return scores

    monkeypatch.setattr(cyclegan, "measure", scripted)
    whole = train_here(tmp_path / "run", "--epochs", 2, "--max-steps", 4, "--eval-every", 1, "--pool-size", 3)
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert best["step"] == 2 and best["best"] == whole["best"] == 2.0 and whole["step"] == 4
    train_here(tmp_path / "run", "--resume", "auto", "--epochs", 2, "--max-steps", 5, "--eval-every", 1)
    assert torch.load(tmp_path / "run" / "best.pt", weights_only=True)["step"] == 5
    train_here(tmp_path / "no", "--max-steps", 1, "--eval-every", 1, "--no-keep-best")
    assert not (tmp_path / "no" / "best.pt").exists()
    monkeypatch.setattr(cyclegan, "measure", measure)
    cyclegan.main(["--evaluate", str(tmp_path / "run" / "best.pt")])
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert facts["step"] == 5 and len(facts["scores"]) == 14
    along = json.loads((tmp_path / "run" / "metrics-0000005.json").read_text())["scores"]
    assert along[1:7] == facts["scores"][1:7]


# --------------------------------------------------------------------------------------------------------- bad input


def test_complaints_name_the_thing_and_the_remedy(complaint, trained, flags, tmp_path):
    flags = [*flags, "--max-steps", 1, "--out", tmp_path / "run"]
    assert "unknown data set 'cats'" in complaint(*flags, "--dataset", "cats")
    for size in (16, 40, 0):
        assert f"--image-size {size}: use a multiple of 16" in complaint(*flags, "--image-size", size)
    for flag in ("--lr", "--ngf", "--ndf"):
        assert flag in complaint(*flags, flag, 0)
    for flag in ("--blocks", "--pool-size", "--decay-from"):
        assert flag in complaint(*flags, flag, -1)
    assert "Eyeglasses" in complaint(*flags, "--attribute", "Eyeglasses")
    assert "no two domains" in complaint(*flags, "--classes", "A,C")
    assert "8 images" in complaint(*flags, "--batch-size", 64)
    assert "holds a run" in complaint(*flags, "--out", trained.parent)
    assert "no checkpoint" in complaint("--sample", tmp_path / "none.pt")
    assert "--ngf 4" in complaint("--resume", trained, "--ngf", 8, "--epochs", 2)
    assert "--mask" in complaint("--resume", trained, "--no-mask", "--epochs", 2)
    assert "at its end" in complaint("--resume", trained, "--max-steps", 2)
    assert "no file or folder" in complaint("--sample", trained, "--input", tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_a_domain_without_pictures(complaint, data_dir, tmp_path):
    for name in ("trainA", "testA", "testB"):
        (tmp_path / "half" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "half" / name / "0.png")
    (tmp_path / "half" / "trainB").mkdir()
    text = complaint(*SMALL, "--data-dir", data_dir, "--dataset", tmp_path / "half", "--out", tmp_path / "run")
    assert "half" in text and not (tmp_path / "run").exists()


def test_foreign_and_broken_checkpoints(refuses_foreign_and_broken, trained):
    refuses_foreign_and_broken(trained)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(stops_at_nan):
    stops_at_nan(net="G_AB")
