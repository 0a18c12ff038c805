"""metrics.py beside pytorch-fid, torch-fidelity, clean-fid, torchmetrics, lpips and prdc: differences and time ratios.

    pip install --no-deps pytorch-fid torch-fidelity clean-fid torchmetrics lightning-utilities lpips prdc
    python benchmarks/metrics_peers.py --weights-dir weights --out benchmarks/metrics_peers.json

Same images, same weights, fp32 networks, one thread; medians of CPU seconds over interleaved rounds. A peer that is not
installed is left out; nothing is downloaded. Where --weights-dir has only the beginning of the Inception of FID, the
layers behind it get random weights, and the rows say so. Relative difference: max |ours - theirs| / max |theirs|.
Ratio: theirs by ours. Ten minutes on one core.
"""

import argparse
import contextlib
import ctypes
import importlib.metadata
import io
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module as use
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy reads it; the programs of `whole_job` inherit it

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import metrics

warnings.filterwarnings("ignore")  # the peers'
torch.set_num_threads(1)

PEERS = {  # what is imported for each
    "pytorch-fid": ("pytorch_fid.fid_score",),
    "torch-fidelity": ("torch_fidelity.metrics",),
    "torchmetrics": ("torchmetrics.image", "torch_fidelity"),  # whose Inception it takes
    "clean-fid": ("cleanfid.fid", "pytorch_fid.inception"),  # its own network must be downloaded: pytorch-fid's instead
    "lpips": ("lpips",),
    "prdc": ("prdc",),
}
FOUND, ROWS = [], []
for peer, modules in PEERS.items():
    with contextlib.suppress(ImportError):
        list(map(use, modules))
        FOUND.append(peer)


# ----- Measuring


def measure(functions: dict, rounds: int, warm: bool = True) -> dict[str, tuple]:
    """-> name: (value, median CPU seconds); each round calls all of them, so that a busy machine is unfair to none."""
    seconds, values = {name: [] for name in functions}, {}
    for _ in range(rounds + warm):
        for name, function in functions.items():
            start = time.process_time()
            values[name] = function()
            seconds[name].append(time.process_time() - start)
    return {name: (values[name], statistics.median(seconds[name][warm:])) for name in functions}


def row(what: str, peer: str, n, ours, theirs, seconds=(None, None), note: str = "", relative=True) -> None:
    """relative: the relative difference; True to compute it, None where it has no meaning."""
    if relative is True:
        relative = float(np.abs(np.subtract(ours, theirs)).max() / np.abs(theirs).max())
    entry = {"what": what, "peer": peer, "n": n, "ours": float(np.mean(ours)), "theirs": float(np.mean(theirs))}
    entry |= {"relative_difference": relative, "cpu_seconds_ours": seconds[0], "cpu_seconds_theirs": seconds[1]}
    ratio = (seconds[1] / seconds[0]) if seconds[0] else theirs / ours if relative is None and ours else None  # of MB
    ROWS.append(entry | {"ratio": ratio, "note": note})
    print(f"{what}, {peer}, n = {n}", file=sys.stderr)


def compare(what: str, n, ours, peers: dict, rounds: int, note: str = "", names=None) -> None:
    """A row for each peer that is found. Functions without arguments return a number, an array of which all belongs to
    one row, or with `names` a list of numbers that get a row each."""
    measured = measure({"": ours} | {peer: peers[peer] for peer in peers if peer in FOUND}, rounds)
    value, seconds = measured.pop("")
    for peer, (theirs, their_seconds) in measured.items():
        for name, a, b in zip(names, value, theirs, strict=True) if names else [("", value, theirs)]:
            row(name + what, peer, n, a, b, (seconds, their_seconds), note)


# ----- The same images, features and weights for all


