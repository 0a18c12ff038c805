"""WGAN: a critic that measures how far the samples are from the data, under three ways to keep it 1-Lipschitz.

Arjovsky, Chintala, Bottou, "Wasserstein GAN", ICML 2017 (arXiv:1701.07875): --lipschitz clip;
Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017 (arXiv:1704.00028): --lipschitz gp;
Miyato et al., "Spectral Normalization for GANs", ICLR 2018 (arXiv:1802.05957): --lipschitz sn.

  z ~ N(0, I) --G--> fake \\
                           D --> one score per image, any real number: higher = more like the data
            the data --> real /

  z (B, nz)   G: DCGAN's, (B, C, S, S) in [-1, 1]   D, the critic f: G in the mirror -> (B,)   points (B, 2): MLPs
  The earth mover's distance of two distributions is the largest E f(x) - E f(G(z)) over all 1-Lipschitz f.
  D: maximise E D(x) - E D(G(z)), n_critic steps for each of G's           G: maximise E D(G(z))
  clip: every weight of D in [-c, c]       gp: minimise 10 (|grad D(x')| - 1)^2 too, x' between a real and a fake one
  sn:   every layer divided by its largest singular value

Logged: wasserstein = E D(x) - E D(G(z)), positive, falls as samples get better. In mode gp it estimates the distance;
clip and sn bound the slope by a number that nobody knows, so theirs is a multiple of it. wasserstein_test: the same for
images that D has not learnt from; where it stays behind, D learns the training set by heart.

Differences from the papers:
  1. A step is one batch and one update of D; G learns in every n_critic-th step, from noise of its own.
  2. Weights are clipped after D's update, as Algorithm 1 has it; the official code clips before, so that G sees weights
     beyond c. Its 100 critic steps for each of the first 25 steps of G are left out.
  3. G is DCGAN's, with BatchNorm; D has BatchNorm in mode clip only. A penalty on the gradient at each image makes no
     sense where images of a batch change each other's scores.
  4. Mode sn: the Wasserstein loss, which the paper has for WGAN-GP alone, so that only the constraint differs.
  5. Defaults fit a CPU: 32 channels, 28 px. Official: --image-size 64 --ngf 64 --ndf 64; MLPs of 512: --ndf 128.

Measured, the default run on two CPU cores: 4 minutes, in-domain FID-128 10.85 (floor 0.66),
in-domain IS 5.48 (ceiling 9.85).
  python wgan.py                                                drawn digits, 28 px, without a download
  python wgan.py --resume auto --epochs 200                     continue it
  python wgan.py --sample runs/wgan-digits-s0/last.pt           a grid of samples, walks between samples
  python wgan.py --evaluate CKPT                                FID and more by a classifier; of points the distance
  python wgan.py --dataset 8gaussians                           points and D's contours; also 25gaussians, swissroll
  python wgan.py --dataset 8gaussians --lipschitz clip          the same, clipped: D is nearly a plane, of slope 0.0001
  paper:  python wgan.py --dataset cifar10 --image-size 32 --ngf 64 --ndf 64 --epochs 640
  course: python wgan.py --dataset fashion-mnist --epochs 40
"""

import math
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import datasets
import metrics

SCRIPT = "wgan"
PAPER = {  # --lipschitz: what its paper trains with; no betas: RMSprop
    "clip": {"lr": 5e-5, "beta1": None, "beta2": None},
    "gp": {"lr": 1e-4, "beta1": 0.0, "beta2": 0.9},
    "sn": {"lr": 2e-4, "beta1": 0.0, "beta2": 0.9},
}

# ---------------------------------------------------------------------------------------------------- arguments


