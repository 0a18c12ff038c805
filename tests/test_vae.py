"""vae.py: its losses in nats, its step against one by hand, the mixture, the collapse of ReLU heads, exact resume."""

import csv
import json
import math
from argparse import Namespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, cells, count, log_of, same
from PIL import Image

import datasets
import dcgan
import metrics
import vae

SMALL = "--image-size 16 --batch-size 20 --nz 3 --ngf 4 --nef 4 --device cpu --save-every 0 --sample-every 0".split()
LIKELIHOODS = ("bernoulli", "cbernoulli", "gaussian")


def arguments(*flags):
    return vae.build_parser().parse_args([*SMALL, *map(str, flags)])


# ---------------------------------------------------------------------------------------------------------- networks


def test_parameter_counts():
    assert count(vae.Encoder(1, 5, 32, 28)) == 318_010 and count(vae.Decoder(5, 1, 32, 28)) == 316_784  # the course
    assert count(vae.Encoder(1, 20, 32, 28)) == 330_040 and count(vae.Decoder(20, 1, 32, 28)) == 322_784


def test_the_mlp_is_the_courses():
    E, G = vae.Encoder(1, 5, 32, 28), vae.Decoder(5, 1, 32, 28)
    for net, sizes in ((E, [(784, 400), (400, 10)]), (G, [(5, 400), (400, 784)])):
        linear = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
        assert [(m.in_features, m.out_features) for m in linear] == sizes
        assert sum(isinstance(m, torch.nn.ReLU) for m in net.modules()) == 1


@pytest.mark.parametrize("size, channels", [(28, 1), (64, 3)])
def test_the_convolutional_networks_are_those_of_dcgan(size, channels):
    def layers(net):
        return [str(m) for m in net.net if isinstance(m, torch.nn.modules.conv._ConvNd | torch.nn.BatchNorm2d)]

    assert layers(vae.Decoder(7, channels, 16, size, "conv")) == layers(dcgan.Generator(7, channels, 16, size))
    mine, theirs = layers(vae.Encoder(channels, 7, 16, size, "conv")), layers(dcgan.Discriminator(channels, 16, size))
    assert mine[:-1] == theirs[:-1] and mine[-1] == theirs[-1].replace(", 1, kernel", ", 14, kernel")


@pytest.mark.parametrize("arch, sizes", [("mlp", (8, 15, 28)), ("conv", (28, 32, 40, 64, 128))])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_at_every_size(arch, sizes, channels):
    for size in sizes:
        x, z = torch.rand(2, channels, size, size) * 2 - 1, torch.randn(2, 6)
        mu, logvar = vae.Encoder(channels, 6, 4, size, arch)(x)
        assert mu.shape == logvar.shape == (2, 6) and not torch.equal(mu, logvar)
        assert vae.Decoder(6, channels, 4, size, arch)(z).shape == x.shape


@pytest.mark.parametrize("arch", ["mlp", "conv"])
def test_heads_and_logits_have_no_limits(arch):
    torch.manual_seed(0)
    E, G = vae.Encoder(1, 6, 8, 16, arch), vae.Decoder(6, 1, 8, 16, arch)
    x, z = torch.rand(20, 1, 16, 16) * 2 - 1, torch.randn(20, 6)
    mu, logvar = E(x)
    assert mu.min() < 0 < mu.max() and logvar.min() < 0 < logvar.max()
    for net in (E, G):
        list(net.parameters())[-1 if arch == "conv" else -2].data.mul_(1000)
    assert E(x)[0].abs().max() > 10 and G(z).min() < -10 and G(z).max() > 10  # neither ReLU nor sigmoid nor tanh
    clipped = vae.Encoder(1, 6, 8, 16, arch, relu_heads=True)
    clipped.load_state_dict(E.state_dict())
    assert all(torch.equal(a, F.relu(b)) for a, b in zip(clipped(x), E(x), strict=True))


def test_no_image_depends_on_the_others_of_its_batch_after_training():
    torch.manual_seed(0)
    E, G = vae.Encoder(1, 3, 4, 16, "conv"), vae.Decoder(3, 1, 4, 16, "conv")
    x, z = torch.rand(9, 1, 16, 16) * 2 - 1, torch.randn(9, 3)
    assert torch.allclose(datasets.encode(E, [x])[0][:2], datasets.encode(E, [x[:2]])[0], atol=1e-6)
    assert torch.allclose(datasets.generate(G, z)[:2], datasets.generate(G, z[:2]), atol=1e-6)
    assert all(module.training for net in (E, G) for module in net.modules())  # and goes on as it was


