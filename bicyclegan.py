"""BicycleGAN: one drawing becomes many pictures.

Zhu et al., "Toward Multimodal Image-to-Image Translation", NeurIPS 2017 (arXiv:1711.11586).

A drawing A has many plausible pictures B; a code z of 8 normal numbers says which one is meant, and G(A, z) paints it.
A conditional GAN soon ignores such a code. Two cycles, B -> z -> B and z -> B -> z, keep it meaningful:
  cVAE-GAN   B --E--> N(mu, exp(logvar)) --> z_enc --G(A, .)--> fake_enc      close to B, and real to D_VAE
  cLR-GAN    z ~ N(0, I) --G(A, .)--> fake_rand --E--> mu_rand                close to z; fake_rand real to D_LR

  A (B, 1 or 3, S, S)   z (B, nz)   G: a U-Net -> (B, 3, S, S) in [-1, 1]   E: a ResNet -> mu, logvar, (B, nz) each
  D_VAE, D_LR: patch scores at two scales, (B, 1, h, w) each
  min_{G,E} max_{D_VAE,D_LR}  GAN(D_VAE) + 10 |B - fake_enc|_1 + 0.01 KL(E(B) || N(0, I))        (section 3.4)
                              + GAN(D_LR) + 0.5 |z - mu_rand|_1

Differences from the paper and its official code:
  1. The KL is averaged over the batch. The official code sums it: its weight grows until every z gives one picture.
  2. Weights start from N(0, 0.02), as in pix2pix. The official Xavier with gain 0.02 starts from a G almost blind to z.
  3. D sees (A, B), as in the paper's formulas; shown B alone, its choice (section 4), it let codes break pictures.
  4. G ends in one more convolution, which sees A at full size: at 64 px the lines would blur else. Sizes, rate, batch
     fit a CPU. Official: --image-size 128 --ngf 64 --ndf 64 --nef 64 --no-head --no-conditional-d.
  5. One backward pass where the official code has two: E is frozen while it reads fake_rand. No dropout in G.

Measured, the default run on two CPU cores: 8 minutes, FID-768 1.82 (floor 0.07), LPIPS diversity 0.264 (ceiling 0.319).
  python bicyclegan.py --epochs 20                                       the default run, without a download
  python bicyclegan.py --resume auto --epochs 40                         continue it
  python bicyclegan.py --sample runs/bicyclegan-edges2faces-s0/last.pt   rows of samples, a walk between two codes
  python bicyclegan.py --sample CKPT --input DRAWINGS --style-from PHOTO
  python bicyclegan.py --evaluate CKPT --weights-dir weights             FID, LPIPS diversity, KL of each dimension
  official: python bicyclegan.py --dataset edges2shoes --image-size 256 --batch-size 2 --epochs 60 --decay-from 30
            --lr 2e-4 --ngf 64 --ndf 64 --nef 64 --no-head --no-conditional-d
  course: python bicyclegan.py --dataset edges2shoes --image-size 128 --batch-size 2 --epochs 20 --input-channels 3
            --ngf 64 --ndf 64 --nef 64 --net-d vanilla --gan-loss bce --lr-e 5e-6 --lr-g 8e-4
            --lr-d-vae 4e-7 --lr-d-lr 4e-7 --no-head --decay-from 0     (its baseline: also --net-g vanilla)
"""

import math
from argparse import BooleanOptionalAction as yes_no
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import datasets
import metrics

SCRIPT = "bicyclegan"

# ---------------------------------------------------------------------------------------------------- arguments


