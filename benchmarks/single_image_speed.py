"""Time of a step of vae.py, dcgan.py, cgan.py, wgan.py against well known scripts, interleaved, at equal networks.

    git clone https://github.com/pytorch/examples && git clone https://github.com/eriklindernoren/PyTorch-GAN
    python benchmarks/single_image_speed.py --examples examples --pytorch-gan PyTorch-GAN

The peers' files are read where they lie: each runs as it is written up to its training loop, and one turn of that loop
is a step. Where the networks differ (PyTorch-GAN's are MLPs), our loop trains theirs. Both see random pictures; what it
takes to fetch them does not count, nor do printed lines and pictures of samples. Reported: CPU milliseconds of the
process a round on one thread, which is what it costs also on a busy machine; medians, and their ratio. A round is one
step; of wgan.py and its peer, 5 steps of the critic and one of the generator.

"plain" is the least that the same mathematics costs here: a bare loop over the same networks, pictures ready as floats,
nothing logged; "of_plain" is its time divided by ours, 1.00 where our step costs no more. The ratio to a peer depends
on how fast the machine's matrix products are, since these cost all three the same.
"""

import argparse
import ast
import builtins
import copy
import json
import os
import sys
import tempfile
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from unittest import mock

import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import datasets  # noqa: E402
import metrics  # noqa: E402

WGAN = "--lipschitz gp --lambda-gp 10 --n-critic 5 --lr 2e-4 --beta1 0.5 --beta2 0.999"
PAIRS = {  # script: whose, file and flags of the peer, our flags; pictures (B, C, S), steps of a round, rounds
    "vae": ("examples", "vae/main.py", "--no-accel", "--nz 20", (128, 1, 28), 1, 200),
    "dcgan": ("examples", "dcgan/main.py", "--dataset fake", "--ngf 64 --ndf 64 --nz 100", (64, 3, 64), 1, 12),
    "cgan": ("pytorch_gan", "implementations/cgan/cgan.py", "--img_size 28", "", (64, 1, 28), 1, 100),
    "wgan": ("pytorch_gan", "implementations/wgan_gp/wgan_gp.py", "", WGAN, (64, 1, 28), 5, 40),
}


def peer(file, flags, batch):
    """A peer's script -> a function that does one step of its training on `batch`, and the script's variables."""
    tree = ast.parse(file.read_text())
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    loop = next(node for node in loops if ast.unparse(node.iter).startswith("enumerate("))  # for i, batch in ...
    before = [part for part in tree.body if part.end_lineno < loop.lineno]
    stub = mock.MagicMock()  # for torchvision: they take their data from it, and save pictures with it
    names = {"__name__": "peer", "__builtins__": vars(builtins) | {"print": lambda *_: None}}
    names["__builtins__"]["__import__"] = lambda n, *how: stub if n.startswith("torchvision") else __import__(n, *how)
    loader = type("Loader", (list,), {"dataset": [None]})([None])  # its length goes into the lines they print
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(f"{folder}/a/b")  # they make folders, some as "../../data"
        os.chdir(f"{folder}/a/b")
        with (
            mock.patch("torch.utils.data.DataLoader", lambda *_, **__: loader),
            mock.patch("torch.cuda.is_available", lambda: False),
            mock.patch("sys.argv", [file.name, *flags.split()]),
        ):
            exec(compile(ast.Module(before, []), str(file), "exec"), names)
        os.chdir(here)
    names |= {"epoch": 0, "train_loss": 0.0}  # what the lines between there and the loop set
    loop.iter = ast.copy_location(ast.Name("one_batch", ast.Load()), loop.iter)
    turn, done = compile(ast.Module([loop], []), str(file), "exec"), 0

    def step():
        nonlocal done
        done += 1  # from 1, since at 0 they make pictures of samples
        names["one_batch"] = [(done, batch)]
        exec(turn, names)

    return step, names


def as_ours(names):
    """PyTorch-GAN's networks, called as ours are: classes one-hot (B, K), scores (B,)."""

    class G(names["Generator"]):
        def forward(self, z, *c):
            return super().forward(z, *(one_hot.argmax(1) for one_hot in c))

    class D(names["Discriminator"]):
        def forward(self, x, *c):
            return super().forward(x, *(one_hot.argmax(1) for one_hot in c)).flatten()

    return {"G": G(), "D": D()}


def learn(opt, loss):
    opt.zero_grad()
    loss.backward()
    opt.step()


def plain_vae(E, G, opt, x, target):
    mu, logvar = E(x)
    logits = G(mu + torch.exp(0.5 * logvar) * torch.randn(mu.shape))
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum()
    learn(opt, (F.binary_cross_entropy_with_logits(logits, target, reduction="sum") + kl) / len(x))


def plain_gan(G, D, opt_G, opt_D, x, *c):  # c: the classes, for cgan.py
    drawn = [labels[torch.randint(len(x), (len(x),))] for labels in c]
    fake = G(torch.randn(len(x), 100), *drawn)
    D.requires_grad_(True)
    if c:  # PyTorch-GAN's D has no BatchNorm
        D_real, D_fake = D(torch.cat([x, fake.detach()]), torch.cat([*c, *drawn])).chunk(2)
    else:
        D_real, D_fake = D(x), D(fake.detach())
    learn(opt_D, F.softplus(-D_real).mean() + F.softplus(D_fake).mean())
    D.requires_grad_(False)
    learn(opt_G, F.softplus(-D(fake, *drawn)).mean())


