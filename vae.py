"""VAE: an encoder and a decoder that learn together to describe images by a few normal numbers.

Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014 (arXiv:1312.6114).

  x --E--> q(z | x) = N(mu, exp(logvar))    z = mu + exp(logvar / 2) eps, eps ~ N(0, I)    z --G--> logits of p(x | z)
  after training:  z ~ N(0, I), or a mixture of Gaussians fitted to the codes of the training images  --G--> an image

  x (B, C, S, S)   mu, logvar, z (B, nz)   E: C S S - 400 - 2 nz   G: nz - 400 - C S S, or both convolutional
  minimise  -ELBO = E_q[-log p(x | z)] + beta KL(q(z | x) || N(0, I))        (eq. 3; beta 1; nats per image)
  KL = 1/2 sum_j (mu_j^2 + exp(logvar_j) - 1 - logvar_j)                     (appendix B)

Differences from the paper:
  1. ReLU and Adam, not tanh and Adagrad, and 400 hidden units: pytorch/examples' network, and the course's.
  2. The heads mu and logvar are linear, as in the paper. The course's table has a ReLU behind them: no mean below 0, no
     variance below 1, and most of the code goes unused. --relu-heads shows it.
  3. G ends in logits, and the loss takes them. Cross entropy of grey pixels is no likelihood: at its least it is their
     entropy, not 0. --likelihood cbernoulli and gaussian are densities on grey pixels.
  4. --arch conv has the networks of dcgan.py, so that the two can be compared, and colour and larger images work.
  5. --prior gmm samples from a mixture fitted to the encoded means (arXiv:1903.12436): q rarely fills N(0, I).

Measured, the default run on two CPU cores: 0.4 minutes, in-domain FID-128 19.19 (floor 0.66),
in-domain IS 5.17 (ceiling 9.85).
  python vae.py --epochs 100                                      the default run: written digits, no download
  python vae.py --resume auto --epochs 200                        continue it
  python vae.py --sample runs/vae-digits-s0/last.pt               samples, reconstructions, walks; --prior gmm
  python vae.py --evaluate CKPT --prior gmm --fid-dims 768 --weights-dir weights
  python vae.py --nz 2 --out runs/vae-digits-2d                   --sample then draws the plane of codes
  course: python vae.py --dataset fashion-mnist --epochs 10
  pytorch/examples: python vae.py --dataset mnist --nz 20 --epochs 10
  faces:  python vae.py --dataset faces --image-size 64 --arch conv --nz 64 --likelihood gaussian --epochs 20
"""

import math
from argparse import BooleanOptionalAction as yes_no
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import datasets
import metrics

SCRIPT = "vae"

# ---------------------------------------------------------------------------------------------------- arguments


def build_parser():
    p = metrics.new_parser(  # --data-dir, --seed, --device, --resume, --sample, --evaluate ...: the same in all scripts
        SCRIPT,
        __doc__,
        dataset="digits",
        image_size=(28, "side in pixels; with --arch conv 28, 32, 64, 128 ..."),
        epochs=(100, "passes over the training set (course: 10, of 60,000)"),
        batch_size=(128, "images in a step of one process (paper: 100)"),
        lr=(1e-3, "learning rate of Adam (course: 1e-3)"),
        beta1=(0.9, "Adam's decay of the mean"),
        beta2=(0.999, "Adam's decay of the square"),
        num_samples=(36, "samples in a picture, and reconstructions"),
    )
    p.add_argument("--arch", default="mlp", choices=("mlp", "conv"), help="conv = the networks of dcgan.py")
    p.add_argument("--nz", type=int, default=5, help="length of the code z (course: 5)")
    p.add_argument("--ngf", type=int, default=32, help="--arch conv: channels of G's last hidden layer")
    p.add_argument("--nef", type=int, default=32, help="--arch conv: channels of E's first layer")
    p.add_argument("--relu-heads", action=yes_no, default=False, help="a ReLU behind mu and logvar (course: yes)")
    densities = ("bernoulli", "cbernoulli", "gaussian")
    p.add_argument("--likelihood", default="bernoulli", choices=densities, help="p(x | z) (course: bernoulli)")
    p.add_argument("--sigma", type=float, default=0.1, help="of the gaussian likelihood, for pixels in [0, 1]")
    p.add_argument("--beta", type=float, default=1.0, help="weight of the KL divergence (paper: 1)")
    p.add_argument("--prior", default="normal", choices=("normal", "gmm"), help="where --sample, --evaluate get z from")
    p.add_argument("--components", type=int, default=10, help="Gaussians in --prior gmm")
    p.add_argument("--fid-dims", type=int, default=0, choices=(0, 64, 192, 768, 2048), help="0 = without Inception")
    p.add_argument("--fid-images", type=int, default=10000, help="at most so many of each side in --evaluate")
    return p


