"""CycleGAN: translate between two kinds of pictures, A and B, of which no two belong together.

Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks", ICCV 2017
(arXiv:1703.10593). Its X, Y, G, F, D_X, D_Y are A, B, G_AB, G_BA, D_A, D_B here.

  real_A --G_AB--> fake_B --G_BA--> rec_A    near real_A: nothing is lost on the way    D_B: real_B or fake_B?
  real_B --G_BA--> fake_A --G_AB--> rec_B    near real_B                               D_A: real_A or fake_A?

  pictures (B, 3, S, S) in [-1, 1]   G: a ResNet that keeps the size   D: scores of patches, 70 x 70 px, (B, 1, h, w)
  min_G  |D_B(fake_B) - 1|^2 + |D_A(fake_A) - 1|^2 + 10 (|real_A - rec_A|_1 + |real_B - rec_B|_1)    (sections 3, 4)
         + 5 (|G_AB(real_B) - real_B|_1 + |G_BA(real_A) - real_A|_1)           identity: keeps colours (section 5.2)
  min_D  (|D_B(real_B) - 1|^2 + |D_B(fake_B)|^2) / 2, and so for D_A; fakes from a pool of the last 50 (section 4)

Differences from the paper and its official code:
  1. G also makes a mask, of where it paints over the picture (arXiv:1807.09251); --no-mask: it paints all anew. Then
     InstanceNorm, which forgets plain colours, takes longer to find them again than G to learn what to change.
  2. 3 calls of G where the official code has 6, for the same numbers. No bias where InstanceNorm would remove it.
  3. The rate falls to 0 step by step; the official code stops at 1 % of it. Sizes, rate, batch, length fit a CPU.
  4. Several processes keep one pool together: they compute what one process with the whole batch would.
  5. Options of the courses: --net-d four-stride, --up upsample, --dropout, --cr (arXiv:1910.12027, 2002.04724).

Measured, the default run on 2 CPU cores: 6 min, FID AtoB-768 0.099 (floor 0.083), FID BtoA-768 0.099 (floor 0.078).
  python cyclegan.py                                                     the default run, without a download
  python cyclegan.py --resume auto --epochs 4 --decay-from 3             continue it
  python cyclegan.py --sample runs/cyclegan-faces-s0/last.pt             A -> B -> A and B -> A -> B of test pictures
  python cyclegan.py --sample CKPT --input PHOTOS --direction AtoB
  python cyclegan.py --evaluate CKPT --fid-dims 768 --weights-dir weights
  outlines: python cyclegan.py --dataset edges2faces --no-mask --lambda-idt 0     where all is to be painted
  official: python cyclegan.py --dataset horse2zebra --image-size 256 --batch-size 1 --epochs 200 --decay-from 100
            --lr 2e-4 --ngf 64 --ndf 64 --blocks 9 --jitter --flip --no-mask
  course: python cyclegan.py --dataset horse2zebra --image-size 128 --batch-size 1 --epochs 220 --decay-from 100
            --lr 2e-4 --ngf 64 --ndf 64 --blocks 9 --jitter --flip --no-mask --cr fake
  course: python cyclegan.py --dataset edges2shoes --image-size 128 --batch-size 1 --epochs 2 --decay-from 0
            --lr 2e-4 --ngf 64 --ndf 64 --blocks 5 --up upsample --net-d four-stride --no-mask --lambda-idt 0
"""

import functools
from argparse import BooleanOptionalAction as yes_no
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import datasets
import metrics

SCRIPT = "cyclegan"

# ---------------------------------------------------------------------------------------------------- arguments


