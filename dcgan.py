"""DCGAN: a generator of images, and the adversary that teaches it; with the losses and the MLPs of the first GANs.

Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014 (arXiv:1406.2661);
Radford et al., "Unsupervised Representation Learning with Deep Convolutional GANs", ICLR 2016 (arXiv:1511.06434).

  z ~ N(0, I) --G--> fake \\
                           D --> one logit per image: real or fake?
          the data --> real /

  z (B, nz)   G: transposed convolutions, 4 x 4 -> S x S, (B, C, S, S) in [-1, 1]   D: G in the mirror -> (B,) logits
  D: maximise log D(x) + log(1 - D(G(z))), where D = sigmoid(logit)
  G: minimax  minimise log(1 - D(G(z))): its gradient vanishes while D wins       non-saturating  maximise log D(G(z))
  or least squares (arXiv:1611.04076), or hinge (arXiv:1705.02894)

Differences from the DCGAN paper:
  1. Kernels of 4 x 4 in place of 5 x 5: they tile evenly under stride 2. z is normal, not uniform. As most code since.
  2. The loss is computed on logits. A sigmoid in D loses its gradient exactly where G needs it: D sure of itself.
  3. Sizes, rate and batch fit a CPU. The paper's, and the course's: --ngf 128 --ndf 128 --lr 2e-4 --batch-size 128.
  4. Options for small data: --ema, a running average of G's weights, and --diffaug (arXiv:2006.10738).

Measured, the default run on two CPU cores: 4 minutes, in-domain FID-128 38.27 (floor 0.18).
  python dcgan.py                                                     drawn faces, 64 px, without a download
  python dcgan.py --resume auto --epochs 60                           continue it
  python dcgan.py --sample runs/dcgan-faces-s0/last.pt                a grid of samples, walks between samples
  python dcgan.py --evaluate CKPT --fid-dims 768 --weights-dir weights
  course: python dcgan.py --dataset stl10 --batch-size 128 --epochs 100 --lr 2e-4 --ngf 128 --ndf 128
  course: python dcgan.py --dataset mnist --image-size 32 --epochs 5 --lr 1e-4 --loss minimax --ngf 256 --ndf 128
            (and its fully connected one: --arch mlp)
  few images: python dcgan.py --dataset FOLDER --flip --diffaug --ema 0.999
"""

import copy
import math
from argparse import BooleanOptionalAction as yes_no
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import datasets
import metrics

SCRIPT = "dcgan"

# ---------------------------------------------------------------------------------------------------- arguments


def build_parser():
    p = metrics.new_parser(  # --data-dir, --seed, --device, --resume, --sample, --evaluate ...: the same in all scripts
        SCRIPT,
        __doc__,
        dataset="faces",
        image_size=(64, "side in pixels: 28, 32, 64, 128 ... (paper: 64)"),
        epochs=(20, "passes over the training set"),
        batch_size=(32, "images in a step of one process (paper: 128)"),
        lr=(4e-4, "learning rate of Adam (paper: 2e-4)"),
        beta1=(0.5, "Adam's decay of the mean (paper: 0.5)"),
        beta2=(0.999, "Adam's decay of the square (official: 0.999)"),
        num_samples=(36, "samples in a picture"),
        sample_every=250,
    )
    p.add_argument("--arch", default="conv", choices=("conv", "mlp"), help="mlp = fully connected, as the first GAN")
    p.add_argument("--loss", default="nonsat", choices=("minimax", "nonsat", "lsgan", "hinge"), help="(paper: nonsat)")
    p.add_argument("--nz", type=int, default=100, help="length of z (paper: 100)")
    p.add_argument("--ngf", type=int, default=32, help="channels of G's last hidden layer (paper: 128)")
    p.add_argument("--ndf", type=int, default=32, help="channels of D's first layer (official: 128)")
    p.add_argument("--ema", type=float, default=0.0, help="decay of G's averaged weights, say 0.999; 0 = no average")
    p.add_argument("--diffaug", action=yes_no, default=False, help="D sees real and fake images augmented")
    p.add_argument("--flip", action=yes_no, default=False, help="mirror half of the training images")
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


class Discriminator(nn.Module):
    """Images (B, channels, S, S) -> logits (B,): above 0, D takes the image for real."""

    def __init__(self, channels, ndf, image_size, arch="conv"):
        super().__init__()
        if arch == "mlp":
            self.net = nn.Sequential(nn.Flatten(), *mlp(channels * image_size**2, 512, 256, 1))
            return
        width, side = widths(ndf, image_size)
        layers = [nn.Conv2d(channels, width[0], kernel_size=4, stride=2, padding=1, bias=False)]
        for c_in, c_out in zip(width, width[1:], strict=False):  # no BatchNorm at the start: D sees true colours
            layers += [nn.LeakyReLU(0.2, inplace=True)]
            layers += [nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False), nn.BatchNorm2d(c_out)]
        layers += [nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(width[-1], 1, kernel_size=side, bias=False)]
        self.net = nn.Sequential(*layers)  # no sigmoid: see the losses

    def forward(self, x):
        return self.net(x).flatten().float()