# ------------------------------------------------------------------------------------------------------------ losses


def nats_by_hand(logits, x, likelihood, sigma):
    """A loop over images and pixels."""
    total = 0.0
    for logit, value in zip(logits.flatten().tolist(), ((x + 1) / 2).flatten().tolist(), strict=True):
        lam = 1 / (1 + math.exp(-logit))
        if likelihood == "gaussian":
            total += (lam - value) ** 2 / (2 * sigma**2) + math.log(sigma) + 0.5 * math.log(2 * math.pi)
        else:
            total -= value * math.log(lam) + (1 - value) * math.log(1 - lam)
            if likelihood == "cbernoulli":
                total -= math.log(2 * math.atanh(1 - 2 * lam) / (1 - 2 * lam))
    return total / len(x)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_loss_is_in_nats_per_image(likelihood):
    torch.manual_seed(0)
    logits, x = torch.randn(3, 2, 5, 4) * 3, torch.rand(3, 2, 5, 4) * 2 - 1
    loss = vae.rec_loss(logits, x, likelihood, 0.2)
    assert loss.item() == pytest.approx(nats_by_hand(logits, x, likelihood, 0.2), rel=1e-4)
    again = vae.rec_loss(logits.repeat(4, 1, 1, 1), x.repeat(4, 1, 1, 1), likelihood, 0.2)
    assert again.item() == pytest.approx(loss.item(), rel=1e-5)  # does not grow with the batch
    wide = vae.rec_loss(torch.cat([logits, logits], dim=3), torch.cat([x, x], dim=3), likelihood, 0.2)
    assert wide.item() == pytest.approx(2 * loss.item(), rel=1e-5)  # but with the pixels


def test_the_continuous_bernoulli_is_that_of_torch():
    torch.manual_seed(0)
    logits, x = torch.randn(3, 1, 4, 4, dtype=torch.float64) * 2, torch.rand(3, 1, 4, 4, dtype=torch.float64)
    theirs = torch.distributions.ContinuousBernoulli(logits=logits)
    ours = vae.rec_loss(logits, x * 2 - 1, "cbernoulli")
    assert ours.item() == pytest.approx(-theirs.log_prob(x).sum().item() / 3, rel=1e-5)
    assert torch.allclose((vae.mean_image(logits, "cbernoulli") + 1) / 2, theirs.mean, atol=2e-3)


LOGITS = torch.tensor(
    [-80.0, -20, -3, -0.5, -0.05, -0.011, -0.009, -1e-4, -1e-7, 0, 1e-7, 1e-4, 0.009, 0.011, 1, 9, 80]
)


def test_the_normaliser_and_the_mean_are_those_of_numeric_integration():
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for value in LOGITS.double():
        density = torch.exp(x * value - F.softplus(value))  # lambda^x (1 - lambda)^(1 - x)
        inverse = density.mean()
        assert vae.log_normaliser(value.float()).item() == pytest.approx(-math.log(inverse), abs=2e-5, rel=1e-5)
        mean = (x * density).mean() / inverse
        assert (vae.mean_image(value.float(), "cbernoulli").item() + 1) / 2 == pytest.approx(mean.item(), abs=2e-3)


def test_the_normaliser_has_a_gradient_everywhere():
    logits = LOGITS.clone().requires_grad_()
    vae.log_normaliser(logits).sum().backward()
    assert logits.grad.isfinite().all()
    expected = 1 / LOGITS.double() - 1 / torch.sinh(LOGITS.double())
    assert torch.allclose(logits.grad, expected.nan_to_num(0.0).float(), atol=2e-3)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_an_image_in_minus_one_to_one_is_best_explained_by_itself(likelihood):
    """The target is (x + 1) / 2: cross entropy against x itself would ask for lambda below 0."""
    x = torch.linspace(-0.9, 0.9, 25).view(1, 1, 5, 5)
    logits = torch.zeros_like(x).requires_grad_()
    for _ in range(200):  # Newton's steps, by the curvature of the cross entropy
        (slope,) = torch.autograd.grad(vae.rec_loss(logits, x, likelihood, 0.5), logits)
        logits = (logits - 4 * slope).detach().requires_grad_()
    assert torch.allclose(vae.mean_image(logits, likelihood), x, atol=0.02)


