"""Fill README's tables from the result files: what stands between `<!-- fill: NAME -->` and `<!-- end -->`.

    python benchmarks/fill_readme.py             writes README.md
    python benchmarks/fill_readme.py --check     only says whether it is as it would be

A figure with ± is the mean and the standard deviation over seeds; one without is of one run. Where there is no file, or
no such score in it, "not measured" stands.
"""

import argparse
import importlib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
ABSENT = "not measured"

# Script: papers, what it adds to the one before, its default run, the scores shown of it, what others report.
CURRICULUM = {
    "vae": (
        "1312.6114",
        "a likelihood bound, a code, the trick that lets a gradient pass through noise",
        "vae-digits",
        {"in-domain FID-128": "in-domain FID", "test MSE": "test MSE"},
        "course: IS 2.13 on Fashion-MNIST",
    ),
    "dcgan": (
        "1406.2661 1511.06434",
        "no likelihood: a second network judges; two losses that pull at each other, and the signs of collapse",
        "dcgan-faces",
        {"in-domain FID-128": "in-domain FID"},
        "course: IS 2.42; log D trick 2.45",
    ),
    "cgan": (
        "1411.1784",
        "a class for both players: you say what is drawn",
        "cgan-digits",
        {"in-domain FID-128": "in-domain FID", "label accuracy": "label accuracy"},
        "course: IS 2.72",
    ),
    "wgan": (
        "1701.07875 1704.00028 1802.05957",
        "a critic that measures a distance, three ways to keep it 1-Lipschitz; a gradient of a gradient",
        "wgan-digits",
        {"in-domain FID-128": "in-domain FID"},
        "course: IS 2.37; GP 2.47",
    ),
    "vaegan": (
        "1512.09300",
        "vae and dcgan in one: a VAE that compares through the eyes of a discriminator; three losses, three owners",
        "vaegan-faces",
        {"FID-768": "FID-768", "in-domain edit success": "edits that happen"},
        "no FID published",
    ),
    "cyclegan": (
        "1703.10593",
        "pictures in place of noise: translation without pairs, by a cycle; a pool of past fakes",
        "cyclegan-faces",
        {"FID AtoB-768": "FID-768 A to B", "AtoB taken for B": "taken for B"},
        "FID-2048 62.1, horse to zebra",
    ),
    "starGAN": (
        "1711.09020",
        "one G for many domains, told what to change; a critic that also names what it sees",
        "starGAN-faces",
        {"in-domain edit success": "edits that happen", "in-domain rest kept": "rest kept"},
        "no FID published",
    ),
    "bicyclegan": (
        "1711.11586",
        "many answers to one question: a U-Net, an encoder, two games with two codes, one that must be read back",
        "bicyclegan-edges2faces",
        {"FID-768": "FID-768", "LPIPS diversity": "LPIPS diversity"},
        "course: FID 117, LPIPS 0.163 on edges2shoes",
    ),
}


def load(name):
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def rows_of(name):
    return (load(name) or {"rows": {}})["rows"]


def number(value):
    """Three significant digits, but never an exponent."""
    digits = 3 if abs(value) < 0.1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def score(row, name, floor=False):
    """mean ± std (floor) of one score of a row of runs."""
    kept = row.get("scores", {}).get(name)
    if kept is None:
        return ABSENT
    text = number(kept["mean"])
    if kept["std"] is not None:
        digits = max(1, len(text.partition(".")[2]))
        while digits < 4 and 0 < kept["std"] < 0.5 * 10**-digits:  # a digit of the spread is to be seen
            digits += 1
        text = f"{kept['mean']:.{digits}f} ± {kept['std']:.{digits}f}"
    return text + (f" ({number(kept['floor'])})" if floor and kept["floor"] is not None else "")


def minutes(row):
    """Of the first run, which was measured on an idle machine where any was."""
    return f"{row['minutes'][0]:.1f}" if row.get("minutes") else ABSENT


def markdown(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def seeds(row):
    return f"{len(row['seeds'])} seed{'s' * (len(row['seeds']) != 1)}" if row.get("seeds") else ABSENT


def parameters(script):
    """Of the default run's networks, by name."""
    module = importlib.import_module(script)
    args = module.build_parser().parse_args([])
    args = module.resolve(args) if script == "wgan" else args
    channels = {"bicyclegan": (1, 3), "dcgan": 3, "cgan": (1, 10), "cyclegan": 3, "starGAN": (3, 8), "vaegan": 3}
    nets = module.build(args, channels.get(script, 1), "cpu")
    return ", ".join(f"{name} {sum(p.numel() for p in net.parameters()):,}" for name, net in nets.items())


def scripts():
    table = []
    for script, (papers, adds, *_) in CURRICULUM.items():
        links = ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers.split())
        lines = len((ROOT / f"{script}.py").read_text().splitlines())
        table.append([f"[{script}.py]({script}.py)", links, adds, lines, parameters(script)])
    return markdown(["script", "paper", "what it adds to the one before", "lines", "parameters, default"], table)


def defaults():
    found, table = rows_of("defaults"), []
    for script, (_, _, name, shown, others) in CURRICULUM.items():
        row = found.get(name, {})
        values = "; ".join(f"{title} {score(row, metric, floor=True)}" for metric, title in shown.items())
        table.append([f"`python {script}.py`", name.partition("-")[2], minutes(row), values, seeds(row), others])
    return markdown(["command", "data", "minutes", "scores (floor)", "of", "for context"], table)


def by_score(name, corner, titles, shown):
    """A row for each run of a table: minutes, scores. shown: {score: column}, whose floor stands in a "(floor)" one."""
    table = [
        [title, minutes(row), *(score(row, metric, floor="(floor)" in column) for metric, column in shown.items())]
        for title, row in zip(titles, rows_of(name).values(), strict=True)
    ]
    return markdown([corner, "minutes", *shown.values()], table)


