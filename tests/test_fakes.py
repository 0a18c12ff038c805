"""`fakes` of each script: the pictures that `python metrics.py fid SET CKPT` draws from a checkpoint."""

import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_features import OWN, grid
from test_in_step import SCRIPTS

import datasets
import metrics

SMALL = "--max-steps 1 --device cpu --save-every 0 --sample-every 0 --num-samples 4 --image-size 16 --batch-size 4"
FLAGS = {
    "bicyclegan": "--dataset PAIRS --image-size 32 --ngf 2 --ndf 2 --nef 2",
    "vae": "--dataset CLASSES --nz 3 --ngf 4 --nef 4",
    "dcgan": "--dataset CLASSES --nz 8 --ngf 4 --ndf 4 --ema 0.9",
    "cgan": "--dataset CLASSES --nz 8 --ngf 4 --ndf 4",
    "wgan": "--dataset CLASSES --nz 8 --ngf 4 --ndf 4",
    "cyclegan": "--dataset CLASSES --image-size 32 --classes bird,cat --ngf 2 --ndf 2 --blocks 1 --dropout",
    "vaegan": "--dataset CLASSES --nz 4 --ngf 2 --ndf 2 --nef 2 --fc 8",
    "starGAN": "--dataset CLASSES --ngf 2 --ndf 2 --blocks 1",
}
COUNTS = {"train": (4, 4, 4), "test": (4, 2, 1)}  # birds, cats and dogs
BIRDS, CATS = range(4), range(4, 6)  # rows of the test split
MANY = 300  # more than the 7 test pictures, and than the 256 of the largest batch


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """Folders of 16-pixel pictures of three classes, and of 4 and 3 pairs, 64 x 32, all of random colours."""
    rng, folders = np.random.default_rng(0), {name: tmp_path_factory.mktemp(name) for name in ("CLASSES", "PAIRS")}
    for split, counts in COUNTS.items():
        for name, n in zip(("bird", "cat", "dog"), counts, strict=True):
            (folders["CLASSES"] / split / name).mkdir(parents=True)
            for i in range(n):
                image = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(image).save(folders["CLASSES"] / split / name / f"{i}.png")
    for split, n in (("train", 4), ("test", 3)):
        (folders["PAIRS"] / split).mkdir()
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (32, 64, 3), np.uint8)).save(folders["PAIRS"] / split / f"{i}.png")
    return folders


@pytest.fixture(scope="session")
def runs():
    """{(script, *flags): its checkpoint's path}, filled by `opened`."""
    return {}


@pytest.fixture
def opened(sets, runs, data_dir, no_curves, tmp_path_factory):
    """opened("dcgan", *flags) -> the script, and the flags and the checkpoint of a run of one step."""

    def opened(name, *more):
        script = importlib.import_module(name)
        key = (name, *more)
        if key not in runs:
            out = tmp_path_factory.mktemp(name)
            flags = [str(sets.get(word, word)) for word in f"{SMALL} {FLAGS[name]}".split()]
            script.main([*flags, "--data-dir", str(data_dir), "--out", str(out), *more])
            runs[key] = str(out / "last.pt")
        return script, *metrics.parse_args(script.build_parser(), ["--evaluate", runs[key]], name, ())

    return opened


@pytest.fixture
def judged(monkeypatch):
    """judged(script, args, checkpoint) -> the pictures that --evaluate rounds to 8 bits, in its order."""
    seen, to_uint8 = [], datasets.to_uint8
    judge = SimpleNamespace(predict=lambda features: np.zeros(len(features)), name="", weights="")

    def spy(images):
        seen.append(to_uint8(images))
        return seen[-1]

    def one_to_many(sample, test, *_):
        spy(sample(datasets.to_float(torch.from_numpy(np.array(test.images)), "cpu")))
        return []

    def judged(script, args, checkpoint):
        with monkeypatch.context() as patch:
            patch.setattr(datasets, "to_uint8", spy)
            patch.setattr(metrics, "one_to_many", one_to_many)
            patch.setattr(metrics, "load_judges", lambda *_: [judge])
            patch.setattr(metrics, "inception_features", lambda images, net: np.zeros((len(images), 1)))
            for name in ("load_instruments", "judge", "label_fidelity", "edit_fidelity", "domain_fid"):
                patch.setattr(metrics, name, lambda *_: [])
            for name in ("fid", "kid"):
                patch.setattr(metrics, name, lambda *_, **__: SimpleNamespace(metric=""))
            patch.setattr(metrics, "write_evaluation", lambda *_: None)
            script.evaluate(args, checkpoint)
        return seen

    return judged


