"""README and docstrings tell the truth: their commands parse, and their figures come from files that commands wrote."""

import importlib.util
import json
import re
import runpy
import shlex
import sys

import pytest
from conftest import ROOT
from test_in_step import SCRIPTS

import datasets


def commands(text):
    """Every `python X.py ...` or `torchrun ... X.py ...` of a text; an indented line that starts with -- goes on."""
    text = re.sub(r"\n\s+(?=--)", " ", text)
    for line in text.splitlines():
        if match := re.search(r"(?:python|torchrun [^`]*?) (\w+)\.py( [^`#]*)?", line):
            flags = re.split(r"\s{2,}|\s+\(", match[2] or "")[0]
            yield match[1], shlex.split(flags)


def texts():
    yield "README.md", (ROOT / "README.md").read_text()
    for script in (*SCRIPTS, "datasets", "metrics"):
        yield f"{script}.py", importlib.import_module(script).__doc__


@pytest.mark.parametrize("name, text", [pytest.param(*pair, id=pair[0]) for pair in texts()])
def test_commands_parse(name, text):
    found = [(script, flags) for script, flags in commands(text) if script in (*SCRIPTS, "datasets", "metrics")]
    assert len(found) >= 3, f"{name} shows no commands"
    for script, flags in found:
        if flags == ["--help"]:
            continue
        importlib.import_module(script).build_parser().parse_args(flags)  # SystemExit if it does not parse


def test_the_parser_of_this_test_sees_a_wrong_flag():
    (script, flags), *_ = commands("    python bicyclegan.py --epochz 3   comment")
    with pytest.raises(SystemExit):
        importlib.import_module(script).build_parser().parse_args(flags)


def test_figures_of_readme_come_from_result_files():
    """A figure is written as [12.3] or [4e-7](file.json "metric" or "metric.field"), and rounds what stands there."""
    links = re.findall(r'\[([\d.e-]+)\]\(([\w/.-]+\.json) "([^"]+)"\)', (ROOT / "README.md").read_text())
    assert links
    for figure, path, key in links:
        value = json.loads((ROOT / path).read_text())
        for part in key.split("."):
            value = value[int(part) if isinstance(value, list) else part]
        if "e" in figure:
            assert f"{value:.0e}" == figure.replace("e-", "e-0" if len(figure.partition("e-")[2]) == 1 else "e-"), key
            continue
        digits = len(figure.partition(".")[2])
        assert f"{value:.{digits}f}" == figure, f"{path} {key} is {value}, README says {figure}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_figures_of_the_docstring_are_those_of_the_result_file(script):
    """Measured, the default run on ...: 8 minutes, FID-768 1.82 (floor 0.07), LPIPS diversity 0.264 (ceiling 0.319)."""
    module = importlib.import_module(script)
    dataset = module.build_parser().parse_args([]).dataset
    facts = json.loads((ROOT / f"benchmarks/results/{script}-{dataset}.json").read_text())
    measured = " ".join(re.search(r"Measured, the default run.*?: (.*?)\.\n", module.__doc__, flags=re.S)[1].split())
    minutes = measured.split()[0]
    assert f"{facts['minutes']:.{len(minutes.partition('.')[2])}f}" == minutes
    names = [s["metric"] + (f"-{s['dims']}" if "FID" in s["metric"] else "") for s in facts["scores"]]
    stated = re.findall(r", ([A-Za-z][\w -]*?) ([\d.]+)(?: \((floor|ceiling) ([\d.]+)\))?(?=,|$)", measured)
    assert len(stated) == measured.count(",") > 0 and any(kind for _, _, kind, _ in stated)
    for name, value, kind, beside in stated:
        i = names.index(name)  # a ceiling is a score of its own, the next one
        assert f"{facts['scores'][i]['value']:.{len(value.partition('.')[2])}f}" == value, name
        if kind:
            known = facts["scores"][i]["floor"] if kind == "floor" else facts["scores"][i + 1]["value"]
            assert f"{known:.{len(beside.partition('.')[2])}f}" == beside, name


def test_tables_of_readme_are_those_of_the_result_files_and_docstrings():
    """Lines and parameters of the scripts, scores of the runs, differences from the papers: all that is filled in."""
    spec = importlib.util.spec_from_file_location("fill_readme", ROOT / "benchmarks" / "fill_readme.py")
    filler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(filler)
    readme = (ROOT / "README.md").read_text()
    assert filler.fill(readme) == readme, "run `python benchmarks/fill_readme.py`"
    for script in SCRIPTS:
        assert f"<!-- fill: differences {script} -->\n1. " in readme
        assert len((ROOT / f"{script}.py").read_text().splitlines()) <= 430
    stale = readme.replace("E 318,010", "E 318,011").replace("1. A step is one batch", "1. A step is two batches")
    assert filler.fill(stale) == readme != stale


def test_the_table_of_sets_in_readme_is_that_of_the_code():
    assert datasets.table(markdown=True) in (ROOT / "README.md").read_text()
    scripts = {script for known in datasets.KNOWN.values() for script in known.scripts.split(", ")}
    assert scripts == set(SCRIPTS) == set(datasets.USES)


def test_pictures_of_readme_exist():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert pictures and all((ROOT / picture).stat().st_size < 1_500_000 for picture in pictures)


def test_nothing_speaks_of_the_place_where_it_was_written():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("*.toml"), *(ROOT / "benchmarks").rglob("*.*")]:
        if path.suffix in (".py", ".md", ".toml", ".json"):
            assert not re.search(r"/work/|\.\./shared|/tmp/|/root/", path.read_text()), path


def test_every_result_has_a_program_that_makes_it(tmp_path, monkeypatch):
    """The commands of the tables' programs parse, and together they name every file of a run in benchmarks/results."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import runs

    made, kept = set(), {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}

    def table(title, rows, args):
        made.update({title}, rows)
        for row in rows.values():
            importlib.import_module(row["script"]).build_parser().parse_args(row["flags"].split())
            importlib.import_module(row["script"]).build_parser().parse_args(row["measure"].split())

    monkeypatch.setattr(runs, "table", table)
    monkeypatch.setattr(sys, "argv", ["program"])
    for name in ("defaults", "facades", "horse2zebra", "vae_vaegan", "single_images", "photographs"):
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    made |= {"attributes", "compare-fashion-mnist", "scaling", "reliability"}  # have programs of their own
    assert {re.sub(r"-s\d$", "", name) for name in kept} == made
