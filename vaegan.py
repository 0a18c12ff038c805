"""VAE/GAN: a VAE that compares images as a discriminator sees them, not pixel by pixel, and edits them in its code.

Larsen et al., "Autoencoding beyond pixels using a learned similarity metric", ICML 2016 (arXiv:1512.09300).

  x --E--> q(z | x) = N(mu, exp(logvar)) --> z --G--> rec  \\
                              z_p ~ N(0, I)    --G--> fake  D --> Dis_l, a feature map, and one logit per image
                                                      x    /
  x, rec, fake (B, C, H, W) in [-1, 1]   mu, logvar, z, z_p (B, nz)   Dis_l (B, 8 ndf, H/8, W/8)   logits (B,)
  E, G, D are the paper's Enc, Dec, Dis; rec is its x~, fake its x_p. Each has a loss of its own (Algorithm 1):
    prior = KL(q(z | x) || N(0, I))     llike = -log N(Dis_l(x) | Dis_l(rec), I), but for a constant
    GAN = log D(x) + log(1 - D(rec)) + log(1 - D(fake))
    E: minimise prior + llike           G: minimise gamma llike - GAN           D: maximise GAN
  An attribute is a direction in the code: how mu changes with it over the training set, by least squares. (Paper: the
  mean of mu with it minus that without it, which takes along what often comes with it.)
  --model, the paper's comparison with the same networks: vae, whose llike is a Gaussian on pixels; vae-dis, with llike
  in the Dis_l of a finished run, --dis-from, whose D learns no more (section 4.1). --gamma 0 makes G that of a GAN.

Differences from the paper and its official code:
  1. gamma weighs half the *mean* square in Dis_l, and so means the same at every size; E, beside nats, has the sum.
  2. llike's variance is that of Dis_l(x), not 1: as D learns, Dis_l grows. --unit-variance is the paper's.
  3. D has no BatchNorm, and a rate of its own. --norm-d batch, the paper's, sees x, rec and fake as one batch, as the
     official code does: in a short run G then shrinks Dis_l of all three by how it draws fake.
  4. G maximises log D(rec) + log D(fake); the paper's form: --dec-loss saturating. rec and fake weigh half each, as in
     the official code, whose --equilibrium the paper lacks. Adam, not RMSprop. Sizes, gamma and beta fit a CPU.

Measured, the default run on two CPU cores: 9 minutes, FID-768 1.63 (floor 0.04),
reconstruction FID-768 1.41 (floor 0.04), in-domain edit success 0.86, in-domain rest kept 0.92.
  python vaegan.py                                                drawn faces, without a download
  python vaegan.py --resume auto --epochs 30                      continue it
  python vaegan.py --sample runs/vaegan-faces-s0/last.pt          samples, reconstructions, edits, a sweep, averages
  python vaegan.py --sample CKPT --input PHOTOS --edit "Smiling=+1.5,Eyeglasses=-1"
  python vaegan.py --evaluate CKPT --fid-dims 768 --weights-dir weights
  compare: --model vae;  --gamma 0;  --model vae-dis --dis-from CKPT of the latter      (with an --out each)
  paper:  python vaegan.py --dataset celeba --image-size 64 --epochs 25 --lr 3e-4 --lr-d 3e-4 --beta1 0 --beta2 0.9
            --batch-size 64 --nz 128 --nef 64 --ngf 32 --ndf 32 --fc 2048 --leaky 0 --norm-d batch --unit-variance
            --gamma 0.0164 --beta 1 --dec-loss saturating --decay-from 0      (epochs and gamma: its code's)
  course: python vaegan.py --dataset FOLDER --image-size 256 --image-width 128 --batch-size 64 --nz 256 --nef 64
            --ngf 32 --ndf 32 --fc 1024 --norm-d batch         (DeepFashion: a folder for each kind of clothes)
"""

import math
from argparse import BooleanOptionalAction as yes_no
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import datasets
import metrics

SCRIPT = "vaegan"

# ---------------------------------------------------------------------------------------------------- arguments


