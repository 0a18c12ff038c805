"""Time and arithmetic of a training step of each script, against the well known code of its model, interleaved.

    mkdir peers && cd peers
    git clone https://github.com/pytorch/examples
    git clone https://github.com/eriklindernoren/PyTorch-GAN
    git clone https://github.com/junyanz/BicycleGAN
    git clone https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix CycleGAN && git -C CycleGAN checkout d7e7ed8
    git clone https://github.com/yunjey/stargan
    git clone https://github.com/rishabhd786/VAE-GAN-PYTORCH
    cd .. && python benchmarks/speed.py --peers peers --out benchmarks/speed.json        10 minutes of an idle core

At equal networks and losses, on random pictures, at the batch that is the peer's default and at another; what it takes
to fetch pictures does not count, nor do printed lines and pictures of samples. Each of our scripts runs its own
training loop; each time its loader has given a round of batches, the others have their turn. A round is one step; where
D takes five steps for one of G (wgan.py, starGAN.py), five steps of D and one of G.

  ours      the script                       peer      the public code, read where it lies
  plain     the least that the same mathematics costs here: a bare loop over the same networks, pictures ready as
            floats, nothing logged; of the four scripts of single images alone
  torch.mm, oneDNN    a product of two square fp32 matrices, by each of the libraries that torch has for it

cpu_ms_per_round: CPU milliseconds of the process on one thread, which is what a round costs also on a busy machine;
medians over the rounds. ratio: peer / ours; of_plain: plain / ours, 1.00 where our step costs no more. gflop: floating
point operations of a round, in thousand millions, of matrix products and convolutions, those of the backward passes
and of the gradient penalty's second one among them; a padded border counts, all else (norms, activations, the
optimiser) does not. fraction: gflop / time, as a share of the faster matrix product's, in the same minutes. So ratio is
the ratio of the work times the ratio of the fractions: operations left out, and the rest done faster.

The peers are changed in this. PyTorch-GAN's networks are MLPs: our loop trains theirs. BicycleGAN has no networks for
64 px: its own, with one level less. The CycleGAN of that commit keeps statistics in InstanceNorm, which its authors
have since switched off: off. The port of VAE/GAN (its authors' code is not PyTorch) does not start: the names that it
forgets to import are supplied, it trains the networks of the paper, which are ours, at our batch in place of the 64 in
its lines, and its search for anomalies, which slows it down, stays off.
"""

import argparse
import ast
import builtins
import contextlib
import copy
import functools
import importlib
import io
import json
import os
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import datasets  # noqa: E402
import metrics  # noqa: E402

ATTRIBUTES = ["Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Smiling"]
CLASSES = 10


# ------------------------------------------------------------------------------------------------------- the peers
# A peer: its file, a batch, our networks -> a function that does one step of its training, its networks, and those
# that our loop trains.


def pixels(image, low=-1):
    """uint8 -> floats from `low` to 1."""
    return low + image / 255 * (1 - low)


def loop_of(tree, start):
    """The first loop over `start...` in a syntax tree -> its line, and its code, which goes over the list `turns`."""
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    loop = next(node for node in loops if ast.unparse(node.iter).startswith(start))
    loop.iter = ast.copy_location(ast.Name("turns", ast.Load()), loop.iter)
    return loop.lineno, compile(ast.Module([loop], []), "peer", "exec")


@contextlib.contextmanager
def modules_of(folder):
    """Import from a folder, then forget its modules: another repository may have some of the same names."""
    known = set(sys.modules)
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        yield
    for name in set(sys.modules) - known:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run_script(file, batch, flags, low=-1):
    """A script, run as it is written up to its training loop -> a function that does one turn of it, its variables."""
    tree = ast.parse(file.read_text())
    line, turn = loop_of(tree, "enumerate(")  # for i, batch in ...
    before = [part for part in tree.body if part.end_lineno < line]
    stub = mock.MagicMock()  # for torchvision: they take their data from it, and save pictures with it
    names = {"__name__": "peer", "__builtins__": vars(builtins) | {"print": lambda *_: None}}
    names["__builtins__"]["__import__"] = lambda n, *how: stub if n.startswith("torchvision") else __import__(n, *how)
    loader = type("Loader", (list,), {"dataset": [None]})([None])  # its length goes into the lines they print
    here = os.getcwd()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("torch.utils.data.DataLoader", lambda *_, **__: loader),
        mock.patch("torch.cuda.is_available", lambda: False),
        mock.patch("sys.argv", [file.name, *flags.split()]),
    ):
        os.makedirs(f"{folder}/a/b")  # they make folders, some as "../../data"
        os.chdir(f"{folder}/a/b")
        exec(compile(ast.Module(before, []), str(file), "exec"), names)
        os.chdir(here)
    names |= {"epoch": 0, "train_loss": 0.0}  # what the lines between there and the loop set
    done, given = 0, (pixels(batch["image"], low), batch["label"])

    def step():
        nonlocal done
        done += 1  # from 1, since at 0 they make pictures of samples
        names["turns"] = [(done, given)]
        exec(turn, names)

    return step, names


