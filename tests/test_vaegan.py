"""vaegan.py: whose gradient reaches whom, gamma and nats, Dis_l, edits in the code, exact resume, its complaints."""

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, count, differences, far, log_of
from conftest import cells as square_cells
from PIL import Image

import datasets
import metrics
import vaegan

SMALL = "--image-size 16 --batch-size 8 --nz 4 --nef 4 --ngf 2 --ndf 2 --fc 8 --beta 1 --gamma 0.5 --leaky 0".split()
SMALL += (
    "--lr-d 1e-3 --norm-d batch --unit-variance --decay-from 0 --device cpu --save-every 0 --sample-every 0".split()
)
SMALL += ["--num-samples", "4"]  # the paper's D; the default's, without BatchNorm, where a test says so
MODELS = ("vaegan", "vae", "vae-dis")


def arguments(*flags):
    return vaegan.build_parser().parse_args([*SMALL, *map(str, flags)])


def decode_mu(E, G, x):
    return datasets.generate(G, datasets.encode(E, [x])[0])


def networks(size=(16, 16), nz=4, slope=0.0, norm=True):
    torch.manual_seed(0)
    E, G = vaegan.Encoder(3, nz, 4, 8, size, slope), vaegan.Decoder(nz, 3, 2, size, slope)
    nets = E, G, vaegan.Discriminator(3, 2, size, slope, norm)
    for net in nets:
        vaegan.init_weights(net)
    return nets


# ---------------------------------------------------------------------------------------------------------- networks


def test_parameter_counts():
    paper, course = (64, 64), (256, 128)
    with torch.device("meta"):  # no memory, no random numbers
        assert count(vaegan.Encoder(3, 128, 64, 2048, paper)) == 35_112_768  # the paper's table
        assert count(vaegan.Encoder(3, 128, 64, 1024, paper)) == 18_071_360  # its code
        assert count(vaegan.Decoder(128, 3, 32, paper)) == 4_693_155
        assert count(vaegan.Discriminator(3, 32, paper, 0.0, norm=True)) == 10_953_857
        assert count(vaegan.Encoder(3, 256, 64, 1024, course, 0.2)) == 135_774_272  # the course, DeepFashion
        assert count(vaegan.Decoder(256, 3, 32, course, 0.2)) == 36_379_811
        assert count(vaegan.Discriminator(3, 32, course, 0.2, norm=True)) == 69_674_113


