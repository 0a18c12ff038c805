"""StarGAN: one generator that changes any attribute of a face, and leaves the rest of it alone.

Choi et al., "StarGAN: Unified Generative Adversarial Networks for Multi-Domain Image-to-Image Translation",
CVPR 2018 (arXiv:1711.09020).

  x --G(., c_trg)--> fake --G(., c_org)--> rec               close to x: so G may change no more than it is asked for
                      fake --D--> src  a score: does it look real?          high for x, low for fake
                              --> cls  which attributes does it have?       D learns c_org of x, G makes fake have c_trg

  x (B, C, S, S) in [-1, 1]   c (B, K), 0 or 1, c_org true of x, c_trg of another x; G sees c as maps, (B, C + K, S, S)
  D: convolutions of stride 2 down to (B, width, 2, 2), then two heads: src (B, 1, 2, 2), cls (B, K) logits
  D: minimise E D(fake) - E D(x) + 10 (|grad D(x')| - 1)^2 + 1 cls(x, c_org)                  (equations 5, 8)
  G: minimise -E D(fake) + 1 cls(fake, c_trg) + 10 |x - rec|_1                                (equations 6, 8)
  cls: binary cross entropy, summed over the attributes; for class folders, one class a picture: cross entropy

Differences from the paper and its official code:
  1. A step is one batch and one update of D; G learns in every n_critic-th step, from the batch and fakes at hand.
  2. The rate falls to zero (official code: to 99.99%, by a slip). InstanceNorm keeps no running statistics.
  3. Of attributes that exclude each other (--exclusive: hair colours) setting one takes away the others, everywhere.
  4. G makes a mask besides, and paints only there (--no-mask: all): faces are themselves from the start (1807.09251).
  5. Sizes, rate and n_critic fit a CPU. Option: --adv bce, the log loss in place of Wasserstein's.

Measured, the default run on two CPU cores: 9 minutes, in-domain edit success 0.89, in-domain rest kept 1.00,
in-domain mean domain FID-128 6.15 (floor 1.40).
  python starGAN.py                                               drawn faces, without a download
  python starGAN.py --resume auto --epochs 60                     continue it
  python starGAN.py --sample runs/starGAN-faces-s0/last.pt        each attribute changed
  python starGAN.py --sample CKPT --input FACES --translate "Blond_Hair=1,Smiling=0"
  python starGAN.py --evaluate CKPT                               does the edit happen, does the rest stay; FID
  paper:  python starGAN.py --dataset celeba --attributes Black_Hair,Blond_Hair,Brown_Hair,Male,Young --image-size 128
            --epochs 20 --decay-from 10 --lr 1e-4 --ngf 64 --ndf 64 --blocks 6 --n-critic 5 --no-mask
  course: python starGAN.py --dataset celeba --attributes Black_Hair,Blond_Hair,Brown_Hair,Male,Smiling,Bangs --adv bce
            --image-size 128 --epochs 20 --decay-from 10 --lr 1e-4 --ngf 64 --ndf 64 --blocks 6 --n-critic 5 --no-mask
          python starGAN.py --sample CKPT --where "Male=1,Smiling=0" --translate "Male=0; Male=0,Black_Hair=1,Smiling=1"
"""

import math
from argparse import BooleanOptionalAction as yes_no
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import datasets
import metrics

SCRIPT = "starGAN"
HAIR = "Black_Hair/Blond_Hair/Brown_Hair/Gray_Hair"  # names as in CelebA

# ---------------------------------------------------------------------------------------------------- arguments