def drawn(script, args, checkpoint, n, *domain):
    return torch.cat(list(script.fakes(args, checkpoint, n, *domain)))


@pytest.mark.parametrize("n", [1, 7, MANY])
@pytest.mark.parametrize("name", SCRIPTS)
def test_as_many_8_bit_pictures_as_asked_for_a_batch_at_a_time(opened, name, n):
    script, args, checkpoint = opened(name)
    batches = script.fakes(args, checkpoint, n)
    assert iter(batches) is batches  # none is made before it is asked for
    batches = list(batches)
    side = 32 if name in ("bicyclegan", "cyclegan") else 16
    for batch in batches:
        assert batch.dtype == torch.uint8 and batch.device.type == "cpu" and batch.shape[1:] == (3, side, side)
        assert 0 < len(batch) <= 256
    assert sum(map(len, batches)) == n
    assert n < MANY or not torch.equal(batches[0][: len(batches[1])], batches[1])  # nor the same ones again


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_pictures_at_every_call_and_others_of_another_seed(opened, name):
    script, args, checkpoint = opened(name)
    pictures = drawn(script, args, checkpoint, 7)
    assert torch.equal(drawn(script, args, checkpoint, 7), pictures)
    args.seed = 1
    assert torch.equal(drawn(script, args, checkpoint, 7), pictures) == (name == "cyclegan")  # which needs no noise


CASES = [(name, ()) for name in SCRIPTS]
CASES += [("dcgan", ("--ema", "0")), ("vae", ("--prior", "gmm", "--components", "2", "--likelihood", "cbernoulli"))]
CASES += [("vaegan", ("--model", "vae"))]


@pytest.mark.parametrize("name, more", CASES, ids=lambda case: " ".join(case) if isinstance(case, tuple) else case)
def test_they_are_the_pictures_that_evaluate_judges(opened, judged, name, more):
    script, args, checkpoint = opened(name, *more)
    seen = judged(script, args, checkpoint)
    if name == "cyclegan":
        assert torch.equal(drawn(script, args, checkpoint, 2, "A"), seen[1])
    of_test = seen[-1 if name == "starGAN" else 0]
    assert len(of_test) == {"bicyclegan": 3, "cyclegan": 4}.get(name, 7)
    assert torch.equal(drawn(script, args, checkpoint, len(of_test)), of_test)


def test_of_dcgan_the_average_of_g_draws_them(opened):
    script, args, checkpoint = opened("dcgan")
    nets = script.build(args, checkpoint["channels"], "cpu", checkpoint)
    z = torch.randn(7, args.nz, generator=torch.Generator().manual_seed(args.seed))
    of_average, of_G = (datasets.to_uint8(datasets.generate(nets[name], z)) for name in ("G_ema", "G"))
    assert torch.equal(drawn(script, args, checkpoint, 7), of_average) and not torch.equal(of_average, of_G)


@pytest.fixture
def inputs(monkeypatch):
    """inputs(script, args, checkpoint, n) -> what the network gets in all: (n, ...) each, pictures as uint8."""

    def inputs(script, args, checkpoint, n, *domain):
        calls, generate = [], datasets.generate

        def spy(net, *tensors):
            calls.append(tensors)
            return generate(net, *tensors)

        with monkeypatch.context() as patch:
            patch.setattr(datasets, "generate", spy)
            drawn(script, args, checkpoint, n, *domain)
        whole = [torch.cat(tensors) for tensors in zip(*calls, strict=True)]
        return [datasets.to_uint8(x) if x.ndim == 4 else x for x in whole]

    return inputs


@pytest.mark.parametrize("n, birds, cats, dogs", [(7, 4, 2, 1), (14, 8, 4, 2), (3, 2, 1, 0), (700, 400, 200, 100)])
def test_of_cgan_the_classes_follow_the_test_split(opened, inputs, n, birds, cats, dogs):
    z, c = inputs(*opened("cgan"), n)
    assert len(z) == n and (c.sum(dim=1) == 1).all()
    assert c.argmax(dim=1).tolist() == [0] * birds + [1] * cats + [2] * dogs