def build_parser():
    p = metrics.new_parser(  # --data-dir, --seed, --device, --resume, --sample, --evaluate ...: the same in all scripts
        SCRIPT,
        __doc__,
        dataset="digits",
        image_size=(28, "side in pixels: 28, 32, 64, 128 ... (paper: 64)"),
        epochs=(130, "passes over the training set"),
        batch_size=(64, "images in a step of one process (paper: 64)"),
        lr=(None, "None = the paper's: clip 5e-5, gp 1e-4, sn 2e-4; of points 10 times that"),
        beta1=(None, "Adam's decay of the mean; None = the paper's: gp, sn 0"),
        beta2=(None, "Adam's decay of the square; None = the paper's: gp, sn 0.9"),
        num_samples=(36, "images in a picture"),
    )
    p.add_argument("--arch", default="conv", choices=("conv", "mlp"), help="mlp = fully connected; of points always")
    p.add_argument("--lipschitz", default="gp", choices=("clip", "gp", "sn"), help="what bounds D's slope")
    p.add_argument("--n-critic", type=int, default=5, help="steps of the critic for each of G (papers: 5)")
    p.add_argument("--clip", type=float, default=0.01, help="clip: the largest weight of the critic, c (paper: 0.01)")
    p.add_argument("--lambda-gp", type=float, help="gp: weight of the penalty; None = the paper's: 10; of points 0.1")
    p.add_argument("--nz", type=int, help="length of z; None = DCGAN's: 100; of points 2")
    p.add_argument("--ngf", type=int, default=32, help="channels of G's last hidden layer; MLPs: 1/4 (official: 64)")
    p.add_argument("--ndf", type=int, default=32, help="channels of the critic's first layer; MLPs: 1/4 (official: 64)")
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


def mlp(*sizes):
    layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return layers[:-1]


class Generator(nn.Module):
    """z (B, nz) -> images (B, channels, S, S) in [-1, 1]. No bias: BatchNorm has its own, and [-1, 1] is centred."""

    def __init__(self, nz, channels, ngf, image_size, arch="conv"):
        super().__init__()
        if arch == "mlp":
            pixels = (channels, image_size, image_size)
            self.net = nn.Sequential(nn.Flatten(), *mlp(nz, 256, 512, 1024, math.prod(pixels)))
            self.net.extend([nn.Unflatten(1, pixels), nn.Tanh()])
            return
        width, side = widths(ngf, image_size)
        width = width[::-1]  # ngf 128 at 64 px: 1024 512 256 128
        layers = [nn.ConvTranspose2d(nz, width[0], kernel_size=side, bias=False)]  # 1 x 1 -> side x side
        for c_in, c_out in zip(width, [*width[1:], channels], strict=True):  # each doubles the side
            layers += [nn.BatchNorm2d(c_in), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False)]
        self.net = nn.Sequential(*layers, nn.Tanh())  # no BatchNorm at the end: colours are not normalised

    def forward(self, z):
        return self.net(z[:, :, None, None]).float()


class Critic(nn.Module):
    """Images (B, channels, S, S) -> scores (B,). channels 0: points (B, 2). No sigmoid: any real number is a score."""

    def __init__(self, channels, ndf, image_size, arch="conv", batch_norm=False):
        super().__init__()
        if arch == "mlp" or channels == 0:
            self.net = nn.Sequential(nn.Flatten(), *mlp(channels * image_size**2 or 2, *[4 * ndf] * 3, 1))
            return
        width, side = widths(ndf, image_size)
        conv = dict(kernel_size=4, stride=2, padding=1, bias=not batch_norm)
        layers = [nn.Conv2d(channels, width[0], **conv)]
        for c_in, c_out in zip(width, width[1:], strict=False):
            layers += [nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(c_in, c_out, **conv)]
            if batch_norm:  # always the statistics of the batch at hand: nobody needs a critic of single images
                layers += [nn.BatchNorm2d(c_out, track_running_stats=False)]
        layers += [nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(width[-1], 1, kernel_size=side, bias=False)]
        self.net = nn.Sequential(*layers)  # a bias of the last layer would cancel in E D(x) - E D(G(z))

    def forward(self, x):
        return self.net(x).flatten().float()


def init_weights(net):
    """DCGAN's N(0, 0.02) in networks with BatchNorm; else He's, since nothing would restore the scale of the signal."""
    has_norm = any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(p)
        elif p.ndim == 1:  # BatchNorm's scale
            nn.init.normal_(p, mean=1.0, std=0.02)
        elif has_norm:
            nn.init.normal_(p, mean=0.0, std=0.02)
        else:
            nn.init.kaiming_normal_(p, a=0.2)


# ------------------------------------------------------------------------------------------------------- losses


def between(real, fake, a):
    """a in [0, 1], (B, 1), one for each pair -> the points a real + (1 - a) fake on the segments between them."""
    a = a.view(-1, *[1] * (real.ndim - 1))
    return a * real + (1 - a) * fake