def init_weights(net):
    """Convolutions N(0, 0.02) (Radford et al., section 4), BatchNorm's scale N(1, 0.02) (their code), shift 0."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)


# ------------------------------------------------------------------------------------------------------- losses


def d_loss(real, fake, kind):
    """Logits of real and of fake images, (B,) each -> what D minimises. -log D = softplus(-logit), for any logit."""
    if kind == "lsgan":
        return (real - 1).square().mean() + fake.square().mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()  # -log D(x) - log(1 - D(G(z)))


def g_loss(fake, kind):
    """Logits of fake images (B,) -> what G minimises."""
    if kind == "lsgan":
        return (fake - 1).square().mean()
    if kind == "hinge":
        return -fake.mean()
    if kind == "minimax":
        return -F.softplus(fake).mean()  # log(1 - D(G(z))): at logit -6 the gradient is 0.002
    return F.softplus(-fake).mean()  # -log D(G(z)), "the log D trick": at logit -6 the gradient is 0.998


# ------------------------------------------------------------------------------------- pictures and measurements


def build(args, channels, device, checkpoint=None):
    """-> G, D and, with --ema, G_ema by name, initialised or with the checkpoint's weights."""
    nets = {
        "G": Generator(args.nz, channels, args.ngf, args.image_size, args.arch),
        "D": Discriminator(channels, args.ndf, args.image_size, args.arch),
    }
    for net in nets.values():
        init_weights(net)
    if args.ema:
        nets["G_ema"] = copy.deepcopy(nets["G"]).requires_grad_(False)
    for name, net in nets.items():
        if checkpoint:
            net.load_state_dict(checkpoint[name])
        net.to(device, memory_format=torch.channels_last)  # 1.2 times faster with BatchNorm
    return nets


def load_images(args, split, channels=0):
    """A split of --dataset; channels 1 or 3, 0 = as the set has them."""
    how = dict(**datasets.how_to_load(args), channels=channels, input_channels=channels)
    return datasets.load(args.dataset, split, args.image_size, **how)


def sample(args, checkpoint):
    """--sample: a grid of samples, and walks between samples."""
    device, _, _ = metrics.pick_device(args.device)
    nets = build(args, checkpoint["channels"], device, checkpoint)
    G = nets.get("G_ema", nets["G"])
    z = datasets.draw_noise((max(12, args.num_samples), args.nz), torch.Generator().manual_seed(args.seed), device)
    out = Path(args.out, "samples")
    datasets.save_grid(
        datasets.generate(G, z[: args.num_samples]), out / "samples.png", columns=math.isqrt(args.num_samples)
    )
    walks = torch.cat([datasets.slerp(a, b, 10) for a, b in zip(z[0:12:2], z[1:12:2], strict=True)])
    datasets.save_grid(datasets.generate(G, walks), out / "interpolation.png", columns=10)
    print(f"{out}: samples.png, interpolation.png")


def measure(nets, train, test, args, device, judges):
    """Samples against the test split -> list of metrics.Score."""
    n = min(len(test), args.fid_images)
    z = datasets.draw_noise((n, args.nz), torch.Generator().manual_seed(args.seed), device)
    fake = datasets.to_uint8(datasets.generate(nets.get("G_ema", nets["G"]), z))
    return metrics.judge(fake, test, train, judges)


def fakes(args, checkpoint, n):
    """Yields n pictures as --evaluate judges them, uint8 (B, C, S, S), for `python metrics.py fid SET CKPT`."""
    device, _, _ = metrics.pick_device(args.device)
    nets = build(args, checkpoint["channels"], device, checkpoint)
    for z in datasets.draw_noise((n, args.nz), torch.Generator().manual_seed(args.seed), device).split(200):
        yield datasets.to_uint8(datasets.generate(nets.get("G_ema", nets["G"]), z)).cpu()


def evaluate(args, checkpoint):
    """--evaluate: print the scores and write metrics.json."""
    device, _, _ = metrics.pick_device(args.device)
    train, test = (load_images(args, split, checkpoint["channels"]) for split in ("train", "test"))
    judges = metrics.load_judges(args.fid_dims, train, test, args.weights_dir, args.data_dir, device)
    nets = build(args, checkpoint["channels"], device, checkpoint)
    metrics.write_evaluation(args, checkpoint, measure(nets, train, test, args, device, judges))


# ----------------------------------------------------------------------------------------------------- training

FIGURES = {  # title: columns of log.csv
    "losses": ["loss_D", "loss_G"],
    "D's accuracy (0.5: it cannot tell; 1: G learns little)": ["acc_real", "acc_fake"],
    "share of distinct samples (near 0: collapse)": ["distinct"],
    "norm of the gradient": ["grad_D", "grad_G"],
}


