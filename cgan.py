"""CGAN: a GAN that is told which class to make.

Mirza and Osindero, "Conditional Generative Adversarial Nets", 2014 (arXiv:1411.1784).

  z ~ N(0, I), class c --G--> fake, c \\
                                      D --> one logit: is this a real image *of class c*?
                     the data: x, c --> /

  z (B, nz), c one-hot (B, K)   G(z, c): (B, nz + K) -> 4 x 4 -> S x S, (B, C, S, S) in [-1, 1]
  D(x, c): the image and K maps, all 1 in the map of its class, (B, C + K, S, S) -> (B,) logits
  D: maximise log D(x, c) + log(1 - D(G(z, c), c))                   (equation 2, D = sigmoid(logit))
  G: maximise log D(G(z, c), c), the non-saturating form             its c: as frequent as each class is in the data

Differences from the paper:
  1. Convolutions, those of dcgan.py, in place of fully connected layers with maxout: models compare on equal networks.
  2. Adam at a constant rate, no dropout, z normal in place of uniform.
  3. The non-saturating loss for G, and losses on logits: see dcgan.py.

Measured, the default run on two CPU cores: 1.0 minutes, in-domain FID-128 1.11 (floor 0.66),
in-domain IS 9.28 (ceiling 9.85).
  python cgan.py                                                      drawn digits, 28 px, without a download
  python cgan.py --resume auto --epochs 60                            continue it
  python cgan.py --sample runs/cgan-digits-s0/last.pt                 a column for each class, a row for each z; walks
  python cgan.py --sample CKPT --classes 3,7 --num-samples 64         some classes, by number or by name
  python cgan.py --evaluate CKPT                                      FID, IS, label accuracy, FID of each class
  course: python cgan.py --dataset fashion-mnist --epochs 40 --ngf 64 --ndf 64
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import datasets
import metrics

SCRIPT = "cgan"

# ---------------------------------------------------------------------------------------------------- arguments


def build_parser():
    p = metrics.new_parser(  # --data-dir, --seed, --device, --resume, --sample, --evaluate ...: the same in all scripts
        SCRIPT,
        __doc__,
        dataset="digits",
        image_size=(28, "side in pixels: 28, 32, 64, 128 ... (paper: 28)"),
        epochs=(24, "passes over the training set"),
        batch_size=(64, "images in a step of one process (paper: 100)"),
        lr=(2e-4, "learning rate of Adam (paper: SGD, 0.1)"),
        beta1=(0.5, "Adam's decay of the mean"),
        beta2=(0.999, "Adam's decay of the square"),
        num_samples=(100, "samples in a picture, of all its classes together"),
        sample_every=250,
    )
    p.add_argument("--nz", type=int, default=100, help="length of z (paper: 100)")
    p.add_argument("--ngf", type=int, default=32, help="channels of G's last hidden layer")
    p.add_argument("--ndf", type=int, default=32, help="channels of D's first layer")
    p.add_argument("--classes", default="", metavar="C,C,...", help="with --sample: only these, by number or name")
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


class Generator(nn.Module):
    """z (B, nz), c one-hot (B, K) -> images (B, channels, S, S) in [-1, 1]."""

    def __init__(self, nz, classes, channels, ngf, image_size):
        super().__init__()
        width, side = widths(ngf, image_size)
        width = width[::-1]
        layers = [nn.ConvTranspose2d(nz + classes, width[0], kernel_size=side, bias=False)]  # 1 x 1 -> side x side
        for c_in, c_out in zip(width, [*width[1:], channels], strict=True):  # each doubles the side
            layers += [nn.BatchNorm2d(c_in), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False)]
        self.net = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z, c):
        return self.net(torch.cat([z, c], dim=1)[:, :, None, None]).float()


class Discriminator(nn.Module):
    """x (B, channels, S, S), c one-hot (B, K) -> logits (B,): above 0, x looks like a real image of class c."""

    def __init__(self, channels, classes, ndf, image_size):
        super().__init__()
        width, side = widths(ndf, image_size)
        layers = [nn.Conv2d(channels + classes, width[0], kernel_size=4, stride=2, padding=1, bias=False)]
        for c_in, c_out in zip(width, width[1:], strict=False):
            layers += [nn.LeakyReLU(0.2, inplace=True)]
            layers += [nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False), nn.BatchNorm2d(c_out)]
        layers += [nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(width[-1], 1, kernel_size=side, bias=False)]
        self.net = nn.Sequential(*layers)  # no sigmoid: see the losses

    def forward(self, x, c):
        maps = c[:, :, None, None].expand(-1, -1, *x.shape[2:])  # (B, K, S, S)
        return self.net(torch.cat([x, maps], dim=1)).flatten().float()


def init_weights(net):
    """Convolutions N(0, 0.02) (Radford et al., section 4), BatchNorm's scale N(1, 0.02) (their code), shift 0."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)