def networks_in(names):
    return [net for net in names.values() if isinstance(net, torch.nn.Module)]


def vae(file, batch, ours):
    step, names = run_script(file, batch, "--no-accel", low=0)
    return step, networks_in(names), ours


def dcgan(file, batch, ours):
    step, names = run_script(file, batch, "--dataset fake")
    return step, networks_in(names), ours


def pytorch_gan(file, batch, ours):
    """Our loop trains their networks, called as ours are: classes one-hot (B, K), scores (B,)."""
    step, names = run_script(file, batch, "--img_size 28")

    class G(names["Generator"]):
        def forward(self, z, *c):
            return super().forward(z, *(one_hot.argmax(1) for one_hot in c))

    class D(names["Discriminator"]):
        def forward(self, x, *c):
            return super().forward(x, *(one_hot.argmax(1) for one_hot in c)).flatten()

    return step, networks_in(names), {"G": G(), "D": D()}


def step_of(model, batch):
    """A function that does one step of a model of BicycleGAN's and CycleGAN's authors."""
    given = {"A": pixels(batch["image"]), "B": pixels(batch["target"]), "A_paths": "", "B_paths": ""}

    def step():
        model.set_input(given)
        model.optimize_parameters()

    return step


def bicyclegan(file, batch, ours):
    with modules_of(file.parents[1]):
        networks = importlib.import_module("models.networks")
        model = importlib.import_module("models.bicycle_gan_model").BiCycleGANModel
    flags = dict(isTrain=True, gpu_ids=[], checkpoints_dir="", name="", preprocess="none", lr=2e-4, direction="AtoB")
    flags |= dict(lambda_GAN=1.0, lambda_GAN2=1.0, use_same_D=False, no_encode=False, input_nc=3, output_nc=3, nz=8)
    flags |= dict(beta1=0.5, ngf=64, ndf=64, nef=64, netG="unet_128", netD="basic_128_multi", netD2="basic_128_multi")
    flags |= dict(netE="resnet_128", norm="instance", nl="relu", use_dropout=False, init_type="xavier", init_gain=0.02)
    flags |= dict(where_add="all", upsample="basic", conditional_D=False, num_Ds=2, gan_mode="lsgan", lambda_L1=10.0)
    flags |= dict(lambda_z=0.5, lambda_kl=0.01, batch_size=len(batch["image"]))
    how = dict(norm_layer=networks.get_norm_layer("instance"))
    relu, leaky = (networks.get_non_linearity(name) for name in ("relu", "lrelu"))
    unet = networks.G_Unet_add_all(3, 3, 8, 6, 64, nl_layer=relu, upsample="basic", **how)
    encoder = networks.E_ResNet(3, 8, 64, n_blocks=3, nl_layer=leaky, vaeLike=True, **how)
    networks.define_G = lambda *_, **__: networks.init_net(unet)
    networks.define_E = lambda *_, **__: networks.init_net(encoder)
    model = model(types.SimpleNamespace(**flags))
    return step_of(model, batch), [model.netG, model.netE, model.netD, model.netD2], ours