def build_parser():
    p = metrics.new_parser(  # --data-dir, --seed, --device, --resume, --sample, --evaluate ...: the same in all scripts
        SCRIPT,
        __doc__,
        dataset="faces",
        image_size=(64, "side in pixels, a multiple of 16 from 32 on (paper: 256)"),
        epochs=(2, "passes over the larger of the two sets (paper: 200)"),
        batch_size=(2, "pictures of each set in a step of one process (paper: 1)"),
        lr=(4e-4, "learning rate of Adam (paper: 2e-4)"),
        beta1=(0.5, "Adam's decay of the mean (official: 0.5)"),
        beta2=(0.999, "Adam's decay of the square (official: 0.999)"),
        num_samples=(8, "test pictures of each set in a picture"),
        sample_every=250,
    )
    p.add_argument("--attribute", default="", help="A without it, B with it; of faces and celeba: Eyeglasses if empty")
    p.add_argument("--classes", default="", metavar="A,B", help="of a set with classes: these two are A and B")
    p.add_argument("--jitter", action=yes_no, default=False, help="load larger by 286/256, train on random crops")
    p.add_argument("--flip", action=yes_no, default=False, help="mirror half of the training pictures")
    p.add_argument("--decay-from", type=int, default=1, help="epoch from which lr falls to 0; 0 = never (paper: half)")
    for name, net in (("ngf", "G"), ("ndf", "D")):
        p.add_argument(f"--{name}", type=int, default=24, help=f"channels of each {net}'s first layer (paper: 64)")
    p.add_argument("--blocks", type=int, default=4, help="residual blocks; 0 = the paper's 6, from 256 px on 9")
    p.add_argument("--up", default="transposed", choices=("transposed", "upsample"), help="how G doubles the size")
    p.add_argument("--mask", action=yes_no, default=True, help="G also says where it paints over a picture (paper: no)")
    p.add_argument("--dropout", action=yes_no, default=False, help="half of the channels' values, inside G's blocks")
    p.add_argument("--net-d", default="patch", choices=("patch", "four-stride"), help="four-stride = 94 x 94 patches")
    p.add_argument("--pool-size", type=int, default=50, help="past fakes kept for each D; 0 = no pool (paper: 50)")
    p.add_argument("--lambda-cyc", type=float, default=10.0, help="weight of |x - rec| (paper: 10)")
    p.add_argument("--lambda-idt", type=float, default=5.0, help="weight of |G_AB(B) - B|, 0 = off (paper: 5 or 0)")
    p.add_argument("--cr", default="none", choices=("none", "real", "fake", "both"), help="D's consistency on these")
    p.add_argument("--cr-weight", type=float, default=1.0, help="weight of the consistency loss (course: 1)")
    p.add_argument("--input", default="", metavar="FILE|DIR", help="with --sample: translate these pictures")
    p.add_argument("--direction", default="both", choices=("AtoB", "BtoA", "both"), help="of --sample")
    p.add_argument("--keep-best", action=yes_no, default=True, help="with --eval-every: best.pt, by the mean FID")
    p.add_argument("--fid-dims", type=int, default=0, choices=(0, 64, 192, 768, 2048), help="0 = without Inception")
    return p


# ----------------------------------------------------------------------------------------------------- networks