def build_parser():
    p = metrics.new_parser(  # --data-dir, --seed, --device, --resume, --sample, --evaluate ...: the same in all scripts
        SCRIPT,
        __doc__,
        dataset="faces",
        image_size=(64, "height in pixels, a multiple of 8 (paper: 64)"),
        epochs=(9, "passes over the training set"),
        batch_size=(16, "images in a step of one process (paper: 64)"),
        lr=(1e-3, "learning rate of Adam, for E and G (paper: 3e-4, of RMSprop)"),
        beta1=(0.5, "Adam's decay of the mean (0, with --beta2 0.9: near the paper's RMSprop)"),
        beta2=(0.999, "Adam's decay of the square"),
        num_samples=(36, "samples in a picture"),
    )
    p.add_argument("--image-width", type=int, default=0, help="width in pixels, a multiple of 8; 0 = square")
    p.add_argument("--model", default="vaegan", choices=("vaegan", "vae", "vae-dis"), help="see above")
    p.add_argument("--dis-from", default="", metavar="CKPT", help="--model vae-dis: the run whose D it takes")
    p.add_argument("--lr-d", type=float, default=3e-4, help="learning rate of D (paper: as --lr)")
    p.add_argument("--decay-from", type=int, default=4, help="epoch from which the rates fall to 0; 0 = never (paper)")
    p.add_argument("--nz", type=int, default=32, help="length of the code z (paper: 128)")
    for name, width, net in (("nef", 24, "E (paper: 64)"), ("ngf", 12, "G (paper: 32)"), ("ndf", 12, "D (paper: 32)")):
        p.add_argument(f"--{name}", type=int, default=width, help=f"channels next to the image, in {net}")
    p.add_argument("--fc", type=int, default=256, help="units of E's hidden layer (paper: 2048, its code: 1024)")
    p.add_argument("--leaky", type=float, default=0.2, help="slope of the activations below 0 (paper: 0)")
    p.add_argument("--norm-d", default="none", choices=("none", "batch"), help="normalisation in D (paper: batch)")
    p.add_argument("--unit-variance", action=yes_no, default=False, help="llike's variance is 1 (paper: yes)")
    p.add_argument("--gamma", type=float, default=5.0, help="weight of llike for G (official: 1e-6 x 16384 features)")
    p.add_argument("--beta", type=float, default=5.0, help="weight of the KL divergence in E's loss (paper: 1)")
    p.add_argument("--sigma", type=float, default=0.2, help="of --model vae's Gaussian, for pixels in [-1, 1]")
    p.add_argument("--dec-loss", default="nonsat", choices=("nonsat", "saturating"), help="(paper: saturating)")
    p.add_argument("--equilibrium", action=yes_no, default=False, help="pause G or D while it is far ahead")
    p.add_argument("--input", default="", metavar="FILE|DIR", help="with --sample: reconstruct and edit these images")
    p.add_argument("--edit", default="", metavar="NAME=X,...", help="with --sample: add so much of these directions")
    p.add_argument("--strength", type=float, default=1.5, help="of the edits that --sample shows, --evaluate judges")
    p.add_argument("--fid-dims", type=int, default=0, choices=(0, 64, 192, 768, 2048), help="0 = without Inception")
    p.add_argument("--fid-images", type=int, default=10000, help="at most so many of each side in --evaluate")
    return p


def size_of(args):
    """-> height and width of the images. DataError where the networks cannot halve them three times."""
    size = args.image_size, args.image_width or args.image_size
    if any(side < 16 or side % 8 for side in size):
        raise datasets.DataError(f"--image-size {size[0]}, --image-width {size[1]}: use multiples of 8 from 16 on")
    return size


# ----------------------------------------------------------------------------------------------------- networks

HALVE = dict(kernel_size=5, stride=2, padding=2)  # 64 -> 32 px
DOUBLE = HALVE | dict(output_padding=1)  # 32 -> 64 px; without output_padding 63


def stack(kind, width, slope, norm=True, **how):
    """Layers from width to width, each with BatchNorm in place of a bias and an activation: a ReLU where slope is 0."""
    layers = []
    for c_in, c_out in zip(width, width[1:], strict=False):
        norms = [nn.BatchNorm1d(c_out) if kind is nn.Linear else nn.BatchNorm2d(c_out)] * norm
        layers += [kind(c_in, c_out, bias=not norm, **how), *norms, nn.LeakyReLU(slope)]
    return layers