def cyclegan(file, batch, ours):
    with modules_of(file.parents[1]):
        networks = importlib.import_module("models.networks")
        model = importlib.import_module("models.cycle_gan_model").CycleGANModel()
    norm = functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    networks.get_norm_layer = lambda norm_type: norm
    flags = dict(isTrain=True, gpu_ids=[], checkpoints_dir="", name="", resize_or_crop="none", which_direction="AtoB")
    flags |= dict(input_nc=3, output_nc=3, ngf=64, ndf=64, netG="resnet_6blocks", netD="basic", n_layers_D=3)
    flags |= dict(norm="instance", no_dropout=True, init_type="normal", init_gain=0.02, no_lsgan=False, pool_size=50)
    flags |= dict(lr=2e-4, beta1=0.5, lambda_A=10.0, lambda_B=10.0, lambda_identity=0.5)
    model.initialize(types.SimpleNamespace(**flags))
    return step_of(model, batch), [model.netG_A, model.netG_B, model.netD_A, model.netD_B], ours


def stargan(file, batch, ours):
    """The loop of the authors' Solver.train, without its logs and files."""
    with modules_of(file.parent), mock.patch.dict(sys.modules, {"torchvision.utils": mock.MagicMock()}):
        solver = importlib.import_module("solver")
    self = solver.Solver.__new__(solver.Solver)
    flags = dict(dataset="CelebA", c_dim=5, image_size=64, g_conv_dim=64, d_conv_dim=64, g_repeat_num=6, lambda_gp=10)
    flags |= dict(d_repeat_num=5, g_lr=1e-4, d_lr=1e-4, beta1=0.5, beta2=0.999, lambda_cls=1, lambda_rec=10, n_critic=5)
    flags |= dict(device=torch.device("cpu"), log_step=1 << 40, sample_step=1 << 40, model_save_step=1 << 40)
    vars(self).update(flags, lr_update_step=1 << 40, use_tensorboard=False)
    self.build_model()
    names, done = vars(solver) | {"self": self, "start_time": 0}, 0
    _, turn = loop_of(ast.parse(file.read_text()), "range(start_iters")
    given = pixels(batch["image"]), batch["attributes"].float()

    def step():
        nonlocal done
        names.update(data_iter=iter([given]), turns=[done])
        exec(turn, names)
        done += 1

    return step, [self.G, self.D], ours


def vaegan(file, batch, ours):
    """The port's loop over copies of our networks; it reads the probability and Dis_l, flat, from D."""
    layout = torch.contiguous_format  # as the port's are; ours lie in channels_last
    E, G, D = (copy.deepcopy(ours[name]).to(memory_format=layout) for name in ("E", "G", "D"))

    def gen(x):
        mu, logvar = E(x)
        return mu, logvar, G(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))

    def discrim(x):
        features, logits = D(x)
        return torch.sigmoid(logits).view(-1, 1), features.flatten(1)

    gen.decoder = G
    names = {"torch": torch, "Variable": lambda x: x, "device": "cpu", "gen": gen, "discrim": discrim}
    names |= {"criterion": torch.nn.BCELoss(), "gamma": 15, "epoch": 0, "epochs": 1, "print": lambda *_: None}
    for name, net, lr in (("optim_E", E, 3e-4), ("optim_D", G, 3e-4), ("optim_Dis", D, 3e-5)):
        names[name] = torch.optim.RMSprop(net.parameters(), lr=lr)
    for name in ("prior_loss", "gan_loss", "recon_loss", "dis_real", "dis_fake", "dis_prior"):
        names[f"{name}_list"] = []
    names["turns"] = [(1, (pixels(batch["image"]), None))]
    source = file.read_text().replace("(64,", f"({len(batch['image'])},")
    _, turn = loop_of(ast.parse(source), "enumerate(")
    return lambda: exec(turn, names), [E, G, D], ours


# ------------------------------------------------------------------------------------------------------ bare loops


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


def bare(script, nets, batch):
    """A bare loop over copies of the networks -> a function that does one round."""
    nets = copy.deepcopy(list(nets.values()))
    weights = [list(net.parameters()) for net in nets]
    weights = [sum(weights, [])] if script == "vae" else weights
    opts = [torch.optim.Adam(part, 2e-4, (0.5, 0.999), fused=True) for part in weights]
    x = pixels(batch["image"]).contiguous(memory_format=torch.channels_last)
    more = {"vae": [pixels(batch["image"], low=0)], "cgan": [F.one_hot(batch["label"], CLASSES).float()]}
    return functools.partial(PAIRS[script].plain, *nets, *opts, x, *more.get(script, []))


