"""Time of a step of bicyclegan.py, cyclegan.py, starGAN.py, vaegan.py against the authors' code, interleaved.

    git clone https://github.com/junyanz/BicycleGAN
    git clone https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix CycleGAN && git -C CycleGAN checkout d7e7ed8
    git clone https://github.com/yunjey/stargan
    git clone https://github.com/rishabhd786/VAE-GAN-PYTORCH
    python benchmarks/translation_speed.py --bicyclegan BicycleGAN --cyclegan CycleGAN --stargan stargan \
        --vaegan VAE-GAN-PYTORCH

At the authors' networks and losses, at 64 px, on random pictures; what it takes to fetch them does not count. Each of
our scripts runs its own training loop; each time its loader is asked for the next batch, the peer has its turn.
Reported: CPU milliseconds of the process a round on one thread, which is what it costs also on a busy machine; medians,
and their ratio. A round is one step; of starGAN.py and its peer, 5 steps of D and one of G.

The peers are read where they lie, with three repairs. BicycleGAN has no networks for 64 px: its own, with one level
less. The CycleGAN of that commit keeps statistics in InstanceNorm, which its authors have since switched off: off. The
port of VAE/GAN (its authors' code is not PyTorch) does not start: the names that it forgets to import are supplied, it
trains the networks of the paper, which are ours, and its search for anomalies, which slows it down, stays off.
"""

import argparse
import ast
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
from pathlib import Path
from statistics import median
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import datasets  # noqa: E402
import metrics  # noqa: E402

SIZE = 64
PAPER = "--ngf 64 --ndf 64 "
PAIRS = {  # script: our flags, batch, steps of a round, rounds
    "bicyclegan": (PAPER + "--nef 64 --no-head --no-conditional-d --lr 2e-4 --input-channels 3", 2, 1, 9),
    "cyclegan": (PAPER + "--blocks 6 --no-mask --lambda-idt 5 --lr 2e-4", 1, 1, 9),
    "starGAN": (PAPER + "--blocks 6 --no-mask --n-critic 5 --lr 1e-4", 16, 5, 4),
    "vaegan": ("--nef 64 --ngf 32 --ndf 32 --fc 2048 --nz 128 --norm-d batch", 64, 1, 5),
}
ATTRIBUTES = ["Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Smiling"]


@contextlib.contextmanager
def modules_of(folder):
    """Import from a folder, then forget its modules: another repository may have some of the same names."""
    known = set(sys.modules)
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        yield
    for name in set(sys.modules) - known:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def pictures(batch):
    return torch.rand(batch, 3, SIZE, SIZE) * 2 - 1


def bicyclegan(folder, batch, _):
    """The authors' optimize_parameters -> a function that does one step, and their networks."""
    with modules_of(folder):
        networks = importlib.import_module("models.networks")
        model = importlib.import_module("models.bicycle_gan_model").BiCycleGANModel
    flags = dict(isTrain=True, batch_size=batch, gpu_ids=[], checkpoints_dir="", name="", preprocess="none", lr=2e-4)
    flags |= dict(lambda_GAN=1.0, lambda_GAN2=1.0, use_same_D=False, no_encode=False, input_nc=3, output_nc=3, nz=8)
    flags |= dict(beta1=0.5, ngf=64, ndf=64, nef=64, netG="unet_128", netD="basic_128_multi", netD2="basic_128_multi")
    flags |= dict(netE="resnet_128", norm="instance", nl="relu", use_dropout=False, init_type="xavier", init_gain=0.02)
    flags |= dict(where_add="all", upsample="basic", conditional_D=False, num_Ds=2, gan_mode="lsgan", lambda_L1=10.0)
    flags |= dict(lambda_z=0.5, lambda_kl=0.01, direction="AtoB")
    how = dict(norm_layer=networks.get_norm_layer("instance"))
    relu, leaky = (networks.get_non_linearity(name) for name in ("relu", "lrelu"))
    unet = networks.G_Unet_add_all(3, 3, 8, 6, 64, nl_layer=relu, upsample="basic", **how)
    encoder = networks.E_ResNet(3, 8, 64, n_blocks=3, nl_layer=leaky, vaeLike=True, **how)
    networks.define_G = lambda *_, **__: networks.init_net(unet)
    networks.define_E = lambda *_, **__: networks.init_net(encoder)
    model = model(types.SimpleNamespace(**flags))

    def step():
        model.set_input({"A": pictures(batch), "B": pictures(batch), "A_paths": "", "B_paths": ""})
        model.optimize_parameters()

    return step, [model.netG, model.netE, model.netD, model.netD2]