def build_parser():
    p = metrics.new_parser(  # --data-dir, --seed, --device, --resume, --sample, --evaluate ...: the same in all scripts
        SCRIPT,
        __doc__,
        dataset="edges2faces",
        image_size=(64, "side in pixels: 32, 64, 128 or 256 (official: 256)"),
        epochs=(20, "passes over the training set (official: 60 on edges2shoes)"),
        batch_size=(16, "pairs in a step of one process (official: 2)"),
        lr=(4e-4, "learning rate of Adam (paper: 2e-4)"),
        beta1=(0.5, "Adam's decay of the mean (official: 0.5)"),
        beta2=(0.999, "Adam's decay of the square (official: 0.999)"),
        num_samples=(10, "samples of each input in a picture (official: 10)"),
    )
    p.add_argument("--direction", default="AtoB", choices=("AtoB", "BtoA"), help="A = left half of a file, B = right")
    p.add_argument("--input-channels", type=int, default=0, choices=(0, 1, 3), help="of A; 0 = as the data set has it")
    p.add_argument("--flip", action=yes_no, default=False, help="mirror half of the training pairs")
    p.add_argument("--decay-from", type=int, default=10, help="epoch from which lr falls; 0 = never (official: half)")
    p.add_argument("--nz", type=int, default=8, help="length of the code z (paper: 8)")
    for name, net in (("ngf", "G"), ("ndf", "each D"), ("nef", "E")):
        p.add_argument(f"--{name}", type=int, default=24, help=f"channels of {net}'s first layer (official: 64)")
    p.add_argument("--net-g", default="unet", choices=("unet", "vanilla"), help="vanilla = without the skips")
    p.add_argument("--net-d", default="patch", choices=("patch", "vanilla"), help="vanilla = one score per image")
    p.add_argument("--conditional-d", action=yes_no, default=True, help="D sees (A, B), not only B (paper: no)")
    p.add_argument("--head", action=yes_no, default=True, help="G ends in a convolution that sees A again (paper: no)")
    p.add_argument("--gan-loss", default="lsgan", choices=("lsgan", "bce"), help="adversarial loss (paper: lsgan)")
    p.add_argument("--lambda-l1", type=float, default=10.0, help="weight of |B - fake_enc| (paper: 10)")
    p.add_argument("--lambda-latent", type=float, default=0.5, help="weight of |z - mu(fake_rand)| (paper: 0.5)")
    p.add_argument("--lambda-kl", type=float, default=0.01, help="weight of the KL divergence, in nats (paper: 0.01)")
    for name, net in (("g", "G"), ("e", "E"), ("d-vae", "D_VAE"), ("d-lr", "D_LR")):
        p.add_argument(f"--lr-{name}", type=float, default=0.0, help=f"learning rate of {net}; 0 = --lr")
    p.add_argument("--input", default="", metavar="FILE|DIR", help="with --sample: translate these drawings")
    p.add_argument("--style-from", default="", metavar="IMAGE", help="with --sample: also use the code of this picture")
    p.add_argument("--fid-dims", type=int, default=2048, choices=(64, 192, 768, 2048), help="Inception features of FID")
    return p


# ----------------------------------------------------------------------------------------------------- networks


norm = F.instance_norm  # without weights or running statistics: training and sampling compute the same


class Generator(nn.Module):
    """G(A, z): a U-Net that halves the picture down to 1 x 1 and back; z, as constant maps, enters at every halving.

    A (B, in_channels, S, S), z (B, nz) -> (B, out_channels, S, S) in [-1, 1]; S a power of two, 32 or more."""

    def __init__(self, in_channels, out_channels, nz, ngf, image_size, skips=True, head=True):
        super().__init__()
        depth = int(math.log2(image_size))  # 7 halvings take 128 px to 1 x 1
        width = [ngf * min(2**i, 8) for i in range(depth)]  # ngf 64: 64 128 256 512 512 512 512
        self.skips, self.downs, self.ups = skips, nn.ModuleList(), nn.ModuleList()
        for c_in, c_out in zip([in_channels, *width], width, strict=False):
            self.downs.append(nn.Conv2d(c_in + nz, c_out, kernel_size=4, stride=2, padding=1))
        for i in reversed(range(depth)):
            c_in = width[i] * 2 if skips and i < depth - 1 else width[i]  # the skip doubles the channels
            c_out = width[i - 1] if i > 0 else ngf if head else out_channels
            self.ups.append(nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1))
        self.head = nn.Conv2d(ngf + in_channels + nz, out_channels, kernel_size=3, padding=1) if head else None

    def forward(self, A, z):
        def with_z(h):  # (B, C, h, w) -> (B, C + nz, h, w)
            return torch.cat([h, z[:, :, None, None].expand(-1, -1, *h.shape[2:])], dim=1)

        h, halved, last = A, [], len(self.downs) - 1
        for i, down in enumerate(self.downs):
            h = down(F.leaky_relu(with_z(h), 0.2) if i > 0 else with_z(h))
            if 0 < i < last:  # not on the picture itself; and on 1 x 1 there is nothing to normalise over
                h = norm(h)
            halved.append(h)
        for i, up in enumerate(self.ups):
            if i > 0 and self.skips:
                h = torch.cat([h, halved[last - i]], dim=1)
            h = up(F.relu(h))
            if i < last or self.head:
                h = norm(h)
        if self.head:  # the finest skip is at half size; here the lines of A arrive sharp
            h = self.head(torch.cat([F.relu(h), with_z(A)], dim=1))
        return torch.tanh(h.float())


