"""How fast metrics.py is beside the references, on the same images and weights, in CPU seconds, measured interleaved.

    python benchmarks/metrics_speed.py --weights-dir weights --out benchmarks/metrics_speed.json

Inception features against pytorch-fid, if installed, at its own batch of 50 and at our 16; the Fréchet distance against
scipy's matrix square root; LPIPS diversity against a pass for every pair. Medians, one thread.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy reads it

import numpy as np
import torch
from scipy.linalg import sqrtm

sys.path.insert(0, str(Path(__file__).parents[1]))
import metrics


def measure(functions: dict, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each function; each round calls all of them, so that a busy machine is unfair to none."""
    seconds = {name: [] for name in functions}
    for _ in range(rounds + 1):  # the first round warms up
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def pytorch_fid_net(path: Path, dims: int):
    from pytorch_fid import inception

    state, load = torch.load(path, map_location="cpu", weights_only=True), torch.nn.Module.load_state_dict
    inception.load_state_dict_from_url = lambda *args, **options: {}
    torch.nn.Module.load_state_dict = lambda self, _: load(self, state, strict=False)  # a partial file serves
    try:
        return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]]).eval()
    finally:
        torch.nn.Module.load_state_dict = load


def inception_speed(weights_dir: Path, dims: int, rounds: int) -> dict:
    images = torch.randint(0, 256, (50, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    net = metrics.load_inception(dims, weights_dir, download=False)
    functions = {"ours, batch 16": lambda: metrics.inception_features(images, net)}
    row = {"dims": dims}
    if importlib.util.find_spec("pytorch_fid"):
        reference = pytorch_fid_net(next(weights_dir.glob("*inception-2015-12-05*.pth")), dims)

        @torch.inference_mode()
        def theirs(size):
            return torch.cat([reference(x.float() / 255)[0].mean(dim=(2, 3)) for x in images.split(size)]).numpy()

        functions |= {f"pytorch-fid, batch {size}": lambda size=size: theirs(size) for size in (16, 50)}
        a, b = metrics.inception_features(images, net), theirs(16)
        ours, expected = (metrics.frechet_distance(x[:25], x[25:]) for x in (a, b))
        row["max_feature_difference"] = float(np.abs(a - b).max())
        row["relative_fid_difference"] = abs(ours / expected - 1)
    seconds = measure(functions, rounds)
    row["images_per_cpu_second"] = {name: round(50 / value, 2) for name, value in seconds.items()}
    return row


def frechet_speed(n: int, rounds: int, d: int = 2048) -> dict:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)), 1.1 * rng.normal(size=(n, d))
    statistics_x, statistics_y = ((z.mean(0), np.cov(z.T)) for z in (x, y))
    functions = {
        "ours, features": lambda: metrics.frechet_distance(x, y),
        "ours, (mu, sigma)": lambda: metrics.frechet_distance(statistics_x, statistics_y),
        "sqrtm, (mu, sigma)": lambda: np.trace(sqrtm(statistics_x[1] @ statistics_y[1])),
    }
    return {"n": n, "d": d, "cpu_seconds": measure(functions, rounds)}


def lpips_speed(weights_dir: Path, k: int, rounds: int) -> dict:
    net = metrics.load_lpips(weights_dir, download=False)
    x = torch.rand(1, k, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    i, j = torch.tensor([(i, j) for i in range(k) for j in range(i)]).T

    def pairwise():
        with torch.inference_mode():
            distances = [net(x[0, a], x[0, b]) for a, b in zip(i.split(16), j.split(16), strict=True)]
            return torch.cat(distances).double().mean().item()

    difference = abs(metrics.lpips_diversity(x, net).value / pairwise() - 1)
    seconds = measure({"ours": lambda: metrics.lpips_diversity(x, net), "every pair": pairwise}, rounds)
    return {"k": k, "cpu_seconds": seconds, "relative_difference": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights-dir", type=Path, required=True, help="folder with the Inception and LPIPS weights")
    parser.add_argument("--dims", type=int, default=768, help="Inception's feature layer: 64, 192, 768 or 2048")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {"torch": torch.__version__, "machine": f"{platform.machine()}, one thread"}
    result["inception"] = inception_speed(args.weights_dir, args.dims, args.rounds)
    result["frechet_distance"] = [frechet_speed(n, min(args.rounds, 2)) for n in (100, 1000)]
    result["lpips_diversity"] = [lpips_speed(args.weights_dir, k, args.rounds) for k in (10, 20)]
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
