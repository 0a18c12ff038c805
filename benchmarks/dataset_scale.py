"""A set larger than it is wise to keep in memory: 200,000 JPEGs of 64 px, read by datasets.py and by torchvision.

    python benchmarks/dataset_scale.py --out benchmarks/dataset_scale.json        7 minutes and 4 GB of disk

Each reader runs in processes of its own, whose memory is watched from outside: the sum over the process and its
workers of what is theirs alone ("anonymous", shared pages shared out), sampled ten times a second. Pages of a mapped
file do not count: the system takes them back whenever it needs the room.

  only torch     nothing but the libraries: what the others' memory begins with
  first load     every file is decoded, and the cache written (ours); the folder is listed (ImageFolder)
  next load      the cache is found (ours)
  epoch          all images in random order, as float batches in [-1, 1]
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
CLASSES = 100
PHASES = "only torch|ours, first load|ours, next load|ours, epoch|ImageFolder, 0 workers|ImageFolder, 2 workers"


def make_jpegs(job: tuple[str, int, int, int]) -> None:
    """The pictures start ... stop - 1: smooth noise, sides `size`, in CLASSES folders."""
    root, size, start, stop = job
    rng = np.random.default_rng(start)
    for i in range(start, stop):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(f"{root}/{i % CLASSES:02}/{i:06}.jpg", quality=90)


def anonymous_bytes(pid: int) -> int:
    """Memory of a process and its children that is not a mapped file's, each shared page shared out."""
    total = 0
    with contextlib.suppress(OSError, ValueError):  # it may end while we look
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss_Anon:"):
                total += int(line.split()[1]) << 10
        for task in os.listdir(f"/proc/{pid}/task"):
            total += sum(map(anonymous_bytes, map(int, open(f"/proc/{pid}/task/{task}/children").read().split())))
    return total


def watched(command: list[str]) -> dict:
    """Run a phase -> what it prints, with the peak of its memory in MB."""
    process, peak = subprocess.Popen(command, stdout=subprocess.PIPE, text=True), 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return json.loads(process.stdout.read()) | {"peak_MB": round(peak / 1e6)}


def epochs(loader, rounds: int, images) -> list[int]:
    """Images/s of each epoch. images: batch -> its float images."""
    speeds = []
    for number in range(rounds):
        if hasattr(loader.batch_sampler, "set_epoch"):
            loader.batch_sampler.set_epoch(number)
        start, seen = time.perf_counter(), 0
        for batch in loader:
            seen += len(images(batch))
        speeds.append(round(seen / (time.perf_counter() - start)))
    return speeds


def phase(args: argparse.Namespace) -> dict:
    """What a process of its own does."""
    import torch

    torch.set_num_threads(1)
    if args.phase == "only torch":
        time.sleep(0.5)  # to be seen
        return {}
    start = time.perf_counter()
    if args.phase.startswith("ours"):
        import datasets

        imported = time.perf_counter()
        data = datasets.load(f"{args.folder}/jpegs", "train", args.image_size, data_dir=args.folder)
        result = {"import_s": imported - start, "load_s": time.perf_counter() - imported, "images": len(data)}
        if args.phase == "ours, epoch":
            loader = datasets.make_loader(data, args.batch_size)
            result["images_per_s"] = epochs(loader, args.rounds, lambda b: datasets.to_float(b["image"], "cpu"))
        return result
    import torchvision
    from torchvision import transforms

    steps = [transforms.Resize(args.image_size, antialias=True), transforms.CenterCrop(args.image_size)]
    steps += [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
    imported = time.perf_counter()
    data = torchvision.datasets.ImageFolder(f"{args.folder}/jpegs/train", transforms.Compose(steps))
    result = {"import_s": imported - start, "load_s": time.perf_counter() - imported, "images": len(data)}
    workers = int(args.phase.split()[-2])
    options = {"batch_size": args.batch_size, "shuffle": True, "drop_last": True, "num_workers": workers}
    return result | {"images_per_s": epochs(torch.utils.data.DataLoader(data, **options), args.rounds, lambda b: b[0])}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000, help="how many JPEGs")
    parser.add_argument("--image-size", type=int, default=64, help="their side, and that of the images")
    parser.add_argument("--batch-size", type=int, default=64, help="images a batch")
    parser.add_argument("--rounds", type=int, default=2, help="epochs of each loader")
    parser.add_argument("--folder", default="", help="an existing one for the JPEGs; empty = a temporary one")
    parser.add_argument("--out", default="", help="JSON file for the figures; empty = only print")
    parser.add_argument("--phase", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.phase:
        print(json.dumps(phase(args)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        for i in range(CLASSES):
            Path(folder, "jpegs/train", f"{i:02}").mkdir(parents=True)
        parts = range(0, args.images, 2000)
        jobs = [(f"{folder}/jpegs/train", args.image_size, i, min(i + 2000, args.images)) for i in parts]
        with multiprocessing.Pool() as pool:
            pool.map(make_jpegs, jobs, chunksize=1)
        results = {}
        flags = [f"--{key.replace('_', '-')}={getattr(args, key)}" for key in ("image_size", "batch_size", "rounds")]
        for name in PHASES.split("|"):
            command = [sys.executable, __file__, "--phase", name, "--folder", folder, *flags]
            results[name] = watched(command)
            print(name, json.dumps(results[name]), flush=True)
        cache = sum(file.stat().st_size for file in Path(folder, "cache").rglob("*") if file.is_file())
    ours, folder_loader = (results[name]["images_per_s"] for name in ("ours, epoch", "ImageFolder, 2 workers"))
    facts = {"images": args.images, "image_size": args.image_size, "batch_size": args.batch_size, "results": results}
    import metrics  # not sooner: the memory of a process that has not imported it is measured above

    facts |= {"cache_MB": round(cache / 1e6), "made": metrics.made_with()}
    facts["times_as_fast"] = round(statistics.median(ours) / statistics.median(folder_loader), 1)
    if args.out:
        Path(args.out).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