def slopes(D, x):
    """|grad D(x)|, (B,): the Euclidean norm over all pixels and channels of each image, differentiable in D's weights.

    norm(), unlike sqrt(sum of squares), has a gradient where the slope is 0: at a critic whose ReLUs are all dead.
    """
    x = x.detach().requires_grad_(True)
    scores = D.forward(x)  # not D(x): torch.compile has no second derivatives
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)  # create_graph: the penalty teaches D
    return gradient.flatten(1).norm(2, dim=1)


def gradient_penalty(D, real, fake, a):
    """(|grad D(x')| - 1)^2 at points x' between real and fake ones (arXiv:1704.00028, eq. 3)."""
    return (slopes(D, between(real, fake, a)) - 1).square().mean()


# ------------------------------------------------------------------------------------- pictures and measurements


def build(args, channels, device, checkpoint=None):
    """-> G and D by name, initialised or with the checkpoint's weights. channels 0: for points."""
    D = Critic(channels, args.ndf, args.image_size, args.arch, batch_norm=args.lipschitz == "clip")
    if channels:
        G = Generator(args.nz, channels, args.ngf, args.image_size, args.arch)
    else:
        G = nn.Sequential(*mlp(args.nz, *[4 * args.ngf] * 3, 2))  # no tanh: a plane has no border
    nets = {"G": G, "D": D}
    for net in nets.values():
        init_weights(net)
    for layer in list(D.modules()) if args.lipschitz == "sn" else []:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            spectral_norm(layer)  # one power iteration at each call in training mode, none in evaluation mode
    for name, net in nets.items():
        if checkpoint:
            net.load_state_dict(checkpoint[name])
        net.to(device, memory_format=torch.channels_last)  # 1.2 times faster with BatchNorm
    return nets


def load_data(args, split, channels=0):
    """A split of --dataset, images or points; channels 1 or 3, 0 = as the set has them."""
    how = dict(**datasets.how_to_load(args), channels=channels, input_channels=channels, points=True)
    return datasets.load(args.dataset, split, args.image_size, **how)


def draw_points(nets, real, z, path):
    """A picture of the critic's contours, of real points (N, 2), and of samples."""
    datasets.save_contours(
        lambda grid: datasets.generate(nets["D"], grid.to(z.device)), real, datasets.generate(nets["G"], z), path
    )


def sample(args, checkpoint):
    """--sample: a grid of samples, and walks between samples; of points, the picture with more of them."""
    device, _, _ = metrics.pick_device(args.device)
    nets = build(args, checkpoint["channels"], device, checkpoint)
    out, noise = Path(args.out, "samples"), torch.Generator().manual_seed(args.seed)
    if not checkpoint["channels"]:
        z = datasets.draw_noise((4000, args.nz), noise, device)
        return draw_points(nets, load_data(args, "test").points, z, out / "samples.png")
    z = datasets.draw_noise((max(12, args.num_samples), args.nz), noise, device)
    images = datasets.generate(nets["G"], z[: args.num_samples])
    datasets.save_grid(images, out / "samples.png", columns=math.isqrt(args.num_samples))
    walks = torch.cat([datasets.slerp(a, b, 10) for a, b in zip(z[0:12:2], z[1:12:2], strict=True)])
    datasets.save_grid(datasets.generate(nets["G"], walks), out / "interpolation.png", columns=10)
    print(f"{out}: samples.png, interpolation.png")


def measure(nets, train, test, args, device, judges):
    """Samples against the test split -> list of metrics.Score."""
    n = min(len(test), args.fid_images)
    z = datasets.draw_noise((n, args.nz), torch.Generator().manual_seed(args.seed), device)
    fake = datasets.generate(nets["G"], z)
    if fake.ndim == 2:
        return metrics.score_points(args.dataset, fake.cpu().numpy(), test.points[:n], train.points)
    return metrics.judge(datasets.to_uint8(fake), test, train, judges)


def fakes(args, checkpoint, n):
    """Yields n pictures as --evaluate judges them, uint8 (B, C, S, S), for `python metrics.py fid SET CKPT`."""
    device, _, _ = metrics.pick_device(args.device)
    if not checkpoint["channels"]:
        raise datasets.DataError(f"the checkpoint makes points, as {args.dataset} has them; points are no pictures")
    G = build(args, checkpoint["channels"], device, checkpoint)["G"]
    for z in datasets.draw_noise((n, args.nz), torch.Generator().manual_seed(args.seed), device).split(200):
        yield datasets.to_uint8(datasets.generate(G, z)).cpu()


