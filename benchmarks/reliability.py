"""A hundred runs of all eight scripts, each killed at a random moment: what is left, and where a resumed run ends.

    python benchmarks/reliability.py --out benchmarks/results/reliability.json

For each script a small run that nobody disturbs, and others that SIGKILL, SIGTERM or Ctrl-C ends at random moments, are
resumed with --resume auto, are ended again, until one comes through. After every blow each file of the run folder must
be whole: last.pt loads, every picture opens, args.json parses, the log has whole rows (its last line may be torn by
SIGKILL, and is mended on resume). In the end checkpoint, log and pictures must be those of the undisturbed run, bit for
bit. Then each script trains onto a disk that is full (a tmpfs of its own, which needs root on Linux) and goes on when
there is room again; gets a checkpoint that it may not read, one that is cut short and one that would run code; and a
picture that is no picture. Each must end with one sentence on the screen, none with a traceback.

The processes are forked from this one, which has imported torch already: a run's own time is seconds.
"""

import argparse
import contextlib
import csv
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
import matplotlib.backends.backend_agg  # noqa: F401  here, and not in every fork: for the curves
import numpy as np
import torch
import torch._dynamo  # of which every optimiser makes use
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import metrics  # noqa: E402

torch.set_num_threads(1)
EVERY = "--device cpu --epochs 100 --max-steps 40 --save-every 4 --log-every 3 --sample-every 10 --ngf 4".split()
SCRIPTS = {  # script: its small run
    "bicyclegan": "--image-size 32 --batch-size 4 --ndf 4 --nef 4 --flip",
    "vae": "--image-size 16 --batch-size 8 --arch conv --nef 4",
    "dcgan": "--image-size 16 --batch-size 8 --ndf 4 --nz 8 --ema 0.9 --diffaug --flip",
    "cgan": "--image-size 16 --batch-size 8 --ndf 4 --nz 8",
    "wgan": "--image-size 16 --batch-size 8 --ndf 4 --nz 8 --n-critic 2",
    "cyclegan": "--image-size 32 --batch-size 2 --ndf 4 --blocks 1 --pool-size 8 --dropout --flip --cr both",
    "vaegan": "--image-size 16 --batch-size 8 --ndf 4 --nef 4 --fc 8 --nz 4 --num-samples 8 --equilibrium",
    "starGAN": "--image-size 16 --batch-size 4 --ndf 4 --blocks 1 --n-critic 2 --flip",
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def make_sets(folder):
    """Two sets of random pictures: of two classes, and of pairs."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 24), ("test", 8)):
        for kind in ("circle", "square"):
            (folder / "classes" / split / kind).mkdir(parents=True)
            for i in range(n):
                image = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(image).save(folder / "classes" / split / kind / f"{i}.png")
        (folder / "pairs" / split).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (32, 64, 3), np.uint8)).save(folder / "pairs" / split / f"{i}.png")


class Bench:
    """The runs of one script, in a folder of its own."""

    def __init__(self, script, folder):
        self.module, self.folder = importlib.import_module(script), folder
        data = folder.parent / ("pairs" if script == "bicyclegan" else "classes")
        where = ["--dataset", str(data), "--data-dir", str(folder.parent / "data")]
        self.flags = [*EVERY, *SCRIPTS[script].split(), *where]
        folder.mkdir()

    def start(self, *flags, user=0):
        """A process that does `python SCRIPT flags` -> its number; what it prints goes to the file `screen`."""
        sys.stdout.flush()
        if child := os.fork():
            return child
        screen = os.open(self.folder / "screen", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
        os.dup2(screen, 1), os.dup2(screen, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # this program may run where Ctrl-C is ignored
        code = 1
        try:
            if user:
                os.setuid(user)
            self.module.main([*map(str, flags)])
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    def wait(self, child):
        """-> its exit status, and what it printed."""
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), (self.folder / "screen").read_text(errors="replace")

    def run(self, *flags, user=0):
        return self.wait(self.start(*flags, user=user))


def check_whole(folder, torn=False):
    """Every file of a run folder can be read to its end; `torn`: but for the log's last line."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".png" and not path.name.startswith("."):
            Image.open(path).load()
        elif path.suffix == ".json" and not path.name.startswith("."):
            json.loads(path.read_text())
        elif path.name == "log.csv":
            text = path.read_text()
            assert torn or text.endswith("\n") or not text, "the log's last line is torn"
            rows = [line.split(",") for line in text.split("\n")[:-1]]
            assert len({len(row) for row in rows}) <= 1, "the log has a row too short"


def outcome(folder):
    """What a run leaves, without clocks: the checkpoint's tensors as bytes, the rows of the log, the pictures."""

    def plain(value, name=""):
        if isinstance(value, dict):
            return {key: plain(item, key) for key, item in value.items() if key not in ("args", "seconds", "made")}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return (str(value.dtype), value.shape, value.numpy().tobytes()) if torch.is_tensor(value) else value

    rows = [{k: v for k, v in row.items() if k != "images_per_s"} for row in csv.DictReader(open(folder / "log.csv"))]
    pictures = {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}
    return plain(torch.load(folder / "last.pt", weights_only=True)), rows, pictures


def blows(bench, wanted, rng):
    """End runs at random moments, `wanted` times -> counts. AssertionError where anything is not as it should be."""
    began = time.time()
    code, text = bench.run(*bench.flags, "--out", bench.folder / "whole")
    assert code == 0, text
    length, whole = time.time() - began, outcome(bench.folder / "whole")
    counts = {"SIGKILL": 0, "SIGTERM": 0, "SIGINT": 0, "runs resumed to their end": 0}
    done = 0
    while done < wanted:
        out, last = bench.folder / f"run{counts['runs resumed to their end']}", 0
        while True:
            number = SIGNALS[done % 3] if done < wanted else None  # enough: let it come through
            child = bench.start(*bench.flags, "--out", out, "--resume", "auto")
            if number:
                time.sleep(rng.uniform(0, 0.7 * length))
                os.kill(child, number)
            code, text = bench.wait(child)
            check_whole(out, torn=number == signal.SIGKILL) if out.exists() else None
            if code == 0 or (code == 2 and "the run is at its end" in text):
                break  # before the blow, or without one
            assert code == (-9 if number == signal.SIGKILL else 128 + number if number else 0), (code, text)
            assert "Traceback" not in text, text
            counts[number.name] += 1
            done += 1
            step = torch.load(out / "last.pt", weights_only=True)["step"] if (out / "last.pt").exists() else 0
            assert step >= last, "a checkpoint went back"
            if f"stopped after step {step};" not in text and number != signal.SIGKILL:
                assert "stopped; --resume auto" in text, text  # it had not begun to train
            last = step
        assert outcome(out) == whole, f"{out}: not the bits of the undisturbed run"
        counts["runs resumed to their end"] += 1
        shutil.rmtree(out)
    return counts, length


def full_disk(bench):
    """Train where there is no room for a checkpoint -> what is said; then make room, and go on to the same bits."""
    disk = bench.folder / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in (bench.folder / "whole").rglob("*") if path.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={3 * size + (1 << 20)}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        return "not tried: no right to mount"
    try:
        flags = [*bench.flags, "--out", disk / "run"]
        code, text = bench.run(*flags, "--max-steps", 30)  # a step that logs and draws anyway
        assert code == 0, text
        before = (disk / "run" / "last.pt").read_bytes()
        with open(disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"0" * 4096)
        room = (disk / "filler").stat().st_size - len(before) // 2  # for args.json, but not for a checkpoint
        os.truncate(disk / "filler", max(0, room))
        code, text = bench.run(*flags, "--resume", "auto")
        said = [line for line in text.replace("\r", "\n").splitlines() if f"{bench.module.SCRIPT}.py: " in line]
        assert code == 2 and len(said) == 1 and "Traceback" not in text, text
        assert (disk / "run" / "last.pt").read_bytes() == before
        check_whole(disk / "run", torn=True)
        (disk / "filler").unlink()
        code, text = bench.run(*flags, "--resume", "auto")
        assert code == 0, text
        assert outcome(disk / "run") == outcome(bench.folder / "whole"), "not the bits of the undisturbed run"
        return said[0].split(f"{bench.module.SCRIPT}.py: ")[1].replace(str(disk), "DISK")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("opened",)


def bad_files(bench):
    """Checkpoints and pictures that cannot be read, or should not be -> what is said of each."""
    good, said = bench.folder / "whole" / "last.pt", {}
    cut, hostile, secret = (bench.folder / f"{name}.pt" for name in ("cut", "hostile", "secret"))
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    torch.save({"script": bench.module.SCRIPT, "args": Hostile()}, hostile)
    shutil.copy(good, secret)
    secret.chmod(0)
    for path in [bench.folder, *bench.folder.parents]:  # so that the other user gets as far as the file
        with contextlib.suppress(OSError):
            path.chmod(path.stat().st_mode | 0o755)
    for path in (cut, hostile, secret):
        user = 65534 if path == secret and os.geteuid() == 0 else 0  # root may read all
        for way in ("--resume", "--sample", "--evaluate"):
            code, text = bench.run(way, path, user=user)
            assert code == 2 and text.count("\n") == 1 and "Traceback" not in text, text
        said[path.stem] = text.strip().replace(str(bench.folder), "RUNS")
    assert not Path("opened").exists(), "the hostile checkpoint was obeyed"
    data = bench.folder / "data"
    shutil.copytree(bench.flags[bench.flags.index("--dataset") + 1], data)
    next((data / "train").rglob("*.png")).write_bytes(b"no picture")
    flags = [*bench.flags, "--dataset", data, "--max-steps", 1]
    code, text = bench.run(*flags, "--strict", "--out", bench.folder / "strict")
    assert code == 2 and "Traceback" not in text and not (bench.folder / "strict" / "last.pt").exists(), text
    said["picture, --strict"] = text.strip().splitlines()[-1].replace(str(data), "DATA")
    code, text = bench.run(*flags, "--out", bench.folder / "lenient")
    assert code == 0 and "left out" in text, text
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=13, help="for each script")
    parser.add_argument("--scripts", nargs="+", default=list(SCRIPTS), choices=SCRIPTS, help="only these")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    args = parser.parse_args()
    rng, found, began = random.Random(args.seed), {}, time.time()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_sets(Path(folder))
        for script in args.scripts:
            bench = Bench(script, Path(folder, script))
            counts, length = blows(bench, args.kills, rng)
            found[script] = counts | {"full disk": full_disk(bench), "bad files": bad_files(bench)}
            print(f"{script}: a run of {length:.1f} s; {json.dumps(found[script], indent=2)}", flush=True)
    total = {name: sum(facts[name] for facts in found.values()) for name in ("SIGKILL", "SIGTERM", "SIGINT")}
    total["kills"] = sum(total.values())
    total["runs resumed to their end"] = sum(facts["runs resumed to their end"] for facts in found.values())
    result = {"made": metrics.made_with(), "minutes": (time.time() - began) / 60, "total": total, "scripts": found}
    print(json.dumps(total))
    if args.out:
        (ROOT / args.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