def cyclegan(folder, batch, _):
    with modules_of(folder):
        networks = importlib.import_module("models.networks")
        model = importlib.import_module("models.cycle_gan_model").CycleGANModel()
    norm = functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    networks.get_norm_layer = lambda norm_type: norm
    flags = dict(isTrain=True, gpu_ids=[], checkpoints_dir="", name="", resize_or_crop="none", which_direction="AtoB")
    flags |= dict(input_nc=3, output_nc=3, ngf=64, ndf=64, netG="resnet_6blocks", netD="basic", n_layers_D=3)
    flags |= dict(norm="instance", no_dropout=True, init_type="normal", init_gain=0.02, no_lsgan=False, pool_size=50)
    flags |= dict(lr=2e-4, beta1=0.5, lambda_A=10.0, lambda_B=10.0, lambda_identity=0.5)
    model.initialize(types.SimpleNamespace(**flags))

    def step():
        model.set_input({"A": pictures(batch), "B": pictures(batch), "A_paths": "", "B_paths": ""})
        model.optimize_parameters()

    return step, [model.netG_A, model.netG_B, model.netD_A, model.netD_B]


def loop_of(source, start):
    """The first loop over `start(...)` of a source text, as code whose items are in the list `turns`."""
    loops = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.For)]
    loop = next(node for node in loops if ast.unparse(node.iter).startswith(start))
    loop.iter = ast.copy_location(ast.Name("turns", ast.Load()), loop.iter)
    return compile(ast.Module([loop], []), "peer", "exec")


def stargan(folder, batch, _):
    """The loop of the authors' Solver.train, without its logs and files."""
    with modules_of(folder), mock.patch.dict(sys.modules, {"torchvision.utils": mock.MagicMock()}):
        solver = importlib.import_module("solver")
    self = solver.Solver.__new__(solver.Solver)
    flags = dict(dataset="CelebA", c_dim=5, image_size=SIZE, g_conv_dim=64, d_conv_dim=64, g_repeat_num=6, lambda_gp=10)
    flags |= dict(d_repeat_num=5, g_lr=1e-4, d_lr=1e-4, beta1=0.5, beta2=0.999, lambda_cls=1, lambda_rec=10, n_critic=5)
    flags |= dict(device=torch.device("cpu"), log_step=1 << 40, sample_step=1 << 40, model_save_step=1 << 40)
    vars(self).update(flags, lr_update_step=1 << 40, use_tensorboard=False)
    self.build_model()
    names, turn, i = (
        vars(solver) | {"self": self, "start_time": 0},
        loop_of((folder / "solver.py").read_text(), "range(start_iters"),
        0,
    )

    def step():
        nonlocal i
        names["data_iter"] = iter([(pictures(batch), torch.randint(0, 2, (batch, 5)).float())])
        names["turns"] = [i]
        exec(turn, names)
        i += 1

    return step, [self.G, self.D]


def vaegan(folder, batch, ours):
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
    names["data_loader"] = [None]
    source = (folder / "main.py").read_text()
    if batch != 64:
        raise SystemExit("the port writes its batch of 64 into its lines")
    turn = loop_of(source, "enumerate")

    def step():
        names["turns"] = [(1, (pictures(batch), None))]
        exec(turn, names)

    return step, [E, G, D]