def test_cross_entropy_of_grey_pixels_is_their_entropy_at_best():
    x = torch.tensor([-1.0, -0.5, 0.0, 0.8]).view(1, 1, 2, 2)
    p = (x + 1) / 2
    best = vae.rec_loss(torch.logit(p, eps=1e-6), x).item()
    assert best == pytest.approx(torch.special.entr(p).add(torch.special.entr(1 - p)).sum().item(), abs=1e-4)
    assert best > 1.5 and vae.rec_loss(torch.full((1, 1, 2, 2), 30.0), torch.ones(1, 1, 2, 2)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_that_is_sure_and_wrong_still_learns(dtype):
    logits = torch.full((1, 1, 1, 1), -100.0, dtype=dtype, requires_grad=True)
    loss = vae.rec_loss(logits.float(), torch.ones(1, 1, 1, 1))
    loss.backward()
    assert loss.item() == pytest.approx(100, rel=1e-3) and logits.grad.item() == pytest.approx(-1, rel=1e-3)


def test_kl_is_that_of_torch_and_does_not_grow_with_the_batch():
    torch.manual_seed(0)
    mu, logvar = torch.randn(5, 8), torch.randn(5, 8)
    q = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean(0)
    assert torch.allclose(vae.kl_per_dim(mu, logvar), expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(vae.kl_per_dim(mu.repeat(4, 1), logvar.repeat(4, 1)), expected, rtol=1e-5, atol=1e-6)
    assert vae.kl_per_dim(mu, logvar).min() > 0 and vae.kl_per_dim(torch.zeros(2, 8), torch.zeros(2, 8)).max() == 0


# ------------------------------------------------------------------------------------------------------- the mixture


def two_clusters(n=2000):
    torch.manual_seed(0)
    wide = torch.randn(n, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.4]]) + torch.tensor([4.0, 0.0])
    narrow = torch.randn(3 * n, 2) * 0.3 + torch.tensor([-4.0, 2.0])
    return torch.cat([wide, narrow])


def test_the_mixture_finds_two_clusters():
    x = two_clusters()
    weights, means, factors = vae.fit_gmm(x, 2)
    right = means[:, 0].argmax().item()  # the wide one
    assert weights[right].item() == pytest.approx(0.25, abs=0.01) and weights.sum().item() == pytest.approx(1)
    for k, part in ((right, x[:2000]), (1 - right, x[2000:])):
        assert torch.allclose(means[k], part.double().mean(0), atol=0.03)
        assert torch.allclose(factors[k] @ factors[k].T, part.double().T.cov(), atol=0.03)
    assert all(torch.equal(a, b) for a, b in zip(vae.fit_gmm(x, 2), (weights, means, factors), strict=True))


def test_samples_of_the_mixture_have_its_moments_and_their_own_generator():
    x, state = two_clusters(), torch.get_rng_state()
    for k in (1, 2, 5):
        samples = vae.sample_gmm(vae.fit_gmm(x, k), 40_000, torch.Generator().manual_seed(1))
        assert samples.dtype == torch.float32 and samples.shape == (40_000, 2)
        assert torch.allclose(samples.mean(0), x.mean(0), atol=0.08)  # EM keeps both moments of the data
        assert torch.allclose(samples.T.cov(), x.T.cov(), atol=0.3)
    assert (samples[:, 0].abs() < 0.3).float().mean() < 0.02  # the gap between the clusters stays empty
    assert torch.equal(state, torch.get_rng_state())


def log_likelihood(x, mixture):
    weights, means, factors = mixture
    parts = [torch.distributions.MultivariateNormal(m, scale_tril=f) for m, f in zip(means, factors, strict=True)]
    return (torch.stack([p.log_prob(x.double()) for p in parts], dim=1) + weights.log()).logsumexp(1).mean().item()


def test_expectation_maximisation_never_loses_likelihood():
    torch.manual_seed(0)
    x = torch.rand(500, 3).pow(3)
    fits = [log_likelihood(x, vae.fit_gmm(x, 4, iterations=n)) for n in (1, 2, 5, 20)]
    assert all(later >= earlier - 1e-9 for earlier, later in zip(fits, fits[1:], strict=False))
    assert fits[-1] > log_likelihood(x, vae.fit_gmm(x, 1)) + 0.1