def photos(n: int, seed: int, size: int = 64) -> torch.Tensor:
    """uint8 (n, 3, size, size): smooth random pictures, lighter for odd seeds, so that two sets differ."""
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    fine = F.interpolate(coarse, size=(size, size), mode="bicubic")
    return ((fine * 0.8 + 0.3 * (seed % 2) + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def feature_rows(n: int, seed: int, d: int = 2048) -> np.ndarray:
    """float32 (n, d), not negative and of falling variances, like Inception's; two seeds give overlapping sets."""
    mix = np.random.default_rng(100).normal(size=(64, d)) / np.arange(1, 65)[:, None] ** 0.5
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, 64)) * (1 + 0.1 * seed) + 0.1 * seed) @ mix + 0.1 * rng.normal(size=(n, d))
    return np.maximum(0.3 * x + 0.2, 0).astype(np.float32)


def complete_weights(weights_dir: Path, folder: Path) -> tuple[Path, dict[int, str]]:
    """Write a file with all the weights -> its path, and for 768 and 2048 dims which of them are random."""
    with torch.device("meta"):
        shapes = {dims: metrics.Inception(dims).file_shapes() for dims in (768, 2048)}
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in shapes[2048].items():  # scaled so that activations keep their size through the network
        noise = torch.randn(shape, generator=generator)
        scale = (2 / noise[0].numel()) ** 0.5 if len(shape) > 1 else 0.1
        state[key] = 0.5 + noise.abs() if key.endswith("running_var") else key.endswith("bn.weight") + scale * noise
    files = sorted(weights_dir.glob("*inception-2015-12-05*.pth"))
    real = torch.load(files[0], map_location="cpu", weights_only=True) if files else {}
    notes = {dims: [key.split(".")[0] for key in shapes[dims] if key not in real] for dims in shapes}
    path = folder / "inception-2015-12-05-complete.pth"
    torch.save(state | real, path)
    return path, {dims: f"random weights from {lack[0]} on" if lack else "real weights" for dims, lack in notes.items()}


# ----- Inception

RANGE = "torch bilinear, (x - 128) / 128"  # not in metrics.py, whose torch bilinear ends in 2x / 255 - 1
INCEPTION_PEERS = {  # our resize that it equals, its own batch size if it has one
    "pytorch-fid": ("torch bilinear", 50),
    "torch-fidelity": ("tf1 bilinear", 64),
    "torchmetrics, antialias=False": ("tf1 bilinear", None),
    "torchmetrics": (RANGE, None),
    "clean-fid": ("pil bicubic", 32),
}


@torch.inference_mode()
def in_batches(function, images, size: int) -> np.ndarray:
    return torch.cat([function(batch) for batch in images.split(size)]).numpy()


def our_features(resize: str, dims: int, path: Path):
    """-> a function (images, batch size) -> features (N, dims), as `their_features`."""
    net = metrics.load_inception(dims, path.parent, download=False, resize=resize.partition(",")[0])

    def other_range(x):
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        return ((x - 128) / 128).contiguous(memory_format=torch.channels_last)

    if resize == RANGE:
        net.enlarge = other_range
    return lambda images, size: metrics.inception_features(images, net, size)


def clean_resize(images: torch.Tensor) -> torch.Tensor:
    resize = use("cleanfid.resize").make_resizer("PIL", False, "bicubic", (299, 299))
    pictures = [torch.from_numpy(resize(x.permute(1, 2, 0).numpy())) for x in images]
    return torch.stack(pictures).permute(0, 3, 1, 2).contiguous()  # the layout that its loader makes