def evaluate(args, checkpoint):
    """--evaluate: print the scores and write metrics.json."""
    device, _, _ = metrics.pick_device(args.device)
    train, test = (load_data(args, split, checkpoint["channels"]) for split in ("train", "test"))
    judges = None
    if checkpoint["channels"]:  # points need no judge
        judges = metrics.load_judges(args.fid_dims, train, test, args.weights_dir, args.data_dir, device)
    nets = build(args, checkpoint["channels"], device, checkpoint)
    metrics.write_evaluation(args, checkpoint, measure(nets, train, test, args, device, judges))


# ----------------------------------------------------------------------------------------------------- training

FIGURES = {  # title: columns of log.csv
    "E D(x) - E D(G(z)): in training, on held-out images": ["wasserstein", "wasserstein_test"],
    "G's loss -E D(G(z)), up to a constant that drifts": ["loss_G"],
    "slope of the critic between data and samples": ["slope"],
    "share of distinct samples (near 0: collapse)": ["distinct"],
}


def watch_critic(D, real, fake, test, args):
    """What a row of the log says of the critic; nothing here changes it, nor draws a random number."""
    D.eval()  # no power iteration
    with torch.no_grad():
        wasserstein_test = D(test).mean() - D(fake).mean()
    slope = slopes(D, between(real, fake, torch.linspace(0, 1, len(real), device=real.device))).mean().detach()
    row = {"wasserstein_test": wasserstein_test, "slope": slope, "distinct": metrics.distinct(fake, real)}
    if args.lipschitz == "clip":
        weights = torch.cat([p.detach().flatten() for p in D.parameters()])
        row["at_bound"] = (weights.abs() >= 0.999 * args.clip).float().mean()
    D.train()
    return row