def build_parser():
    p = metrics.new_parser(  # --data-dir, --seed, --device, --resume, --sample, --evaluate ...: the same in all scripts
        SCRIPT,
        __doc__,
        dataset="faces",
        image_size=(32, "side in pixels: 32, 48, 64, 128 ... (paper: 128)"),
        epochs=(30, "passes over the training set (paper: 20)"),
        batch_size=(16, "images in a step of one process (paper: 16)"),
        lr=(4e-4, "learning rate of Adam (paper: 1e-4)"),
        beta1=(0.5, "Adam's decay of the mean (paper: 0.5)"),
        beta2=(0.999, "Adam's decay of the square (paper: 0.999)"),
        num_samples=(8, "faces in a picture"),
    )
    p.add_argument("--attributes", default="", metavar="A,B,...", help="what G learns to change; empty = all there are")
    p.add_argument("--exclusive", metavar="A/B/...,C/D", help=f"of each group one at most is true (default: {HAIR})")
    p.add_argument("--flip", action=yes_no, default=True, help="mirror half of the training images (paper: yes)")
    p.add_argument("--decay-from", type=int, default=15, help="epoch from which lr falls to 0; 0 = never (paper: half)")
    p.add_argument("--adv", default="wgan-gp", choices=("wgan-gp", "bce"), help="adversarial loss (paper: wgan-gp)")
    p.add_argument("--n-critic", type=int, default=2, help="steps of D for each of G (paper: 5)")
    for name, width, net in (("ngf", 24, "G"), ("ndf", 32, "D")):
        p.add_argument(f"--{name}", type=int, default=width, help=f"channels of {net}'s first layer (paper: 64)")
    p.add_argument("--blocks", type=int, default=3, help="residual blocks of G (paper: 6)")
    p.add_argument("--mask", action=yes_no, default=True, help="G chooses where to paint (paper: paints all anew)")
    for name, weight, of in (("cls", 1.0, "classification"), ("rec", 10.0, "|x - rec|"), ("gp", 10.0, "penalty")):
        p.add_argument(f"--lambda-{name}", type=float, default=weight, help=f"weight of {of} (paper: {weight:g})")
    p.add_argument("--input", default="", metavar="FILE|DIR", help="with --sample: change these faces")
    p.add_argument("--translate", default="", metavar="A=1,B=0;C=1", help="with --sample: only these changes")
    p.add_argument("--where", default="", metavar="A=1,B=0", help="with --sample: of test faces that are so")
    p.add_argument("--fid-dims", type=int, default=0, choices=(0, 64, 192, 768, 2048), help="0 = without Inception")
    p.add_argument("--fid-images", type=int, default=1000, help="test images that --evaluate changes in every way")
    return p


# ----------------------------------------------------------------------------------------------------- networks


def halvings(image_size):
    """Convolutions of stride 2 in D, as many as leave a map of 2 x 2 (of 3 x 3 at 48 or 96 px). DataError."""
    layers = int(math.log2(max(image_size, 8))) - 1
    if image_size < 8 or image_size % 2**layers:
        raise datasets.DataError(f"--image-size {image_size}: D halves it {layers} times; use 32, 48, 64, 96, 128 ...")
    return layers


def normed(conv):
    """conv, instance normalisation and ReLU. conv needs no bias; the normalisation keeps no running statistics."""
    return [conv, nn.InstanceNorm2d(conv.out_channels, eps=1e-5, affine=True), nn.ReLU(inplace=True)]


class Residual(nn.Module):
    """(B, C, h, w) -> the same shape."""

    def __init__(self, C):
        super().__init__()
        one, two = (normed(nn.Conv2d(C, C, kernel_size=3, padding=1, bias=False)) for _ in range(2))
        self.net = nn.Sequential(*one, *two[:2])  # no ReLU before the sum

    def forward(self, x):
        return x + self.net(x)


class Generator(nn.Module):
    """G(x, c): x (B, C, S, S), c (B, K) -> (B, C, S, S) in [-1, 1]. Padded with zeros, and must be: InstanceNorm takes
    away what a constant map adds everywhere alike. Beside the zeros it adds less: with mirrored borders G is blind."""

    def __init__(self, channels, classes, ngf, blocks, mask=False):
        super().__init__()
        half, up, n = dict(kernel_size=4, stride=2, padding=1, bias=False), nn.ConvTranspose2d, ngf
        layers = normed(nn.Conv2d(channels + classes, n, kernel_size=7, padding=3, bias=False))
        layers += normed(nn.Conv2d(n, 2 * n, **half)) + normed(nn.Conv2d(2 * n, 4 * n, **half))  # S -> S/2 -> S/4
        layers += [Residual(4 * n) for _ in range(blocks)]
        layers += normed(up(4 * n, 2 * n, **half)) + normed(up(2 * n, n, **half))  # S/4 -> S/2 -> S
        layers += [nn.Conv2d(n, channels + mask, kernel_size=7, padding=3, bias=mask)]
        self.net, self.mask = nn.Sequential(*layers), mask

    def forward(self, x, c):
        maps = c[:, :, None, None].expand(-1, -1, *x.shape[2:])  # (B, K, S, S)
        h = self.net(torch.cat([x, maps], dim=1)).float()
        if self.mask:
            return torch.lerp(x, torch.tanh(h[:, :-1]), torch.sigmoid(h[:, -1:]))  # mask 0: x stays, 1: is painted over
        return torch.tanh(h)


