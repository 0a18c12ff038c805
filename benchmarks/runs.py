"""What the programs of the tables share: train and measure some runs, gather what they scored into one JSON.

A row of a table is a command of a script, with one seed or several. A run that has its scores in benchmarks/results is
not made again: delete NAME.json there to have it repeated. One that was broken off goes on.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def parser(about: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="train only these; empty = all")
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="of every row")
    p.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders")
    p.add_argument("--weights-dir", default="weights", help="folder with the weights of Inception, AlexNet and LPIPS")
    p.add_argument("--gather", action="store_true", help="train nothing: a table of what is there")
    return p


def result_file(name: str, seed: int) -> Path:
    return RESULTS / (f"{name}-s{seed}.json" if seed else f"{name}.json")


def call(script: str, *flags) -> None:
    command = [sys.executable, f"{script}.py", *map(str, flags)]
    print(*command[1:], flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


def run(name: str, script: str, flags: str, measure: str, seed: int, args: argparse.Namespace, picture="") -> None:
    """Train, measure and, with the first seed, draw one run, unless its scores are there.

    picture: "samples.png pictures/vae.png" keeps that file of --sample there.
    """
    file, out = result_file(name, seed), args.runs / f"{name}-s{seed}"
    if file.exists():
        return
    if not (ROOT / out / "finished").exists():
        call(script, *flags.split(), "--seed", seed, "--out", out, "--resume", "auto")
        (ROOT / out / "finished").touch()
    call(script, "--evaluate", out / "last.pt", *measure.split(), "--weights-dir", args.weights_dir)
    shutil.copy(ROOT / out / "metrics.json", file)
    if picture and seed == 0:
        call(script, "--sample", out / "last.pt")
        made, kept = picture.split()
        sheet = Image.open(ROOT / out / "samples" / made)
        if sheet.width > 1000:  # README shows it at 60 %
            sheet = sheet.resize((sheet.width * 3 // 5, sheet.height * 3 // 5), Image.Resampling.LANCZOS)
        sheet.save(ROOT / kept, optimize=True)


def commit_of(file: Path) -> str:
    """The commit that brought a file in which no commit is written: a result of the time before results said so."""
    log = ["git", "log", "-1", "--format=%h", "--", str(file)]
    return subprocess.run(log, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def name_of(score: dict) -> str:
    return f"{score['metric']}-{score['dims']}" if "FID" in score["metric"] else score["metric"]


def gather(name: str, seeds: list[int]) -> dict:
    """The runs of one row -> {"seeds", "minutes", "made", "scores": {name: {"mean", "std", "floor", "values"}}}."""
    files = {seed: result_file(name, seed) for seed in seeds if result_file(name, seed).exists()}
    facts = {seed: json.loads(file.read_text()) for seed, file in files.items()}
    scores = {}
    for fact in facts.values():
        for score in fact["scores"]:
            kept = scores.setdefault(name_of(score), {"values": [], "floor": score["floor"], "note": score["note"]})
            kept["values"].append(score["value"])
    for kept in scores.values():
        kept["mean"] = statistics.mean(kept["values"])
        kept["std"] = statistics.stdev(kept["values"]) if len(kept["values"]) > 1 else None
    made = [fact.get("made") or {"commit": commit_of(files[seed])} for seed, fact in facts.items()]
    steps = [fact["step"] for fact in facts.values()]
    minutes = [fact["minutes"] for fact in facts.values()]
    return {"seeds": list(facts), "steps": steps, "minutes": minutes, "made": made, "scores": scores}


def table(title: str, rows: dict[str, dict], args: argparse.Namespace) -> None:
    """rows: {name: the arguments of `run` after the name} -> runs, then benchmarks/results/TITLE.json."""
    for seed in args.seeds if not args.gather else ():
        for name, how in rows.items():
            if not args.rows or name in args.rows:
                run(name, **how, seed=seed, args=args)
    every = sorted({*args.seeds, 0, 1, 2})
    found = {name: {"script": how["script"], "flags": how["flags"]} | gather(name, every) for name, how in rows.items()}
    (RESULTS / f"{title}.json").write_text(json.dumps({"rows": found}, indent=2) + "\n")