def their_features(peer: str, dims: int, path: Path):
    if peer == "torch-fidelity":
        extractor = use("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        net = extractor("", [str(dims)], str(path))
        return partial(in_batches, lambda x: net(x)[0])
    if peer.startswith("torchmetrics"):
        options = {"feature_extractor_weights_path": path, "antialias": "antialias=False" not in peer}
        return partial(in_batches, use("torchmetrics.image.fid").FrechetInceptionDistance(dims, **options).inception)
    inception, clean = use("pytorch_fid.inception"), peer == "clean-fid"
    inception.load_state_dict_from_url = lambda *args, **options: torch.load(path, weights_only=True)
    block = inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]
    net = inception.InceptionV3([block], resize_input=not clean, normalize_input=not clean).eval()
    prepare = (lambda x: (clean_resize(x) - 128) / 128) if clean else (lambda x: x.float() / 255)
    return partial(in_batches, lambda x: net(prepare(x))[0].mean((2, 3)))


def fidelity_distance(mu_a, sigma_a, mu_b, sigma_b) -> float:
    a, b = {"mu": mu_a, "sigma": sigma_a}, {"mu": mu_b, "sigma": sigma_b}
    return use("torch_fidelity.metric_fid").fid_statistics_to_metric(a, b, False)["frechet_inception_distance"]


DISTANCES = {  # of (mu, sigma, mu, sigma); clean-fid's is pytorch-fid's, to the letter
    "pytorch-fid": lambda *parts: use("pytorch_fid.fid_score").calculate_frechet_distance(*parts),
    "torch-fidelity": fidelity_distance,
    "torchmetrics": lambda *parts: use("torchmetrics.image.fid")._compute_fid(*map(torch.from_numpy, parts)).item(),
}


def moments(*sets: np.ndarray) -> list[np.ndarray]:
    """-> mu and sigma of each, one after the other."""
    return [part for x in sets for part in (x.mean(axis=0), np.cov(x, rowvar=False))]


def fid_of(features: np.ndarray) -> float:
    return metrics.frechet_distance(*np.split(features.astype(np.float64), 2))


def inception_rows(path: Path, notes: dict[int, str], rounds: int, n: int = 16) -> None:
    """Features at batches of 16 and at the peers' own batch; FID of the first n images and the other n."""
    images, many = torch.cat([photos(n, 0), photos(n, 1)]), photos(64, 0)
    peers = {peer: facts for peer, facts in INCEPTION_PEERS.items() if peer.split(",")[0] in FOUND}
    for dims, weights in notes.items():
        resizes = {"torch bilinear"} | {resize for resize, _ in peers.values()}
        functions = {resize: partial(our_features(resize, dims, path), images, 16) for resize in sorted(resizes)}
        for peer, (_, default) in peers.items():
            theirs = their_features(peer, dims, path)
            functions[peer] = partial(theirs, images, 16)
            if default:
                functions[peer, default] = partial(theirs, many[:default], default)
        measured = measure(functions, rounds)
        for peer, (resize, default) in peers.items():
            (x, seconds), (y, their_seconds) = measured[resize], measured[peer]
            note, what = f"{resize}; {weights}", f"{dims}-d features, images per CPU second at batch 16"
            relative = float(np.abs(x - y).max() / np.abs(y).max())
            speeds = 2 * n / seconds, 2 * n / their_seconds
            row(what, peer, 2 * n, *speeds, (seconds, their_seconds), note, relative)
            if default:
                each = seconds / 2 / n, measured[peer, default][1] / default
                speeds, pair = (1 / each[0], 1 / each[1]), (default * each[0], default * each[1])
                row(f"{what}, theirs at {default}", peer, default, *speeds, pair, note, None)
            row(f"FID-{dims}, our distance of both features", peer, f"{n} + {n}", fid_of(x), fid_of(y), note=note)
            if peer in DISTANCES:
                theirs = partial(DISTANCES[peer], *moments(*np.split(y.astype(np.float64), 2)))
                (a, seconds_a), (b, seconds_b) = measure({"": partial(fid_of, x), peer: theirs}, 1, False).values()
                pair = seconds + seconds_a, their_seconds + seconds_b
                row(f"FID-{dims}, features and distance", peer, f"{n} + {n}", a, b, pair, note)
        if "torchmetrics" in peers:
            pair = [fid_of(measured[name][0]) for name in ("torch bilinear", "torchmetrics")]
            note = f"their range (x - 128) / 128, ours 2x / 255 - 1; {weights}"
            row(f"FID-{dims}, our torch bilinear, our distance", "torchmetrics", f"{n} + {n}", *pair, note=note)