class Discriminator(nn.Module):
    """x (B, C, S, S) -> src (B, 1, h, w), real numbers, and cls (B, K), logits. No normalisation: see the penalty."""

    def __init__(self, channels, classes, ndf, image_size):
        super().__init__()
        layers, body = halvings(image_size), []
        width = [channels, *(ndf * 2**i for i in range(layers))]  # ndf 64, 6 layers: 64 128 256 512 1024 2048
        for c_in, c_out in zip(width, width[1:], strict=False):
            body += [nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.01, inplace=True)]
        self.body = nn.Sequential(*body)
        self.src = nn.Conv2d(width[-1], 1, kernel_size=3, padding=1, bias=False)
        self.cls = nn.Conv2d(width[-1], classes, kernel_size=image_size // 2**layers, bias=False)  # the whole map

    def forward(self, x):
        h = self.body(x)
        return self.src(h).float(), self.cls(h).flatten(1).float()


# ------------------------------------------------------------------------------------------------------- losses


def gan_loss(src, is_real, kind):
    """How little src of some images looks real, or fake. wgan-gp: -E D(x), E D(x). bce: -log D(x), -log(1 - D(x))."""
    score = -src if is_real else src
    return (F.softplus(score) if kind == "bce" else score).mean()  # softplus(-logit) = -log sigmoid(logit)


def cls_loss(logits, c, one_hot):
    """Logits (B, K), truth c (B, K) -> nats per image (equations 2 and 3): summed over attributes, as the official code
    has it. The mean, which torch would take, weighs K times less against the reconstruction."""
    if one_hot:
        return F.cross_entropy(logits, c.argmax(dim=1))
    return F.binary_cross_entropy_with_logits(logits, c, reduction="sum") / len(c)


def src_penalty(D, real, fake, a):
    """(|grad D(x')| - 1)^2 at points x' = a real + (1 - a) fake, one a in [0, 1] for each picture, (B, 1, 1, 1). Of src
    alone, summed over its map as in the official code. norm(), unlike sqrt(sum of squares), has a gradient at 0."""
    x = (a * real + (1 - a) * fake).requires_grad_(True)
    (gradient,) = torch.autograd.grad(D.src(D.body(x)).sum(), x, create_graph=True)  # create_graph: it teaches D
    return (gradient.flatten(1).norm(2, dim=1) - 1).square().mean()


def load_attributes(args, split, checkpoint=None):
    """A split of --dataset whose `attributes`, uint8 (N, K), are those asked for, in that order; or one-hot classes."""
    channels = checkpoint["channels"][0] if checkpoint else 0  # 0 = as the set has them
    how = dict(**datasets.how_to_load(args), channels=channels, input_channels=channels)
    names = checkpoint["names"] if checkpoint else filter(None, map(str.strip, args.attributes.split(",")))
    return datasets.choose_attributes(datasets.load(args.dataset, split, args.image_size, **how), list(names))


def exclusive(args, names, one_hot):
    """--exclusive -> for each attribute the numbers of its rivals, which cannot be true together with it. DataError."""
    groups = [group.split("/") for group in (HAIR if args.exclusive is None else args.exclusive).split(",") if group]
    groups = [names] if one_hot else groups  # of classes a picture has one
    if args.exclusive and not one_hot and (unknown := {name for group in groups for name in group} - set(names)):
        raise datasets.DataError(f"--exclusive: {', '.join(sorted(unknown))} not among {', '.join(names)}")
    return [[k for k, b in enumerate(names) if a != b and any({a, b} <= set(g) for g in groups)] for a in names]


def parse(text, names, rivals):
    """ "Black_Hair=1,Smiling=0" -> {number: 0 or 1}. DataError where no face can be so."""
    settings = {names.index(name): value for name, value in datasets.read_settings(text, names).items()}
    for k, value in settings.items():
        if value not in (0, 1) or (rivals[k] and sum(settings.get(j, 0) for j in [k, *rivals[k]]) != 1):
            raise datasets.DataError(f"{text}: an attribute is 1 or 0, and of an --exclusive group exactly one is 1")
    return settings


def read_logits(logits, rivals):
    """cls (N, K) -> 0 or 1 (N, K), what D takes for true: above 0, and above its rivals; of classes the likeliest."""
    c = logits > 0
    for k, others in enumerate(rivals):
        if others:
            c[:, k] = (logits[:, k] > logits[:, others].amax(dim=1)) & (c[:, k] | (len(others) == len(rivals) - 1))
    return c.float()


def permuted(c, noise, rank, world):
    """The labels c (B, K) of all processes in another order -> the share of this one. So a target is true of some real
    picture: attributes drawn one by one would ask for black and blond hair at once."""
    everyone = metrics.gather(c, world)
    return everyone[torch.randperm(len(everyone), generator=noise)[rank::world].to(c.device)]


# ------------------------------------------------------------------------------------- pictures and measurements


def build(args, channels, device, checkpoint=None):
    """channels (of an image, attributes) -> G, D by name, with torch's initialisation or the checkpoint's weights."""
    nets = {"G": Generator(*channels, args.ngf, args.blocks, args.mask)}
    nets["D"] = Discriminator(*channels, args.ndf, args.image_size)
    for name, net in nets.items():
        if checkpoint:
            net.load_state_dict(checkpoint[name])
        net.to(device)
    return nets


def sample(args, checkpoint):
    """--sample: samples.png, each attribute or --translate changed; of --input, each picture in a file of its own."""
    device, _, _ = metrics.pick_device(args.device)
    names, channels, out = checkpoint["names"], checkpoint["channels"], Path(args.out, "samples")
    rivals = exclusive(args, names, checkpoint["one_hot"])
    edits = {name: {k: None} for k, name in enumerate(names)}
    if args.translate:
        edits = {text.strip(): parse(text, names, rivals) for text in args.translate.split(";")}
    G, D = build(args, channels, device, checkpoint).values()
    if args.input:
        x, files = datasets.read_images(args.input, args.image_size, channels=channels[0], resize=args.resize)
        x = datasets.to_float(x, device)  # what is true of these nobody says: ask D
        c = read_logits(datasets.generate(nn.Sequential(D.body, D.cls), x).flatten(1), rivals)
    else:
        test, files = load_attributes(args, "test", checkpoint), []
        where = parse(args.where, names, [[]] * len(names)) if args.where else {}
        batch = datasets.fixed_batch(datasets.those_with(test, where), args.num_samples, device)
        x, c = batch["image"], batch["attributes"].float().to(device)
    columns = {
        title: datasets.generate(G, x, datasets.change(c, settings, rivals)) for title, settings in edits.items()
    }
    datasets.save_rows({"input": x} | columns, out / "samples.png", rows=args.num_samples)
    datasets.save_each(columns, files, out)
    print(f"{out}: samples.png" + (f", {len(files)} x {len(columns)} pictures" if files else ""))


def measure(nets, train, test, args, device, judges):
    """Every attribute of the test images changed: does it, does the rest stay, is it real? -> list of metrics.Score."""
    names, G, edits, domains = test.attribute_names, nets["G"], {}, {}
    rivals, batch = exclusive(args, names, test.labels is not None), datasets.fixed_batch(test, args.fid_images, device)
    x, c = batch["image"], batch["attributes"].float()
    train = datasets.fixed_batch(train, args.fid_images, "cpu")  # for the floor
    real, real2 = (metrics.inception_features(datasets.to_uint8(b["image"]), judges[0]) for b in (batch, train))
    for k, name in enumerate(names):
        wanted = datasets.change(c, {k: None}, rivals)
        rows = (wanted != c).any(dim=1)  # without those that have the asked hair colour already
        if rows.any():
            fake = datasets.to_uint8(datasets.generate(G, x[rows], wanted[rows].to(device))).cpu()
            edits[name] = (fake, wanted[rows], (wanted != c)[rows])
            has = [(labels[:, k] == 1).numpy() for labels in (c, wanted[rows], train["attributes"])]
            domains[name] = (real[has[0]], fake[has[1]], real2[has[2]])  # those given it beside those that have it
    scores = metrics.edit_fidelity(edits, judges[-1]) + metrics.domain_fid(domains, judges[0])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(args.seed))
    fake = datasets.to_float(datasets.to_uint8(datasets.generate(G, x, c[order].to(device))), device)
    rec = datasets.generate(G, fake, c.to(device))  # of 8-bit fakes, as a file has them: what G hides there is gone
    error, moved = ((y - x).abs().mean().item() for y in (rec, fake))
    return [*scores, metrics.Score("|x - G(fake, c_org)|", error, n_fake=len(x), note=f"|x - fake| {moved:.3f}")]