# ----------------------------------------------------------------------------------------------------- networks


def widths(base, image_size):
    """Channels after each halving of the image, first to last, and the side that is left: 4 to 7 pixels."""
    width, side = [], image_size
    while side % 2 == 0 and side > 7:
        side //= 2
        width.append(base * min(2 ** len(width), 8))  # 128 at 64 px: 128 256 512 1024, and a side of 4
    if not width or not 4 <= side <= 7:
        raise datasets.DataError(f"--image-size {image_size}: use 4, 5, 6 or 7 times 2, 4, 8 ..., such as 28, 32 or 64")
    return width, side


class Encoder(nn.Module):
    """q(z | x) = N(mu, exp(logvar)): images (B, channels, S, S) in [-1, 1] -> mu, logvar, (B, nz) each."""

    def __init__(self, channels, nz, nef, image_size, arch="mlp", relu_heads=False):
        super().__init__()
        self.relu_heads = relu_heads
        if arch == "mlp":
            hidden = [nn.Flatten(), nn.Linear(channels * image_size**2, 400), nn.ReLU()]
            self.net = nn.Sequential(*hidden, nn.Linear(400, 2 * nz))  # both heads in one layer
            return
        width, side = widths(nef, image_size)  # the layers of dcgan.py's Discriminator
        layers = [nn.Conv2d(channels, width[0], kernel_size=4, stride=2, padding=1, bias=False)]
        for c_in, c_out in zip(width, width[1:], strict=False):
            layers += [nn.LeakyReLU(0.2, inplace=True)]
            layers += [nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False), nn.BatchNorm2d(c_out)]
        layers += [nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(width[-1], 2 * nz, kernel_size=side, bias=False)]
        self.net = nn.Sequential(*layers, nn.Flatten())

    def forward(self, x):
        h = self.net(x).float()
        return (F.relu(h) if self.relu_heads else h).chunk(2, dim=1)  # linear: mu and logvar may be negative


class Decoder(nn.Module):
    """p(x | z): codes (B, nz) -> logits (B, channels, S, S). The sigmoid is in the loss and in `mean_image`."""

    def __init__(self, nz, channels, ngf, image_size, arch="mlp"):
        super().__init__()
        pixels = (channels, image_size, image_size)
        if arch == "mlp":
            layers = [nn.Linear(nz, 400), nn.ReLU(), nn.Linear(400, math.prod(pixels))]
            self.net = nn.Sequential(*layers, nn.Unflatten(1, pixels))
            return
        width, side = widths(ngf, image_size)  # the layers of dcgan.py's Generator, without its tanh
        width = width[::-1]
        layers = [nn.Unflatten(1, (nz, 1, 1)), nn.ConvTranspose2d(nz, width[0], kernel_size=side, bias=False)]
        for c_in, c_out in zip(width, [*width[1:], channels], strict=True):  # each doubles the side
            layers += [nn.BatchNorm2d(c_in), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False)]
        self.net = nn.Sequential(*layers)

    def forward(self, z):
        return self.net(z).float()


# ------------------------------------------------------------------------------------------------------- losses


