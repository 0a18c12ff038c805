"""StarGAN's table: for each attribute, how many edits happen, how much of the rest stays, the FID of the edited faces.

    python benchmarks/attributes.py

The figures are those that --evaluate of the default run writes into the notes of its scores.
"""

import json
import re
import statistics

import runs

NAME = "starGAN-faces"
PARTS = {"edited": "in-domain edit success", "kept": "in-domain rest kept", "FID": "in-domain mean domain FID"}

if __name__ == "__main__":
    args = runs.parser(__doc__).parse_args()
    for seed in args.seeds if not args.gather else ():
        runs.run(NAME, "starGAN", "", "", seed, args)
    rows = {}
    files = [file for seed in (0, 1, 2) if (file := runs.result_file(NAME, seed)).exists()]
    for file in files:
        scores = {score["metric"]: score for score in json.loads(file.read_text())["scores"]}
        for part, metric in PARTS.items():
            for name, value in re.findall(r"(\w+) ([\d.]+)(?=,|$)", scores[metric]["note"]):
                rows.setdefault(name, {}).setdefault(part, []).append(float(value))
    for name, parts in rows.items():
        rows[name] = {part: {"mean": statistics.mean(values), "values": values} for part, values in parts.items()}
    made = [json.loads(file.read_text()).get("made") or {"commit": runs.commit_of(file)} for file in files]
    (runs.RESULTS / "attributes.json").write_text(json.dumps({"made": made, "rows": rows}, indent=2) + "\n")