class ResnetBlock(nn.Module):
    """x + F(x), two reflection-padded convolutions: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, c, dropout):
        super().__init__()
        conv = dict(kernel_size=3, padding=1, padding_mode="reflect", bias=False)
        layers = [nn.Conv2d(c, c, **conv), nn.InstanceNorm2d(c), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        self.net = nn.Sequential(*layers[: 3 + dropout], nn.Conv2d(c, c, **conv), nn.InstanceNorm2d(c))

    def forward(self, x):
        return x + self.net(x)


class Generator(nn.Module):
    """c7s1-64, d128, d256, R256 x blocks, u128, u64, c7s1-3 in the paper's words (section 7.2): (B, channels, S, S) in
    [-1, 1] -> the same. InstanceNorm keeps no statistics: train() and eval() compute the same."""

    def __init__(self, channels, ngf, blocks, up="transposed", dropout=False, mask=False):
        super().__init__()
        edge = dict(kernel_size=7, padding=3, padding_mode="reflect")  # zeros would frame the picture
        layers = [nn.Conv2d(channels, ngf, bias=False, **edge), nn.InstanceNorm2d(ngf), nn.ReLU(inplace=True)]
        for c in (ngf, 2 * ngf):  # S -> S/2 -> S/4
            layers += [nn.Conv2d(c, 2 * c, kernel_size=3, stride=2, padding=1, bias=False)]
            layers += [nn.InstanceNorm2d(2 * c), nn.ReLU(inplace=True)]
        layers += [ResnetBlock(4 * ngf, dropout) for _ in range(blocks)]
        for c in (4 * ngf, 2 * ngf):  # S/4 -> S/2 -> S
            if up == "upsample":  # no checkerboard: every output pixel is made by as many weights
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(c, c // 2, kernel_size=3, padding=1, bias=False)]
            else:
                layers += [nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1, bias=False)]
            layers += [nn.InstanceNorm2d(c // 2), nn.ReLU(inplace=True)]
        self.net = nn.Sequential(*layers, nn.Conv2d(ngf, channels + mask, **edge))

    def forward(self, x):
        h = self.net(x).float()
        if h.shape[1] == x.shape[1]:  # no mask
            return torch.tanh(h)
        return torch.lerp(x, torch.tanh(h[:, :-1]), torch.sigmoid(h[:, -1:]))  # mask 0: x stays, 1: is painted over


class Discriminator(nn.Module):
    """PatchGAN: a score, no sigmoid, for each patch. (B, channels, S, S) -> (B, 1, h, w); patch: 70 x 70 pixels wide,
    h = S/8 - 2, the paper's; four-stride: 94 x 94, h = S/16, the course's."""

    def __init__(self, channels, ndf, kind="patch"):
        super().__init__()
        layers = [nn.Conv2d(channels, ndf, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for i in range(3):
            c, stride = ndf * 2**i, 2 if i < 2 or kind == "four-stride" else 1
            layers += [nn.Conv2d(c, 2 * c, kernel_size=4, stride=stride, padding=1, bias=False)]
            layers += [nn.InstanceNorm2d(2 * c), nn.LeakyReLU(0.2, inplace=True)]
        pad = [nn.ZeroPad2d((1, 0, 1, 0))] if kind == "four-stride" else []  # so that the last 4 x 4 keeps S/16
        self.net = nn.Sequential(*layers, *pad, nn.Conv2d(8 * ndf, 1, kernel_size=4, padding=1))

    def forward(self, x):
        return self.net(x).float()


def init_weights(net):
    """N(0, 0.02) for every weight, zero for every bias (section 7.1)."""
    for p in net.parameters():
        nn.init.zeros_(p) if p.ndim == 1 else nn.init.normal_(p, mean=0.0, std=0.02)


# ------------------------------------------------------------------------------------------------------- losses


def gan_loss(scores, is_real):
    """Squared distance of D's scores from 1 (real) or 0 (fake), averaged over the map (section 4; arXiv:1611.04076)."""
    return (scores - float(is_real)).square().mean()


def d_loss(D, real, fake):
    """Half of real scores to 1 + fake scores to 0, from one pass of D: InstanceNorm lets no picture see another."""
    on_real, on_fake = D(torch.cat([real, fake])).split([len(real), len(fake)])
    return 0.5 * (gan_loss(on_real, True) + gan_loss(on_fake, False))  # half: D learns at half the speed of G