def test_a_bias_stands_where_no_batchnorm_follows():
    for net in [*networks(), *networks(norm=False)]:
        layers = [m for m in net.modules() if not list(m.children())]
        for layer, after in zip(layers, [*layers[1:], None], strict=True):
            if hasattr(layer, "weight") and layer.weight.ndim > 1:
                normalised = isinstance(after, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)
                assert (layer.bias is None) == normalised, layer


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (32, 16), (24, 40)])
def test_shapes_at_every_size(size):
    for channels in (1, 3):
        x, z = torch.rand(2, channels, *size) * 2 - 1, torch.randn(2, 5)
        mu, logvar = vaegan.Encoder(channels, 5, 4, 8, size)(x)
        assert mu.shape == logvar.shape == (2, 5) and not torch.equal(mu, logvar)
        image = vaegan.Decoder(5, channels, 2, size)(z)  # 5/2/2 without output_padding would end at 61 of 64
        assert image.shape == x.shape and image.abs().max() <= 1 and image.dtype == torch.float32
        features, logits = vaegan.Discriminator(channels, 2, size)(x)
        assert features.shape == (2, 16, size[0] // 8, size[1] // 8) and logits.shape == (2,)


@pytest.mark.parametrize("norm", [True, False])
def test_dis_l_is_the_last_strided_convolution_before_batchnorm_and_activation(norm):
    D = vaegan.Discriminator(3, 32, (64, 64), 0.2, norm)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    convs, outputs = [m for m in D.modules() if isinstance(m, torch.nn.Conv2d)], []
    convs[-1].register_forward_hook(lambda _, __, y: outputs.append(y.clone()))
    features, logits = D(x)
    assert [c.stride[0] for c in convs] == [1, 2, 2, 2] and [c.out_channels for c in convs] == [32, 128, 256, 256]
    assert features.shape == (2, 256, 8, 8) and torch.equal(features, outputs[0]) and features.min() < 0
    with torch.no_grad():
        for p in convs[-1].parameters():
            p.mul_(10)
    louder, same = D(x)
    assert torch.allclose(louder, 10 * features, rtol=1e-4, atol=1e-4)  # behind BatchNorm it would not show
    assert torch.allclose(same, logits, rtol=1e-3, atol=1e-3) == norm
    assert any(isinstance(m, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d) for m in D.modules()) == norm


def test_a_logit_and_the_heads_have_no_limits():
    E, _, D = networks()
    for net, linear in ((E, E.net[-1]), (D, D.head[-1])):
        linear.weight.data *= 1000
        assert not any(isinstance(m, torch.nn.Sigmoid | torch.nn.Tanh) for m in net.modules())
    x = torch.rand(8, 3, 16, 16) * 2 - 1
    for values in (*E(x), D(x)[1]):
        assert values.min() < -10 and values.max() > 10


def test_weights_keep_the_variance_and_activations_the_slope():
    torch.manual_seed(0)
    for ndf in (4, 16):  # Dis_l, and with it gamma, begins alike at every width
        D = vaegan.Discriminator(3, ndf, (32, 32))
        vaegan.init_weights(D)
        assert 0.2 < D(torch.randn(32, 3, 32, 32))[0].std().item() < 0.5
    for slope in (0.0, 0.2):
        slopes = {
            m.negative_slope
            for net in networks(slope=slope)
            for m in net.modules()
            if isinstance(m, torch.nn.LeakyReLU)
        }
        assert slopes == {slope}
    assert all(m.eps == 1e-5 for net in networks() for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("model, names", [("vaegan", "EGD"), ("vae", "EG")])
def test_build_gives_each_model_its_networks(model, names):
    first = vaegan.build(arguments("--model", model), 3, "cpu")
    assert "".join(first) == names and all(net.training for net in first.values())
    again = vaegan.build(arguments("--model", model), 3, "cpu", {n: net.state_dict() for n, net in first.items()})
    for name in names:
        assert differences(dict(first[name].state_dict()), dict(again[name].state_dict())) == []


def test_no_image_depends_on_the_others_of_its_batch_after_training():
    E, G, _ = networks()
    x, z = torch.rand(9, 3, 16, 16) * 2 - 1, torch.randn(9, 4)
    rec = decode_mu(E, G, x)
    assert torch.allclose(rec[:2], decode_mu(E, G, x[:2]), atol=1e-5)
    assert torch.equal(rec, decode_mu(E, G, x))  # mu, not a draw
    assert torch.allclose(datasets.generate(G, z)[:2], datasets.generate(G, z[:2]), atol=1e-5)
    assert all(module.training for net in (E, G) for module in net.modules())  # and training goes on as before


# ------------------------------------------------------------------------------------------------------------ losses


def test_llike_is_the_gaussian_s_but_for_a_constant_and_the_number_of_features():
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 6, 3, 3)
    n = a[0].numel()
    nats = -torch.distributions.Normal(a, 1.0).log_prob(b).sum() / 5 - n * 0.5 * math.log(2 * math.pi)
    assert n * vaegan.llike_loss(a, b).item() == pytest.approx(nats.item(), rel=1e-5)
    for dim in (0, 1, 2):  # neither the batch nor the number of features changes its size
        assert vaegan.llike_loss(torch.cat([a, a], dim), torch.cat([b, b], dim)) == pytest.approx(
            vaegan.llike_loss(a, b).item()
        )


def test_llike_with_the_variance_of_dis_l_does_not_change_with_its_size():
    """As D learns, Dis_l grows: with variance 1 so does llike, and takes G and E along."""
    torch.manual_seed(0)
    a, b = 3 * torch.randn(2, 5, 6, 3, 3)
    nats = -torch.distributions.Normal(a, b.std()).log_prob(b).mean() - torch.log(b.std()) - 0.5 * math.log(2 * math.pi)
    loss = vaegan.llike_loss(a, b, unit_variance=False)
    assert loss.item() == pytest.approx(nats.item(), rel=1e-4)
    assert vaegan.llike_loss(10 * a, 10 * b, unit_variance=False).item() == pytest.approx(loss.item(), rel=1e-4)
    assert vaegan.llike_loss(10 * a, 10 * b).item() == pytest.approx(100 * vaegan.llike_loss(a, b).item(), rel=1e-4)


def test_the_official_gamma():
    """1e-6 of half the sum over 256 x 8 x 8 features is 0.0164 of half the mean, as the help says."""
    a, b = torch.randn(2, 3, 256, 8, 8)
    official = 1e-6 * 0.5 * (a - b).square().sum() / 3
    assert 0.016384 * vaegan.llike_loss(a, b).item() == pytest.approx(official.item(), rel=1e-4)
    assert "0.0164" in vaegan.build_parser().format_help()


def test_kl_and_gan_losses_in_closed_form():
    mu, logvar = torch.randn(5, 8), torch.randn(5, 8)
    q = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean(0)
    assert torch.allclose(vaegan.kl_per_dim(mu, logvar), expected, rtol=1e-4, atol=1e-5)
    real, fake = torch.tensor([2.0, -1.0]).double(), torch.tensor([0.5, 3.0, -4.0]).double()
    assert vaegan.gan_loss(real, True).item() == pytest.approx(-torch.sigmoid(real).log().mean().item())
    assert vaegan.gan_loss(fake, False).item() == pytest.approx(-(1 - torch.sigmoid(fake)).log().mean().item())
    for is_real in (True, False):
        assert vaegan.gan_loss(torch.zeros(3), is_real).item() == pytest.approx(math.log(2))
        lost = torch.full((1,), -1e4 if is_real else 1e4)
        assert vaegan.gan_loss(lost, is_real).item() == pytest.approx(1e4)  # with log(D + 1e-3) it would end at 6.9


def test_the_equilibrium_rule():
    table = {(0.68, 0.68): "EGD", (0.3, 0.7): "EG", (0.7, 0.3): "EG"}
    table |= {(1.1, 0.7): "ED", (0.7, 1.1): "ED", (0.2, 1.5): "EGD"}  # never neither
    assert {costs: vaegan.who_learns(*costs) for costs in table} == table


# ------------------------------------------------------------------------------------------------ one step of training


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    """A folder of 60 pictures, 16 x 16, with attributes: Red or Blue, never both, and a white Dot on half of each."""
    folder, rng, rows = tmp_path_factory.mktemp("toys"), np.random.default_rng(0), ["name,Red,Blue,Dot"]
    for i in range(60):
        red, dot = i // 2 % 2, i // 4 % 2
        image = np.full((16, 16, 3), 60, np.uint8) + rng.integers(0, 60, (1, 1, 3), np.uint8)
        image[:, :, 0 if red else 2] = 230
        if dot:
            image[5:11, 5:11] = 255
        Image.fromarray(image).save(folder / f"{i:02}.png")
        rows.append(f"{i:02}.png,{red},{1 - red},{dot}")
    (folder / "attributes.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def flags(toys, data_dir):
    return [*SMALL, "--dataset", str(toys), "--data-dir", str(data_dir)]


@pytest.fixture(scope="session")
def gan(toys, data_dir, tmp_path_factory):
    """A finished run in which G plays the game alone, whose D --model vae-dis takes."""
    out = tmp_path_factory.mktemp("gan") / "run"
    flags = [*SMALL, "--dataset", str(toys), "--data-dir", str(data_dir), "--out", str(out)]
    vaegan.main([*flags, "--gamma", "0", "--max-steps", "2"])
    return out / "last.pt"


def of_model(model, gan):
    return ["--model", model] + (["--dis-from", str(gan)] if model == "vae-dis" else [])


def gradients(seen):
    """Of the last step, by network."""
    return {name: [p.grad for p in net.parameters()] for name, net in seen["nets"].items()}


def by_hand(flags, steps):
    """Algorithm 1, a forward pass for each player and losses of torch -> networks, last gradients."""
    args = vaegan.build_parser().parse_args([str(flag) for flag in flags])
    data = vaegan.load_images(args, "train")
    torch.manual_seed(args.seed)
    nets = vaegan.build(args, 3, "cpu")
    E, G, D = nets["E"], nets["G"], nets.get("D")
    players = {n: net for n, net in nets.items() if not (n == "D" and args.model == "vae-dis")}
    rates = {"E": args.lr, "G": args.lr, "D": args.lr_d}
    opts = {n: torch.optim.Adam(net.parameters(), rates[n], (args.beta1, args.beta2)) for n, net in players.items()}
    noise = torch.Generator().manual_seed(args.seed)
    loader = datasets.make_loader(data, args.batch_size, seed=args.seed)
    bce = F.binary_cross_entropy_with_logits
    for _, _, batch in metrics.steps(loader, 0, steps):
        x = batch["image"].float() / 127.5 - 1
        eps, z_p = torch.randn(len(x), 2 * args.nz, generator=noise).chunk(2, dim=1)
        grads, buffers = {}, {n: copy.deepcopy(dict(net.named_buffers())) for n, net in nets.items()}
        for name, net in players.items():
            mu, logvar = E(x)
            q = torch.distributions.Normal(mu, logvar.exp().sqrt())
            prior = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum() / len(x)
            z = q.mean + q.stddev * eps
            images = G(torch.cat([z, z_p]) if args.model == "vaegan" else z)
            features, logits, gan_d, gan_g = torch.cat([x, images]) / args.sigma, None, None, 0
            if D:
                features, logits = D(torch.cat([x, images]))
                real, fake = logits[: len(x)], logits[len(x) :]
                gan_d = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
                gan_g = bce(fake, torch.ones_like(fake))
                if args.dec_loss == "saturating":
                    gan_g = -bce(fake, torch.zeros_like(fake))
            target, rec = features[: len(x)].detach(), features[len(x) : 2 * len(x)]
            variance = target.var() if D and not args.unit_variance else 1.0
            nats = 0.5 * (rec - target).square().sum() / len(x) / variance
            n = features[0].numel()
            loss_g = args.gamma / n * nats + gan_g if args.model == "vaegan" else nats / n
            loss = {"E": args.beta * prior + nats, "G": loss_g, "D": gan_d}[name]
            grads[name] = torch.autograd.grad(loss, list(net.parameters()))
            if name != list(players)[-1]:  # BatchNorm counts one forward pass of the three
                for other, kept in buffers.items():
                    nets[other].load_state_dict(kept, strict=False)
        for name, net in players.items():
            for p, grad in zip(net.parameters(), grads[name], strict=True):
                p.grad = grad.clone()
            opts[name].step()
    return nets, grads


@pytest.mark.parametrize(
    "model, more",
    [("vaegan", "--gamma 3 --beta 2"), ("vaegan", "--dec-loss saturating"), ("vae", "--sigma 0.5")]
    + [("vaegan", "--norm-d none --no-unit-variance --lr-d 3e-3 --leaky 0.2 --gamma 3"), ("vae-dis", "--beta 0.5")],
)
def test_two_steps_equal_two_by_hand(flags, watched, gan, model, more):
    more = [*of_model(model, gan), *more.split(), "--max-steps", 2, "--lr", 1e-3]
    seen = watched(*more)
    nets, grads = by_hand([*flags, *more], 2)
    assert set(seen["nets"]) == set(nets)
    for name, net in nets.items():
        assert far(seen["state"][name], net.state_dict()) < 2e-4, name
        if name in grads:
            assert far(dict(seen["start"][name].named_parameters()), dict(net.named_parameters())) > 5e-4, name
            for got, expected in zip(gradients(seen)[name], grads[name], strict=True):
                assert torch.allclose(got, expected, rtol=1e-2, atol=2e-3 * expected.abs().max().item() + 1e-6), name


def test_each_weight_of_the_losses_moves_its_own_player_alone(watched):
    """gamma is G's, beta E's, the decoder's GAN loss G's: none leaks into another, as it does from one backward."""
    grads = {
        name: gradients(watched("--max-steps", 1, "--gamma", 1, *more.split()))
        for name, more in dict(base="", gamma="--gamma 5", beta="--beta 7", loss="--dec-loss saturating").items()
    }
    moves = dict(gamma="G", beta="E", loss="G")
    for what, whose in moves.items():
        for name in "EGD":
            same = all(torch.equal(a, b) for a, b in zip(grads["base"][name], grads[what][name], strict=True))
            assert same == (name != whose), (what, name)


def test_x_rec_and_fake_pass_g_and_d_in_one_batch(watched):
    seen = watched("--max-steps", 1)
    ((everything, *_),), ((z, _),) = seen["D"], seen["G"]
    assert everything.shape == (24, 3, 16, 16) and z.shape == (16, 4)
    x, images = everything.split([8, 16])
    with torch.no_grad():
        assert torch.allclose(copy.deepcopy(seen["start"]["G"])(z), images, atol=1e-5)
        mu, logvar = copy.deepcopy(seen["start"]["E"])(x)
    eps, z_p = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).chunk(2, dim=1)
    assert torch.allclose(z[:8], mu + torch.exp(logvar / 2) * eps, atol=1e-5)  # exp(logvar / 2) is the deviation
    assert torch.equal(z[8:], z_p)
    norms = [m for name in "EGD" for m in seen["nets"][name].modules() if hasattr(m, "num_batches_tracked")]
    assert all(norm.num_batches_tracked == 1 for norm in norms)


def test_one_batch_lets_dis_l_see_a_tint():
    """Normalised each by its own statistics, x and a darker x would have nearly the same features."""
    _, _, D = networks()
    x = torch.rand(16, 3, 16, 16) - 0.5
    tinted = 0.5 * x + 0.3
    together = vaegan.llike_loss(*D(torch.cat([x, tinted]))[0].chunk(2))
    apart = vaegan.llike_loss(D(x)[0], D(tinted)[0])
    assert together > 2 * apart


@pytest.mark.parametrize("learns", ["ED", "EG", "EGD"])
def test_who_pauses_does_not_move(watched, monkeypatch, learns):
    asked = []
    monkeypatch.setattr(vaegan, "who_learns", lambda *costs: asked.append(costs) or learns)
    seen = watched("--max-steps", 1, "--equilibrium")
    for name in "EGD":
        moved = far(dict(seen["start"][name].named_parameters()), dict(seen["nets"][name].named_parameters())) > 0
        assert moved == (name in learns), name
    _, logits = seen["start"]["D"](seen["D"][0][0])
    expected = [F.softplus(-logits[:8]).mean().item(), F.softplus(logits[8:]).mean().item()]
    assert asked == [pytest.approx(tuple(expected), rel=1e-4)]
    assert seen["nets"]["D"].head[0].num_batches_tracked == 1  # who pauses still looks


def test_the_rates_of_all_three_fall_to_zero_from_decay_from_on(train_here, monkeypatch, tmp_path):
    seen, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda opt: (seen.append(opt.param_groups[0]["lr"]), step(opt))[1])
    train_here(tmp_path / "run", "--epochs", 2, "--decay-from", 1, "--lr", 1e-3, "--lr-d", 5e-4)
    e, g, d = (seen[i::3] for i in range(3))
    assert e == g == pytest.approx([1e-3] * 7 + [1e-3 * k / 6 for k in (5, 4, 3, 2, 1)])
    assert d == pytest.approx([rate / 2 for rate in e])


