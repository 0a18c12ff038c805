"""The scripts are kept in step: a name that stands in two of them is the same text, or listed here with the reason.

`python tests/test_in_step.py --fix` copies the canonical text (that of bicyclegan.py, or of the first script that has
the name) into the others.
"""

import argparse
import ast
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = "bicyclegan vae dcgan cgan wgan cyclegan vaegan starGAN".split()  # canonical first
SCRIPTS = [name for name in NAMES if (ROOT / f"{name}.py").exists()]

# A top-level name that differs from script to script on purpose: the reason.
DIFFERENT = {
    "SCRIPT": "the script's own name",
    "build_parser": "the model's own flags follow the common ones, which test_common_flags compares",
    "Generator": "the model",
    "Encoder": "the model",
    "Decoder": "the model",
    "Discriminator": "the model",
    "build": "the model's networks",
    "init_weights": "each paper's initialisation",
    "gan_loss": "each paper's adversarial loss",
    "d_loss": "each paper's adversarial loss",
    "g_loss": "each paper's adversarial loss",
    "sample": "what the model can make",
    "measure": "what the model is judged by",
    "fakes": "what the model draws",
    "evaluate": "what the model is judged by",
    "load_images": "vaegan's need not be square, and it wants their attributes",
    "train": "the model's algorithm",
    "main": "the model's own checks of its flags",
    "FIGURES": "the model's losses",
}

COMMON = (
    "dataset data-dir data-url image-size resize strict epochs max-steps batch-size lr beta1 beta2 seed device amp "
    "compile sync-bn workers out log-every sample-every save-every eval-every resume sample evaluate "
    "num-samples weights-dir"
).split()


def top_level(script):
    """{name: (source text, first line, last line)} of a script's top-level definitions, decorators included."""
    text = (ROOT / f"{script}.py").read_text()
    lines, found = text.splitlines(keepends=True), {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names, first = [node.name], min([node.lineno, *(d.lineno for d in node.decorator_list)])
        elif isinstance(node, ast.Assign):
            names, first = [target.id for target in node.targets], node.lineno
        else:
            continue
        for name in names:
            found[name] = ("".join(lines[first - 1 : node.end_lineno]), first, node.end_lineno)
    return found


def out_of_step():
    """[(script, name, canonical script)] where a shared name has another text."""
    canonical, wrong = {}, []
    for script in SCRIPTS:
        for name, (text, _, _) in top_level(script).items():
            if name not in DIFFERENT:
                first_script, first_text = canonical.setdefault(name, (script, text))
                if text != first_text:
                    wrong.append((script, name, first_script))
    return wrong


def test_shared_names_have_one_text():
    assert out_of_step() == [], (
        "run `python tests/test_in_step.py --fix`, or list the name in DIFFERENT with its reason"
    )


def test_no_reason_is_left_over():
    if len(SCRIPTS) == len(NAMES):
        assert set(DIFFERENT) <= {name for script in SCRIPTS for name in top_level(script)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_common_flags(script):
    """The common flags come first, in one order, with one type; those not about the model are the same."""
    actions = {}
    for module in (NAMES[0], script):
        parser = importlib.import_module(module).build_parser()
        actions[module] = [action for action in parser._actions if action.dest != "help"]
        assert not parser.allow_abbrev and all(action.help for action in actions[module])
    flags = [action.option_strings[0].lstrip("-") for action in actions[script]]
    assert flags[: len(COMMON)] == COMMON
    about_the_model = "dataset image_size epochs batch_size lr beta1 beta2 num_samples sample_every save_every".split()
    for mine, first in zip(actions[script][: len(COMMON)], actions[NAMES[0]], strict=False):
        assert (mine.type, mine.choices, type(mine)) == (first.type, first.choices, type(first)), mine.dest
        if mine.dest not in about_the_model:
            assert (mine.help, mine.default) == (first.help, first.default), mine.dest


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_imports_only_datasets_and_metrics_of_this_repository(script):
    here = {path.stem for path in ROOT.glob("*.py")}
    tree = ast.parse((ROOT / f"{script}.py").read_text())
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported & here == {"datasets", "metrics"}
    assert "torchvision" not in imported  # it takes seconds to import


def fix():
    for script, name, source in out_of_step():
        text, first, last = top_level(script)[name]
        lines = (ROOT / f"{script}.py").read_text().splitlines(keepends=True)
        lines[first - 1 : last] = [top_level(source)[name][0]]
        (ROOT / f"{script}.py").write_text("".join(lines))
        print(f"{script}.py: {name} as in {source}.py")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fix", action="store_true", help="copy the canonical text over the others")
    if parser.parse_args().fix:
        fix()
    sys.exit(bool(out_of_step()))