def facades():
    shown = {
        "FID-768": "FID-768 (floor)",
        "LPIPS diversity": "LPIPS diversity",
        "LPIPS of true pictures (ceiling)": "ceiling",
        "|z - mu(G(A, z))|": "code error",
        "KL, nats": "KL, nats",
    }
    titles = ("with its latent losses", "λ_latent = λ_KL = 0")
    return by_score("facades", "facades, labels to photos, 128 px", titles, shown)


def horse2zebra():
    table = []
    for title, row in zip(("without", "`--cr fake`"), rows_of("horse2zebra").values(), strict=True):
        for way, what in (("AtoB", "horse to zebra"), ("BtoA", "zebra to horse")):
            names = [
                f"FID {way}-768",
                f"FID {way} ceiling-768",
                f"{way} taken for {way[-1]}",
                f"|{way[0]} - rec_{way[0]}|",
            ]
            table.append([title, what, minutes(row), *(score(row, name, floor=True) for name in names)])
    header = [
        "consistency of D",
        "way",
        "minutes",
        "FID-768 (floor)",
        "untranslated",
        "taken for the target",
        "cycle error",
    ]
    return markdown(header, table)


def attributes():
    def mean(parts, part):
        return number(parts[part]["mean"]) if part in parts else ABSENT

    table = [
        [n.replace("_", " "), *(mean(p, part) for part in ("edited", "kept", "FID"))]
        for n, p in rows_of("attributes").items()
    ]
    return markdown(["attribute", "edits that happen", "of the rest stays", "in-domain FID"], table)


def vae_vaegan():
    shown = {
        "FID-768": "FID-768 of samples (floor)",
        "reconstruction FID-768": "of reconstructions",
        "in-domain FID-128": "in-domain FID of samples (floor)",
        "reconstruction in-domain FID-128": "of reconstructions",
        "test MSE": "test MSE",
    }
    titles = ("**vaegan**, the default", "`--model vae`: a Gaussian on pixels")
    return by_score("vae-vaegan", "the same networks and steps", titles, shown)


PEERS = {"examples": "pytorch/examples", "PyTorch-GAN": "PyTorch-GAN", "VAE-GAN-PYTORCH": "a port"}


def speed():
    table = []
    for script, pair in (load("../speed") or {"pairs": {}})["pairs"].items():
        peer = PEERS.get(pair["peer"].partition("/")[0], "the authors' code")
        for one in (pair["default"], pair["other"]):
            ms, work, share = one["cpu_ms_per_round"], one["gflop"], one["fraction"]
            cells = [number(ms["ours"]), number(ms["peer"]), f"**{one['ratio']:.2f}**"]
            cells += [f"{work['peer'] / work['ours']:.2f}", f"{share['ours']:.0%}", f"{share['peer']:.0%}"]
            table.append([script, peer, one["batch_size"], *cells])
    header = ["script", "beside", "batch", "ours, CPU ms", "theirs", "times as fast", "their work / ours"]
    return markdown([*header, "of the matrix rate", "theirs"], table)


def scaling():
    found = load("scaling") or {"ways": {}, "rows": []}
    table = [
        [row["script"], *(f"{row[key]['median']:.0f}" for key in found["ways"]), f"{row['speedup']:.2f}"]
        for row in found["rows"]
    ]
    return markdown(["images/s", *found["ways"].values(), "two processes / one"], table)


def reliability():
    found = (load("reliability") or {"scripts": {}})["scripts"]
    kinds = ("SIGKILL", "SIGTERM", "SIGINT", "runs resumed to their end")
    table = [[script, *(facts[kind] for kind in kinds)] for script, facts in found.items()]
    table.append(["all", *(sum(facts[kind] for facts in found.values()) for kind in kinds)])
    return markdown(["script", "killed (SIGKILL)", "SIGTERM", "Ctrl-C", "runs resumed to the same bits"], table)


def table(name):
    """A section of tables.md with its figures: [.2f](file.json "key.of.a.value") becomes the number."""
    text = re.split(r"(?m)^## (\w+)\n", (ROOT / "benchmarks/tables.md").read_text())
    sections = dict(zip(text[1::2], text[2::2], strict=True))

    def figure(match):
        value = json.loads((ROOT / match[2]).read_text())
        for part in match[3].split("."):
            value = value[int(part) if isinstance(value, list) else part]
        return re.sub(r"e-0(\d)", r"e-\1", f"{value:{match[1]}}")

    return re.sub(r'\[(\.\d[fe])\]\(([\w/.-]+\.json) "([^"]+)"\)', figure, sections[name].strip())


def differences(script):
    """The numbered list of the script's docstring."""
    doc = importlib.import_module(script).__doc__
    part = re.search(r"Differences from .*?:\n(.*?)\n\n", doc, re.DOTALL)[1]
    items = re.split(r"\n  (?=\d\. )", "\n" + part)[1:]
    return "\n".join(re.sub(r"\s+", " ", item) for item in items)


def fill(text):
    """README with its blocks as the result files and docstrings have them."""
    parts = {f.__name__: f for f in (scripts, defaults, facades, horse2zebra, attributes, vae_vaegan)}
    parts |= {f.__name__: f for f in (speed, scaling, reliability, table, differences)}

    def block(match):
        name, *rest = match[1].split()
        return f"<!-- fill: {match[1]} -->\n{parts[name](*rest)}\n<!-- end -->"

    return re.sub(r"<!-- fill: ([\w ]+?) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where it would change")
    check, before = parser.parse_args().check, README.read_text()
    after = fill(before)
    if not check:
        README.write_text(after)
    sys.exit(check and after != before)