def test_vae_dis_looks_through_the_d_of_a_finished_gan(watched, gan, complaint, flags):
    seen = watched(*of_model("vae-dis", gan), "--max-steps", 2)
    theirs = torch.load(gan, weights_only=True)["D"]
    assert far(seen["state"]["D"], theirs) == 0  # neither weights nor statistics move
    assert "opt_D" not in seen["state"] and seen["G"][0][0].shape == (8, 4)  # nothing is sampled from the prior
    assert "--dis-from" in complaint(*SMALL, "--model", "vae-dis")
    assert "--dis-from" in complaint(*SMALL, "--dis-from", gan)
    assert "no D of this size" in complaint(*flags, *of_model("vae-dis", gan), "--ndf", 4)


@pytest.mark.parametrize("model", MODELS)
def test_the_log_has_the_losses_of_the_model(train_here, gan, tmp_path, model):
    train_here(tmp_path / "run", *of_model(model, gan), "--max-steps", 2, "--log-every", 1)
    rows = log_of(tmp_path / "run")
    expected = {"step", "epoch", "loss_llike", "loss_prior", "mse_test"}
    expected |= {"cost_real", "cost_fake", "loss_gan"} if model == "vaegan" else set()
    assert set(rows[0]) == expected
    assert all(math.isfinite(float(v)) for row in rows for v in row.values())