# ------------------------------------------------------------------------------------------------------- losses


def d_loss(real, fake):
    """Logits of real and of fake images, (B,) each -> -log D(x, c) - log(1 - D(G(z, c), c)), for any logit."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def g_loss(fake):
    """Logits of fake images (B,) -> -log D(G(z, c), c)."""
    return F.softplus(-fake).mean()


# ------------------------------------------------------------------------------------- pictures and measurements


def build(args, channels, device, checkpoint=None):
    """channels (of an image, number of classes) -> G, D by name, initialised or with the checkpoint's weights."""
    C, K = channels
    nets = {
        "G": Generator(args.nz, K, C, args.ngf, args.image_size),
        "D": Discriminator(C, K, args.ndf, args.image_size),
    }
    for name, net in nets.items():
        init_weights(net)
        if checkpoint:
            net.load_state_dict(checkpoint[name])
        net.to(device, memory_format=torch.channels_last)  # 1.2 times faster with BatchNorm
    return nets


def load_labelled(args, split, channels=(0, 0)):
    """A split of --dataset, which must have classes; channels (of an image, number of classes), 0 = as the set has."""
    how = dict(**datasets.how_to_load(args), channels=channels[0], input_channels=channels[0])
    data = datasets.load(args.dataset, split, args.image_size, **how)
    if data.labels is None:
        raise datasets.DataError(f"{args.dataset} has no classes; use digits, mnist or a folder of class folders")
    if channels[1] not in (0, len(data.classes)):
        raise datasets.DataError(f"{args.dataset} has {len(data.classes)} classes, the checkpoint {channels[1]}")
    return data


def one_hot(labels, classes, device):
    """Class numbers (N,), an array or a tensor -> float (N, K)."""
    return F.one_hot(torch.as_tensor(labels), classes).float().to(device)


def choose_classes(text, names):
    """--classes -> class numbers; "" = all. Raises DataError for an unknown one."""
    chosen = []
    for part in filter(None, map(str.strip, text.split(","))):
        if part not in names and not (part.isdecimal() and int(part) < len(names)):
            raise datasets.DataError(f"--classes {part}: the classes are {', '.join(names)}, or 0 to {len(names) - 1}")
        chosen.append(names.index(part) if part in names else int(part))
    return chosen or list(range(len(names)))


def draw_grid(G, z, labels, names, path):
    """A picture with a column for each of the classes `labels` and a row for each z (n, nz)."""
    c = one_hot(labels, len(names), z.device)
    images = datasets.generate(G, z.repeat_interleave(len(c), dim=0), c.repeat(len(z), 1))  # row by row
    datasets.save_grid(images, path, columns=len(c), titles=[names[label] for label in labels])