def cr_loss(D, pictures, augment):
    """Squared change of D's score of a picture that is mirrored or not and shifted by up to a sixteenth
    (arXiv:1910.12027), for [(B, 3, S, S), ...]. The score is the mean of the map, which itself shifts too."""
    moved = [augment(F.pad(x, [x.shape[-1] // 16] * 4, mode="reflect"), crop=x.shape[-1], flip=True) for x in pictures]
    scores = [D(torch.cat(pair)).mean(dim=(1, 2, 3)).chunk(2) for pair in zip(pictures, moved, strict=True)]
    return sum(((before - after).square().mean() for before, after in scores), start=torch.zeros(()))  # of (B,) each


class ImagePool:
    """Past fakes, so that D does not forget what G has given up (section 4; Shrivastava et al., arXiv:1612.07828)."""

    def __init__(self, size, images=()):
        self.size, self.images = size, list(images)  # (C, S, S) each

    def query(self, fakes, noise, rank=0, world=1):
        """fakes (B, C, S, S) -> as many for D: each the new one or, half of the time once the pool is full, an old one
        whose place the new one takes. All processes keep one pool, of the fakes of all, and each gets its part."""
        fakes, answer = metrics.gather(fakes, world), []  # no gradient into G
        for fake in fakes:
            coin, place = torch.rand(2, generator=noise).tolist()
            if len(self.images) < self.size:
                self.images.append(fake.clone())  # clone: a view would keep its whole batch alive
            elif self.size and coin < 0.5:
                i = int(place * self.size)
                self.images[i], fake = fake.clone(), self.images[i]
            answer.append(fake)
        return torch.stack(answer[rank::world])


# ------------------------------------------------------------------------------------- pictures and measurements


def build(args, channels, device, checkpoint=None):
    """-> G_AB, G_BA, D_A, D_B by name, initialised or with the checkpoint's weights."""
    blocks = args.blocks or (6 if args.image_size < 256 else 9)
    nets = {name: Generator(channels, args.ngf, blocks, args.up, args.dropout, args.mask) for name in ("G_AB", "G_BA")}
    nets |= {name: Discriminator(channels, args.ndf, args.net_d) for name in ("D_A", "D_B")}
    for name, net in nets.items():
        init_weights(net)
        if checkpoint:
            net.load_state_dict(checkpoint[name])
        net.to(device)
    return nets


def load_domains(args, split, image_size=0):
    """A split of --dataset as its two domains, in colour: the identity loss needs as many channels on both sides."""
    usual = "Eyeglasses" if args.dataset in ("faces", "celeba") and not args.classes else ""
    how = dict(attribute=args.attribute or usual, classes=args.classes, channels=3, **datasets.how_to_load(args))
    return datasets.load_domains(args.dataset, split, image_size or args.image_size, **how)


def pictures(data, n, device):
    """n pictures of A and n of B, (n, 3, S, S) in [-1, 1] each, or fewer of both: the same at every call."""
    return [datasets.fixed_batch(side, min(n, len(data.A), len(data.B)), device)["image"] for side in (data.A, data.B)]


def triplets(nets, A=None, B=None):
    """Columns of a picture: real_A, fake_B, rec_A and real_B, fake_A, rec_B, (n, 3, S, S) in [-1, 1] each."""
    columns = {}
    for real, here, there in ((A, "A", "B"), (B, "B", "A")):
        if real is not None:
            fake = datasets.generate(nets[f"G_{here}{there}"], real)
            rec = datasets.generate(nets[f"G_{there}{here}"], fake)
            columns |= {f"real_{here}": real, f"fake_{there}": fake, f"rec_{here}": rec}
    return columns


def sample(args, checkpoint):
    """--sample: translations.png, two_by_two.png and, with --input, every translation in a file of its own."""
    device, _, _ = metrics.pick_device(args.device)
    if args.input:
        x, files = datasets.read_images(args.input, args.image_size, checkpoint["channels"], resize=args.resize)
        A = B = datasets.to_float(x, device)
    else:
        (A, B), files = pictures(load_domains(args, "test"), args.num_samples, device), []
    nets, out = build(args, checkpoint["channels"], device, checkpoint), Path(args.out, "samples")
    columns = triplets(nets, None if args.direction == "BtoA" else A, None if args.direction == "AtoB" else B)
    datasets.save_rows(columns, out / "translations.png", rows=args.num_samples)
    datasets.save_each({name: x for name, x in columns.items() if name.startswith("fake")}, files, out)
    if args.direction == "both":  # the course's figure: real_A, fake_B over real_B, fake_A; up to four side by side
        rows = [torch.stack([columns[x], columns[y]], 1)[:4] for x, y in (("real_A", "fake_B"), ("real_B", "fake_A"))]
        datasets.save_grid(torch.cat(rows).flatten(0, 1), out / "two_by_two.png", columns=2 * len(rows[0]))
    print(f"{out}: translations.png" + (f", each of {len(files)} pictures translated" if files else ""))


@torch.no_grad()
def measure(nets, train, test, args, device, judges):
    """Both directions on the test split -> list of metrics.Score. Ceiling: what no translation at all would score.
    A cycle may cheat, hiding x in its fake too faintly to be seen (arXiv:1712.02950). So its error, 0 to 2, is also
    taken from a fake that is rounded to 8 bits and gets noise of 2 grey levels, which nothing so faint outlasts."""
    scores, noise = [], torch.Generator().manual_seed(args.seed)
    for here, there in ("AB", "BA"):
        G, G_back, way = nets[f"G_{here}{there}"], nets[f"G_{there}{here}"], f"{here}to{there}"
        source, more, fakes, error, honest = getattr(test, here).images, getattr(train, there).images, [], 0.0, 0.0
        for some in torch.from_numpy(np.array(source)).split(50):
            x = datasets.to_float(some, device)
            fake = datasets.generate(G, x)
            fakes.append(datasets.to_uint8(fake).cpu())
            noisy = datasets.to_float(fakes[-1], device) + 2 / 127.5 * datasets.draw_noise(x.shape, noise, device)
            error += (x - datasets.generate(G_back, fake)).abs().sum().item() / source.size
            honest += (x - datasets.generate(G_back, noisy)).abs().sum().item() / source.size
        for net in judges:
            sets = (source, torch.cat(fakes), getattr(test, there).images, more[:: len(more) // len(source) or 1])
            x, y, real, real2 = (metrics.inception_features(images, net) for images in sets)
            for compare in (functools.partial(metrics.fid, real2=real2), metrics.kid):
                for name, features in ((way, y), (f"{way} ceiling", x)):
                    scores.append(compare(real, features, net=net))
                    scores[-1].metric += f" {name}"
        share = float((net.predict(y) == "AB".index(there)).mean())  # the last judge tells A from B
        scores += [metrics.Score(f"{way} taken for {there}", share, n_fake=len(y), net=net.name, weights=net.weights)]
        scores.append(metrics.Score(f"|{here} - rec_{here}|", error, n_real=len(x)))
        scores.append(metrics.Score(f"|{here} - rec_{here}| after 8 bits and noise", honest, n_real=len(x)))
    return scores


def fakes(args, checkpoint, n, domain="B"):
    """Yields n translations into domain A or B, as --evaluate judges them, uint8 (B, 3, S, S), for `metrics.py fid`."""
    if domain not in ("A", "B"):
        raise datasets.DataError(f"domain {domain}: this model translates into A or into B")
    device, _, _ = metrics.pick_device(args.device)
    other = "B" if domain == "A" else "A"
    G = build(args, checkpoint["channels"], device, checkpoint)[f"G_{other}{domain}"]
    test = getattr(load_domains(args, "test"), other)
    for rows in torch.arange(n).split(50):
        x = datasets.to_float(test.__getitems__((rows * len(test) // n).tolist())["image"], device)
        yield datasets.to_uint8(datasets.generate(G, x)).cpu()


def evaluate(args, checkpoint):
    """--evaluate: print the scores and write metrics.json."""
    device, _, _ = metrics.pick_device(args.device)
    train, test = load_domains(args, "train"), load_domains(args, "test")
    judges = metrics.load_judges(args.fid_dims, train.both(), test.both(), args.weights_dir, args.data_dir, device)
    nets = build(args, checkpoint["channels"], device, checkpoint)
    metrics.write_evaluation(args, checkpoint, measure(nets, train, test, args, device, judges))


# ----------------------------------------------------------------------------------------------------- training

FIGURES = {  # title: columns of log.csv
    "adversarial losses": ["loss_G_AB", "loss_G_BA", "loss_D_A", "loss_D_B"],
    "cycle |x - rec|": ["loss_cyc_A", "loss_cyc_B"],
    "identity |x - G(x)|, x of the kind that G makes": ["loss_idt_A", "loss_idt_B"],
    "consistency of D's scores (--cr)": ["loss_cr_A", "loss_cr_B"],
}


def train(args, checkpoint):
    device, rank, world = metrics.pick_device(args.device)
    torch.manual_seed(args.seed)

    # Data
    size, channels = args.image_size, 3
    data = load_domains(args, "train", round(size * 286 / 256) if args.jitter else size)
    test = load_domains(args, "test")
    loader = datasets.make_loader(data, args.batch_size, seed=args.seed, rank=rank, world=world, workers=args.workers)
    fixed = pictures(test, 6, device)
    if args.eval_every:  # weights not to be had? stop now, not later
        uncut = load_domains(args, "train")
        judges = metrics.load_judges(args.fid_dims, uncut.both(), test.both(), args.weights_dir, args.data_dir, device)

    # Networks, optimisers
    nets = build(args, channels, device, checkpoint)
    G_AB, G_BA, D_A, D_B = nets.values()
    adam = dict(lr=args.lr, betas=(args.beta1, args.beta2), fused=True)
    players = {"G": [*G_AB.parameters(), *G_BA.parameters()], "D": [*D_A.parameters(), *D_B.parameters()]}
    opts = {name: torch.optim.Adam(weights, **adam) for name, weights in players.items()}
    noise = torch.Generator().manual_seed(args.seed)  # the only source of random numbers from here on
    done = metrics.restore(checkpoint, noise, opts)
    metrics.broadcast_weights(*nets.values(), sync_bn=args.sync_bn)
    kept = checkpoint or {"pools": {"A": [], "B": []}, "best": float("inf")}  # best: the mean FID of best.pt
    pools = {side: ImagePool(args.pool_size, [x.to(device) for x in kept["pools"][side]]) for side in "AB"}
    best, augment = kept["best"], functools.partial(datasets.augment, rank=rank, world=world, generator=noise)
    for net in nets.values() if args.compile else ():
        net.compile()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.amp)
    seen = {"none": slice(0), "real": slice(1), "fake": slice(1, 2), "both": slice(2)}[args.cr]  # of real and fake

    # Run folder, written by rank 0 alone
    out, last_step = Path(args.out), metrics.last_step(args, len(loader), done)
    if rank == 0:
        log = metrics.start_run(out, vars(args), FIGURES, checkpoint)
    bar = metrics.steps(loader, done, last_step)

    for step, epoch, batch in bar:  # step counts from 1
        metrics.decay_rates(opts, (step - 1) / len(loader), args.epochs, args.decay_from)  # linear to 0 from there
        sides = (datasets.to_float(batch[side], device) for side in ("image", "target"))
        A, B = (augment(x, crop=size if args.jitter else 0, flip=args.flip) for x in sides)  # each in its own way
        torch.manual_seed(args.seed + step * world + rank)  # for --dropout: a resumed run draws the same masks

        # (1) G step: minimise |D(fake) - 1|^2 + 10 cycle + 5 identity, both G in one
        D_A.requires_grad_(False), D_B.requires_grad_(False)
        with autocast:
            if args.lambda_idt:
                fake_B, idt_B = G_AB(torch.cat([A, B])).chunk(2)
                fake_A, rec_A, idt_A = G_BA(torch.cat([B, fake_B, A])).chunk(3)
            else:
                fake_B, idt_B, idt_A = G_AB(A), B, A
                fake_A, rec_A = G_BA(torch.cat([B, fake_B])).chunk(2)
            rec_B = G_AB(fake_A)
            loss_G_AB, loss_G_BA = gan_loss(D_B(fake_B), True), gan_loss(D_A(fake_A), True)
        loss_cyc_A, loss_cyc_B = (rec_A - A).abs().mean(), (rec_B - B).abs().mean()
        loss_idt_A, loss_idt_B = (idt_A - A).abs().mean(), (idt_B - B).abs().mean()  # what is in B already, G_AB keeps
        loss = loss_G_AB + loss_G_BA + args.lambda_cyc * (loss_cyc_A + loss_cyc_B)
        opts["G"].zero_grad()
        (loss + args.lambda_idt * (loss_idt_A + loss_idt_B)).backward()
        metrics.average_gradients(G_AB, G_BA)
        opts["G"].step()

        # (2) D step: the scores of real pictures to 1, of the pool's fakes to 0
        D_A.requires_grad_(True), D_B.requires_grad_(True)
        old_A, old_B = (pools[D].query(x, noise, rank, world) for D, x in (("A", fake_A), ("B", fake_B)))
        with autocast:
            loss_D_A, loss_D_B = d_loss(D_A, A, old_A), d_loss(D_B, B, old_B)
            loss_cr_A, loss_cr_B = cr_loss(D_A, [A, old_A][seen], augment), cr_loss(D_B, [B, old_B][seen], augment)
        opts["D"].zero_grad()
        (loss_D_A + loss_D_B + args.cr_weight * (loss_cr_A + loss_cr_B)).backward()
        metrics.average_gradients(D_A, D_B)
        opts["D"].step()

        # (3) scores, log, pictures, checkpoint
        scores = None
        if args.eval_every and step % args.eval_every == 0:  # all processes share the work
            scores = measure(nets, uncut, test, args, device, judges)
            metrics.write_scores(out / f"metrics-{step:07d}.json", scores)
        if rank > 0:
            continue
        losses = dict(loss_G_AB=loss_G_AB, loss_G_BA=loss_G_BA, loss_D_A=loss_D_A, loss_D_B=loss_D_B)
        losses |= dict(loss_cyc_A=loss_cyc_A, loss_cyc_B=loss_cyc_B, loss_idt_A=loss_idt_A, loss_idt_B=loss_idt_B)
        log.add(len(A) * world, **losses, loss_cr_A=loss_cr_A, loss_cr_B=loss_cr_B)  # means until the next row
        if metrics.due(step, args.log_every, last_step):
            row = log.write(step, epoch)
            bar.set_postfix({name: f"{row[name]:.3f}" for name in ("loss_G_AB", "loss_D_B", "loss_cyc_A")})
        if metrics.due(step, args.sample_every, last_step):
            datasets.save_rows(triplets(nets, *fixed), out / f"samples/{step:07d}.png")
            log.plot()
        facts = dict(channels=channels, pools={side: pool.images for side, pool in pools.items()})
        if scores and args.keep_best and (mean := (scores[0].value + scores[len(scores) // 2].value) / 2) < best:
            best = mean  # of the FIDs A to B, B to A
            metrics.save_run(out, SCRIPT, args, step, log, noise, nets, opts, file="best.pt", best=best, **facts)
        if metrics.due(step, args.save_every, last_step) or metrics.stopping():
            metrics.save_run(out, SCRIPT, args, step, log, noise, nets, opts, best=best, **facts)


def main(argv=None):
    parser = build_parser()
    with metrics.one_sentence(parser, datasets.DataError):
        free = ("decay_from", "input", "direction", "keep_best", "fid_dims")
        args, checkpoint = metrics.parse_args(parser, argv, SCRIPT, free)
        if args.image_size < 32 or args.image_size % 16:
            raise datasets.DataError(f"--image-size {args.image_size}: use a multiple of 16, 32 or more")
        metrics.check_ranges(args, "lr ngf ndf", "blocks pool_size decay_from")
        (sample if args.sample else evaluate if args.evaluate else train)(args, checkpoint)


if __name__ == "__main__":
    main()