def test_amp_and_grey_images(train_here, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    grey = datasets.ImageSet("grey", "train", rng.integers(0, 256, (16, 1, 32, 16), np.uint8))
    monkeypatch.setattr(vaegan, "load_images", lambda *a: grey)
    state = train_here(tmp_path / "run", "--amp", "--max-steps", 1, "--image-size", 32, "--image-width", 16)
    assert all(t.dtype == torch.float32 for t in state["G"].values() if t.is_floating_point())
    assert state["channels"] == 1 and math.isfinite(float(log_of(tmp_path / "run")[0]["loss_llike"]))


# ---------------------------------------------------------------------------------------------------- edits in the code


def labelled(truth, classes=False):
    """An ImageSet without meaning whose attributes (N, K), or classes, are `truth`."""
    images = np.random.default_rng(0).integers(0, 256, (len(truth), 3, 16, 16), np.uint8)
    names = [f"n{k}" for k in range(truth.shape[1])]
    if classes:
        return datasets.ImageSet("set", "train", images, labels=truth.argmax(1).astype(np.int64), classes=names)
    return datasets.ImageSet("set", "train", images, attributes=truth.astype(np.uint8), attribute_names=names)


def test_a_direction_is_the_difference_of_the_means_over_the_training_set():
    E, _, _ = networks()
    truth = np.arange(603)[:, None] % 2  # more than a batch of 500
    data = labelled(truth)
    mu = datasets.encode(E, [torch.from_numpy(data.images) / 127.5 - 1])[0]
    means, vectors = vaegan.directions(E, data, "cpu")
    assert torch.allclose(means[0], mu[1::2].mean(0), atol=1e-4)
    assert torch.allclose(vectors[0], mu[1::2].mean(0) - mu[::2].mean(0), atol=1e-4)


def test_the_direction_of_an_attribute_does_not_carry_along_those_that_come_with_it(monkeypatch):
    """Mean with it minus mean without it would: of beards, for instance, it would make everybody a man."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (600, 4))
    truth[:, 1] = truth[:, 0] * (rng.random(600) < 0.9)  # seldom without the first
    truth[:, 2], truth[:, 3] = 0, 1  # nobody has it; all have it
    effect = torch.randn(4, 5)
    mu = 1 + torch.from_numpy(truth).float() @ effect
    monkeypatch.setattr(datasets, "encode", lambda *a: [mu, None])
    means, vectors = vaegan.directions(None, labelled(truth), "cpu")
    assert torch.allclose(vectors[:2], effect[:2], atol=1e-4) and means.isfinite().all()
    assert vectors[2:].abs().max() < 1e-5
    data = datasets.choose_attributes(labelled(np.eye(3, dtype=int)[np.arange(600) % 3], classes=True), [])
    means, vectors = vaegan.directions(None, data, "cpu")
    assert torch.allclose(vectors[1] - vectors[0], means[1] - means[0], atol=1e-4)  # from class to class: all the way


def test_edits_move_the_code_by_what_changes():
    _, G, _ = networks()
    data = labelled(np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]]))
    mu, vectors, truth = torch.randn(2, 4), torch.randn(3, 4), torch.tensor([[0.0, 1, 0], [1, 0, 1]])
    (name, images, wanted), (_, same, _), (_, glasses, _) = vaegan.edits(G, mu, truth, vectors, data, 1.5)
    assert name == "n0" and wanted.tolist() == [[1, 0, 0], [1, 0, 1]]
    z = torch.stack([mu[0] + 1.5 * (vectors[0] - vectors[1]), mu[1]])  # the second has it already
    assert torch.allclose(images, datasets.generate(G, z), atol=1e-5)
    z = torch.stack([mu[0] + 1.5 * vectors[2], mu[1] - 1.5 * vectors[2]])
    assert torch.allclose(glasses, datasets.generate(G, z), atol=1e-5) and not torch.equal(same, glasses)


# --------------------------------------------------------------------------------------------------------- it learns


def test_it_reconstructs_and_edits(train_here, tmp_path, data_dir):
    """Two colours and a dot: the reconstruction has the colour, and the direction Blue makes red images blue."""
    more = "--nef 8 --ngf 4 --ndf 4 --gamma 3 --beta 0.1 --lr 3e-3 --batch-size 18 --epochs 60 --log-every 180".split()
    state = train_here(tmp_path / "run", *more, "--equilibrium")
    args = vaegan.build_parser().parse_args([*SMALL, *more, "--data-dir", str(data_dir)])
    args.dataset = state["args"]["dataset"]
    nets = vaegan.build(args, 3, "cpu", state)
    train = vaegan.load_images(args, "train")
    x = datasets.fixed_batch(train, 54, "cpu")["image"]
    rec = decode_mu(nets["E"], nets["G"], x)
    error, spread = metrics.mse(rec, x), metrics.mse(x.mean(0, keepdim=True).expand_as(x), x)
    assert error < 0.6 * spread, (error, spread)
    mu, truth = datasets.encode(nets["E"], [x])[0], torch.from_numpy(train.attributes).float()
    _, vectors = vaegan.directions(nets["E"], train, "cpu")
    made = {name: images for name, images, _ in vaegan.edits(nets["G"], mu, truth, vectors, train, 1.0)}
    was_red = truth[:, 0] == 1
    red, blue = made["Blue"][was_red].mean(dim=(0, 2, 3))[[0, 2]]
    assert blue > red + 0.3


# -------------------------------------------------------------------------------------------- resume, several processes


@pytest.mark.parametrize("model", MODELS)
def test_2n_epochs_equal_n_and_n_resumed_to_the_bit(in_two_parts, gan, model):
    more = [*of_model(model, gan), "--equilibrium", "--decay-from", 1, "--log-every", 4, "--epochs", 2]
    assert in_two_parts(["--max-steps", 6], *more)["step"] == 2 * 6  # of 54 images, batches of 8


def test_a_run_continues_in_the_middle_of_an_epoch(in_two_parts):
    in_two_parts(["--max-steps", 4], "--epochs", 2, "--log-every", 1)


def test_ctrl_c_and_sigterm_end_a_run_after_a_checkpoint(stops_cleanly):
    stops_cleanly()


def test_the_same_command_gives_the_same_bits(reproducible):
    reproducible("--max-steps", 3, "--log-every", 3)


ALONE = """
torch.nn.BatchNorm1d = torch.nn.BatchNorm2d = lambda width: torch.nn.Identity()  # whose statistics are a process's own
rule, costs = script.who_learns, []
script.who_learns = lambda *c: costs.append(torch.tensor(c)) or rule(*c)
train(out, *flags)
nets = torch.load(f"{out}/{os.environ['RANK']}.pt", weights_only=True)
torch.save(nets | {"costs": {"costs": torch.stack(costs)}}, f"{out}/{os.environ['RANK']}.pt")
"""


def test_two_processes_equal_one_with_twice_the_batch(torchrun, flags, train_here, monkeypatch, tmp_path):
    more = ["--equilibrium", "--max-steps", 3]
    torchrun(tmp_path / "two", *flags, *more, "--batch-size", 4, code=ALONE)
    for name in ("BatchNorm1d", "BatchNorm2d"):
        monkeypatch.setattr(torch.nn, name, lambda width: torch.nn.Identity())
    rule, costs = vaegan.who_learns, []
    monkeypatch.setattr(vaegan, "who_learns", lambda *c: costs.append(torch.tensor(c)) or rule(*c))
    one = train_here(tmp_path / "one", *more) | {"costs": {"costs": torch.stack(costs)}}
    a, b = (torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in ("E", "G", "D", "costs"):
        assert far(a[name], b[name]) == 0
        assert far(a[name], one[name]) < 1e-4, name
    assert (tmp_path / "two" / "last.pt").exists()


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="session")
def trained(toys, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = [*SMALL, "--dataset", toys, "--data-dir", data_dir, "--max-steps", 6, "--out", out]
    vaegan.main([*map(str, flags)])
    return out / "last.pt"


def test_smoke_train_sample_resume(smoke, capsys, tmp_path):
    smoke()
    names = "samples.png, reconstructions.png, edits.png, sweep.png, averages.png"
    assert f"samples: {names}\n" in capsys.readouterr().out
    made = {p.name for p in (tmp_path / "run" / "samples").iterdir()}
    assert made == {*names.split(", "), "0000001.png", "0000002.png"}


def cells(path, rows, columns):
    """A picture of that many -> (rows, columns, 16, 16, 3); upright titles are as high as some rows."""
    made = square_cells(path)[-rows:]
    assert made.shape[:2] == (rows, columns)
    return made


def as_pixels(images):
    return datasets.to_uint8(images).permute(0, 2, 3, 1).numpy().astype(int)


def loaded(path):
    state = torch.load(path, weights_only=True)
    args = vaegan.build_parser().parse_args([])
    vars(args).update(state["args"])
    return args, vaegan.build(args, state["channels"], "cpu", state)


def near(a, b):
    return np.abs(a - b).max() <= 2  # grey levels


def test_pictures_show_what_their_titles_say(trained, tmp_path):
    vaegan.main(["--sample", str(trained), "--out", str(tmp_path)])
    (args, nets), out = loaded(trained), tmp_path / "samples"
    E, G = nets["E"], nets["G"]
    test, train = (vaegan.load_images(args, split) for split in ("test", "train"))
    x = datasets.fixed_batch(test, 12, "cpu")["image"]
    mu, truth = datasets.encode(E, [x])[0], torch.from_numpy(test.attributes).float()
    means, vectors = vaegan.directions(E, train, "cpu")
    shown = cells(out / "reconstructions.png", 6, 4)
    assert near(shown[:, 0], as_pixels(x)) and near(shown[:, 1], as_pixels(datasets.generate(G, mu)))
    noise = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert near(shown[:, 2], as_pixels(datasets.generate(G, mu + 0.5 * noise))) and not near(shown[:, 2], shown[:, 1])
    assert near(shown[:, 3], as_pixels(datasets.generate(G, noise)))
    edits = cells(out / "edits.png", 6, 5)
    for k, (_, images, _) in enumerate(vaegan.edits(G, mu, truth[: len(x)], vectors, train, args.strength)):
        assert near(edits[:, 2 + k], as_pixels(images))
    sweep, averages = cells(out / "sweep.png", 9, 3), cells(out / "averages.png", 1, 3)
    assert near(averages[0], as_pixels(datasets.generate(G, means)))
    assert near(sweep[4], as_pixels(datasets.generate(G, mu[:1]).expand(3, -1, -1, -1)))  # 0 in the middle
    assert near(sweep[8], as_pixels(datasets.generate(G, mu[:1] + 2 * vectors)))
    z = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    assert near(cells(out / "samples.png", 2, 2).reshape(4, 16, 16, 3), as_pixels(datasets.generate(G, z)))


def test_a_user_s_pictures_are_edited_as_asked(trained, tmp_path):
    (tmp_path / "mine").mkdir()
    for name, shape in (("a b", (40, 20)), ("c", (9, 9))):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)).save(
            tmp_path / "mine" / f"{name}.png"
        )
    flags = ["--sample", str(trained), "--input", str(tmp_path / "mine"), "--out", str(tmp_path / "out")]
    vaegan.main([*flags, "--edit", "Dot=+1.5, Red=-1"])
    args, nets = loaded(trained)
    _, vectors = vaegan.directions(nets["E"], vaegan.load_images(args, "train"), "cpu")
    x, _ = datasets.read_images(tmp_path / "mine", (16, 16))
    mu = datasets.encode(nets["E"], [datasets.to_float(x, "cpu")])[0] + 1.5 * vectors[2] - vectors[0]
    expected, out = as_pixels(datasets.generate(nets["G"], mu)), tmp_path / "out" / "samples"
    assert near(cells(out / "edits.png", 2, 3)[:, 2], expected)
    assert near(np.asarray(Image.open(out / "0000_a b_edit.png")).astype(int), expected[0])
    vaegan.main(flags)  # without --edit: everything is added
    assert {p.name for p in out.glob("0001_c_*")} == {f"0001_c_{n}.png" for n in ("edit", "Red", "Blue", "Dot")}
    mu = mu - 1.5 * vectors[2] + vectors[0] + 1.5 * vectors[1]
    shown = np.asarray(Image.open(out / "0001_c_Blue.png")).astype(int)
    assert near(shown, as_pixels(datasets.generate(nets["G"], mu))[1])


def test_images_need_not_be_square(toys, data_dir, tmp_path):
    flags = [*SMALL, "--dataset", str(toys), "--data-dir", str(data_dir), "--out", str(tmp_path)]
    vaegan.main([*flags, "--image-size", "32", "--image-width", "16", "--max-steps", "1"])
    vaegan.main(["--sample", str(tmp_path / "last.pt")])
    sheet = np.asarray(Image.open(tmp_path / "samples" / "averages.png"))
    assert sheet.shape[1] == 2 + 3 * 18 and sheet[-34:].std() > 0
    assert Image.open(tmp_path / "samples" / "samples.png").size == (2 + 2 * 18, 2 + 2 * 34)


def test_a_set_that_knows_nothing_of_its_pictures(toys, data_dir, tmp_path, complaint):
    (tmp_path / "plain").mkdir()
    for path in toys.glob("*.png"):
        (tmp_path / "plain" / path.name).write_bytes(path.read_bytes())
    flags = [*SMALL, "--dataset", str(tmp_path / "plain"), "--data-dir", str(data_dir), "--out", str(tmp_path / "run")]
    vaegan.main([*flags, "--max-steps", "1"])
    vaegan.main(["--sample", str(tmp_path / "run" / "last.pt")])
    made = {p.name for p in (tmp_path / "run" / "samples").iterdir()}
    assert made == {"0000001.png", "samples.png", "reconstructions.png"}
    assert "Red" in complaint("--sample", tmp_path / "run" / "last.pt", "--edit", "Red=1")
    assert "--fid-dims" in complaint("--evaluate", tmp_path / "run" / "last.pt")


def test_evaluate_writes_every_score(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (5, 5))
    vaegan.main(["--evaluate", str(trained), "--out", str(tmp_path)])
    facts = json.loads((tmp_path / "metrics.json").read_text())
    scores = {score["metric"]: score for score in facts["scores"]}
    assert list(scores) == [
        *("in-domain FID", "reconstruction in-domain FID", "test MSE"),
        *("in-domain edit success", "in-domain rest kept"),
    ]
    args, nets = loaded(trained)
    x = datasets.fixed_batch(vaegan.load_images(args, "test"), 999, "cpu")["image"]
    error = metrics.mse(decode_mu(nets["E"], nets["G"], x), x)
    assert scores["test MSE"]["value"] == pytest.approx(error, rel=1e-4) and facts["step"] == 6
    assert all(name in scores["in-domain edit success"]["note"] for name in ("Red", "Blue", "Dot"))


def test_edits_are_judged_on_images_that_lack_what_is_asked(monkeypatch):
    data, seen = labelled(np.eye(2, dtype=int)[np.arange(30) % 2]), {}
    monkeypatch.setattr(metrics, "judge", lambda *a: [])
    monkeypatch.setattr(metrics, "edit_fidelity", lambda made, classifier: seen.update(made) or [])
    vaegan.measure(vaegan.build(arguments(), 3, "cpu"), data, data, arguments(), "cpu", [None])
    for k, (images, wanted, changed) in enumerate(seen.values()):
        assert images.shape == (15, 3, 16, 16) and images.dtype == torch.uint8
        assert (wanted[:, k] == 1).all() and (wanted[:, 1 - k] == 0).all() and changed.all()


def test_classes_are_edited_into_each_other(monkeypatch):
    data, seen = labelled(np.eye(3, dtype=int)[np.arange(30) % 3], classes=True), {}
    data = datasets.choose_attributes(data, [])
    monkeypatch.setattr(metrics, "judge", lambda *a: [])
    monkeypatch.setattr(metrics, "edit_fidelity", lambda made, classifier: seen.update(made) or [])
    vaegan.measure(vaegan.build(arguments(), 3, "cpu"), data, data, arguments(), "cpu", [None])
    for k, (images, wanted, changed) in enumerate(seen.values()):
        assert len(images) == 20 and (wanted.argmax(1) == k).all() and (wanted.sum(1) == 1).all()
        assert (changed.sum(1) == 2).all() and changed[:, k].all()


# --------------------------------------------------------------------------------------------------------- bad input


def test_complaints_name_the_thing_and_the_remedy(complaint, trained, flags, tmp_path):
    flags = [*flags, "--max-steps", 1, "--out", tmp_path / "run"]
    assert "--image-size 36" in complaint(*flags, "--image-size", 36)
    assert "--image-width 8:" in complaint(*flags, "--image-width", 8)
    for flag in ("--lr", "--nz", "--nef", "--fc", "--sigma", "--beta", "--gamma", "--leaky"):
        assert flag in complaint(*flags, flag, -1)
    assert "go with --sample" in complaint(*flags, "--edit", "Red=1")
    assert "unknown data set" in complaint(*flags, "--dataset", "facez")
    assert "nz 4" in complaint("--resume", trained, "--nz", 3, "--epochs", 2)
    assert "holds a run" in complaint(*flags, "--out", trained.parent)
    assert not (tmp_path / "run").exists()  # nothing was begun
    how = ("--sample", trained, "--out", tmp_path / "run")
    assert "Smile" in complaint(*how, "--edit", "Smile=1") and "Red" in complaint(*how, "--edit", "Red")
    assert "no file or folder" in complaint(*how, "--input", tmp_path / "nothing")


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(stops_at_nan):
    stops_at_nan("loss_llike")


def test_foreign_and_broken_checkpoints(refuses_foreign_and_broken, trained):
    refuses_foreign_and_broken(trained)


def test_evaluate_with_inception_where_its_weights_are(trained, tmp_path, monkeypatch):
    weights = ROOT.parent / "shared" / "weights"
    if not weights.exists():
        pytest.skip("no Inception weights on this machine")
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (5, 5))
    more = ["--fid-dims", "64", "--weights-dir", str(weights), "--out", str(tmp_path)]
    vaegan.main(["--evaluate", str(trained), *more])
    scores = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    assert ("reconstruction FID", 64) in [(s["metric"], s["dims"]) for s in scores]