@pytest.mark.parametrize("n, rows", [(6, [0, 0, 1, 1, 2, 2]), (2, [0, 1]), (MANY, [i // 100 for i in range(MANY)])])
def test_of_bicyclegan_the_drawings_are_evenly_spaced_and_each_has_a_fresh_code(opened, inputs, n, rows):
    script, args, checkpoint = opened("bicyclegan")
    A, z = inputs(script, args, checkpoint, n)
    test = script.load_pairs(args, "test", checkpoint["channels"])
    assert torch.equal(A, torch.from_numpy(np.array(test.images))[rows])
    assert len(z.unique(dim=0)) == n and (n < MANY or (z.mean().abs() < 0.1 and (z.std() - 1).abs() < 0.1))


@pytest.mark.parametrize("domain, of", [("A", CATS), ("B", BIRDS)])
@pytest.mark.parametrize("n", [2, 8, MANY])
def test_cyclegan_translates_evenly_spaced_pictures_of_the_other_domain(opened, inputs, n, domain, of):
    script, args, checkpoint = opened("cyclegan")
    (x,) = inputs(script, args, checkpoint, n, domain)
    test = torch.from_numpy(np.array(datasets.load(args.dataset, "test", 32, data_dir=args.data_dir).images))
    assert torch.equal(x, test[[of[i * len(of) // n] for i in range(n)]])


def test_cyclegan_makes_pictures_of_b_if_not_told_and_knows_no_third_domain(opened):
    script, args, checkpoint = opened("cyclegan")
    B = drawn(script, args, checkpoint, 2)
    assert torch.equal(drawn(script, args, checkpoint, 2, "B"), B)
    assert not torch.equal(drawn(script, args, checkpoint, 2, "A"), B)
    for wrong in ("C", "AB", ""):
        with pytest.raises(datasets.DataError, match=r"into A or into B"):
            drawn(script, args, checkpoint, 2, wrong)


@pytest.mark.parametrize("n", [7, 70, MANY])
def test_stargan_gives_pictures_the_attributes_of_others(opened, inputs, n):
    script, args, checkpoint = opened("starGAN")
    x, c = inputs(script, args, checkpoint, n)
    test = script.load_attributes(args, "test", checkpoint)
    rows = [i * 7 // n for i in range(n)]
    own = torch.from_numpy(test.attributes)[rows]
    assert torch.equal(x, torch.from_numpy(np.array(test.images))[rows])
    assert c.sum(dim=0).tolist() == own.sum(dim=0).tolist()  # each is asked for as often as it is true
    assert 0.2 < (c != own).any(dim=1).float().mean() < 0.9  # by chance 0.57


def test_points_are_no_pictures(opened, monkeypatch):
    monkeypatch.setattr(importlib.import_module("wgan"), "draw_points", lambda *_: None)
    script, args, checkpoint = opened("wgan", "--dataset", "8gaussians")
    with pytest.raises(datasets.DataError, match="8gaussians.*points are no pictures"):
        drawn(script, args, checkpoint, 7)


@pytest.mark.parametrize(("name", "domain"), [("dcgan", ""), ("cyclegan", ":A"), ("cyclegan", ":B")])
def test_the_command_measures_what_a_checkpoint_draws(opened, runs, sets, name, domain, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    script, args, checkpoint = opened(name)
    flags = ["--net", f"{tmp_path / 'own.py'}:grid", "--num-images", "7", "--no-cache", "--json", "-"]
    metrics.main(["kid", f"{sets['CLASSES']}:test", runs[(name,)] + domain, *flags])
    (score,) = json.loads(capsys.readouterr().out)["scores"]
    assert ("compare with the training split" in metrics.open_pictures(runs[(name,)]).about) == (name == "cyclegan")
    fake = torch.cat(list(script.fakes(args, checkpoint, 7, *filter(None, [domain[1:]]))))
    real = datasets.load(str(sets["CLASSES"]), "test", args.image_size, data_dir=args.data_dir).images  # at its size
    net = metrics.Extractor(grid, f"{tmp_path / 'own.py'}:grid")
    assert score["value"] == pytest.approx(metrics.kid(real, fake, net).value, rel=1e-6) and score["n_fake"] == 7


@pytest.mark.parametrize(("name", "domain", "part"), [("dcgan", ":A", "cyclegan"), ("cyclegan", ":C", "A or into B")])
def test_the_command_complains_of_what_a_checkpoint_does_not_draw(opened, runs, name, domain, part, capsys, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    opened(name)
    with pytest.raises(SystemExit):
        metrics.main(["is", runs[(name,)] + domain, "--net", f"{tmp_path / 'own.py'}:grid"])
    with pytest.raises(SystemExit):
        metrics.main(["kid", *[runs[(name,)] + domain] * 2, "--net", f"{tmp_path / 'own.py'}:grid"])
    text = capsys.readouterr().err
    assert part in text and "Traceback" not in text