def plain_wgan(G, D, opt_G, opt_D, x):
    D.requires_grad_(True)
    for _ in range(5):
        with torch.no_grad():
            fake = G(torch.randn(len(x), 100))
        D_real, D_fake = D(torch.cat([x, fake])).chunk(2)
        between = torch.lerp(fake, x, torch.rand(len(x), 1, 1, 1)).requires_grad_(True)
        (slope,) = torch.autograd.grad(D(between).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(2, dim=1) - 1).square().mean()
        learn(opt_D, D_fake.mean() - D_real.mean() + 10 * penalty)
    D.requires_grad_(False)
    learn(opt_G, -D(G(torch.randn(len(x), 100))).mean())


def plain(script, nets, image, label):
    """A bare loop over these networks -> a function that does one round."""
    x = (image / 127.5 - 1).contiguous(memory_format=torch.channels_last)
    weights = [list(net.parameters()) for net in nets]
    weights = [sum(weights, [])] if script == "vae" else weights
    opts = [torch.optim.Adam(part, 2e-4, (0.5, 0.999), fused=True) for part in weights]
    turn = {"vae": plain_vae, "wgan": plain_wgan}.get(script, plain_gan)
    return partial(turn, *nets, *opts, x, *{"vae": [image / 255], "cgan": [label]}.get(script, []))


def measure(script, flags, nets, bare, batch, n, rounds, theirs):
    """The script's own loop; after each n steps its loader takes n of theirs and a bare round -> seconds, networks.

    nets: the networks to train in place of the script's own, or None; bare: those of the bare loop, None = a copy.
    """
    ours, seconds = import_module(script), {"ours": [], "peer": [], "plain": []}
    data = datasets.ImageSet("random", "train", batch["image"].numpy(), labels=batch["label"].numpy())
    data.classes = [str(i) for i in range(10)]

    def steps(*_, **__):
        for first in range(1, n * (rounds + 2), n):  # the first two rounds warm up
            start = time.process_time()
            for step in range(first, first + n):
                yield step, 0, batch
            middle = time.process_time()
            for _ in range(n):
                theirs()
            end = time.process_time()
            bare_round()
            seconds["plain"].append(time.process_time() - end)
            seconds["ours"].append(middle - start)
            seconds["peer"].append(end - middle)

    def build(*args):
        nonlocal nets, bare, bare_round
        nets = nets or original(*args)
        bare = bare or copy.deepcopy(nets)
        bare_round = plain(script, bare.values(), **batch)
        return nets

    original, bare_round = ours.build, None
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(ours, "build", build),
        mock.patch.object(datasets, "load", lambda *_, **__: data),
        mock.patch.object(metrics, "steps", steps),
    ):
        flags += f" --epochs 1000000 --device cpu --out {folder} --log-every 0 --sample-every 0 --save-every 0"
        ours.main(flags.split())
    return {name: median(times[2:]) for name, times in seconds.items()}, nets, bare


def compare(script, folder):
    """-> milliseconds of all three, peer / ours, and plain / ours."""
    whose, file, their_flags, flags, (size, channels, side), n, rounds = PAIRS[script]
    image = torch.randint(0, 256, (size, channels, side, side), dtype=torch.uint8)
    label = torch.randint(0, 10, (size,))
    pixels = image / 255 if script == "vae" else image / 127.5 - 1  # as the peer's transforms give them
    theirs, names = peer(folder / file, their_flags, (pixels, label))
    nets = bare = None
    if whose == "pytorch_gan":
        nets, bare = as_ours(names), {"G": names["Generator"](), "D": names["Discriminator"]()}
    flags += f" --image-size {side} --batch-size {size}"
    seconds, nets, bare = measure(script, flags, nets, bare, {"image": image, "label": label}, n, rounds, theirs)
    sides = [nets.values(), bare.values(), [net for net in names.values() if isinstance(net, torch.nn.Module)]]
    weights = [[p for net in side for p in net.parameters()] for side in sides]
    parameters = [sum(p.numel() for p in side) for side in weights]
    assert len(set(parameters)) == 1, f"{script}: the networks differ: {parameters} parameters"
    assert all(p.isfinite().all() for side in weights for p in side), f"{script}: a weight is not finite"
    facts = {"peer": file, "image": [channels, side, side], "batch_size": size, "steps": n, "parameters": parameters[0]}
    milliseconds = {name: round(1000 * value, 2) for name, value in seconds.items()}
    ratios = {"ratio": seconds["peer"] / seconds["ours"], "of_plain": seconds["plain"] / seconds["ours"]}
    return facts | {"cpu_ms_per_round": milliseconds} | {name: round(value, 2) for name, value in ratios.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", required=True, type=Path, help="a clone of pytorch/examples")
    parser.add_argument("--pytorch-gan", required=True, type=Path, help="a clone of eriklindernoren/PyTorch-GAN")
    parser.add_argument("--scripts", nargs="+", default=list(PAIRS), choices=PAIRS, help="only these of ours")
    parser.add_argument("--out", type=Path, help="write the result here as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {"threads": 1, "torch": torch.__version__}
    result["pairs"] = {script: compare(script, getattr(args, PAIRS[script][0])) for script in args.scripts}
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
