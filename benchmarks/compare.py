"""Six models on Fashion-MNIST with equal networks and equal budget: one table, one picture.

    python benchmarks/compare.py --weights-dir weights --out benchmarks/results/compare-fashion-mnist.json

GAN (minimax), GAN with the log D trick, CGAN, WGAN (clipping), WGAN-GP and VAE: for each seed, each trains by its own
script's command for the same number of epochs, so it sees the same number of images, with the layers of dcgan.py's
generator and discriminator at 28 px. A critic learns five times for every step of its generator, so a WGAN's generator
takes a fifth of the steps of a GAN's; with the first seed WGAN-GP therefore runs with --n-critic 1 too. Runs and scores
that are complete in --runs are not repeated. 10,000 samples of each run are compared with the test images by a
classifier of the set, and with the first seed --inception-images of them by Inception, which is slow.
"""

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import datasets  # noqa: E402
import metrics  # noqa: E402

MODELS = {  # title: script and the flags that are its own
    "GAN": ("dcgan", "--loss minimax --lr 2e-4"),
    "GAN, log D trick": ("dcgan", "--loss nonsat --lr 2e-4"),
    "CGAN": ("cgan", "--lr 2e-4"),
    "WGAN": ("wgan", "--lipschitz clip"),
    "WGAN-GP": ("wgan", "--lipschitz gp"),
    "WGAN-GP, n_critic 1": ("wgan", "--lipschitz gp --n-critic 1"),  # as many steps of G as the GANs
    "VAE": ("vae", "--arch conv"),
}
VARIANT = "WGAN-GP, n_critic 1"


def train(title, seed, args):
    """Run the script's command unless it has run to its end -> its run folder."""
    script, own = MODELS[title]
    folder = Path(args.runs, f"{title.replace(', ', '-').replace(' ', '-')}-s{seed}")
    if (folder / "cost.json").exists():
        return folder
    width = f"--ngf {args.width} --{'nef' if script == 'vae' else 'ndf'} {args.width} --nz {args.nz}"
    flags = (
        f"--dataset {args.dataset} --image-size 28 --batch-size 64 --epochs {args.epochs} --seed {seed} {width} {own}"
    )
    flags += f" --data-dir {args.data_dir} --out {folder} --resume auto --sample-every 2000 --save-every 1000"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, str(ROOT / f"{script}.py"), *flags.split()]
    print(f"{title}, seed {seed}: {' '.join(command[1:])}", flush=True)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (folder / "cost.json").write_text(json.dumps({"cpu_minutes": cpu / 60, "flags": f"{width} {own}".strip()}) + "\n")
    return folder


def fakes(title, folder, train_set, test_set):
    """The samples that the script's own --evaluate would judge, uint8 (n, 1, 28, 28), and its networks' parameters."""
    script = importlib.import_module(MODELS[title][0])
    state = metrics.load_checkpoint(folder / "last.pt", script.SCRIPT)
    args = script.build_parser().parse_args([])
    vars(args).update(state["args"])
    nets, kept = script.build(args, state["channels"], "cpu", state), []

    def keep(fake, *_):
        kept.append(fake)
        raise StopIteration  # what the script measures besides is not needed here

    judge, metrics.judge = metrics.judge, keep
    try:
        script.measure(nets, train_set, test_set, args, torch.device("cpu"), [])
    except StopIteration:
        pass
    finally:
        metrics.judge = judge
    return kept[0], {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}, state


def draw(rows, path, zoom=2):
    """{title: uint8 (n, 1, 28, 28)} -> a picture with a titled row for each model."""
    font, left = ImageFont.load_default(15), 150
    n, side = len(next(iter(rows.values()))), 28 * zoom + 2
    sheet = Image.new("L", (left + n * side, len(rows) * side), 255)
    for y, (title, images) in enumerate(rows.items()):
        ImageDraw.Draw(sheet).text((left - 8, y * side + side / 2), title, fill=0, font=font, anchor="rm")
        for x, image in enumerate(images):
            tile = Image.fromarray(image[0].numpy()).resize((28 * zoom, 28 * zoom), Image.Resampling.NEAREST)
            sheet.paste(tile, (left + x * side, y * side))
    sheet.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="fashion-mnist", help="a set of 28 px with classes")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--weights-dir", default="", help="folder with the weights of Inception")
    parser.add_argument("--runs", default="runs/compare", help="folder for the run folders")
    parser.add_argument("--epochs", type=int, default=10, help="of every model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=32, help="--ngf and --ndf of every model")
    parser.add_argument("--nz", type=int, default=64, help="length of z")
    parser.add_argument("--fid-dims", type=int, default=768, choices=(0, 64, 192, 768, 2048), help="0 = no Inception")
    parser.add_argument("--inception-images", type=int, default=1000, help="for Inception, which is slow on a CPU")
    parser.add_argument("--train-only", action="store_true", help="measure later, by the same command without this")
    parser.add_argument("--out", type=Path, help="the table as JSON; the picture goes beside it, as .png")
    args = parser.parse_args()

    first = args.seeds[0]  # the variant, and Inception, which is slow, for this seed only
    wanted = [(seed, title) for seed in args.seeds for title in MODELS if seed == first or title != VARIANT]
    folders = {(seed, title): train(title, seed, args) for seed, title in wanted}
    if args.train_only:
        return
    train_set, test_set = (
        datasets.load(args.dataset, split, 28, data_dir=args.data_dir) for split in ("train", "test")
    )
    judges = metrics.load_judges(args.fid_dims, train_set, test_set, args.weights_dir, args.data_dir, "cpu")
    cache, table, rows = {}, {title: {"seeds": []} for title in MODELS}, {}
    rows["test images"] = torch.from_numpy(test_set.images[:16])
    for (seed, title), folder in folders.items():
        fake, parameters, state = fakes(title, folder, train_set, test_set)
        rows.setdefault(title, fake[:16])
        used = judges if seed == first else judges[-1:]
        kept = folder / f"scores-{'-'.join(net.weights for net in used)}-{args.inception_images}.json"
        if not kept.exists():
            scores = []
            for net in used:
                n = len(fake) if net.domain else min(len(fake), args.inception_images)
                scores += metrics.judge(fake[:n], test_set, train_set, [net], cache)
            names = [f"{s.metric}-{s.dims}" if "FID" in s.metric else s.metric for s in scores]
            kept.write_text(json.dumps({name: s.as_dict() for name, s in zip(names, scores, strict=True)}))
        entry = json.loads(kept.read_text())
        cost = json.loads((folder / "cost.json").read_text())
        table[title]["seeds"].append({"seed": seed, "step": state["step"], **cost, "scores": entry})
        table[title]["parameters"] = parameters
        print(title, seed, {name: round(score["value"], 3) for name, score in entry.items()}, flush=True)
    for facts in table.values():
        for name in facts["seeds"][0]["scores"]:
            values = [seed["scores"][name]["value"] for seed in facts["seeds"] if name in seed["scores"]]
            spread = statistics.stdev(values) if len(values) > 1 else None
            facts[name] = {
                "mean": statistics.mean(values),
                "std": spread,
                "floor": facts["seeds"][0]["scores"][name]["floor"],
            }
        facts["cpu_minutes"] = statistics.mean(seed["cpu_minutes"] for seed in facts["seeds"])
    result = {key: value for key, value in vars(args).items() if key in ("dataset", "epochs", "seeds", "width", "nz")}
    result |= {"made": metrics.made_with(), "models": table}
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
        draw(rows, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