def test_clusters_that_overlap_are_shared_by_their_weights():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(1700, 1), torch.randn(300, 1) + 3])
    weights, means, factors = vae.fit_gmm(x, 2, iterations=300)
    density = torch.distributions.Normal(means.flatten(), factors.flatten()).log_prob(x.double()).exp() * weights
    posterior = density / density.sum(dim=1, keepdim=True)
    assert torch.allclose(posterior.mean(dim=0), weights, atol=1e-3)  # where EM stands still (Bishop, eq. 9.26)
    assert weights.min().item() == pytest.approx(0.15, abs=0.05)


def test_the_mixture_bears_dead_dimensions_many_dimensions_and_few_codes():
    torch.manual_seed(0)
    dead = torch.cat([torch.randn(300, 2), torch.full((300, 1), 0.1)], dim=1)
    assert vae.sample_gmm(vae.fit_gmm(dead, 3), 100, torch.Generator())[:, 2].sub(0.1).abs().max() < 0.01
    far = torch.randn(300, 100) + 10 * torch.randint(0, 2, (300, 1))  # densities of 100 dimensions underflow
    assert all(part.isfinite().all() for part in vae.fit_gmm(far, 4))
    assert all(part.isfinite().all() for part in vae.fit_gmm(torch.randn(4, 2), 4))
    with pytest.raises(datasets.DataError, match="--components 5 .* 4 images"):
        vae.fit_gmm(torch.randn(4, 2), 5)


# ------------------------------------------------------------------------------------------------ one step of training


def write_idx(path, array):
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """A folder in MNIST's format: 203 + 47 blobs of light, 16 x 16, grey; where they are is all there is to say."""
    folder, rng = tmp_path_factory.mktemp("blobs"), np.random.default_rng(0)
    for prefix, n in (("train", 203), ("t10k", 47)):
        x, y = rng.uniform(3, 13, (2, n, 1, 1))
        image = np.exp(-((np.arange(16) - x) ** 2 + (np.arange(16)[:, None] - y) ** 2) / 8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", (255 * image).astype(np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", (x.ravel() > 8).astype(np.uint8))
    return folder


@pytest.fixture
def flags(blobs, data_dir):
    return [*SMALL, "--dataset", str(blobs), "--data-dir", str(data_dir)]


@pytest.fixture
def gradients(watched):
    """gradients(*flags) -> {"E": gradients after the first backward, "G": ...}."""
    return lambda *more: watched("--max-steps", 1, *more)["after"][0][1]


def test_the_kl_reaches_e_and_not_g(gradients):
    without, with_it = gradients("--beta", 0), gradients("--beta", 5)
    assert not same(without["E"], with_it["E"])
    assert same(without["G"], with_it["G"])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_reconstruction_reaches_both_heads_of_e(gradients, likelihood):
    seen = gradients("--beta", 0, "--likelihood", likelihood)
    mu, logvar = seen["E"][-1].chunk(2)  # of the heads' biases
    assert mu.abs().min() > 0 and logvar.abs().min() > 0 and all(g.abs().sum() > 0 for g in seen["G"])


@pytest.mark.parametrize("likelihood, beta", [("bernoulli", 1.0), ("gaussian", 4.0)])
def test_three_steps_equal_three_by_hand(flags, train_here, tmp_path, likelihood, beta):
    more = ["--likelihood", likelihood, "--beta", beta, "--sigma", 0.3, "--max-steps", 3]
    state = train_here(tmp_path / "run", *more)
    args = vae.build_parser().parse_args([*flags, *map(str, more)])
    torch.manual_seed(0)
    E, G = vae.Encoder(1, 3, 4, 16), vae.Decoder(3, 1, 4, 16)
    opt, noise = torch.optim.Adam([*E.parameters(), *G.parameters()], lr=1e-3), torch.Generator().manual_seed(0)
    data = datasets.load(args.dataset, "train", 16, data_dir=args.data_dir)
    loader = datasets.make_loader(data, 20, seed=0)
    loader.batch_sampler.set_epoch(0)
    for _, batch in zip(range(3), loader, strict=False):
        x01 = batch["image"] / 255
        mu, logvar = E(x01 * 2 - 1)
        q = torch.distributions.Normal(mu, logvar.exp().sqrt())
        rec = torch.sigmoid(G(q.mean + q.stddev * torch.randn(20, 3, generator=noise)))
        p = torch.distributions.Normal(rec, 0.3) if likelihood == "gaussian" else None
        nats = -p.log_prob(x01) if p else F.binary_cross_entropy(rec, x01, reduction="none")
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
        opt.zero_grad()
        (nats.sum() / 20 + beta * kl.sum() / 20).backward()
        opt.step()
    for name, net in (("E", E), ("G", G)):
        for key, value in net.state_dict().items():
            assert torch.allclose(state[name][key], value, atol=2e-5), (name, key)