def away_from_0(logits):
    """The continuous Bernoulli's formulas are 0 / 0 at logit 0; what they give at 0.01 is within 0.002 of the limit."""
    return torch.where(logits.abs() < 0.01, 0.01, logits)


def log_normaliser(logits):
    """log C, where C lambda^x (1 - lambda)^(1 - x) is the density of x in [0, 1], and lambda = sigmoid(logit).

    C = 2 artanh(1 - 2 lambda) / (1 - 2 lambda) (arXiv:1907.06845, section 3), which is logit / tanh(logit / 2).
    """
    logits = away_from_0(logits)
    return torch.log(logits / torch.tanh(logits / 2))


def rec_loss(logits, x, likelihood="bernoulli", sigma=0.1):
    """-log p(x | z) in nats per image: summed over the pixels, averaged over the batch. x in [-1, 1]."""
    target = (x + 1) / 2  # cross entropy is for [0, 1]
    if likelihood == "gaussian":  # the "L2 error", with the sigma that decides what it weighs against the KL
        nats = 0.5 * ((torch.sigmoid(logits) - target) / sigma).square() + math.log(sigma * math.sqrt(2 * math.pi))
        return nats.sum() / len(x)  # a mean over pixels would be 784 times too weak against the KL
    nats = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    if likelihood == "cbernoulli":
        nats = nats - log_normaliser(logits).sum()
    return nats / len(x)


def kl_per_dim(mu, logvar):
    """KL(N(mu, exp(logvar)) || N(0, 1)) in nats; (B, nz), (B, nz) -> (nz,), averaged over the batch."""
    return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar).mean(dim=0)


# ----------------------------------------------------------------------------------- a mixture as sampling prior


def fit_gmm(x, k, iterations=100):
    """Codes (N, d) -> weights (k,), means (k, d), Cholesky factors (k, d, d) of k Gaussians, by EM in float64."""
    from scipy.cluster.vq import kmeans2  # here: slow to import

    if len(x) < k:
        raise datasets.DataError(f"--components {k} is more than the {len(x)} images of the training set")
    x, ridge = x.double().cpu(), 1e-6 * torch.eye(x.shape[1], dtype=torch.float64)
    _, nearest = kmeans2(x.numpy(), k, minit="++", seed=0)
    share = F.one_hot(torch.from_numpy(nearest).long(), k).double()  # (N, k): p(component | code)
    for _ in range(iterations):
        count = share.sum(dim=0) + 1e-9  # a component may be left without a code
        means = share.T @ x / count[:, None]
        covs = [(s[:, None] * (x - m)).T @ (x - m) / n + ridge for s, m, n in zip(share.T, means, count, strict=True)]
        parts = [torch.distributions.MultivariateNormal(m, c) for m, c in zip(means, covs, strict=True)]
        log_p = torch.stack([part.log_prob(x) for part in parts], dim=1)
        share = (log_p + count.log()).softmax(dim=1)  # in log space: densities of 20 dimensions underflow
    return count / count.sum(), means, torch.stack([part.scale_tril for part in parts])


def sample_gmm(mixture, n, generator):
    """-> codes (n, d) of a mixture, float32."""
    weights, means, factors = mixture
    which = torch.multinomial(weights, n, replacement=True, generator=generator)
    eps = torch.randn(n, means.shape[1], 1, generator=generator, dtype=means.dtype)
    return (means[which] + (factors[which] @ eps).squeeze(2)).float()


# ------------------------------------------------------------------------------------- pictures and measurements


def build(args, channels, device, checkpoint=None):
    """-> E and G (the decoder) by name, initialised or with the checkpoint's weights."""
    nets = {
        "E": Encoder(channels, args.nz, args.nef, args.image_size, args.arch, args.relu_heads),
        "G": Decoder(args.nz, channels, args.ngf, args.image_size, args.arch),
    }
    for name, net in nets.items():
        if checkpoint:
            net.load_state_dict(checkpoint[name])
        net.to(device, memory_format=torch.channels_last)  # 1.2 times faster with BatchNorm
    return nets


