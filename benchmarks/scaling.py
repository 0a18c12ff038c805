"""What more processes bring: images a second of one process with one thread, with two, and of two with one each.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

The whole batch is the same in all three, so that they compute the same. Each way runs for some steps, one after the
other and again from the start, --rounds times; reported are medians of the log's images/s, the first row left out.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import metrics  # noqa: E402

WAYS = {"one": "one process, one thread", "threads": "one, two threads", "two": "two, one thread each"}
RUNS = {  # script: flags; its batch; steps
    "vae": ("--arch conv --ngf 32 --nef 32", 128, 120),
    "dcgan": ("", 32, 60),
    "cgan": ("", 64, 120),
    "wgan": ("", 64, 120),
    "vaegan": ("", 32, 20),
    "cyclegan": ("", 2, 40),
    "starGAN": ("", 16, 40),
    "bicyclegan": ("", 16, 24),
}


def rate(script, way, folder):
    """-> images/s, the median over the rows of the log but the first."""
    flags, batch, steps = RUNS[script]
    processes, threads = (2, 1) if way == "two" else (1, 2 if way == "threads" else 1)
    command = [
        sys.executable,
        *["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] * (processes == 2),
    ]
    command += [f"{script}.py", *flags.split(), "--batch-size", str(batch // processes), "--max-steps", str(steps)]
    command += ["--log-every", str(steps // 4), "--out", folder, "--device", "cpu"]
    subprocess.run(
        command, check=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True
    )
    rows = list(csv.DictReader(open(Path(folder, "log.csv"))))[1:]
    return statistics.median(float(row["images_per_s"]) for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scripts", nargs="+", default=list(RUNS), choices=RUNS, help="only these")
    parser.add_argument("--out", type=Path, help="write the result here as JSON")
    args = parser.parse_args()
    rows = []
    for script in args.scripts:
        rates = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                with tempfile.TemporaryDirectory() as folder:
                    rates[way].append(rate(script, way, folder))
        row = {"script": script, "flags": RUNS[script][0], "batch": RUNS[script][1]}
        row |= {way: {"median": statistics.median(values), "values": values} for way, values in rates.items()}
        row["speedup"] = row["two"]["median"] / row["one"]["median"]
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.out:
        made = metrics.made_with() | {"threads": "as said"}
        args.out.write_text(
            json.dumps({"made": made, "ways": WAYS, "rounds": args.rounds, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