def test_the_codes_have_the_variance_that_logvar_says(monkeypatch, train_here, tmp_path):
    """exp(logvar) as the standard deviation is the popular slip."""
    codes, build = [], vae.build

    def spied(*args):
        nets = build(*args)
        nets["E"].net[-1].weight.data.zero_()
        nets["E"].net[-1].bias.data = torch.tensor([1.0, 0.0, -2.0, math.log(4.0), math.log(0.25), 0.0])
        nets["G"].register_forward_pre_hook(lambda net, z: codes.append(z[0].clone()) if net.training else None)
        return nets

    monkeypatch.setattr(vae, "build", spied)
    train_here(tmp_path / "run", "--batch-size", 200, "--lr", 1e-12, "--max-steps", 150, "--epochs", 200)
    z = torch.cat(codes)
    assert z.shape == (30_000, 3)
    assert torch.allclose(z.mean(0), torch.tensor([1.0, 0.0, -2.0]), atol=0.05)
    assert torch.allclose(z.var(0), torch.tensor([4.0, 0.25, 1.0]), rtol=0.05)


def final(folder):
    """The last row of a run's log as numbers."""
    return {key: float(value) for key, value in list(csv.DictReader(open(folder / "log.csv")))[-1].items()}


@pytest.mark.parametrize("arch, likelihood", [("mlp", "bernoulli"), ("mlp", "cbernoulli"), ("conv", "gaussian")])
def test_it_learns(train_here, tmp_path, arch, likelihood):
    steps = 300 if arch == "mlp" else 120
    more = ["--arch", arch, "--likelihood", likelihood, "--ngf", 8, "--nef", 8, "--epochs", 50, "--log-every", 20]
    train_here(tmp_path, "--max-steps", steps, *more)
    rows = list(csv.DictReader(open(tmp_path / "log.csv")))
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert list(rows[0])[:6] == ["step", "epoch", "loss_rec", "loss_kl", "mse_test", "active"]
    first, last = rows[0], final(tmp_path)
    assert last["loss_rec"] + last["loss_kl"] < float(first["loss_rec"]) + float(first["loss_kl"])
    assert last["mse_test"] < 0.35 * float(first["mse_test"]) and last["loss_kl"] > 2 and last["active"] >= 2


def test_relu_heads_waste_the_code_and_linear_heads_do_not(train_here, tmp_path):
    rows = {}
    for name in ("relu-heads", "no-relu-heads"):
        train_here(tmp_path / name, f"--{name}", "--nz", 5, "--epochs", 35, "--log-every", 50)
        rows[name] = final(tmp_path / name)
    bad, good = rows.values()
    assert good["active"] >= 2 and good["active"] > bad["active"]
    assert bad["loss_rec"] + bad["loss_kl"] > good["loss_rec"] + good["loss_kl"] + 2  # nats per image
    assert bad["mse_test"] > 1.5 * good["mse_test"]


def test_a_heavier_kl_says_less(train_here, tmp_path):
    for beta in (0.2, 5):
        train_here(tmp_path / str(beta), "--beta", beta, "--epochs", 15, "--log-every", 50)
    assert final(tmp_path / "5")["loss_kl"] < 0.6 * final(tmp_path / "0.2")["loss_kl"]


def test_amp_on_a_cpu(train_here, tmp_path):
    plain, amp = (train_here(tmp_path / n, "--max-steps", 3, *more) for n, more in (("a", ()), ("b", ("--amp",))))
    assert 0 < (plain["G"]["net.2.bias"] - amp["G"]["net.2.bias"]).abs().max() < 0.01


# -------------------------------------------------------------------------------------------- the test set, measuring


def random_set(n):
    rng = np.random.default_rng(0)
    return datasets.ImageSet("noise", "test", rng.integers(0, 256, (n, 1, 16, 16), np.uint8))