# ------------------------------------------------------------------------------------------------------- the pairs


class Pair(NamedTuple):
    file: str  # the peer's, from the folder of the clones
    peer: Callable
    flags: str  # of our script
    image: tuple[int, int, int]
    batches: tuple[int, int]  # the peer's default, another
    rounds: int
    steps: int = 1  # of a round
    plain: Callable | None = None


GREY, COLOUR = (1, 28, 28), (3, 64, 64)
WGAN = "--lipschitz gp --lambda-gp 10 --n-critic 5 --lr 2e-4 --beta1 0.5 --beta2 0.999"
WIDE = "--ngf 64 --ndf 64 "
BICYCLEGAN = WIDE + "--nef 64 --no-head --no-conditional-d --lr 2e-4 --input-channels 3"
CYCLEGAN = WIDE + "--blocks 6 --no-mask --lambda-idt 5 --lr 2e-4"
STARGAN = WIDE + "--blocks 6 --no-mask --n-critic 5 --lr 1e-4"
VAEGAN = "--nef 64 --ngf 32 --ndf 32 --fc 2048 --nz 128 --norm-d batch"
CGAN_FILE, WGAN_FILE = (f"PyTorch-GAN/implementations/{file}" for file in ("cgan/cgan.py", "wgan_gp/wgan_gp.py"))
PAIRS = {
    "vae": Pair("examples/vae/main.py", vae, "--nz 20", GREY, (128, 8), 200, plain=plain_vae),
    "dcgan": Pair("examples/dcgan/main.py", dcgan, WIDE + "--nz 100", COLOUR, (64, 8), 12, plain=plain_gan),
    "cgan": Pair(CGAN_FILE, pytorch_gan, "", GREY, (64, 8), 100, plain=plain_gan),
    "wgan": Pair(WGAN_FILE, pytorch_gan, WGAN, GREY, (64, 8), 40, steps=5, plain=plain_wgan),
    "bicyclegan": Pair("BicycleGAN/models/bicycle_gan_model.py", bicyclegan, BICYCLEGAN, COLOUR, (2, 8), 9),
    "cyclegan": Pair("CycleGAN/models/cycle_gan_model.py", cyclegan, CYCLEGAN, COLOUR, (1, 4), 9),
    "vaegan": Pair("VAE-GAN-PYTORCH/main.py", vaegan, VAEGAN, COLOUR, (64, 8), 5),
    "starGAN": Pair("stargan/solver.py", stargan, STARGAN, COLOUR, (16, 4), 5, steps=5),
}


# ------------------------------------------------------------------------------------------------------- measuring


def random_set(script, image, n=128):
    """n random pictures with the facts that the script takes -> a set, a batch of all."""
    draw = functools.partial(np.random.default_rng(0).integers, dtype=np.uint8)
    images, targets = draw(0, 256, (2, n, *image))
    labels, attributes = draw(0, CLASSES, n).astype(np.int64), draw(0, 2, (n, len(ATTRIBUTES)))
    data = datasets.ImageSet("random", "train", images, attributes=attributes, attribute_names=ATTRIBUTES)
    if script == "cgan":
        data.labels, data.classes = labels, [str(i) for i in range(CLASSES)]
    if script == "bicyclegan":
        data.targets = targets
    batch = {"image": images, "target": targets, "label": labels, "attributes": attributes}
    return data, {key: torch.from_numpy(array) for key, array in batch.items()}


def products(side=1024):
    """Functions that multiply two square matrices, by library; the operations of each."""
    a, b = torch.randn(2, side, side)
    linear = functools.partial(F.linear, a.to_mkldnn(), b.to_mkldnn())
    return {"torch.mm": functools.partial(torch.mm, a, b), "oneDNN": linear}, 2 * side**3