def load_images(args, split, channels=0):
    """A split of --dataset; channels 1 or 3, 0 = as the set has them."""
    how = dict(**datasets.how_to_load(args), channels=channels, input_channels=channels)
    return datasets.load(args.dataset, split, args.image_size, **how)


def mean_image(logits, likelihood):
    """E[x | z] in [-1, 1]: what is shown, and compared with x."""
    mean = torch.sigmoid(logits)
    if likelihood == "cbernoulli":  # its mean is not lambda
        logits = away_from_0(logits)
        mean = torch.sigmoid(logits) / torch.tanh(logits / 2) - 1 / logits
    return mean * 2 - 1


def draw_codes(args, E, train, n, device):
    """n codes from --prior, (n, nz)."""
    noise = torch.Generator().manual_seed(args.seed)
    if args.prior == "normal":
        return datasets.draw_noise((n, args.nz), noise, device)
    mu, _ = datasets.encode(E, datasets.batches_of(train, device))
    return sample_gmm(fit_gmm(mu, args.components), n, noise).to(device)


def reconstruct(E, G, x, likelihood):
    """Images (N, C, S, S) -> E[x | z = mu(x)], the same at every call, and mu (N, nz)."""
    mu, _ = datasets.encode(E, x.split(500))
    return mean_image(datasets.generate(G, mu), likelihood), mu


def sample(args, checkpoint):
    """--sample: samples, reconstructions, walks between test images and along the code; with --nz 2 its plane."""
    device, _, _ = metrics.pick_device(args.device)
    E, G = build(args, checkpoint["channels"], device, checkpoint).values()
    test = load_images(args, "test", checkpoint["channels"])
    train = load_images(args, "train", checkpoint["channels"]) if args.prior == "gmm" else None
    out, columns = Path(args.out, "samples"), math.isqrt(args.num_samples)
    pictures = {"samples": (draw_codes(args, E, train, args.num_samples, device), columns)}  # {name: (codes, columns)}
    x = datasets.fixed_batch(test, max(1000, args.num_samples), device)["image"]
    rec, mu = reconstruct(E, G, x, args.likelihood)
    pairs = torch.stack([x, rec], dim=1)[: args.num_samples].flatten(0, 1)
    datasets.save_grid(pairs, out / "reconstructions.png", 2 * columns)
    active = mu.var(dim=0).argsort(descending=True)  # the dimensions that say most of an image first
    t = torch.linspace(0, 1, 10, device=device)[:, None]
    walks = [a + t * (b - a) for a, b in zip(mu[:6], mu.roll(-1, 0)[:6], strict=True)]
    rows = [mu[0] + (6 * t - 3 - mu[0, d]) * F.one_hot(d, args.nz) for d in active[:10]]
    pictures |= {"interpolation": (torch.cat(walks), 10), "traversals": (torch.cat(rows), 10)}  # one dimension -3 ... 3
    if args.nz == 2:  # a grid of equal probability: each cell stands for 1/400 of N(0, I)
        quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(20) + 0.5) / 20).to(device)
        pictures["manifold"] = (torch.cartesian_prod(quantiles, quantiles), 20)
    for name, (z, columns) in pictures.items():
        datasets.save_grid(mean_image(datasets.generate(G, z), args.likelihood), out / f"{name}.png", columns)
    print(f"{out}: reconstructions.png, {', '.join(f'{name}.png' for name in pictures)}")


