"""How fast is an epoch? Our loader beside a DataLoader that decodes each JPEG with Pillow, on the same files.

    python benchmarks/loader.py --out benchmarks/loader.json

Both make float batches in [-1, 1]. The loaders take turns; the medians over the rounds are printed in images/s. Ours
reads its cache; making that (once) is timed too.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parents[1]))
import datasets  # noqa: E402
import metrics  # noqa: E402


def make_jpegs(folder: Path, count: int, size: int) -> None:
    """Smooth random pictures with a little noise: JPEGs of the size that photos have."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((size, size), Image.BICUBIC)
        noisy = np.asarray(coarse) + rng.normal(0, 4, (size, size, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i:06}.jpg", quality=90)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--images", type=int, default=2000, help="number of JPEGs")
    parser.add_argument("--source-size", type=int, default=64, help="their side in pixels")
    parser.add_argument("--image-size", type=int, default=64, help="side in pixels of the images in a batch")
    parser.add_argument("--batch-size", type=int, default=64, help="images a batch")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each loader")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--out", default="", help="JSON file for the figures; empty = only print")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "jpegs"
        make_jpegs(root / "all", args.images, args.source_size)
        start = time.perf_counter()
        data = datasets.load(str(root / "all"), "train", args.image_size, data_dir=temporary)
        cache_seconds = time.perf_counter() - start

        steps = [transforms.Resize(args.image_size, antialias=True), transforms.CenterCrop(args.image_size)]
        steps += [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
        folder = torchvision.datasets.ImageFolder(root, transforms.Compose(steps))
        folder.samples = [(str(root / "all" / Path(name).name), 0) for name in data.names]  # the same pictures
        options = {"batch_size": args.batch_size, "shuffle": True, "drop_last": True}
        loaders = {
            "ours": datasets.make_loader(data, args.batch_size),
            "ImageFolder, 0 workers": torch.utils.data.DataLoader(folder, **options),
            "ImageFolder, 2 workers": torch.utils.data.DataLoader(
                folder, **options, num_workers=2, persistent_workers=True
            ),
        }

        speeds = {name: [] for name in loaders}
        for number in range(args.rounds + 1):
            for name, loader in loaders.items():
                start, seen = time.perf_counter(), 0
                if name == "ours":
                    loader.batch_sampler.set_epoch(number)
                    for batch in loader:
                        seen += len(datasets.to_float(batch["image"], "cpu"))
                else:
                    for images, _ in loader:
                        seen += len(images)
                if number:  # the first epoch only warms up
                    speeds[name].append(seen / (time.perf_counter() - start))

    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, value in medians.items():
        print(f"{name:24} {value:10.0f} images/s   (ours is {medians['ours'] / value:.1f} times as fast)")
    print(f"making the cache: {cache_seconds:.2f} s for {len(data)} images, once")
    result = {
        **vars(args),
        "images_per_second": {name: [round(v) for v in values] for name, values in speeds.items()},
        "median": {name: round(value) for name, value in medians.items()},
        "cache_seconds": round(cache_seconds, 3),
        "made": metrics.made_with(),
    }
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