class ResBlock(nn.Module):
    """Pre-activation residual block that halves the picture by averaging: (B, c_in, h, w) -> (B, c_out, h/2, w/2)."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_in, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(c_in, c_out, kernel_size=3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, kernel_size=1)

    def forward(self, x):
        h = self.conv1(F.leaky_relu(norm(x), 0.2))
        h = self.conv2(F.leaky_relu(norm(h), 0.2))
        return F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2))


class Encoder(nn.Module):
    """E(B): q(z | B) = N(mu, exp(logvar)). (B, C, S, S) -> mu, logvar, (B, nz) each, both linear heads."""

    def __init__(self, in_channels, nz, nef, image_size):
        super().__init__()
        width = [nef * min(i, 4) for i in range(1, int(math.log2(image_size)) - 2)]  # 64 128 192 256 at 128 px
        self.stem = nn.Conv2d(in_channels, nef, kernel_size=4, stride=2, padding=1)
        self.blocks = nn.Sequential(*(ResBlock(a, b) for a, b in zip(width, width[1:], strict=False)))
        self.mu, self.logvar = nn.Linear(width[-1], nz), nn.Linear(width[-1], nz)

    def forward(self, B):
        h = F.leaky_relu(self.blocks(self.stem(B)), 0.2).mean((2, 3))  # (B, C, 8, 8) -> (B, C)
        return self.mu(h).float(), self.logvar(h).float()


class Discriminator(nn.Module):
    """Two PatchGANs: one looks at the picture, one of half the width at the picture at half size.

    (B, C, S, S) -> list of score maps (B, 1, h, w), logits under --gan-loss bce. vanilla: one alone, (B, 1, 1, 1)."""

    def __init__(self, in_channels, ndf, image_size, kind="patch"):
        super().__init__()
        if kind == "vanilla":  # as DCGAN: halve down to 4 x 4, then one score for the whole picture
            nets = [self.convnet(in_channels, ndf, int(math.log2(image_size)) - 2, patch=False)]
        else:  # patches of 34 x 34 pixels below 256 px (official "128"), 70 x 70 from there on ("256")
            halvings = 2 if image_size < 256 else 3
            nets = [self.convnet(in_channels, n, halvings, patch=True) for n in (ndf, max(1, ndf // 2))]
        self.nets = nn.ModuleList(nets)

    @staticmethod
    def convnet(in_channels, ndf, halvings, patch):
        layers = [nn.Conv2d(in_channels, ndf, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = [ndf * min(2**i, 8) for i in range(halvings + patch)]
        for i in range(1, halvings + patch):  # a patch net has one layer more, of stride 1
            layers += [nn.Conv2d(width[i - 1], width[i], kernel_size=4, stride=2 if i < halvings else 1, padding=1)]
            layers += [nn.InstanceNorm2d(width[i]), nn.LeakyReLU(0.2)]  # no statistics kept, no weights
        return nn.Sequential(*layers, nn.Conv2d(width[-1], 1, kernel_size=4, padding=1 if patch else 0))

    def forward(self, x):
        small = F.avg_pool2d(x, kernel_size=3, stride=2, padding=1, count_include_pad=False)
        return [net(picture) for net, picture in zip(self.nets, (x, small), strict=False)]


def init_weights(net):
    """N(0, 0.02) for every weight, zero for every bias (pix2pix, section 6.2)."""
    for p in net.parameters():
        nn.init.zeros_(p) if p.ndim == 1 else nn.init.normal_(p, mean=0.0, std=0.02)


# ------------------------------------------------------------------------------------------------------- losses


def gan_loss(scores, is_real, kind):
    """How far D's scores are from 1 (real) or 0 (fake), averaged over each map and summed over the scales.

    lsgan: squared distance (Mao et al., arXiv:1611.04076, without the factors 1/2). bce: cross entropy of logits."""
    if kind == "lsgan":
        return sum((s.float() - float(is_real)).square().mean() for s in scores)
    return sum(F.binary_cross_entropy_with_logits(s.float(), torch.full_like(s.float(), is_real)) for s in scores)


def d_loss(D, real, fake, kind):
    """Real scores to 1, fake scores to 0, from one pass of D: it has no BatchNorm, so no image sees another."""
    scores = [s.split([len(real), len(fake)]) for s in D(torch.cat([real, fake]))]
    return gan_loss([s[0] for s in scores], True, kind) + gan_loss([s[1] for s in scores], False, kind)


def kl_per_dim(mu, logvar):
    """KL(N(mu, exp(logvar)) || N(0, 1)) in nats; (B, nz), (B, nz) -> (nz,), averaged over the batch."""
    return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar).mean(dim=0)


# ----------------------------------------------------------------------------------- pictures and measurements


def build(args, channels, device, checkpoint=None):
    """channels (of A, of B) -> the four networks by name, initialised or with the checkpoint's weights."""
    c_A, c_B = channels
    c_D = c_A + c_B if args.conditional_d else c_B
    nets = {
        "G": Generator(c_A, c_B, args.nz, args.ngf, args.image_size, args.net_g == "unet", args.head),
        "E": Encoder(c_B, args.nz, args.nef, args.image_size),
        "D_VAE": Discriminator(c_D, args.ndf, args.image_size, args.net_d),
        "D_LR": Discriminator(c_D, args.ndf, args.image_size, args.net_d),
    }
    for name, net in nets.items():
        init_weights(net)
        if checkpoint:
            net.load_state_dict(checkpoint[name])
        net.to(device)
    return nets