def train(args, checkpoint):
    device, rank, world = metrics.pick_device(args.device)
    torch.manual_seed(args.seed)

    # Data
    data = load_images(args, "train", checkpoint["channels"] if checkpoint else 0)
    channels = data.images.shape[1]
    loader = datasets.make_loader(data, args.batch_size, seed=args.seed, rank=rank, world=world, workers=args.workers)
    fixed_z = datasets.draw_noise((args.num_samples, args.nz), torch.Generator().manual_seed(args.seed), device)
    if args.eval_every:  # weights not to be had? stop now, not later
        test = load_images(args, "test", channels)
        judges = metrics.load_judges(args.fid_dims, data, test, args.weights_dir, args.data_dir, device)

    # Networks, optimisers
    nets = build(args, channels, device, checkpoint)
    G, D = nets["G"], nets["D"]
    adam = dict(lr=args.lr, betas=(args.beta1, args.beta2), fused=True)
    opts = {name: torch.optim.Adam(nets[name].parameters(), **adam) for name in ("G", "D")}
    noise = torch.Generator().manual_seed(args.seed)  # the only source of random numbers from here on
    done = metrics.restore(checkpoint, noise, opts)
    metrics.broadcast_weights(*nets.values(), sync_bn=args.sync_bn)
    if args.compile:
        G.compile(), D.compile()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.amp)

    def see(x):  # what D looks at
        if not args.diffaug:
            return x
        return datasets.diff_augment(x, datasets.draw_uniform((len(x), 7), noise, device, rank, world))

    # Run folder, written by rank 0 alone
    out, last_step = Path(args.out), metrics.last_step(args, len(loader), done)
    if rank == 0:
        log = metrics.start_run(out, vars(args), FIGURES, checkpoint)
    row, bar = {}, metrics.steps(loader, done, last_step)

    for step, epoch, batch in bar:  # step counts from 1
        real = datasets.to_float(batch["image"], device)
        if args.flip:
            real = datasets.augment(real, flip=True, rank=rank, world=world, generator=noise)
        z = datasets.draw_noise((len(real), args.nz), noise, device, rank, world)

        # (1) D step: maximise log D(x) + log(1 - D(G(z)))
        D.requires_grad_(True)
        with autocast:
            fake = G(z)
            D_real = D(see(real))  # real and fake in passes of their own, each with its own BatchNorm statistics
            D_fake = D(see(fake.detach()))  # detach: no gradient into G
        loss_D = d_loss(D_real, D_fake, args.loss)
        opts["D"].zero_grad()
        loss_D.backward()
        metrics.average_gradients(D)
        opts["D"].step()

        # (2) G step: maximise log D(G(z)), on the same fakes, seen by the D that has just learnt
        D.requires_grad_(False)
        with autocast:
            loss_G = g_loss(D(see(fake)), args.loss)
        opts["G"].zero_grad()
        loss_G.backward()
        metrics.average_gradients(G)
        opts["G"].step()
        if args.ema:
            for average, new in zip(nets["G_ema"].parameters(), G.parameters(), strict=True):
                average.lerp_(new.detach(), 1 - args.ema)
            for kept, new in zip(nets["G_ema"].buffers(), G.buffers(), strict=True):  # BatchNorm's are averages already
                kept.copy_(new)

        # (3) scores, log, pictures, checkpoint
        if args.eval_every and step % args.eval_every == 0:  # all processes share the work
            metrics.write_scores(out / f"metrics-{step:07d}.json", measure(nets, data, test, args, device, judges))
        if rank > 0:
            continue
        threshold = 0.5 if args.loss == "lsgan" else 0.0
        right = dict(acc_real=(D_real > threshold).float().mean(), acc_fake=(D_fake < threshold).float().mean())
        log.add(len(real) * world, loss_D=loss_D, loss_G=loss_G, **right)  # means until the next row
        if metrics.due(step, args.log_every, last_step):
            row = log.write(step, epoch, distinct=metrics.distinct(fake, real), **metrics.grad_norms(D=D, G=G))
            bar.set_postfix({name: f"{row[name]:.3f}" for name in ("loss_D", "loss_G", "distinct")})
        if metrics.due(step, args.sample_every, last_step):
            images = datasets.generate(nets.get("G_ema", G), fixed_z)
            datasets.save_grid(images, out / f"samples/{step:07d}.png", columns=math.isqrt(args.num_samples))
            log.plot()
            bar.write(f"step {step}: {metrics.gan_health(row)}" if row else "")
        if metrics.due(step, args.save_every, last_step) or metrics.stopping():
            metrics.save_run(out, SCRIPT, args, step, log, noise, nets, opts, channels=channels)


def main(argv=None):
    parser = build_parser()
    with metrics.one_sentence(parser, datasets.DataError):
        args, checkpoint = metrics.parse_args(parser, argv, SCRIPT, ("fid_dims", "fid_images"))
        widths(args.ngf, args.image_size)  # complains now, not after the data
        metrics.check_ranges(args, "lr nz ngf ndf fid_images", "ema")
        if args.ema >= 1:
            raise datasets.DataError(f"--ema {args.ema} must be below 1")
        (sample if args.sample else evaluate if args.evaluate else train)(args, checkpoint)


if __name__ == "__main__":
    main()