def random_set(n):
    """n random pictures that any of the scripts takes: pairs, five attributes."""
    images = np.random.default_rng(0).integers(0, 256, (n, 3, SIZE, SIZE), np.uint8)
    facts = np.random.default_rng(1).integers(0, 2, (n, len(ATTRIBUTES)), np.uint8)
    data = datasets.ImageSet("random", "train", images, attributes=facts, attribute_names=ATTRIBUTES)
    data.targets = images if n else None
    return data


def measure(script, flags, batch, n, rounds, start_peer):
    """Our script's own loop; after each n steps its loader lets the peer do as many -> seconds, parameters of both."""
    ours, seconds, built, peer = importlib.import_module(script), {"ours": [], "peer": []}, {}, []
    data = random_set(128)
    unpaired = datasets.Unpaired(data, data, ("A", "B"))
    whole = {"image": torch.from_numpy(data.images[:batch]), "target": torch.from_numpy(data.images[:batch])}
    whole["attributes"] = torch.from_numpy(data.attributes[:batch])
    if script not in ("bicyclegan", "cyclegan"):
        data.targets = None

    def steps(*_, **__):
        for first in range(1, n * (rounds + 2), n):  # the first two rounds warm up
            start = time.process_time()
            for step in range(first, first + n):
                yield step, 0, whole
            middle = time.process_time()
            for _ in range(n):
                peer[0]()
            seconds["ours"].append(middle - start)
            seconds["peer"].append(time.process_time() - middle)

    def build(*args):
        if not built:
            built.update(original(*args))
            peer.extend(start_peer(batch, built))
        return built

    original = ours.build
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(ours, "build", build),
        mock.patch.object(datasets, "load", lambda *_, **__: data),
        mock.patch.object(datasets, "load_domains", lambda *_, **__: unpaired),
        mock.patch.object(metrics, "steps", steps),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        flags += f" --image-size {SIZE} --batch-size {batch} --epochs 1000000 --device cpu --out {folder}/run"
        ours.main(f"{flags} --log-every 0 --sample-every 0 --save-every 0".split())
    parameters = [[sum(p.numel() for p in net.parameters()) for net in nets] for nets in (built.values(), peer[1])]
    assert all(p.isfinite().all() for net in built.values() for p in net.parameters()), f"{script}: not finite"
    return {name: median(times[2:]) for name, times in seconds.items()}, parameters


def compare(script, folder):
    """-> milliseconds of both, and their ratio."""
    flags, batch, n, rounds = PAIRS[script]
    start_peer = {"bicyclegan": bicyclegan, "cyclegan": cyclegan, "starGAN": stargan, "vaegan": vaegan}[script]
    seconds, (ours, theirs) = measure(script, flags, batch, n, rounds, functools.partial(start_peer, folder.resolve()))
    if script == "cyclegan":  # a bias before InstanceNorm has no effect: the authors keep them, we leave them out
        assert [b - a for a, b in zip(ours, theirs, strict=True)] == [3712, 3712, 896, 896], (ours, theirs)
    else:
        assert ours == theirs, f"{script}: the networks differ: {ours} and {theirs} parameters"
    milliseconds = {name: round(1000 * value, 1) for name, value in seconds.items()}
    facts = {"image": [3, SIZE, SIZE], "batch_size": batch, "steps": n, "parameters": sum(ours)}
    return facts | {"cpu_ms_per_round": milliseconds, "ratio": round(seconds["peer"] / seconds["ours"], 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for script in PAIRS:
        parser.add_argument(f"--{script.lower()}", type=Path, metavar="DIR", help=f"a clone of {script}'s peer")
    parser.add_argument("--out", type=Path, help="write the result here as JSON; pairs in it that are not run stay")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(args.out.read_text()) if args.out and args.out.exists() else {"pairs": {}}
    result |= {"threads": 1, "torch": torch.__version__}
    for script in PAIRS:
        if folder := getattr(args, script.lower()):
            result["pairs"][script] = compare(script, folder)
            if args.out:
                args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