def train(args, checkpoint):
    device, rank, world = metrics.pick_device(args.device)
    torch.manual_seed(args.seed)

    # Data
    data, test = (load_data(args, split, checkpoint["channels"] if checkpoint else 0) for split in ("train", "test"))
    points = isinstance(data, datasets.Points)
    channels = 0 if points else data.images.shape[1]
    loader = datasets.make_loader(data, args.batch_size, seed=args.seed, rank=rank, world=world, workers=args.workers)
    held_out = datasets.fixed_batch(test, 256, device)["image"]
    fixed_z = (1000 if points else args.num_samples, args.nz)
    fixed_z = datasets.draw_noise(fixed_z, torch.Generator().manual_seed(args.seed), device)
    judges = None
    if args.eval_every and not points:  # weights not to be had? stop now, not later
        judges = metrics.load_judges(args.fid_dims, data, test, args.weights_dir, args.data_dir, device)

    # Networks, optimisers
    nets = build(args, channels, device, checkpoint)
    G, D = nets["G"], nets["D"]
    if args.lipschitz == "clip":  # no momentum: the critic, and so G's loss, changes all the time (WGAN, section 4)
        opts = {name: torch.optim.RMSprop(nets[name].parameters(), lr=args.lr) for name in ("G", "D")}
    else:
        adam = dict(lr=args.lr, betas=(args.beta1, args.beta2), fused=True)
        opts = {name: torch.optim.Adam(nets[name].parameters(), **adam) for name in ("G", "D")}
    noise = torch.Generator().manual_seed(args.seed)  # the only source of random numbers from here on
    done = metrics.restore(checkpoint, noise, opts)
    metrics.broadcast_weights(*nets.values(), sync_bn=args.sync_bn)
    if args.compile:
        G.compile(), D.compile()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.amp)

    # Run folder, written by rank 0 alone
    out, last_step = Path(args.out), metrics.last_step(args, len(loader), done)
    if rank == 0:
        extra = {"gp": {"penalty": ["loss_gp"]}, "clip": {"share of weights at the bound": ["at_bound"]}, "sn": {}}
        log = metrics.start_run(out, vars(args), FIGURES | extra[args.lipschitz], checkpoint)
    bar = metrics.steps(loader, done, last_step)

    for step, epoch, batch in bar:  # step counts from 1
        # (1) D step: maximise E D(x) - E D(G(z)) under the constraint
        real = datasets.to_float(batch["image"], device)
        z = datasets.draw_noise((len(real), args.nz), noise, device, rank, world)
        with torch.no_grad(), autocast:  # no gradient into G
            fake = G(z).float()
        log_now = rank == 0 and metrics.due(step, args.log_every, last_step)
        row = watch_critic(D, real, fake, held_out, args) if log_now else {}  # before D learns from this batch
        D.requires_grad_(True)
        with autocast:
            if args.lipschitz == "clip":  # passes of their own, each with its own BatchNorm statistics
                D_real, D_fake = D(real), D(fake)
            else:
                D_real, D_fake = D(torch.cat([real, fake])).chunk(2)
        wasserstein = D_real.mean() - D_fake.mean()
        losses = {"wasserstein": wasserstein, "loss_G": -D_fake.mean()}
        loss_D = -wasserstein
        if args.lipschitz == "gp":  # outside autocast: second derivatives want 32 bits
            a = datasets.draw_uniform((len(real), 1), noise, device, rank, world)
            losses["loss_gp"] = gradient_penalty(D, real, fake, a)
            loss_D = loss_D + args.lambda_gp * losses["loss_gp"]
        opts["D"].zero_grad()
        loss_D.backward()
        metrics.average_gradients(D)
        opts["D"].step()
        if args.lipschitz == "clip":
            with torch.no_grad():
                for p in D.parameters():
                    p.clamp_(-args.clip, args.clip)

        # (2) G step, after every n_critic of those: maximise E D(G(z)), with fresh noise
        if step % args.n_critic == 0:
            z = datasets.draw_noise((len(real), args.nz), noise, device, rank, world)
            D.requires_grad_(False)
            with autocast:
                loss_G = -D(G(z)).mean()
            opts["G"].zero_grad()
            loss_G.backward()
            metrics.average_gradients(G)
            opts["G"].step()

        # (3) scores, log, pictures, checkpoint
        if args.eval_every and step % args.eval_every == 0:  # all processes share the work
            metrics.write_scores(out / f"metrics-{step:07d}.json", measure(nets, data, test, args, device, judges))
        if rank > 0:
            continue
        log.add(len(real) * world, **losses)  # means until the next row
        if log_now:
            row = log.write(step, epoch, **row)
            bar.set_postfix({name: f"{row[name]:.3f}" for name in ("wasserstein", "wasserstein_test", "distinct")})
        if metrics.due(step, args.sample_every, last_step):
            path = out / f"samples/{step:07d}.png"
            if points:
                draw_points(nets, test.points[:1000], fixed_z, path)
            else:
                datasets.save_grid(datasets.generate(G, fixed_z), path, columns=math.isqrt(args.num_samples))
            log.plot()
        if metrics.due(step, args.save_every, last_step) or metrics.stopping():
            metrics.save_run(out, SCRIPT, args, step, log, noise, nets, opts, channels=channels)


def resolve(args):
    """Give the flags that were left out (None) the values of the paper of --lipschitz -> args."""
    points = args.dataset in datasets.TOYS
    if args.lipschitz == "clip" and (args.beta1, args.beta2) != (None, None):
        raise datasets.DataError("--lipschitz clip trains with RMSprop, which has no --beta1 and --beta2")
    defaults = PAPER[args.lipschitz] | {"lambda_gp": 10.0, "nz": 100}
    if points:  # a minute is short; and under a weight of 10 a critic that slopes the wrong way hardly turns round
        defaults |= {"lr": 10 * defaults["lr"], "lambda_gp": 0.1, "nz": 2}
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main(argv=None):
    parser = build_parser()
    with metrics.one_sentence(parser, datasets.DataError):
        args, checkpoint = metrics.parse_args(parser, argv, SCRIPT, ("fid_dims", "fid_images"))
        points = args.dataset in datasets.TOYS
        if checkpoint and points != (checkpoint["channels"] == 0):
            kinds = ("points", "images") if points else ("images", "points")
            raise datasets.DataError(f"{args.dataset} has {kinds[0]}; the checkpoint makes {kinds[1]}")
        if not points:
            widths(args.ngf, args.image_size)  # complains now, not after the data
        resolve(args)
        metrics.check_ranges(args, "lr nz ngf ndf fid_images n_critic clip", "lambda_gp")
        (sample if args.sample else evaluate if args.evaluate else train)(args, checkpoint)


if __name__ == "__main__":
    main()