def picture_rows(path: Path) -> None:
    """The 299-px pictures that enter the network, 0..255: our "pil bicubic" beside clean-fid's resize."""
    net = metrics.load_inception(64, path.parent, download=False, resize="pil bicubic")
    for size in (64, 400) if "clean-fid" in FOUND else ():
        noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, size, size), dtype=np.uint8))
        ours = net.enlarge(noise.float()) * 128 + 128
        row(f"noise of {size} px at 299 px, clipped", "clean-fid", 4, ours.numpy(), clean_resize(noise).numpy())


def peak_memory(build, *args, size: int) -> float:
    """MB by which two batches raise the peak of this process over what it holds once it has looked at one image.

    Not by getrusage: its peak counts that of the process that started this one.
    """
    features, images = build(*args), photos(2 * size, 0)
    features(images[:1], 1)  # loads the code of the layers
    with contextlib.suppress(OSError, AttributeError):  # glibc: what is free goes back to the system
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    peaks = [Path("/proc/self/status").read_text()]
    features(images, size)
    peaks.append(Path("/proc/self/status").read_text())
    before, after = (int(text.partition("VmHWM:")[2].split()[0]) for text in peaks)
    return (after - before) / 1024


def memory_rows(path: Path, dims: int = 2048) -> None:
    def fresh(*args, size: int) -> float:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(peak_memory, *args, size=size).result()

    ours = fresh(our_features, "torch bilinear", dims, path, size=16)
    for peer, (_, default) in INCEPTION_PEERS.items():
        for size in (16, default) if default and peer in FOUND else ():
            what = f"{dims}-d features, MB that batches of 16 need, theirs at {size}"
            row(what, peer, 2 * size, ours, fresh(their_features, peer, dims, path, size=size), relative=None)


# ----- Scores of given features, LPIPS


def frechet_rows() -> None:
    what = "Fréchet distance, d = 2048, of "
    for n in (100, 1000, 10000):
        x, y = (feature_rows(n, seed).astype(np.float64) for seed in (0, 1))
        parts = moments(x, y)
        functions = {"features": partial(metrics.frechet_distance, x, y)}
        functions["(mu, sigma)"] = partial(metrics.frechet_distance, tuple(parts[:2]), tuple(parts[2:]))
        functions["moments"] = partial(moments, x, y)
        functions |= {peer: partial(distance, *parts) for peer, distance in DISTANCES.items() if peer in FOUND}
        measured = measure(functions, 1, warm=False)
        (a, seconds_a), (b, seconds_b), (_, common) = (measured.pop(name) for name in list(measured)[:3])
        row(f"{what}features", "ours of (mu, sigma)", n, a, b, (seconds_a, seconds_b))
        for peer, (theirs, seconds) in measured.items():
            row(f"{what}features", peer, n, a, theirs, (seconds_a, seconds + common))
            row(f"{what}(mu, sigma)", peer, n, b, theirs, (seconds_b, seconds))
            if n == 1000:
                itself = metrics.frechet_distance(x, x), DISTANCES[peer](*parts[:2], *parts[:2])
                row(f"{what}a set and itself", peer, n, *itself, relative=None)


