"""Time of a training step: bicyclegan.py against the authors' code, interleaved, at equal networks and losses.

    git clone https://github.com/junyanz/BicycleGAN && python benchmarks/bicyclegan_speed.py --official BicycleGAN

Both train the official networks (at 64 px both with one level less) on random pictures. Reported: CPU milliseconds of
the process a step on one thread, which is what a step costs also on a busy machine; medians, and their ratio.
"""

import argparse
import json
import sys
import time
import types
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import bicyclegan as ours  # noqa: E402


def official_step(folder, size, batch):
    """The authors' optimize_parameters on random pairs; a function that does one step."""
    sys.path.insert(0, str(folder))
    from models import networks
    from models.bicycle_gan_model import BiCycleGANModel

    flags = dict(isTrain=True, batch_size=batch, gpu_ids=[], checkpoints_dir="", name="", preprocess="none", lr=2e-4)
    flags |= dict(
        lambda_GAN=1.0, lambda_GAN2=1.0, use_same_D=False, no_encode=False, input_nc=3, output_nc=3, nz=8, beta1=0.5
    )
    flags |= dict(
        ngf=64, ndf=64, nef=64, netG="unet_128", netD="basic_128_multi", netD2="basic_128_multi", netE="resnet_128"
    )
    flags |= dict(norm="instance", nl="relu", use_dropout=False, init_type="xavier", init_gain=0.02, where_add="all")
    flags |= dict(upsample="basic", conditional_D=False, num_Ds=2, gan_mode="lsgan", lambda_L1=10.0, lambda_z=0.5)
    flags |= dict(lambda_kl=0.01, direction="AtoB")
    if size == 64:  # the authors have no networks for it: one level less, as ours
        norm = networks.get_norm_layer("instance")
        relu = networks.get_non_linearity("relu")
        leaky = networks.get_non_linearity("lrelu")
        unet = networks.G_Unet_add_all(3, 3, 8, 6, 64, norm_layer=norm, nl_layer=relu, upsample="basic")
        encoder = networks.E_ResNet(3, 8, 64, n_blocks=3, norm_layer=norm, nl_layer=leaky, vaeLike=True)
        networks.define_G = lambda *_, **__: networks.init_net(unet)
        networks.define_E = lambda *_, **__: networks.init_net(encoder)
    model = BiCycleGANModel(types.SimpleNamespace(**flags))

    def step():
        pictures = {"A": torch.rand(batch, 3, size, size) * 2 - 1, "B": torch.rand(batch, 3, size, size) * 2 - 1}
        model.set_input(pictures | {"A_paths": "", "B_paths": ""})
        model.optimize_parameters()

    nets = (model.netG, model.netE, model.netD)
    return step, [sum(p.numel() for p in net.parameters()) for net in nets]


def measure(size, batch, rounds, official):
    """bicyclegan.py's own loop on random pictures, with a loader that, between two steps, takes one of theirs."""
    pair = {name: torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8) for name in ("image", "target")}
    images, seconds, built = (
        torch.zeros(batch, 3, size, size, dtype=torch.uint8).numpy(),
        {"ours": [], "official": []},
        {},
    )

    def steps(*_, **__):
        for step in range(1, rounds + 3):
            start = time.process_time()
            yield step, 0, pair
            middle = time.process_time()
            official()
            seconds["ours"].append(middle - start)
            seconds["official"].append(time.process_time() - middle)

    build = ours.build
    ours.build = lambda *args: built.setdefault("nets", build(*args))
    ours.load_pairs = lambda *_: ours.datasets.ImageSet("random", "train", images, images)
    ours.datasets.steps = steps
    ours.metrics.start_run = lambda *_: types.SimpleNamespace(add=lambda *_, **__: None)
    flags = f"--image-size {size} --batch-size {batch} --ngf 64 --ndf 64 --nef 64 --no-head --no-conditional-d"
    flags += " --lr 2e-4 --epochs 1000000"
    ours.train(ours.build_parser().parse_args(f"{flags} --device cpu --log-every 0 --out unused".split()), None)
    parameters = [sum(p.numel() for p in built["nets"][name].parameters()) for name in ("G", "E", "D_VAE")]
    return {name: median(times[2:]) for name, times in seconds.items()}, parameters  # the first two warm up


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", required=True, type=Path, help="a clone of the authors' repository")
    parser.add_argument("--image-size", type=int, default=64, choices=(64, 128))
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the result here as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    official, theirs = official_step(args.official, args.image_size, args.batch_size)
    seconds, parameters = measure(args.image_size, args.batch_size, args.rounds, official)
    assert parameters == theirs, f"the networks differ: {parameters} and {theirs} parameters"
    result = {
        "image_size": args.image_size,
        "batch_size": args.batch_size,
        "threads": 1,
        "torch": torch.__version__,
        "cpu_ms_per_step": {name: round(1000 * value, 1) for name, value in seconds.items()},
        "ratio": round(seconds["official"] / seconds["ours"], 2),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