def measure(script, peers, size):
    """Rounds of all, interleaved in our script's own loop -> by whose: seconds, operations, parameters of each net."""
    pair, ours = PAIRS[script], importlib.import_module(script)
    data, whole = random_set(script, pair.image)
    batch = {key: value[:size] for key, value in whole.items()}
    (others, operations), nets, seconds, flop = products(), {}, {}, {}

    @contextlib.contextmanager
    def turn(whose):
        """The first round counts the operations, the second warms up, the others are timed."""
        if whose not in flop:
            counter = FlopCounterMode(display=False)
            counter.mod_tracker = mock.MagicMock(parents=["Global"])  # the hooks of its own forbid autograd.grad()
            with counter:
                yield
            flop[whose], seconds[whose] = counter.get_total_flops(), []
        else:
            start = time.process_time()
            yield
            seconds[whose].append(time.process_time() - start)

    def steps(*_, **__):
        for first in range(1, 1 + pair.steps * (pair.rounds + 2), pair.steps):
            with turn("ours"):
                for step in range(first, first + pair.steps):
                    yield step, 0, batch
            for whose, one_round in others.items():
                with turn(whose):
                    one_round()

    def build(*args):
        step, nets["peer"], trained = pair.peer(peers / pair.file, batch, original(*args))
        nets["ours"] = trained.values()
        others["peer"] = lambda: [step() for _ in range(pair.steps)]
        if pair.plain:
            others["plain"] = bare(script, trained, batch)
        return trained

    original = ours.build
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(ours, "build", build),
        mock.patch.object(datasets, "load", lambda *_, **__: data),
        mock.patch.object(datasets, "load_domains", lambda *_, **__: datasets.Unpaired(data, data, ("A", "B"))),
        mock.patch.object(metrics, "steps", steps),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        flags = f"{pair.flags} --image-size {pair.image[1]} --batch-size {size} --epochs 1000000 --device cpu"
        ours.main(f"{flags} --out {folder}/run --log-every 0 --sample-every 0 --save-every 0".split())
    for whose, some in nets.items():
        finite = all(p.isfinite().all() for net in some for p in net.parameters())
        assert finite, f"{script}: a weight of {whose} is not finite"
    assert flop["torch.mm"] == operations, flop
    flop["oneDNN"] = operations  # whose tensors the counter does not know
    parameters = {whose: [sum(p.numel() for p in net.parameters()) for net in some] for whose, some in nets.items()}
    return {whose: median(times[1:]) for whose, times in seconds.items()}, flop, parameters


def compare(script, peers, size):
    """-> our parameters, and the figures at one batch."""
    seconds, flop, parameters = measure(script, peers, size)
    extra = sum(parameters["peer"]) - sum(parameters["ours"])
    biases = 2 * (3712 + 896) if script == "cyclegan" else 0  # before InstanceNorm, without effect: we leave them out
    assert extra == biases, f"{script}: the networks differ: {parameters} parameters"
    speed = {whose: flop[whose] / seconds[whose] / 1e9 for whose in seconds}
    matmul = {library: round(speed.pop(library), 1) for library in ("torch.mm", "oneDNN")}
    facts = {"batch_size": size, "steps": PAIRS[script].steps}
    facts["cpu_ms_per_round"] = {whose: round(1000 * seconds[whose], 2) for whose in speed}
    facts["ratio"] = round(seconds["peer"] / seconds["ours"], 2)
    if "plain" in speed:
        facts["of_plain"] = round(seconds["plain"] / seconds["ours"], 2)
    facts["gflop"] = {whose: round(flop[whose] / 1e9, 3) for whose in speed}
    facts["fraction"] = {whose: round(value / max(matmul.values()), 3) for whose, value in speed.items()}
    return sum(parameters["ours"]), facts | {"matmul_gflop_per_s": matmul}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, type=Path, help="the folder of the clones")
    parser.add_argument("--scripts", nargs="+", default=list(PAIRS), choices=PAIRS, help="only these of ours")
    parser.add_argument("--out", type=Path, help="write the result here as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs, rates = {}, []
    for script in args.scripts:
        pairs[script] = {"peer": PAIRS[script].file, "image": PAIRS[script].image}
        for column, size in zip(("default", "other"), PAIRS[script].batches, strict=True):
            pairs[script]["parameters"], facts = compare(script, args.peers.resolve(), size)
            pairs[script][column] = facts
            rates.append(facts["matmul_gflop_per_s"])
            print(script, json.dumps(facts), flush=True)
    matmul = {library: round(median(rate[library] for rate in rates), 1) for library in rates[0]}
    result = {"made": metrics.made_with(), "matmul_gflop_per_s": matmul, "pairs": pairs}
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