def kid_rows(path: Path, rounds: int, n: int = 1000) -> None:
    net = metrics.load_inception(2048, path.parent, download=False)
    x, y = (feature_rows(n, seed) for seed in (0, 1))

    def fidelity(a, b):
        options = {"kid_subsets": 1, "kid_subset_size": n, "verbose": False}
        scores = use("torch_fidelity.metric_kid").kid_features_to_metric(a, b, **options)
        return scores["kernel_inception_distance_mean"]

    def lightning(a, b):
        metric = use("torchmetrics.image.kid").KernelInceptionDistance(torch.nn.Identity(), subsets=1, subset_size=n)
        metric.update(a, real=True)
        metric.update(b, real=False)
        return metric.compute()[0].item()

    def clean(a, b):
        return use("cleanfid.fid").kernel_distance(a.numpy(), b.numpy(), num_subsets=1, max_subset_size=n)

    peers = {"torch-fidelity": fidelity, "torchmetrics": lightning, "clean-fid": clean}
    for dtype, note in ((torch.float64, "theirs in float64"), (torch.float32, "theirs in float32, as they come")):
        pair = [torch.tensor(rows, dtype=dtype) for rows in (x, y)]
        theirs = {peer: partial(function, *pair) for peer, function in peers.items()}
        compare("KID, one subset of all", n, lambda: metrics.kid(x, y, net).value, theirs, rounds, note)


def inception_score_rows(path: Path, rounds: int, n: int = 1000) -> None:
    net = metrics.load_inception(2048, path.parent, download=False)
    features = 4 * feature_rows(n, 0)

    def logits():  # without the bias
        return torch.from_numpy(features) @ net.fc.weight.T

    def ours(order):
        score = metrics.inception_score(features[order], net)
        return [score.value, score.std]

    def fidelity():
        return list(use("torch_fidelity.metric_isc").isc_features_to_metric(logits(), shuffle=False).values())

    def lightning():
        torch.manual_seed(0)  # it shuffles
        metric = use("torchmetrics.image.inception").InceptionScore(torch.nn.Identity())
        metric.update(logits())
        mean, std = metric.compute()
        return [mean.item(), std.item() * 0.9**0.5]  # from ddof 1 to 0

    torch.manual_seed(0)
    shuffled, what, names = torch.randperm(n).numpy(), "IS, 10 parts", ("mean of ", "std of ")
    compare(what, n, lambda: ours(slice(None)), {"torch-fidelity": fidelity}, rounds, "in order", names)
    note = "its shuffle, seeded; its float32; its std brought to ddof 0"
    compare(what, n, lambda: ours(shuffled), {"torchmetrics": lightning}, rounds, note, names)


def prdc_rows(rounds: int, n: int = 1000) -> None:
    real, fake = (feature_rows(n, seed) for seed in (0, 1))

    def fidelity():
        function = use("torch_fidelity.metric_prc").calculate_precision_recall_full
        return function(torch.from_numpy(fake), torch.from_numpy(real), 3)

    def reference(k, names):
        with contextlib.redirect_stdout(io.StringIO()):
            return list(map(use("prdc").compute_prdc(real, fake, k).get, names))

    for k, names in ((3, ("precision", "recall")), (5, ("density", "coverage"))):
        peers = {"prdc": partial(reference, k, names)} | ({"torch-fidelity": fidelity} if k == 3 else {})
        ours = partial(lambda names: list(map(metrics.prdc(real, fake).get, names)), names)
        compare(f", d = 2048, k = {k}", n, ours, peers, rounds, "ours gives all four in this time", names)