class Encoder(nn.Module):
    """q(z | x) = N(mu, exp(logvar)): images (B, channels, H, W) in [-1, 1] -> mu, logvar, (B, nz) each."""

    def __init__(self, channels, nz, nef, fc, size, slope=0.0):
        super().__init__()
        layers = stack(nn.Conv2d, [channels, nef, 2 * nef, 4 * nef], slope, **HALVE)  # paper: 64 128 256
        layers += [nn.Flatten(), *stack(nn.Linear, [4 * nef * (size[0] // 8) * (size[1] // 8), fc], slope)]
        self.net = nn.Sequential(*layers, nn.Linear(fc, 2 * nz))  # both heads in one layer, linear

    def forward(self, x):
        return self.net(x).float().chunk(2, dim=1)


class Decoder(nn.Module):
    """G: codes (B, nz) -> images (B, channels, H, W) in [-1, 1]."""

    def __init__(self, nz, channels, ngf, size, slope=0.0):
        super().__init__()
        shape = (8 * ngf, size[0] // 8, size[1] // 8)  # paper: 256 x 8 x 8
        layers = [*stack(nn.Linear, [nz, math.prod(shape)], slope), nn.Unflatten(1, shape)]
        layers += stack(nn.ConvTranspose2d, [8 * ngf, 8 * ngf, 4 * ngf, ngf], slope, **DOUBLE)  # paper: 256 128 32
        self.net = nn.Sequential(*layers, nn.Conv2d(ngf, channels, kernel_size=5, padding=2), nn.Tanh())

    def forward(self, z):
        return self.net(z).float()


class Discriminator(nn.Module):
    """Images (B, channels, H, W) -> Dis_l (B, 8 ndf, H/8, W/8), and logits (B,): above 0, D takes them for real.
    Dis_l is the output of the last strided convolution, before normalisation and activation (as the official code)."""

    def __init__(self, channels, ndf, size, slope=0.0, norm=False):
        super().__init__()
        layers = stack(nn.Conv2d, [channels, ndf], slope, norm=False, kernel_size=5, padding=2)
        layers += stack(nn.Conv2d, [ndf, 4 * ndf, 8 * ndf, 8 * ndf], slope, norm, **HALVE)  # paper: 32 128 256 256
        self.trunk, pixels = nn.Sequential(*layers[: -1 - norm]), 8 * ndf * (size[0] // 8) * (size[1] // 8)
        head = [*layers[-1 - norm :], nn.Flatten(), *stack(nn.Linear, [pixels, 16 * ndf], slope, norm)]
        self.head = nn.Sequential(*head, nn.Linear(16 * ndf, 1))  # no sigmoid: see the losses

    def forward(self, x):
        features = self.trunk(x)
        return features.float(), self.head(features).flatten().float()


def init_weights(net):
    """Normal weights that keep the variance (official code): Dis_l begins alike at every width."""
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.kaiming_normal_(p, nonlinearity="linear")  # std 1 / sqrt(fan-in)


# ------------------------------------------------------------------------------------------------------- losses


def llike_loss(features, target, unit_variance=True):
    """-log N(target | features, variance) but for a constant, over the number of features; variance 1 or target's."""
    return 0.5 * (features - target).square().mean() / (1.0 if unit_variance else target.var())


def kl_per_dim(mu, logvar):
    """KL(N(mu, exp(logvar)) || N(0, 1)) in nats; (B, nz), (B, nz) -> (nz,), averaged over the batch."""
    return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar).mean(dim=0)


def gan_loss(logits, is_real):
    """Logits -> -log D, or -log(1 - D), averaged: how far D is from taking them for real, or fake. log 2: unsure."""
    return F.softplus(-logits if is_real else logits).mean()


def who_learns(cost_real, cost_fake, level=0.68, margin=0.35):
    """The official code's equilibrium rule on D's costs (0.69 each: it cannot tell) -> names of those that learn."""
    D_learns = min(cost_real, cost_fake) >= level - margin  # else it is winning
    G_learns = max(cost_real, cost_fake) <= level + margin  # else D has lost track
    return "E" + "G" * (G_learns or not D_learns) + "D" * (D_learns or not G_learns)  # never neither


# ------------------------------------------------------------------------------------- pictures and measurements


def build(args, channels, device, checkpoint=None):
    """-> E, G and, unless --model is vae, D by name, initialised or with the checkpoint's weights."""
    size = size_of(args)
    nets = {"E": Encoder(channels, args.nz, args.nef, args.fc, size, args.leaky)}
    nets["G"] = Decoder(args.nz, channels, args.ngf, size, args.leaky)
    if args.model != "vae":
        nets["D"] = Discriminator(channels, args.ndf, size, args.leaky, args.norm_d == "batch")
    for name, net in nets.items():
        init_weights(net)
        if checkpoint:
            net.load_state_dict(checkpoint[name])
        net.to(device, memory_format=torch.channels_last)  # 1.2 times faster with BatchNorm
    if args.model == "vae-dis":
        try:
            nets["D"].load_state_dict((checkpoint or metrics.load_checkpoint(args.dis_from, SCRIPT))["D"])
        except (KeyError, RuntimeError) as error:
            raise datasets.DataError(f"--dis-from {args.dis_from} has no D of this size") from error
        nets["D"].requires_grad_(False).eval()
    return nets


def load_images(args, split, channels=0):
    """A split of --dataset, classes as one-hot attributes; channels 1 or 3, 0 = as the set has them."""
    how = dict(**datasets.how_to_load(args), channels=channels, input_channels=channels)
    data = datasets.load(args.dataset, split, size_of(args), **how)
    return datasets.choose_attributes(data, []) if datasets.attributes_of(data)[0] else data


def directions(E, train, device):
    """-> mean mu with each attribute; the way to it alone, by least squares (0: all or none have it): (K, nz) each."""
    mu, _ = datasets.encode(E, datasets.batches_of(train, device))
    has = torch.from_numpy(train.attributes).to(mu)  # (N, K)
    means = has.T @ mu / has.sum(dim=0).clamp(min=1)[:, None]
    return means, torch.linalg.pinv(has - has.mean(dim=0)) @ (mu - mu.mean(dim=0))


def edits(G, mu, truth, vectors, train, strength):
    """Codes (n, nz), truth (n, K) -> of each attribute its name, images with it switched, what is to be true then."""
    rivals = datasets.rivals_of(train)
    for k, name in enumerate(train.attribute_names):
        wanted = datasets.change(truth, {k: None}, rivals)
        yield name, datasets.generate(G, mu + strength * (wanted - truth).to(mu) @ vectors), wanted


def columns_of(E, G, x, seed):
    """Images (N, C, H, W) -> codes mu (N, nz), {title: images}: x, reconstructions, those of noisy codes, samples."""
    mu, _ = datasets.encode(E, x.split(100))
    z = datasets.draw_noise(mu.shape, torch.Generator().manual_seed(seed), x.device)
    codes = {"rec": mu, "rec + noise": mu + 0.5 * z, "z": z}
    return mu, {"x": x} | {title: datasets.generate(G, code) for title, code in codes.items()}


def sample(args, checkpoint):
    """--sample: samples, reconstructions; of a set with attributes edits, a sweep of strengths, an average of each."""
    device, _, _ = metrics.pick_device(args.device)
    channels, out, files = checkpoint["channels"], Path(args.out, "samples"), []
    E, G, *_ = build(args, channels, device, checkpoint).values()
    train, test = (load_images(args, split, channels) for split in ("train", "test"))
    names, batch = train.attribute_names, datasets.fixed_batch(test, 12, device)
    x, truth = batch["image"], batch.get("attributes", torch.zeros(12, 0)).float()
    if args.input:
        x, files = datasets.read_images(args.input, size_of(args), channels, resize=args.resize)
        x, truth = datasets.to_float(x, device), torch.zeros(len(x), len(names))  # unknown: everything is added
    z = datasets.draw_noise((args.num_samples, args.nz), torch.Generator().manual_seed(args.seed), device)
    datasets.save_grid(datasets.generate(G, z), out / "samples.png", math.isqrt(len(z)))
    mu, columns = columns_of(E, G, x, args.seed)
    pictures = {"reconstructions": columns}
    if names or args.edit:
        asked = datasets.read_settings(args.edit, names) if args.edit else {}
        means, vectors = directions(E, train, device)
        made = {name: images for name, images, _ in edits(G, mu, truth, vectors, train, args.strength)}
        if asked:
            made = {"edit": datasets.generate(G, mu + sum(a * vectors[names.index(name)] for name, a in asked.items()))}
        datasets.save_each(made, files, out)
        sweep = mu[0] + torch.linspace(-2, 2, 9, device=device)[:, None] * vectors[:, None]  # (K, 9, nz), of one image
        pictures["edits"] = {"x": x, "rec": columns["rec"]} | made
        for title, codes in {"sweep": sweep, "averages": means[:, None]}.items():
            pictures[title] = {name: datasets.generate(G, code) for name, code in zip(names, codes, strict=True)}
    for title, columns in pictures.items():
        datasets.save_rows(columns, out / f"{title}.png", rows=12)
    print(f"{out}: samples.png, {', '.join(f'{title}.png' for title in pictures)}")


@torch.no_grad()
def measure(nets, train, test, args, device, judges):
    """Samples and reconstructions against the test split; do edits change what they should, and nothing else?"""
    E, G, cache, batch = nets["E"], nets["G"], {}, datasets.fixed_batch(test, args.fid_images, device)
    x, (mu, _) = batch["image"], datasets.encode(E, batch["image"].split(500))
    fake = datasets.generate(G, datasets.draw_noise(mu.shape, torch.Generator().manual_seed(args.seed), device))
    rec = datasets.generate(G, mu)
    scores = metrics.judge(datasets.to_uint8(fake), test, train, judges, cache)
    for score in metrics.judge(datasets.to_uint8(rec), test, train, judges, cache):
        score.metric = f"reconstruction {score.metric}"
        scores += [score] if "FID" in score.metric else []
    scores.append(metrics.Score("test MSE", metrics.mse(rec.cpu(), x.cpu()), n_real=len(x), note="in [-1, 1], z = mu"))
    if not test.attribute_names:
        return scores
    truth, vectors, made = batch["attributes"].float(), directions(E, train, device)[1], {}
    for name, images, wanted in edits(G, mu, truth, vectors, train, args.strength):
        rows = (wanted != truth).any(dim=1)  # the others have it already
        made[name] = (datasets.to_uint8(images[rows.to(device)]), wanted[rows], (wanted != truth)[rows])
    return scores + metrics.edit_fidelity(made, judges[-1])


def fakes(args, checkpoint, n):
    """Yields n pictures as --evaluate judges them, uint8 (B, C, S, S), for `python metrics.py fid SET CKPT`."""
    device, _, _ = metrics.pick_device(args.device)
    G = build(args, checkpoint["channels"], device, checkpoint)["G"]
    for z in datasets.draw_noise((n, args.nz), torch.Generator().manual_seed(args.seed), device).split(200):
        yield datasets.to_uint8(datasets.generate(G, z)).cpu()


def evaluate(args, checkpoint):
    """--evaluate: print the scores and write metrics.json."""
    device, _, _ = metrics.pick_device(args.device)
    train, test = (load_images(args, split, checkpoint["channels"]) for split in ("train", "test"))
    judges = metrics.load_judges(args.fid_dims, train, test, args.weights_dir, args.data_dir, device)
    nets = build(args, checkpoint["channels"], device, checkpoint)
    metrics.write_evaluation(args, checkpoint, measure(nets, train, test, args, device, judges))


# ----------------------------------------------------------------------------------------------------- training

FIGURES = {  # title: columns of log.csv; the last two need a D that learns
    "llike: half the mean square in Dis_l (vae: in pixels / sigma)": ["loss_llike"],
    "prior: KL(q(z | x) || N(0, I)), nats per image": ["loss_prior"],
    "MSE of --num-samples test images in [-1, 1], z = mu": ["mse_test"],
    "D's costs, nats (0.69: it cannot tell)": ["cost_real", "cost_fake"],
    "G's loss against D, nats": ["loss_gan"],
}


def train(args, checkpoint):
    device, rank, world = metrics.pick_device(args.device)
    torch.manual_seed(args.seed)

    # Data
    data = load_images(args, "train", checkpoint["channels"] if checkpoint else 0)
    channels = data.images.shape[1]
    test = load_images(args, "test", channels)
    loader = datasets.make_loader(data, args.batch_size, seed=args.seed, rank=rank, world=world, workers=args.workers)
    fixed_x = datasets.fixed_batch(test, args.num_samples, device)["image"]
    if args.eval_every:  # weights not to be had? stop now, not later
        judges = metrics.load_judges(args.fid_dims, data, test, args.weights_dir, args.data_dir, device)

    # Networks, optimisers
    nets = build(args, channels, device, checkpoint)
    E, G, D = nets["E"], nets["G"], nets.get("D")
    game, rates = args.model == "vaegan", {"E": args.lr, "G": args.lr, "D": args.lr_d}  # game: D learns too
    adam = {name: dict(lr=rates[name], betas=(args.beta1, args.beta2), fused=True) for name in "EGD"[: 2 + game]}
    opts = {name: torch.optim.Adam(nets[name].parameters(), **how) for name, how in adam.items()}
    noise = torch.Generator().manual_seed(args.seed)  # the only source of random numbers from here on
    done = metrics.restore(checkpoint, noise, opts)
    metrics.broadcast_weights(*nets.values(), sync_bn=args.sync_bn)
    if args.compile:
        torch._functorch.config.donated_buffer = False  # here a graph is walked more than once
        [net.compile() for net in nets.values()]

    # Run folder, written by rank 0 alone
    out, last_step = Path(args.out), metrics.last_step(args, len(loader), done)
    if rank == 0:
        log = metrics.start_run(out, vars(args), dict([*FIGURES.items()][: 5 if game else 3]), checkpoint)
    bar = metrics.steps(loader, done, last_step)

    for step, epoch, batch in bar:  # step counts from 1
        metrics.decay_rates(opts, (step - 1) / len(loader), args.epochs, args.decay_from)  # linear to 0 from there
        x = datasets.to_float(batch["image"], device)
        eps, z_p = datasets.draw_noise((len(x), 2 * args.nz), noise, device, rank, world).chunk(2, dim=1)

        # (1) forward, once for all three
        with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
            mu, logvar = E(x)
            z = mu + torch.exp(0.5 * logvar) * eps
            images = G(torch.cat([z, z_p] if game else [z]))  # rec, then fake, (2B, C, H, W): one batch for BatchNorm
            features, logits = D(torch.cat([x, images])) if D else (torch.cat([x, images]) / args.sigma, None)
        target, rec, *_ = features.split(len(x))  # target: Dis_l of x, without gradient what rec is held against
        llike, prior = llike_loss(rec, target.detach(), args.unit_variance or D is None), kl_per_dim(mu, logvar).sum()

        # (2) a loss for each: E does not serve GAN, D has nothing of llike, which is least where all features are alike
        goals, learns = {"E": args.beta * prior + rec[0].numel() * llike, "G": llike}, list(opts)
        losses = dict(loss_llike=llike, loss_prior=prior)
        if game:
            real, unreal = logits.split([len(x), len(images)])
            cost_real, cost_fake = gan_loss(real, True), gan_loss(unreal, False)
            loss_gan = -cost_fake if args.dec_loss == "saturating" else gan_loss(unreal, True)
            goals |= {"G": args.gamma * llike + loss_gan, "D": cost_real + cost_fake}
            losses |= dict(cost_real=cost_real, cost_fake=cost_fake, loss_gan=loss_gan)
            if args.equilibrium:  # by the costs of all processes: they decide alike
                costs = metrics.gather(torch.stack([cost_real, cost_fake])[None], world)
                learns = who_learns(*costs.mean(dim=0).tolist())
        for name in learns:
            opts[name].zero_grad()  # inputs: through the nets of others the gradient passes and leaves no trace
            goals[name].backward(inputs=list(nets[name].parameters()), retain_graph=True)

        # (3) all step from the same weights
        for name in learns:
            metrics.average_gradients(nets[name])
            opts[name].step()

        # (4) scores, log, pictures, checkpoint
        if args.eval_every and step % args.eval_every == 0:  # all processes share the work
            metrics.write_scores(out / f"metrics-{step:07d}.json", measure(nets, data, test, args, device, judges))
        if rank > 0:
            continue
        log.add(len(x) * world, **losses)  # means until the next row
        if metrics.due(step, args.log_every, last_step):
            rec = datasets.generate(G, datasets.encode(E, [fixed_x])[0])
            row = log.write(step, epoch, mse_test=metrics.mse(rec.cpu(), fixed_x.cpu()))
            bar.set_postfix({name: f"{row[name]:.3f}" for name in list(losses)[:4]})
        if metrics.due(step, args.sample_every, last_step):
            _, columns = columns_of(E, G, fixed_x, args.seed)
            images = torch.stack(list(columns.values()), dim=1).flatten(0, 1)
            datasets.save_grid(images, out / f"samples/{step:07d}.png", 16, titles=list(columns) * 4)
            log.plot()
        if metrics.due(step, args.save_every, last_step) or metrics.stopping():
            metrics.save_run(out, SCRIPT, args, step, log, noise, nets, opts, channels=channels)


def main(argv=None):
    parser = build_parser()
    with metrics.one_sentence(parser, datasets.DataError):
        free = "decay_from input edit strength fid_dims fid_images".split()
        args, checkpoint = metrics.parse_args(parser, argv, SCRIPT, free)
        size_of(args)  # complains now, not after the data
        metrics.check_ranges(args, "lr lr_d sigma nz nef ngf ndf fc fid_images", "beta gamma leaky")
        if (args.input or args.edit) and not args.sample:
            raise datasets.DataError("--input and --edit go with --sample CKPT")
        if bool(args.dis_from) != (args.model == "vae-dis"):
            raise datasets.DataError("--model vae-dis and --dis-from CKPT, a run of equal sizes, go together")
        (sample if args.sample else evaluate if args.evaluate else train)(args, checkpoint)


if __name__ == "__main__":
    main()