def sample(args, checkpoint):
    """--sample: samples.png, a column for each class; interpolation.png, z on its way from one code to another."""
    device, _, _ = metrics.pick_device(args.device)
    names = checkpoint["classes"]
    labels = choose_classes(args.classes, names)
    G = build(args, checkpoint["channels"], device, checkpoint)["G"]
    rows = -(-args.num_samples // len(labels))
    z = datasets.draw_noise((max(2, rows), args.nz), torch.Generator().manual_seed(args.seed), device)
    out = Path(args.out, "samples")
    draw_grid(G, z[:rows], labels, names, out / "samples.png")
    draw_grid(G, datasets.slerp(z[0], z[1], 10), labels, names, out / "interpolation.png")
    print(f"{out}: samples.png, interpolation.png")


def measure(nets, train, test, args, device, judges):
    """Samples, of the classes that the test images have, against the test split -> list of metrics.Score."""
    n = min(len(test), args.fid_images)
    z = datasets.draw_noise((n, args.nz), torch.Generator().manual_seed(args.seed), device)
    labels = test.labels[[i * len(test) // n for i in range(n)]]
    fake = datasets.to_uint8(datasets.generate(nets["G"], z, one_hot(labels, len(test.classes), device)))
    return metrics.judge(fake, test, train, judges) + metrics.label_fidelity(fake, labels, test, judges[-1])


def fakes(args, checkpoint, n):
    """Yields n pictures as --evaluate judges them, uint8 (B, C, S, S), for `python metrics.py fid SET CKPT`."""
    device, _, _ = metrics.pick_device(args.device)
    G = build(args, checkpoint["channels"], device, checkpoint)["G"]
    test = load_labelled(args, "test", checkpoint["channels"])
    labels = torch.from_numpy(test.labels)[torch.arange(n) * len(test) // n]
    z = datasets.draw_noise((n, args.nz), torch.Generator().manual_seed(args.seed), device)
    for codes, some in zip(z.split(200), labels.split(200), strict=True):
        yield datasets.to_uint8(datasets.generate(G, codes, one_hot(some, len(test.classes), device))).cpu()


def evaluate(args, checkpoint):
    """--evaluate: print the scores and write metrics.json."""
    device, _, _ = metrics.pick_device(args.device)
    train, test = (load_labelled(args, split, checkpoint["channels"]) for split in ("train", "test"))
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
    data = load_labelled(args, "train", checkpoint["channels"] if checkpoint else (0, 0))
    K, labels = len(data.classes), torch.from_numpy(data.labels)
    channels = (data.images.shape[1], K)
    loader = datasets.make_loader(data, args.batch_size, seed=args.seed, rank=rank, world=world, workers=args.workers)
    rows = -(-args.num_samples // K)
    fixed_z = datasets.draw_noise((rows, args.nz), torch.Generator().manual_seed(args.seed), device)
    if args.eval_every:  # weights not to be had? stop now, not later
        test = load_labelled(args, "test", channels)
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

    # Run folder, written by rank 0 alone
    out, last_step = Path(args.out), metrics.last_step(args, len(loader), done)
    if rank == 0:
        log = metrics.start_run(out, vars(args), FIGURES, checkpoint)
    row, bar = {}, metrics.steps(loader, done, last_step)

    for step, epoch, batch in bar:  # step counts from 1
        real = datasets.to_float(batch["image"], device)
        c = one_hot(batch["label"], K, device)
        z = datasets.draw_noise((len(real), args.nz), noise, device, rank, world)
        drawn = datasets.draw_uniform((len(real),), noise, "cpu", rank, world)  # classes as frequent as in the data
        c_fake = one_hot(labels[(drawn * len(labels)).long()], K, device)

        # (1) D step: maximise log D(x, c) + log(1 - D(G(z, c), c))
        D.requires_grad_(True)
        with autocast:
            fake = G(z, c_fake)
            D_real = D(real, c)  # real and fake in passes of their own, each with its own BatchNorm statistics
            D_fake = D(fake.detach(), c_fake)  # detach: no gradient into G
        loss_D = d_loss(D_real, D_fake)
        opts["D"].zero_grad()
        loss_D.backward()
        metrics.average_gradients(D)
        opts["D"].step()

        # (2) G step: maximise log D(G(z, c), c), on the same fakes, seen by the D that has just learnt
        D.requires_grad_(False)
        with autocast:
            loss_G = g_loss(D(fake, c_fake))
        opts["G"].zero_grad()
        loss_G.backward()
        metrics.average_gradients(G)
        opts["G"].step()

        # (3) scores, log, pictures, checkpoint
        if args.eval_every and step % args.eval_every == 0:  # all processes share the work
            metrics.write_scores(out / f"metrics-{step:07d}.json", measure(nets, data, test, args, device, judges))
        if rank > 0:
            continue
        right = dict(acc_real=(D_real > 0).float().mean(), acc_fake=(D_fake < 0).float().mean())
        log.add(len(real) * world, loss_D=loss_D, loss_G=loss_G, **right)  # means until the next row
        if metrics.due(step, args.log_every, last_step):
            row = log.write(step, epoch, distinct=metrics.distinct(fake, real), **metrics.grad_norms(D=D, G=G))
            bar.set_postfix({name: f"{row[name]:.3f}" for name in ("loss_D", "loss_G", "distinct")})
        if metrics.due(step, args.sample_every, last_step):
            draw_grid(G, fixed_z, range(K), data.classes, out / f"samples/{step:07d}.png")
            log.plot()
            bar.write(f"step {step}: {metrics.gan_health(row)}" if row else "")
        if metrics.due(step, args.save_every, last_step) or metrics.stopping():
            metrics.save_run(out, SCRIPT, args, step, log, noise, nets, opts, channels=channels, classes=data.classes)


def main(argv=None):
    parser = build_parser()
    with metrics.one_sentence(parser, datasets.DataError):
        args, checkpoint = metrics.parse_args(parser, argv, SCRIPT, ("classes", "fid_dims", "fid_images"))
        widths(args.ngf, args.image_size)  # complains now, not after the data
        metrics.check_ranges(args, "lr nz ngf ndf fid_images")
        (sample if args.sample else evaluate if args.evaluate else train)(args, checkpoint)


if __name__ == "__main__":
    main()