def measure(nets, train, test, args, device, judges):
    """Samples against the test split; how well, and with how much of the code, test images are described -> Scores."""
    E, G = nets["E"], nets["G"]
    z = draw_codes(args, E, train, min(len(test), args.fid_images), device)
    scores = metrics.judge(datasets.to_uint8(mean_image(datasets.generate(G, z), args.likelihood)), test, train, judges)
    for score in [score for score in scores if score.n_fake]:
        score.note = f"z from the {args.prior} prior" + (f"; {score.note}" if score.note else "")
    means, parts, noise = [], [], torch.Generator().manual_seed(args.seed)
    for x in datasets.batches_of(test, device):
        mu, logvar = datasets.encode(E, [x])
        z = mu + torch.exp(0.5 * logvar) * datasets.draw_noise(mu.shape, noise, device)
        rec = rec_loss(datasets.generate(G, z), x, args.likelihood, args.sigma).item()
        mse = metrics.mse(mean_image(datasets.generate(G, mu), args.likelihood).cpu(), x.cpu())
        parts.append(torch.tensor([rec, mse, *kl_per_dim(mu, logvar)]) * len(x) / len(test))
        means.append(mu)
    rec, mse, *kl = torch.stack(parts).sum(dim=0).tolist()
    variance = torch.cat(means).var(dim=0)  # a unit that says nothing of the image has the same mean for all
    facts = {
        "-ELBO, nats per image": (rec + sum(kl), f"{args.likelihood} likelihood: reconstruction {rec:.1f}"),
        "KL, nats": (sum(kl), "by dimension " + " ".join(f"{k:.2f}" for k in kl)),
        "active units": (
            (variance > 0.01).sum().item(),
            "arXiv:1509.00519; variances of mu " + " ".join(f"{v:.2f}" for v in variance.tolist()),
        ),
        "test MSE": (mse, "images in [-1, 1], z = mu"),
    }
    return scores + [metrics.Score(name, value, n_real=len(test), note=note) for name, (value, note) in facts.items()]


def fakes(args, checkpoint, n):
    """Yields n pictures as --evaluate judges them, uint8 (B, C, S, S), for `python metrics.py fid SET CKPT`."""
    device, _, _ = metrics.pick_device(args.device)
    E, G = build(args, checkpoint["channels"], device, checkpoint).values()
    train = load_images(args, "train", checkpoint["channels"]) if args.prior == "gmm" else None
    for z in draw_codes(args, E, train, n, device).split(200):
        yield datasets.to_uint8(mean_image(datasets.generate(G, z), args.likelihood)).cpu()


def evaluate(args, checkpoint):
    """--evaluate: print the scores and write metrics.json."""
    device, _, _ = metrics.pick_device(args.device)
    train, test = (load_images(args, split, checkpoint["channels"]) for split in ("train", "test"))
    judges = metrics.load_judges(args.fid_dims, train, test, args.weights_dir, args.data_dir, device)
    nets = build(args, checkpoint["channels"], device, checkpoint)
    metrics.write_evaluation(args, checkpoint, measure(nets, train, test, args, device, judges))


# ----------------------------------------------------------------------------------------------------- training

FIGURES = {  # title: columns of log.csv
    "reconstruction, -log p(x | z), nats per image": ["loss_rec"],
    "KL(q(z | x) || N(0, I)), nats per image": ["loss_kl"],
    "MSE of up to 1000 test images in [-1, 1], z = mu": ["mse_test"],
    "active units (of --nz; 0: collapse)": ["active"],
}