def fakes(args, checkpoint, n):
    """Yields n pictures as --evaluate judges them, uint8 (B, C, S, S), for `python metrics.py fid SET CKPT`."""
    device, _, _ = metrics.pick_device(args.device)
    G, test = build(args, checkpoint["channels"], device, checkpoint)["G"], load_attributes(args, "test", checkpoint)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(args.seed))
    for rows in torch.arange(n).split(200):
        own, others = (test.__getitems__((i * len(test) // n).tolist()) for i in (rows, order[rows]))
        x, c = datasets.to_float(own["image"], device), others["attributes"].float().to(device)
        yield datasets.to_uint8(datasets.generate(G, x, c)).cpu()


def evaluate(args, checkpoint):
    """--evaluate: print the scores and write metrics.json."""
    device, _, _ = metrics.pick_device(args.device)
    train, test = (load_attributes(args, split, checkpoint) for split in ("train", "test"))
    judges = metrics.load_judges(args.fid_dims, train, test, args.weights_dir, args.data_dir, device)
    nets = build(args, checkpoint["channels"], device, checkpoint)
    metrics.write_evaluation(args, checkpoint, measure(nets, train, test, args, device, judges))


# ----------------------------------------------------------------------------------------------------- training

FIGURES = {  # title: columns of log.csv
    "adversarial losses": ["loss_D", "loss_G"],
    "classification, nats per image: D of real ones, G of fakes": ["loss_cls_D", "loss_cls"],
    "reconstruction |x - rec|": ["loss_rec"],
    "share of the asked changes that D sees": ["edited"],
    "gradient penalty (--adv wgan-gp)": ["loss_gp"],
}


def train(args, checkpoint):
    device, rank, world = metrics.pick_device(args.device)
    torch.manual_seed(args.seed)

    # Data
    data, test = (load_attributes(args, split, checkpoint) for split in ("train", "test"))
    names, one_hot = data.attribute_names, data.labels is not None
    rivals, channels = exclusive(args, names, one_hot), (data.images.shape[1], len(names))
    loader = datasets.make_loader(data, args.batch_size, seed=args.seed, rank=rank, world=world, workers=args.workers)
    rows = datasets.fixed_batch(test, args.num_samples, device)
    rows_x, rows_c = rows["image"], rows["attributes"].float().to(device)
    if args.eval_every:  # weights not to be had? stop now, not later
        judges = metrics.load_judges(args.fid_dims, data, test, args.weights_dir, args.data_dir, device)

    # Networks, optimisers
    nets = build(args, channels, device, checkpoint)
    G, D = nets.values()
    adam = dict(lr=args.lr, betas=(args.beta1, args.beta2), fused=True)
    opts = {name: torch.optim.Adam(net.parameters(), **adam) for name, net in nets.items()}
    noise = torch.Generator().manual_seed(args.seed)  # the only source of random numbers from here on
    done = metrics.restore(checkpoint, noise, opts)
    metrics.broadcast_weights(*nets.values(), sync_bn=args.sync_bn)
    for net in nets.values() if args.compile else ():
        net.compile()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.amp)

    # Run folder, written by rank 0 alone
    out, last_step = Path(args.out), metrics.last_step(args, len(loader), done)
    if rank == 0:
        log = metrics.start_run(out, vars(args), FIGURES, checkpoint)
    bar = metrics.steps(loader, done, last_step)
    losses_G = checkpoint["losses_G"] if checkpoint else {}  # of G's latest step; logged until its next

    for step, epoch, batch in bar:  # step counts from 1
        metrics.decay_rates(opts, (step - 1) / len(loader), args.epochs, args.decay_from)  # linear to 0 from there
        real, c_org = datasets.to_float(batch["image"], device), batch["attributes"].float().to(device)
        if args.flip:
            real = datasets.augment(real, flip=True, rank=rank, world=world, generator=noise)
        c_trg = permuted(c_org, noise, rank, world)
        turn_of_G = step % args.n_critic == 0
        with torch.set_grad_enabled(turn_of_G), autocast:  # where G does not learn, there is no gradient into G
            fake = G(real, c_trg)

        # (1) D step: minimise E D(fake) - E D(x) + 10 gradient penalty + cls(x, c_org)
        D.requires_grad_(True)
        with autocast:
            src, cls = D(torch.cat([real, fake.detach()]))  # detach: no gradient into G
        (D_real, D_fake), (cls_real, cls_fake) = src.chunk(2), cls.chunk(2)
        losses = {"loss_D": gan_loss(D_real, True, args.adv) + gan_loss(D_fake, False, args.adv)}
        losses["loss_cls_D"] = cls_loss(cls_real, c_org, one_hot)
        loss = losses["loss_D"] + args.lambda_cls * losses["loss_cls_D"]  # cls_fake teaches D nothing: it may be wrong
        if args.adv == "wgan-gp":  # outside autocast: second derivatives want 32 bits
            a = datasets.draw_uniform((len(real), 1, 1, 1), noise, device, rank, world)
            losses["loss_gp"] = src_penalty(D, real, fake.detach(), a)
            loss = loss + args.lambda_gp * losses["loss_gp"]
        opts["D"].zero_grad()
        loss.backward()
        metrics.average_gradients(D)
        opts["D"].step()

        # (2) G step, in every n_critic-th: minimise -E D(fake) + cls(fake, c_trg) + 10 |x - rec|
        if turn_of_G:
            D.requires_grad_(False)
            with autocast:
                src, cls = D(fake)  # by the D that has just learnt
                rec = G(fake, c_org)
            loss_G, loss_cls = gan_loss(src, True, args.adv), cls_loss(cls, c_trg, one_hot)
            loss_rec = (real - rec).abs().mean()
            opts["G"].zero_grad()
            (loss_G + args.lambda_cls * loss_cls + args.lambda_rec * loss_rec).backward()
            metrics.average_gradients(G)
            opts["G"].step()
            losses_G = dict(loss_G=loss_G.detach(), loss_cls=loss_cls.detach(), loss_rec=loss_rec.detach())

        # (3) scores, log, pictures, checkpoint
        if args.eval_every and step % args.eval_every == 0:  # all processes share the work
            metrics.write_scores(out / f"metrics-{step:07d}.json", measure(nets, data, test, args, device, judges))
        if rank > 0:
            continue
        asked = c_trg != c_org
        edited = (asked & (read_logits(cls_fake, rivals) == c_trg)).sum() / asked.sum().clamp(min=1)
        log.add(len(real) * world, **losses, **losses_G, edited=edited)  # means until the next row
        if metrics.due(step, args.log_every, last_step):
            row = log.write(step, epoch)
            bar.set_postfix({name: f"{row[name]:.3f}" for name in ("loss_D", "loss_cls_D", "edited")})
        if metrics.due(step, args.sample_every, last_step):
            changed = {name: datasets.change(rows_c, {k: None}, rivals) for k, name in enumerate(names)}
            columns = {name: datasets.generate(G, rows_x, c) for name, c in changed.items()}
            datasets.save_rows({"input": rows_x} | columns, out / f"samples/{step:07d}.png", rows=args.num_samples)
            log.plot()
        if metrics.due(step, args.save_every, last_step) or metrics.stopping():
            facts = dict(channels=channels, names=names, one_hot=one_hot, losses_G=losses_G)
            metrics.save_run(out, SCRIPT, args, step, log, noise, nets, opts, **facts)


def main(argv=None):
    parser = build_parser()
    with metrics.one_sentence(parser, datasets.DataError):
        free = ("exclusive", "decay_from", "input", "translate", "where", "fid_dims", "fid_images")
        args, checkpoint = metrics.parse_args(parser, argv, SCRIPT, free)
        halvings(args.image_size)  # complains now, not after the data
        metrics.check_ranges(args, "lr ngf ndf n_critic fid_images", "blocks")
        if (args.input or args.translate or args.where) and not args.sample:
            raise datasets.DataError("--input, --translate, --where go with --sample CKPT")
        (sample if args.sample else evaluate if args.evaluate else train)(args, checkpoint)


if __name__ == "__main__":
    main()