def load_pairs(args, split, channels):
    """A split of --dataset; channels (of A, of B), 0 = as the set has them."""
    how = dict(**datasets.how_to_load(args), direction=args.direction, input_channels=channels[0], channels=channels[1])
    return datasets.load(args.dataset, split, args.image_size, paired=True, **how)


def sample(args, checkpoint):
    """--sample: samples.png, interpolation.png and, with --input, every sample in a file of its own."""
    device, _, _ = metrics.pick_device(args.device)
    G, E, *_ = build(args, checkpoint["channels"], device, checkpoint).values()
    (c_A, c_B), out = checkpoint["channels"], Path(args.out, "samples")
    if args.input:
        A, files = datasets.read_images(args.input, args.image_size, channels=c_A, resize=args.resize)
        A, truth = datasets.to_float(A, device), {}
    else:
        rows, files = datasets.fixed_batch(load_pairs(args, "test", (c_A, c_B)), 8, device), []
        A, truth = rows["image"], {"truth": rows["target"]}
    z = datasets.draw_noise((max(2, args.num_samples), args.nz), torch.Generator().manual_seed(args.seed), device)
    samples, t = datasets.paint(G, A, z), torch.linspace(0, 1, 10, device=device)[:, None]
    walk = datasets.paint(G, A, (1 - t) * z[0] + t * z[1], [f"{x:.1f}" for x in t.flatten().tolist()])
    if args.style_from:
        style, _ = datasets.read_images(args.style_from, args.image_size, channels=c_B, limit=1, resize=args.resize)
        mu, _ = datasets.encode(E, [datasets.to_float(style, device)])  # (1, nz): the likeliest code of that picture
        samples = datasets.paint(G, A, mu, ["style"]) | samples
    datasets.save_rows({"input": A} | truth | samples, out / "samples.png")
    datasets.save_rows({"input": A} | truth | walk, out / "interpolation.png")
    datasets.save_each(samples, files, out)
    print(f"{out}: samples.png, interpolation.png" + (f", {len(files)} x {len(samples)} pictures" if files else ""))


@torch.no_grad()
def measure(nets, train, test, args, device, instruments):
    """Realism, diversity and use of the code on the test split -> list of metrics.Score."""
    G, E, noise, errors = nets["G"], nets["E"], torch.Generator().manual_seed(args.seed), []

    def sample_each(A):
        z = datasets.draw_noise((len(A), args.nz), noise, device)
        fake = G(A, z)
        errors.append((z - E(fake)[0]).abs().mean(dim=1))
        return fake

    scores = metrics.one_to_many(sample_each, test, train, instruments, device)
    batches = datasets.make_loader(test, 32, shuffle=False, drop_last=False)
    codes = torch.cat([torch.stack(E(datasets.to_float(batch["target"], device))) for batch in batches], dim=1)
    kl, error = kl_per_dim(*codes).tolist(), torch.cat(errors)[: len(test)].mean().item()  # codes: mu, logvar
    scores += [metrics.Score("|z - mu(G(A, z))|", error, n_fake=len(test), note="0.80: E knows nothing of z")]
    by_dim = "by dimension " + " ".join(f"{k:.2f}" for k in kl)
    return scores + [metrics.Score("KL, nats", sum(kl), n_real=len(test), note=by_dim)]