def train(args, checkpoint):
    device, rank, world = metrics.pick_device(args.device)
    torch.manual_seed(args.seed)

    # Data
    data = load_images(args, "train", checkpoint["channels"] if checkpoint else 0)
    channels = data.images.shape[1]
    test = load_images(args, "test", channels)
    loader = datasets.make_loader(data, args.batch_size, seed=args.seed, rank=rank, world=world, workers=args.workers)
    x_test = datasets.fixed_batch(test, 1000, device)["image"]
    side = math.isqrt(min(args.num_samples, len(test)))  # of the squares of samples and reconstructions
    fixed_x = datasets.fixed_batch(test, side**2, device)["image"]
    fixed_z = datasets.draw_noise((side**2, args.nz), torch.Generator().manual_seed(args.seed), device)
    if args.eval_every:  # weights not to be had? stop now, not later
        judges = metrics.load_judges(args.fid_dims, data, test, args.weights_dir, args.data_dir, device)

    # Networks, optimiser
    nets = build(args, channels, device, checkpoint)
    E, G = nets["E"], nets["G"]
    opt = torch.optim.Adam([*E.parameters(), *G.parameters()], args.lr, (args.beta1, args.beta2), fused=True)
    noise = torch.Generator().manual_seed(args.seed)  # the only source of random numbers from here on
    done = metrics.restore(checkpoint, noise, {"EG": opt})
    metrics.broadcast_weights(*nets.values(), sync_bn=args.sync_bn)
    if args.compile:
        E.compile(), G.compile()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.amp)

    # Run folder, written by rank 0 alone
    out, last_step = Path(args.out), metrics.last_step(args, len(loader), done)
    if rank == 0:
        log = metrics.start_run(out, vars(args), FIGURES, checkpoint)
    bar = metrics.steps(loader, done, last_step)

    for step, epoch, batch in bar:  # step counts from 1
        x = datasets.to_float(batch["image"], device)
        eps = datasets.draw_noise((len(x), args.nz), noise, device, rank, world)

        # (1) minimise -log p(x | z) + beta KL
        with autocast:
            mu, logvar = E(x)
            logits = G(mu + torch.exp(0.5 * logvar) * eps)  # the gradient passes through z into mu and logvar
        loss_rec = rec_loss(logits, x, args.likelihood, args.sigma)
        loss_kl = kl_per_dim(mu, logvar).sum()
        opt.zero_grad()
        (loss_rec + args.beta * loss_kl).backward()
        metrics.average_gradients(E, G)
        opt.step()

        # (2) scores, log, pictures, checkpoint
        if args.eval_every and step % args.eval_every == 0:  # all processes share the work
            metrics.write_scores(out / f"metrics-{step:07d}.json", measure(nets, data, test, args, device, judges))
        if rank > 0:
            continue
        log.add(len(x) * world, loss_rec=loss_rec, loss_kl=loss_kl)  # means until the next row
        if metrics.due(step, args.log_every, last_step):
            rec, mu = reconstruct(E, G, x_test, args.likelihood)
            active = (mu.var(dim=0) > 0.01).sum()  # dimensions that say something of the image
            row = log.write(step, epoch, mse_test=metrics.mse(rec.cpu(), x_test.cpu()), active=active)
            bar.set_postfix({name: f"{row[name]:.3f}" for name in ("loss_rec", "loss_kl", "mse_test")})
        if metrics.due(step, args.sample_every, last_step):
            rec, _ = reconstruct(E, G, fixed_x, args.likelihood)
            images = (
                mean_image(datasets.generate(G, fixed_z), args.likelihood),
                torch.stack([fixed_x, rec], dim=1).flatten(0, 1),
            )
            images = torch.cat([part.unflatten(0, (side, -1)) for part in images], dim=1).flatten(0, 1)
            titles = ["z"] * side + ["x", "rec"] * side  # side x side samples, left of as many reconstructions
            datasets.save_grid(images, out / f"samples/{step:07d}.png", 3 * side, titles=titles)
            log.plot()
        if metrics.due(step, args.save_every, last_step) or metrics.stopping():
            metrics.save_run(out, SCRIPT, args, step, log, noise, nets, {"EG": opt}, channels=channels)


def main(argv=None):
    parser = build_parser()
    with metrics.one_sentence(parser, datasets.DataError):
        free = ("prior", "components", "fid_dims", "fid_images")
        args, checkpoint = metrics.parse_args(parser, argv, SCRIPT, free)
        if args.arch == "conv":
            widths(args.ngf, args.image_size)  # complains now, not after the data
        metrics.check_ranges(args, "lr sigma nz ngf nef components fid_images", "beta")
        (sample if args.sample else evaluate if args.evaluate else train)(args, checkpoint)


if __name__ == "__main__":
    main()