def lpips_rows(weights_dir: Path, rounds: int) -> None:
    net, nets = metrics.load_lpips(weights_dir, download=False), {}
    if "lpips" in FOUND:
        nets["lpips"] = use("lpips").LPIPS(net="alex", pnet_rand=True, verbose=False)
    if "torchmetrics" in FOUND:
        nets["torchmetrics"] = use("torchmetrics.functional.image.lpips")._NoTrainLpips(net="alex", pnet_rand=True)
    alexnet = torch.load(next(weights_dir.glob("alexnet*.pth")), map_location="cpu", weights_only=True)
    for theirs in nets.values():  # with keys like slice1.0.weight
        theirs.net.load_state_dict({key: alexnet[f"features{key[6:]}"] for key in theirs.net.state_dict()})

    @torch.inference_mode()
    def distances(net, x, y):
        return torch.cat([net(a, b).flatten() for a, b in zip(x.split(16), y.split(16), strict=True)]).numpy()

    def mean_distance(*args) -> float:
        return distances(*args).mean(dtype=np.float64)

    for size in (64, 128):
        pair = [photos(32, seed, size) / 127.5 - 1 for seed in (0, 1)]
        peers = {peer: partial(distances, theirs, *pair) for peer, theirs in nets.items()}
        compare(f"LPIPS, {size} px", 32, partial(distances, net, *pair), peers, rounds)
    for k in (10, 20):
        x = photos(k, 0) / 127.5 - 1
        i, j = torch.tensor([(i, j) for i in range(k) for j in range(i)]).T
        peers = {peer: partial(mean_distance, theirs, x[i], x[j]) for peer, theirs in nets.items()}
        ours = partial(lambda x: metrics.lpips_diversity(x[None], net).value, x)
        compare("LPIPS diversity, 64 px", k, ours, peers, rounds, "theirs: a pass for each pair, 16 at a time")


def whole_job(path: Path, folder: Path, n: int = 200) -> None:
    """Two folders of PNGs, from the command line: CPU seconds of the processes from start to end."""
    for seed, side in enumerate("ab"):
        (folder / side).mkdir()
        for i, image in enumerate(photos(n, seed)):
            PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / side / f"{i:03}.png")

    def job(*command: str) -> tuple[str, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    what = [f"{folder}/a", f"{folder}/b", "--dims", "768", "--device", "cpu"]
    program = "import torch; from pytorch_fid import fid_score, inception; inception.load_state_dict_from_url = "
    program += f"lambda *args, **options: torch.load({str(path)!r}, weights_only=True); fid_score.main()"
    out, seconds = job(metrics.__file__, "fid", *what, "--weights-dir", str(path.parent), "--no-cache", "--json", "-")
    their_out, their_seconds = job("-c", program, *what)
    values = json.loads(out)["scores"][0]["value"], float(their_out.split()[-1])
    note = "two folders of PNGs, from the command line; ours with the floor and the spread"
    row("FID-768, whole job", "pytorch-fid", f"{n} + {n}", *values, (seconds, their_seconds), note)


# ----- The table


def markdown() -> str:
    lines = ["| what | peer | n | ours | theirs | relative difference | CPU s, ours | theirs | ratio | |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    forms = ("", "", "", ".6g", ".6g", ".1e", ".3g", ".3g", ".1f", "")
    for entry in ROWS:
        cells = ["" if x is None else format(x, form) for x, form in zip(entry.values(), forms, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--weights-dir", type=Path, required=True, help="folder with the Inception and LPIPS weights")
    what = (
        "interleaved repetitions after one that warms up; of Inception half as many, of matrix roots and programs one"
    )
    parser.add_argument("--rounds", type=int, default=5, help=what)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, notes = complete_weights(args.weights_dir, Path(folder))
        inception_rows(path, notes, max(1, args.rounds // 2))
        picture_rows(path)
        if os.access("/proc/self/clear_refs", os.W_OK):  # Linux
            memory_rows(path)
        frechet_rows()
        kid_rows(path, args.rounds)
        inception_score_rows(path, args.rounds)
        prdc_rows(args.rounds)
        lpips_rows(args.weights_dir, args.rounds)
        if "pytorch-fid" in FOUND:
            whole_job(path, Path(folder))
    result = {"made": metrics.made_with(), "scipy": importlib.metadata.version("scipy")}
    result |= {"peers": {peer: importlib.metadata.version(peer) for peer in FOUND}}
    result |= {"not_installed": [peer for peer in PEERS if peer not in FOUND]}
    result |= {"rounds": args.rounds, "rows": ROWS}
    print(markdown())
    if args.out:
        args.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