def test_a_reconstruction_is_the_same_each_time():
    torch.manual_seed(0)
    E, G = vae.Encoder(1, 3, 4, 16), vae.Decoder(3, 1, 4, 16)
    x, state = torch.rand(4, 1, 16, 16) * 2 - 1, torch.get_rng_state()
    (rec, mu), (again, _) = (vae.reconstruct(E, G, x, "bernoulli") for _ in range(2))
    assert torch.equal(rec, again) and torch.equal(state, torch.get_rng_state())
    assert torch.allclose(rec, torch.sigmoid(G(E(x)[0])) * 2 - 1, atol=1e-6) and torch.allclose(mu, E(x)[0])


@pytest.mark.parametrize("n", [1, 499, 500, 503, 1000])
def test_a_shorter_last_batch_is_read_too(n):
    data, E = random_set(n), vae.Encoder(1, 3, 4, 16)
    mu, logvar = datasets.encode(E, datasets.batches_of(data, "cpu"))
    x = torch.from_numpy(data.images) / 127.5 - 1
    assert mu.shape == logvar.shape == (n, 3) and torch.allclose(mu, E(x)[0], atol=1e-6)


def test_the_scores_are_averages_over_images_not_over_batches(monkeypatch):
    monkeypatch.setattr(metrics, "judge", lambda fake, *rest: [metrics.Score("FID", 1.0, n_fake=len(fake))])
    torch.manual_seed(0)
    args, data = arguments("--fid-images", 9), random_set(503)  # 500, and three of another kind
    data.images[500:] //= 8
    nets = vae.build(args, 1, "cpu")
    E, G = nets["E"], nets["G"]
    E.net[-1].bias.data += torch.tensor([1.0, 0, 0, -3, -3, -3])
    G.net[0].weight.data *= 9  # so that the size of the noise matters
    fid, elbo, kl, active, mse = vae.measure(nets, None, data, args, torch.device("cpu"), [])
    x = torch.from_numpy(data.images) / 127.5 - 1
    with torch.no_grad():
        mu, logvar = E(x)
        noise = torch.Generator().manual_seed(0)
        eps = torch.cat([datasets.draw_noise((n, 3), noise) for n in (500, 3)])
        rec = vae.rec_loss(G(mu + torch.exp(logvar / 2) * eps), x).item()
        expected = vae.kl_per_dim(mu, logvar)
        assert kl.value == pytest.approx(expected.sum().item(), rel=1e-4)
        assert [float(k) for k in kl.note.split()[2:]] == pytest.approx(expected.tolist(), abs=0.006)
        assert elbo.value == pytest.approx(rec + expected.sum().item(), rel=1e-4)
        assert mse.value == pytest.approx(metrics.mse(torch.sigmoid(G(mu)) * 2 - 1, x), rel=1e-4)
    assert active.value == (mu.var(0) > 0.01).sum() and all(s.n_real == 503 for s in (elbo, kl, active, mse))
    assert fid.n_fake == 9 and "z from the normal prior" in fid.note


def test_evaluate_writes_every_score_with_either_prior(monkeypatch, train_here, tmp_path):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (5, 5))
    train_here(tmp_path, "--max-steps", 40, "--epochs", 9, "--eval-every", 40)
    values = {}
    for prior in ("normal", "gmm"):
        vae.main(["--evaluate", str(tmp_path / "last.pt"), "--prior", prior, "--components", "3"])
        facts = json.loads((tmp_path / "metrics.json").read_text())
        scores = {score["metric"]: score for score in facts["scores"]}
        assert facts["step"] == 40 and facts["args"]["prior"] == prior and facts["minutes"] > 0
        assert scores["in-domain FID"]["n_fake"] == 47 and f"{prior} prior" in scores["in-domain FID"]["note"]
        values[prior] = {name: score["value"] for name, score in scores.items()}
        if prior == "normal":
            assert json.loads((tmp_path / "metrics-0000040.json").read_text())["scores"] == facts["scores"]
    ours = ("-ELBO, nats per image", "KL, nats", "active units", "test MSE")
    assert all(values["normal"][name] == values["gmm"][name] for name in ours)  # the prior is for sampling only
    assert values["normal"]["in-domain FID"] != values["gmm"]["in-domain FID"]


# -------------------------------------------------------------------------------------- resume, kill, several processes