def fakes(args, checkpoint, n):
    """Yields n pictures as --evaluate judges them, uint8 (B, C, S, S), for `python metrics.py fid SET CKPT`."""
    device, _, _ = metrics.pick_device(args.device)
    G = build(args, checkpoint["channels"], device, checkpoint)["G"]
    test = load_pairs(args, "test", checkpoint["channels"])
    z = datasets.draw_noise((n, args.nz), torch.Generator().manual_seed(args.seed), device)
    for rows in torch.arange(n).split(200):
        A = datasets.to_float(test.__getitems__((rows * len(test) // n).tolist())["image"], device)
        yield datasets.to_uint8(datasets.generate(G, A, z[rows.to(device)])).cpu()


def evaluate(args, checkpoint):
    """--evaluate: print the scores and write metrics.json."""
    device, _, _ = metrics.pick_device(args.device)
    instruments = metrics.load_instruments(args.fid_dims, args.weights_dir, device)
    nets = build(args, checkpoint["channels"], device, checkpoint)
    train_set, test_set = (load_pairs(args, split, checkpoint["channels"]) for split in ("train", "test"))
    metrics.write_evaluation(args, checkpoint, measure(nets, train_set, test_set, args, device, instruments))


# ----------------------------------------------------------------------------------------------------------- training

FIGURES = {  # title: columns of log.csv
    "discriminators": ["loss_D_VAE", "loss_D_LR"],
    "generator against them": ["loss_G_VAE", "loss_G_LR"],
    "image |B - fake_enc|": ["loss_l1"],
    "code |z - mu_rand| (0.80: E knows nothing of z)": ["loss_latent"],
    "diversity |G(A, z1) - G(A, z2)|": ["diversity"],
}


def train(args, checkpoint):
    device, rank, world = metrics.pick_device(args.device)
    torch.manual_seed(args.seed)

    # Data
    channels = checkpoint["channels"] if checkpoint else (args.input_channels, 0)
    data, test = load_pairs(args, "train", channels), load_pairs(args, "test", channels)
    channels = (data.images.shape[1], data.targets.shape[1])
    loader = datasets.make_loader(data, args.batch_size, seed=args.seed, rank=rank, world=world, workers=args.workers)
    rows = datasets.fixed_batch(test, 6, device)
    rows_z = datasets.draw_noise((max(2, args.num_samples), args.nz), torch.Generator().manual_seed(args.seed), device)
    if args.eval_every:  # weights not to be had? stop now, not later
        instruments = metrics.load_instruments(args.fid_dims, args.weights_dir, device)

    # Networks, optimisers
    nets = build(args, channels, device, checkpoint)
    G, E, D_VAE, D_LR = nets.values()
    adam, opts = dict(betas=(args.beta1, args.beta2), fused=True), {}
    for name, net in nets.items():
        opts[name] = torch.optim.Adam(net.parameters(), lr=getattr(args, f"lr_{name.lower()}") or args.lr, **adam)
    noise = torch.Generator().manual_seed(args.seed)  # the only source of random numbers from here on
    done = metrics.restore(checkpoint, noise, opts)
    metrics.broadcast_weights(*nets.values(), sync_bn=args.sync_bn)
    for net in nets.values() if args.compile else ():
        net.compile()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.amp)

    def see(A, B):  # what a D looks at
        return torch.cat([A, B], dim=1) if args.conditional_d else B

    # Run folder, written by rank 0 alone
    out, last_step = Path(args.out), metrics.last_step(args, len(loader), done)
    if rank == 0:
        figures = FIGURES | {"KL of each dimension, nats": [f"kl_{i}" for i in range(args.nz)]}
        log = metrics.start_run(out, vars(args), figures, checkpoint)
    bar = metrics.steps(loader, done, last_step)

    for step, epoch, batch in bar:  # step counts from 1
        metrics.decay_rates(opts, (step - 1) / len(loader), args.epochs, args.decay_from)  # linear to 0 from there
        A, B = datasets.to_float(batch["image"], device), datasets.to_float(batch["target"], device)
        if args.flip:
            A, B = datasets.augment(A, B, flip=True, rank=rank, world=world, generator=noise)
        half = max(1, len(A) // 2)
        A1, B1 = A[:half], B[:half]  # the cVAE-GAN's pairs; the cLR-GAN paints the same drawings
        A2, B2 = A[-half:], B[-half:]  # the cLR-GAN's real pairs (where the batch is 1: the same pair)
        eps, z = datasets.draw_noise((half, 2 * args.nz), noise, device, rank, world).chunk(2, dim=1)  # (half, nz) each

        # (1) G and E step: minimise GAN + 10 L1 + 0.01 KL, and 0.5 latent L1 for G alone
        D_VAE.requires_grad_(False), D_LR.requires_grad_(False)
        with autocast:
            mu, logvar = E(B1)
            z_enc = mu + torch.exp(0.5 * logvar) * eps
            fake_enc, fake_rand = G(torch.cat([A1, A1]), torch.cat([z_enc, z])).chunk(2)  # both cycles in one call
            E.requires_grad_(False)  # learning from the latent loss too, E and G would agree on a hidden code
            mu_rand, _ = E(fake_rand)
            E.requires_grad_(True)
            loss_G_VAE = gan_loss(D_VAE(see(A1, fake_enc)), True, args.gan_loss)
            loss_G_LR = gan_loss(D_LR(see(A1, fake_rand)), True, args.gan_loss)
        loss_l1 = (fake_enc - B1).abs().mean()
        kl = kl_per_dim(mu, logvar)
        loss_latent = (mu_rand - z).abs().mean()
        loss = loss_G_VAE + loss_G_LR + args.lambda_l1 * loss_l1
        loss = loss + args.lambda_kl * kl.sum() + args.lambda_latent * loss_latent
        opts["G"].zero_grad(), opts["E"].zero_grad()
        loss.backward()
        metrics.average_gradients(G, E)
        opts["G"].step(), opts["E"].step()

        # (2) D step: the scores of real pictures to 1, of fakes to 0
        D_VAE.requires_grad_(True), D_LR.requires_grad_(True)
        with autocast:  # detach: no gradient into G
            loss_D_VAE = d_loss(D_VAE, see(A1, B1), see(A1, fake_enc.detach()), args.gan_loss)
            loss_D_LR = d_loss(D_LR, see(A2, B2), see(A1, fake_rand.detach()), args.gan_loss)
        opts["D_VAE"].zero_grad(), opts["D_LR"].zero_grad()
        (loss_D_VAE + loss_D_LR).backward()
        metrics.average_gradients(D_VAE, D_LR)
        opts["D_VAE"].step(), opts["D_LR"].step()

        # (3) scores, log, pictures, checkpoint
        if args.eval_every and step % args.eval_every == 0:  # all processes share the work
            metrics.write_scores(out / f"metrics-{step:07d}.json", measure(nets, data, test, args, device, instruments))
        if rank > 0:
            continue
        losses = dict(loss_D_VAE=loss_D_VAE, loss_D_LR=loss_D_LR, loss_G_VAE=loss_G_VAE, loss_G_LR=loss_G_LR)
        log.add(len(A) * world, **losses, loss_l1=loss_l1, loss_latent=loss_latent, kl=kl)  # means until the next row
        if metrics.due(step, args.log_every, last_step):
            one, other = datasets.paint(G, rows["image"], rows_z[:2]).values()
            row = log.write(step, epoch, diversity=(one - other).abs().mean())  # 0 to 2
            bar.set_postfix({name: f"{row[name]:.3f}" for name in ("loss_l1", "loss_latent", "diversity")})
        if metrics.due(step, args.sample_every, last_step):
            columns = {"input": rows["image"], "truth": rows["target"]} | datasets.paint(G, rows["image"], rows_z)
            datasets.save_rows(columns, out / f"samples/{step:07d}.png")
            log.plot()
        if metrics.due(step, args.save_every, last_step) or metrics.stopping():
            metrics.save_run(out, SCRIPT, args, step, log, noise, nets, opts, channels=channels)


def main(argv=None):
    parser = build_parser()
    with metrics.one_sentence(parser, datasets.DataError):
        args, checkpoint = metrics.parse_args(parser, argv, SCRIPT, ("decay_from", "input", "style_from", "fid_dims"))
        if args.image_size not in (32, 64, 128, 256):
            raise datasets.DataError(f"--image-size {args.image_size}: G halves it down to 1; use 32, 64, 128 or 256")
        metrics.check_ranges(args, "lr nz ngf ndf nef")
        (sample if args.sample else evaluate if args.evaluate else train)(args, checkpoint)


if __name__ == "__main__":
    main()