@pytest.mark.parametrize("arch", ["mlp", "conv"])
def test_2n_epochs_equal_n_and_n_resumed_to_the_bit(in_two_parts, tmp_path, arch):
    more = ["--arch", arch, "--log-every", 5, "--sample-every", 7, "--epochs", 2]
    assert in_two_parts(("--epochs", 1), *more)["step"] == 20
    assert log_of(tmp_path / "half") == log_of(tmp_path / "whole")
    for step in (7, 14, 20):
        name = f"samples/{step:07d}.png"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "half" / name).read_bytes()


def test_a_run_continues_in_the_middle_of_an_epoch(in_two_parts):
    in_two_parts(("--max-steps", 13), "--epochs", 2, "--log-every", 4)


def test_ctrl_c_and_sigterm_end_a_run_after_a_checkpoint(stops_cleanly):
    stops_cleanly()


def test_the_same_command_gives_the_same_bits_and_what_is_logged_changes_nothing(reproducible):
    reproducible("--max-steps", 4)


def test_two_processes_equal_one_with_twice_the_batch(torchrun, flags, train_here, tmp_path):
    more = ["--max-steps", 6, "--log-every", 1]
    torchrun(tmp_path / "two", *flags, *more, "--batch-size", 10)
    one, two = train_here(tmp_path / "one", *more), torch.load(tmp_path / "two" / "last.pt", weights_only=True)
    for name in ("E", "G"):
        for key, value in one[name].items():
            assert torch.allclose(value, two[name][key], atol=1e-4), (name, key)
    assert torch.equal(one["noise"], two["noise"])
    assert [row["step"] for row in log_of(tmp_path / "two")] == list("123456")  # only rank 0 writes
    first = [float(log_of(tmp_path / n)[0]["mse_test"]) for n in ("one", "two")]
    assert first[0] == pytest.approx(first[1], rel=1e-3)


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="session")
def trained(blobs, data_dir, tmp_path_factory):
    """A run with nz 2."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = [*SMALL, "--dataset", str(blobs), "--data-dir", str(data_dir), "--nz", "2", "--out", str(out)]
    vae.main([*flags, "--max-steps", "60"])
    return out / "last.pt"


def test_smoke_train_sample_resume(smoke, tmp_path):
    smoke()
    picture = Image.open(tmp_path / "run" / "samples" / "0000001.png")
    assert picture.width == 2 + 18 * 18 and picture.height > 2 + 6 * 18  # 6 x 6 samples, 6 x 6 pairs, titles


def test_samples_reconstructions_walks_and_the_plane(trained, tmp_path):
    vae.main(["--sample", str(trained), "--out", str(tmp_path)])
    made = {path.stem: cells(path) for path in (tmp_path / "samples").iterdir()}
    sizes = dict(samples=(6, 6), reconstructions=(6, 12), interpolation=(6, 10), traversals=(2, 10), manifold=(20, 20))
    assert {name: grid.shape[:2] for name, grid in made.items()} == sizes
    state = torch.load(trained, weights_only=True)
    args = Namespace(**state["args"])
    nets = vae.build(args, 1, "cpu", state)
    E, G = nets["E"], nets["G"]

    def drawn(*z):
        return (
            datasets.to_uint8(vae.mean_image(datasets.generate(G, torch.tensor([z])), "bernoulli"))[0, 0]
            .numpy()
            .astype(int)
        )

    def near(a, b):
        return np.abs(a - b).max() <= 1  # grey levels

    x = datasets.fixed_batch(vae.load_images(args, "test"), 1000, "cpu")["image"]
    mu = datasets.encode(E, [x])[0].tolist()
    pairs = made["reconstructions"].reshape(-1, 2, 16, 16)
    assert near(pairs[0, 0], datasets.to_uint8(x)[0, 0].numpy()) and near(pairs[5, 1], drawn(*mu[5]))
    walk = made["interpolation"]
    assert near(walk[0, 0], drawn(*mu[0])) and near(walk[0, 9], drawn(*mu[1])) and near(walk[5, 9], drawn(*mu[6]))
    half = [a + 4 / 9 * (b - a) for a, b in zip(mu[2], mu[3], strict=True)]
    assert near(walk[2, 4], drawn(*half))  # on the straight line
    d = torch.tensor(mu).var(dim=0).argmax().item()
    ends = [[t if i == d else mu[0][i] for i in (0, 1)] for t in (-3.0, 3.0)]
    assert near(made["traversals"][0, 0], drawn(*ends[0])) and near(made["traversals"][0, 9], drawn(*ends[1]))
    q = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([0.025, 0.525, 0.975])).tolist()
    for (i, j), z in {(0, 0): (q[0], q[0]), (0, 19): (q[0], q[2]), (10, 0): (q[1], q[0])}.items():
        assert near(made["manifold"][i, j], drawn(*z))
    assert made["manifold"].reshape(400, -1).std(axis=0).mean() > 5  # the plane is not one picture


def test_samples_depend_on_the_prior_and_the_seed_alone(trained, tmp_path):
    ways = {"a": [], "b": [], "gmm": ["--prior", "gmm"], "gmm again": ["--prior", "gmm"], "seed": ["--seed", "1"]}
    for name, more in ways.items():
        vae.main(["--sample", str(trained), "--out", str(tmp_path / name), "--num-samples", "4", *more])
    picture = {name: (tmp_path / name / "samples" / "samples.png").read_bytes() for name in ways}
    assert picture["a"] == picture["b"] and picture["gmm"] == picture["gmm again"]
    assert len({picture["a"], picture["gmm"], picture["seed"]}) == 3
    assert cells(tmp_path / "a" / "samples" / "samples.png").shape[:2] == (2, 2)


def test_colour_convolutions_and_a_single_sample(data_dir, tmp_path):
    for i in range(30):
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (8 * i, 255 - 8 * i, 90)).save(tmp_path / "set" / f"{i}.png")
    more = ["--dataset", str(tmp_path / "set"), "--data-dir", str(data_dir), "--arch", "conv", "--num-samples", "1"]
    vae.main([*SMALL, *more, "--max-steps", "2", "--likelihood", "cbernoulli", "--out", str(tmp_path / "run")])
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["channels"] == 3
    vae.main(["--sample", str(tmp_path / "run" / "last.pt"), "--num-samples", "9"])
    assert Image.open(tmp_path / "run" / "samples" / "samples.png").size == (2 + 3 * 18, 2 + 3 * 18)


# --------------------------------------------------------------------------------------------------------- bad input


def test_complaints_name_the_thing_and_the_remedy(complaint, trained, flags, tmp_path):
    flags = [*flags, "--max-steps", 1, "--out", tmp_path / "run"]
    assert "--image-size 36" in complaint(*flags, "--arch", "conv", "--image-size", 36)
    for flag in ("--lr", "--nz", "--sigma", "--components", "--num-samples", "--beta"):
        assert flag in complaint(*flags, flag, -1)
    assert "gaussian" in complaint(*flags, "--likelihood", "poisson")
    assert "unknown data set" in complaint(*flags, "--dataset", "digitz")
    assert "8gaussians" in complaint(*flags, "--dataset", "8gaussians")
    assert "203 images" in complaint(*flags, "--batch-size", 204)
    assert "nz 2" in complaint("--resume", trained, "--nz", 3, "--epochs", 2)
    assert "likelihood bernoulli" in complaint("--evaluate", trained, "--likelihood", "gaussian")
    assert "at its end" in complaint("--resume", trained, "--max-steps", 60)
    assert "holds a run" in complaint(*flags, "--out", trained.parent)
    text = complaint("--sample", trained, "--prior", "gmm", "--components", 204, "--out", tmp_path / "run")
    assert "--components 204 is more than the 203 images" in text
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_foreign_and_broken_checkpoints(refuses_foreign_and_broken, trained):
    refuses_foreign_and_broken(trained)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(stops_at_nan):
    stops_at_nan("loss_rec")


def test_evaluate_with_inception_where_its_weights_are(trained, tmp_path):
    weights = ROOT.parent / "shared" / "weights"
    if not weights.exists():
        pytest.skip("no Inception weights on this machine")
    more = ["--fid-dims", "64", "--weights-dir", str(weights), "--fid-images", "8", "--out", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "CLASSIFIER_STEPS", (5, 5))
        vae.main(["--evaluate", str(trained), *more])
    names = [
        (s["metric"], s["dims"], s["n_fake"]) for s in json.loads((tmp_path / "metrics.json").read_text())["scores"]
    ]
    assert ("FID", 64, 8) in names and any(name == "in-domain FID" for name, _, _ in names)
