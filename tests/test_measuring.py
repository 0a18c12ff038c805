"""`python metrics.py`: every command on every kind of set, what it says and writes, its one sentence on bad input."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from test_features import OWN, Hostile, grid, save
from test_metrics import random_images, random_lpips, save_inception

import datasets
import metrics
from metrics import open_pictures


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """Two folders, real and fake, that lie in the working directory; weights and data beside them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(metrics, "_download", lambda file, *_: pytest.fail(f"{file.name} would be downloaded"))
    save(tmp_path / "real", random_images(20, size=40))
    save(tmp_path / "fake", random_images(16, size=40, seed=1) // 2)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


@pytest.fixture
def weights(sets):
    """A folder with random weights: Inception's first layers, AlexNet and the heads of LPIPS."""
    (sets / "weights").mkdir()
    save_inception(sets / "weights" / "pt_inception-2015-12-05-short.pth", 64)
    net = random_lpips()
    indices = [index for index, *_ in metrics.ALEXNET_CONVS]
    alexnet = {
        f"features.{k}.{part}": getattr(c, part)
        for k, c in zip(indices, net.convs, strict=True)
        for part in ("weight", "bias")
    }
    torch.save({key: value.data for key, value in alexnet.items()}, sets / "weights" / "alexnet.pth")
    heads = {f"lin{i}.model.1.weight": root.data.square() for i, root in enumerate(net.root_w)}
    torch.save(heads, sets / "weights" / "lpips_alex.pth")
    return sets / "weights"


@pytest.fixture
def measure(sets, capsys):
    """measure("fid real fake") -> its scores, as JSON has them; the lines are in `measure.lines`."""

    def measure(command, *more):
        flags = [*command.split(), *map(str, more)]
        metrics.main([*flags, "--json", "out.json"])
        measure.lines = capsys.readouterr().out.splitlines()
        return json.loads((sets / "out.json").read_text())["scores"]

    return measure


@pytest.fixture
def complaint(sets, capsys):
    def complaint(command, *more):
        with pytest.raises(SystemExit) as stop:
            metrics.main([*command.split(), *map(str, more)])
        text = capsys.readouterr().err
        assert stop.value.code == 2 and "Traceback" not in text
        text = text[text.rfind("metrics.py") :].strip()
        assert "\n" not in text and text.endswith("."), text
        return text

    return complaint


MINE = ("--net", "own.py:grid")


# ----- The commands


def test_fid_of_folders_is_that_of_the_function(measure, weights):
    (score,) = measure("fid real fake --dims 64 --weights-dir weights")
    net = metrics.load_inception(64, weights, download=False)
    assert score == metrics.fid("real", "fake", net).as_dict()
    (line,) = measure.lines
    for part in ("FID-64 ", " ± ", "KID ", "fake 16 vs real 20", "real-real floor ", "at n=10", net.weights):
        assert part in line
    assert "torch bilinear 299" in line and "16 images are too few for 64 dims" in line


def test_every_option_of_the_network_is_stamped(measure, weights):
    values = {}
    for flags in ("", "--inception-resize tf1", "--inception-resize pil", "--bf16"):
        (score,) = measure(f"kid real fake --dims 64 --weights-dir weights {flags}")
        values[flags] = score["value"]
        (line,) = measure.lines
        assert ("bf16" in line, "tf1 bilinear" in line, "pil bicubic" in line) == tuple(
            name in flags for name in ("bf16", "tf1", "pil")
        )
    assert len(set(values.values())) == 4


def test_all_is_every_score_that_can_be_had(measure, weights):
    metrics_found = [score["metric"] for score in measure("all real fake", *MINE)]
    assert metrics_found == [f"own {name}" for name in "FID KID precision recall density coverage".split()]
    save(weights.parent / "pairs", random_images(20, size=40, seed=2))
    scores = measure("all real pairs --weights-dir weights", *MINE)
    assert scores[-1]["metric"] == "LPIPS" and len(scores) == 7
    by_command = measure("kid real fake", *MINE) + measure("pr real fake", *MINE)
    assert by_command == measure("all real fake", *MINE)[1:]


def test_the_floor_can_be_that_of_other_real_images(measure, sets):
    save(sets / "real2", random_images(25, size=40, seed=5))
    (score,) = measure("fid real fake --floor real2", *MINE)
    assert score["floor_n"] == 16 and "floor:" not in score["note"]
    x, y = (grid(random_images(n, size=40, seed=seed)).numpy() for n, seed in ((20, 0), (25, 5)))
    y = y[metrics._spaced(16, 25)]
    assert measure.lines and score["floor"] == pytest.approx(metrics.frechet_distance(x, y), rel=1e-6)


def test_lpips_of_paired_folders(measure, sets, weights):
    save(sets / "pairs", random_images(20, size=40, seed=2))
    (sets / "pairs" / "0007.png").rename(sets / "pairs" / "0007.bmp")
    Image.open(sets / "pairs" / "0007.bmp").save(sets / "pairs" / "0007.bmp")  # the type does not matter
    (score,) = measure("lpips real pairs --weights-dir weights")
    net = metrics.load_lpips(weights, download=False)
    x, y = (random_images(20, size=40, seed=seed).float() / 127.5 - 1 for seed in (0, 2))
    expected = net(x, y)
    assert score["pairs"] == pytest.approx(expected.tolist(), rel=1e-5)
    assert score["value"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert score["std"] == pytest.approx(expected.std().item() / 20**0.5, rel=1e-3)
    assert "pairs that do not belong together" in measure.lines[0]
    (score,) = measure("lpips real real --image-size 32 --weights-dir weights")
    assert score["value"] == 0


def test_diversity_of_folders_of_samples(measure, sets, weights):
    for i in range(3):
        save(sets / "samples" / f"input{i}", random_images(4, size=40, seed=i))
    for pairs in ("all", "consecutive"):
        (score,) = measure("lpips-diversity samples --weights-dir weights --pairs", pairs)
        images = torch.stack([random_images(4, size=40, seed=i).float() / 127.5 - 1 for i in range(3)])
        expected = metrics.lpips_diversity(images, metrics.load_lpips(weights, download=False), pairs)
        assert score["value"] == pytest.approx(expected.value, rel=1e-6) and pairs in score["note"]
    assert metrics.lpips_diversity("samples", random_lpips()).value == pytest.approx(
        metrics.lpips_diversity(images, random_lpips()).value, rel=1e-6
    )


def test_statistics_are_saved_and_serve_in_place_of_the_images(measure, sets, capsys):
    metrics.main(["save-stats", "real", "stats.npz", *MINE])
    assert re.search(r"stats.npz: 20 images, own.py:grid, \w{8}, 16, fp32\n", capsys.readouterr().out)
    (whole,), (score,) = measure("fid real fake", *MINE), measure("fid stats.npz fake", *MINE)
    assert score["value"] == pytest.approx(whole["value"], rel=1e-6) and score["kid"] is None
    assert [s["metric"] for s in measure("all stats.npz fake", *MINE)] == ["own FID"]
    metrics.main(["save-stats", "real", "rows.npz", "--features", *MINE])
    assert measure("all rows.npz fake", *MINE) == measure("all real fake", *MINE)


def test_json_on_the_screen_is_all_that_is_there(sets, capsys):
    metrics.main(["fid", "real", "fake", *MINE, "--json", "-"])
    found = json.loads(capsys.readouterr().out)
    assert found["scores"][0]["metric"] == "own FID" and found["args"]["real"] == "real"


def test_real_features_are_kept_and_fake_ones_not(measure, sets, monkeypatch):
    measure("fid real fake", *MINE)
    (kept,) = (sets / "data" / "cache").iterdir()
    assert kept.name.startswith("features-real-")
    looks, look = [], metrics._look
    monkeypatch.setattr(metrics, "_look", lambda net, piece: looks.append(len(piece)) or look(net, piece))
    measure("fid real fake", *MINE)
    assert sum(looks) == 16
    measure("fid real fake --no-cache", *MINE)
    assert sum(looks) == 16 + 36


# ----- Data sets and checkpoints


def test_a_data_set_is_measured_by_its_name_and_a_class_of_it(measure, data_dir):
    how = ("--data-dir", data_dir, "--image-size", 28)
    a, b = measure("fid digits:train digits:test --num-images 200", *MINE, *how), measure.lines
    assert a[0]["value"] < 3 * a[0]["floor"] and "28 px, crop" in b[0] and a[0]["n_fake"] == 200
    (ones,) = measure("fid digits:test:1 digits:test:8", *MINE, *how)
    assert ones["value"] > 20 * a[0]["value"]
    (sides,) = measure(
        "fid edges2faces:test:A edges2faces:test --num-images 50", *MINE, "--data-dir", data_dir, "--image-size", 16
    )
    assert sides["value"] > 10 * sides["floor"]  # drawings and faces


def test_the_classifier_of_a_data_set_is_a_network_like_others(measure, data_dir, monkeypatch):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (20, 20))
    how = ("--data-dir", data_dir, "--image-size", 28, "--net", "classifier", "--num-images", 300)
    splits, load = [], metrics.load_classifier
    monkeypatch.setattr(
        metrics, "load_classifier", lambda *sets: splits.append([s.split for s in sets[:2]]) or load(*sets)
    )
    names = [score["metric"] for score in measure("all digits:test digits:train", *how)]
    assert splits == [["train", "test"]]
    assert names[:4] == ["in-domain FID", "in-domain KID", "in-domain IS", "in-domain IS of real pictures (ceiling)"]


# ----- Bad input


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("fid nothing fake", ["nothing", "python datasets.py"]),
        ("fid digits fake", ["digits:test"]),
        ("fid digits:test fake", ["--image-size"]),
        ("fid digits:night fake --image-size 28", ["night"]),
        ("fid digits:test:11 fake --image-size 28", ["11", "0, 1, 2"]),
        ("fid edges2faces:test:C fake --image-size 16", ["sides A and B"]),
        ("fid empty fake", ["empty", "no images"]),
        ("fid one fake", ["one", "2 images or more"]),
        ("pr few fake", ["few", "6 images or more"]),
        ("is few --splits 4", ["few", "4 images or more"]),
        ("fid real/0000.png fake", ["neither a folder"]),
        ("fid real bad.npz", ["bad.npz"]),
        ("fid real absent.npz", ["absent.npz"]),
        ("fid real absent.pt", ["no checkpoint absent.pt"]),
        ("fid digits:test absent.pt", ["no checkpoint absent.pt"]),
        ("save-stats real stats", ["NAME.npz"]),
        ("fid real bad.pt", ["bad.pt", "not a checkpoint"]),
        ("fid real other.pt", ["other.pt", "not a checkpoint"]),
        ("fid real fake --net own.py:absent", ["own.py:absent"]),
        ("fid real fake --net absent.py:grid", ["absent.py:grid"]),
        ("fid real fake --net resnet", ["resnet", "FILE.py:NAME"]),
        ("fid real fake --net classifier", ["SET:test"]),
        ("fid real fake --net torchvision --weights-dir weights", ["torchvision"]),
        ("fid real fake --weights-dir weights", ["Conv2d_3b_1x1", "2048"]),
        ("fid real fake --weights-dir absent", ["--weights-dir absent"]),
        ("fid real fake --image-size 0", ["--image-size"]),
        ("fid real fake --batch-size -1", ["--batch-size"]),
        ("fid real fake --json none/out.json", ["none"]),
        ("save-stats real none/stats.npz", ["none"]),
        ("lpips real fake --weights-dir weights", ["0016", "no partner", "4 such"]),
        ("lpips real others --weights-dir weights", ["0003", "40x40", "32x32"]),
        ("lpips real fake.npz", ["fake.npz is not a folder"]),
        ("lpips twice twice --weights-dir weights", ["twice holds 0000.", "another file"]),
        ("lpips-diversity real --weights-dir weights", ["a folder of samples for each"]),
        ("lpips-diversity single --weights-dir weights", ["one sample"]),
        ("lpips-diversity mixed --weights-dir weights", ["several sizes"]),
    ],
)
def test_bad_input_is_one_sentence(command, parts, complaint, sets, weights, monkeypatch, data_dir):
    def refuse(file, folder, lacking):
        raise metrics.MetricError(f"{lacking}{file.what} could not be downloaded.")

    monkeypatch.setattr(metrics, "_download", refuse)
    images = random_images(20, size=40)
    (sets / "empty").mkdir()
    save(sets / "one", images[:1]), save(sets / "few", images[:3]), save(sets / "others", images)
    save(sets / "single" / "a", images[:1]), save(sets / "mixed" / "a", [images[0], images[1, :, :32, :32]])
    Image.open(sets / "others" / "0003.png").resize((32, 32)).save(sets / "others" / "0003.png")
    save(sets / "twice", images[:2]), Image.open(sets / "twice" / "0000.png").save(sets / "twice" / "0000.bmp")
    (sets / "bad.npz").write_bytes(b"nothing"), (sets / "bad.pt").write_bytes(b"nothing")
    torch.save({"script": "os", "args": {"image_size": 8, "resize": "crop"}}, sets / "other.pt")
    net = [] if "--net" in command or "weights" in command or "lpips" in command else MINE
    data = [] if "lpips" in command else ["--data-dir", data_dir]
    text = complaint(command, *net, *data)
    for part in parts:
        assert part in text, text


def test_constant_and_equal_images_are_no_trouble(measure, sets, weights):
    black = torch.zeros(30, 3, 40, 40, dtype=torch.uint8)
    save(sets / "black", black), save(sets / "white", black + 255)
    scores = measure("all black black --weights-dir weights", *MINE)
    assert [score["value"] for score in scores] == [0, pytest.approx(0, abs=1e-9), 1, 1, pytest.approx(6), 1, 0]
    (far,) = measure("fid black white", *MINE)
    assert far["value"] == pytest.approx(16, rel=1e-6) and far["std"] == 0
    assert all(np.isfinite(score["value"]) for score in measure("all black fake --dims 64 --weights-dir weights"))
    (same,) = measure("lpips black black --weights-dir weights")
    assert same["value"] == 0


def test_lpips_needs_pairs(sets):
    net, images = random_lpips(), random_images(6, size=40)
    assert metrics.lpips_distance(images, images.split(4), net).value == 0
    assert metrics.lpips_distance(sets / "real", "real", net).pairs == [0] * 20
    for x, y, part in ((images, images[:5], "has 5 images"), ("real", images, "two folders"), ([], [], "one pair")):
        with pytest.raises(metrics.MetricError, match=part):
            metrics.lpips_distance(x, y, net)


def test_the_inception_score_of_images_sorted_by_class_takes_parts_at_random(measure, data_dir, monkeypatch):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (60, 60))
    how = ("--data-dir", data_dir, "--image-size", 28, "--net", "classifier")
    data = datasets.load("digits", "test", 28, data_dir=data_dir)
    order = np.argsort(data.labels, kind="stable")
    monkeypatch.setattr(metrics, "_only", lambda *_: data.images[order])
    (one,), (parts,) = measure("is digits:test", *how), measure("is digits:test --splits 10", *how)
    (sorted_parts,) = measure("is digits:test --splits 10 --no-shuffle", *how)
    assert one["std"] is None and parts["value"] > 0.9 * one["value"] > 1.5 * sorted_parts["value"]
    assert "10 parts at random" in parts["note"] and "10 parts in file order" in sorted_parts["note"]
    assert (metrics._parts(5000, 6000), metrics._parts(4999, 6000)) == (10, 1)


def test_what_lpips_cannot_compare_costs_no_other_score(measure, sets, weights, capsys):
    save(sets / "small", random_images(20, size=28))
    names = [score["metric"] for score in measure("all real small --weights-dir weights", *MINE)]
    assert names == [f"own {name}" for name in "FID KID precision recall density coverage".split()]
    metrics.main(["all", "small", "small", "--weights-dir", "weights", *MINE])
    assert (
        "without LPIPS of the paired images: LPIPS needs images of at least 31 px, not 28x28" in capsys.readouterr().err
    )
    (sets / "weights" / "lpips_alex.pth").write_bytes(b"")
    metrics.main(["all", "real", "real", "--weights-dir", "weights", *MINE])
    assert "without LPIPS" in capsys.readouterr().err


def test_an_edited_network_is_looked_through_anew(measure, sets):
    (before,) = measure("fid real fake", *MINE)
    (sets / "own.py").write_text(OWN.replace("/ 255", "/ 25.5"))
    (after,) = measure("fid real fake", *MINE)
    assert after["value"] == pytest.approx(100 * before["value"], rel=1e-4)


@pytest.mark.parametrize(
    "command", ["kid stats.npz fake", "pr fake stats.npz", "fid other.npz fake", "fid fake other.npz"]
)
def test_statistics_that_do_not_suit_are_refused_before_an_image_is_seen(command, sets, complaint, monkeypatch):
    metrics.main(["save-stats", "real", "stats.npz", *MINE])
    np.savez(sets / "other.npz", mu=np.zeros(7), sigma=np.eye(7))
    monkeypatch.setattr(metrics, "_look", lambda *_: pytest.fail("an image was looked at"))
    complaint(command, *MINE)


def test_control_c_ends_with_a_word(sets, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(metrics, "_look", interrupt)
    with pytest.raises(SystemExit) as stop:
        metrics.main(["fid", "real", "fake", *MINE])
    text = capsys.readouterr().err
    assert stop.value.code == 130 and text.endswith("metrics.py: stopped\n") and not (sets / "data").exists()


# ----- What is asked for arrives


def test_lpips_beside_it_has_each_image_with_the_partner_of_the_one_before(measure, sets, weights):
    save(sets / "pairs", random_images(20, size=40, seed=2))
    (score,) = measure("lpips real pairs --weights-dir weights")
    net = metrics.load_lpips(weights, download=False)
    x, y = (random_images(20, size=40, seed=seed).float() / 127.5 - 1 for seed in (0, 2))
    strangers = net(x[1:], y[:-1])[torch.arange(19) != 15]  # sixteen pairs at a time
    assert f"together {strangers.mean():.4g}" in score["note"] and score["weights"] == net.weights


def test_lpips_of_pairs_of_several_sizes_and_of_names_in_another_order(sets):
    net, (a, b, c) = random_lpips(), random_images(3, size=40)
    small = random_images(1, size=32)[0]
    found = metrics.lpips_distance([a, small, b], [b, small, c], net).pairs
    assert found == pytest.approx([metrics.lpips_distance([x], [y], net).value for x, y in ((a, b), (a, a), (b, c))])
    save(sets / "x", [a, b]), save(sets / "y", [b, a])
    for folder, names in (("x", ("1", "1-2")), ("y", ("1-2", "1"))):  # 1-2.png comes before 1.png, 1-2 after 1
        for i, name in enumerate(names):
            (sets / folder / f"{i:04d}.png").rename(sets / folder / f"{name}.png")
    score = metrics.lpips_distance(sets / "x", sets / "y", net)
    assert score.pairs == [0, 0]
    save(sets / "z" / "a", [a, b]), save(sets / "z" / "b", [c, a])  # the folder is part of the name
    assert metrics.lpips_distance(sets / "z", sets / "z", net).pairs == [0] * 4
    with pytest.raises(metrics.MetricError, match="without NaN"):
        metrics.lpips_distance(torch.full((2, 3, 40, 40), torch.nan), torch.zeros(2, 3, 40, 40), net)


def test_lpips_names_the_folder_that_holds_a_file_alone(complaint, weights):
    for command in ("lpips real fake", "lpips fake real"):
        assert "real holds 0016" in complaint(f"{command} --weights-dir weights")


def test_a_set_is_read_as_asked_for(sets, monkeypatch):
    seen = []

    def load(name, split, size, **how):
        seen.append((name, split, size, how))
        return datasets.ImageSet(name, split, random_images(8, size=size).numpy())

    monkeypatch.setattr(datasets, "load", load)
    pictures = open_pictures("digits:test", 28, "pad", 1, "elsewhere", strict=True)
    how = {"channels": 1, "resize": "pad", "data_dir": "elsewhere", "strict": True}
    assert seen == [("digits", "test", 28, how)] and pictures.about == "28 px, pad"
    few = open_pictures("digits:test", 28, count=4)
    assert few.count == 4 and (few.images == pictures.images[::2]).all()
    monkeypatch.setattr(metrics, "_drawn", lambda *asked: asked)
    assert open_pictures("last.pt:A", data_dir="d") == ("last.pt", ["A"], 10_000, "d", "auto")


def test_every_flag_of_the_sets_arrives(measure, sets, monkeypatch):
    """A checkpoint draws as many images as REAL has, at most 10,000, if not told."""
    asked = []
    torch.save({"args": {"image_size": 16, "resize": "crop"}}, sets / "last.pt")

    def opens(path, **how):
        asked.append((path, how))
        pictures = metrics.Pictures(path, random_images(20, size=16))
        pictures.count = 20_000 if path == "huge" else 20
        return pictures

    monkeypatch.setattr(metrics, "open_pictures", opens)
    measure("kid real last.pt:A --image-size 16 --resize pad --data-dir d --strict --device cpu --no-cache", *MINE)
    both = {"channels": 3, "image_size": 16, "resize": "pad", "data_dir": "d", "strict": True, "device": "cpu"}
    assert asked == [("real", both | {"count": None}), ("last.pt:A", both | {"count": 20})]
    asked.clear()
    measure("kid huge last.pt --no-cache", *MINE), measure("kid real last.pt --num-images 7 --no-cache", *MINE)
    assert [how["count"] for _, how in asked] == [None, 10_000, 7, 7]


def test_a_checkpoint_is_compared_at_its_size_unless_told(measure, sets, monkeypatch):
    asked = []
    real_open = metrics.open_pictures
    torch.save({"args": {"image_size": 16, "resize": "stretch"}}, sets / "last.pt")

    def opens(path, **how):
        asked.append((how["image_size"], how["resize"]))
        return real_open("fake" if path.endswith(".pt") else path)

    monkeypatch.setattr(metrics, "open_pictures", opens)
    measure("kid real last.pt", *MINE), measure("kid real last.pt --image-size 24 --resize pad", *MINE)
    assert asked == [(16, "stretch")] * 2 + [(24, "pad")] * 2
    torch.save({"args": {"image_size": 16, "image_width": 8}}, sets / "last.pt")
    measure("kid real last.pt", *MINE)
    assert asked[-1] == ((16, 8), "crop")


def test_every_flag_of_the_scores_arrives(measure, sets, monkeypatch):
    calls, look = [], metrics._look
    monkeypatch.setattr(metrics, "_look", lambda net, piece: calls.append(len(piece)) or look(net, piece))
    (precision, *_, coverage) = measure("pr real fake --k 2 --batch-size 9 --data-dir elsewhere", *MINE)
    assert "k = 2" in precision["note"] and "k = 5" in coverage["note"] and calls == [9, 9, 2, 9, 7]
    assert [path.name for path in sets.glob("*/cache")] == ["cache"] and (sets / "elsewhere" / "cache").is_dir()
    names = [score["metric"] for score in measure("all real fake --k 16", *MINE)]
    assert names == ["own FID", "own KID"]  # sixteen neighbours are more than sixteen images have


def test_the_inception_score_and_its_ceiling(measure, sets, monkeypatch):
    """By a network of three classes, the logits of which are the means of the colours."""
    torch.manual_seed(0)
    net = metrics.Classifier(3, 40, ["r", "g", "b"], False).eval().requires_grad_(False)
    monkeypatch.setattr(metrics, "_load_net", lambda *_: net)
    (score,) = measure("is fake --splits 2 --no-shuffle")
    assert score == metrics.inception_score("fake", net, 2).as_dict()
    every = {score["metric"]: score for score in measure("all real fake --splits 4 --no-shuffle")}
    ceiling = every["in-domain IS of real pictures (ceiling)"]
    assert every["in-domain IS"] == metrics.inception_score("fake", net, 4).as_dict()
    assert ceiling["value"] == metrics.inception_score("real", net, 4).value and ceiling["n_real"] == 20
    metrics.main(["save-stats", "real", "stats.npz"])
    assert [score["metric"] for score in measure("all stats.npz fake")] == ["in-domain FID", "in-domain IS"]
    monkeypatch.setattr(metrics, "_load_net", lambda *_: metrics.Classifier(3, 40, ["r", "g"], True).eval())
    monkeypatch.setattr(metrics, "_look", lambda *_: pytest.fail("an image was looked at"))
    with pytest.raises(SystemExit):
        metrics.main(["is", "fake"])


def test_the_json_file_holds_the_flags_and_every_field(measure, sets, weights):
    (score,) = measure("fid real fake --dims 64 --weights-dir weights")
    written = json.loads((sets / "out.json").read_text())
    assert written["args"]["command"] == "fid" and written["args"]["dims"] == 64 and "json" not in written["args"]
    assert (score["net"], score["dims"], score["resize"]) == ("Inception 2015-12-05", 64, "torch bilinear")
    assert len(score["weights"]) == 8 and score["precision"] == "fp32"


def test_statistics_of_a_folder_keep_no_features_unless_told(sets, monkeypatch):
    kept = []

    def extract(*_, keep, share):
        kept.append((keep, share))
        return metrics.Features(np.ones((3, 16), np.float32), {}, n=3)

    monkeypatch.setattr(metrics, "extract", extract)
    metrics.main(["save-stats", "real", "stats.npz", *MINE])
    metrics.main(["save-stats", "real", "stats.npz", "--features", *MINE])
    assert kept == [(False, True), (True, True)]


def test_bad_files_are_told_on_the_screen(measure, sets, capsys):
    (sets / "fake" / "0003.png").write_text("bad")
    metrics.main(["fid", "real", "fake", *MINE])
    assert "left out 1 file: 0003.png" in capsys.readouterr().err


def test_a_checkpoint_never_runs_a_pickle(sets, capsys):
    torch.save({"script": Hostile(), "args": {"image_size": 8, "resize": "crop"}}, sets / "hostile.pt")
    for look in (open_pictures, metrics._trained_size):
        with pytest.raises(metrics.MetricError, match="not a checkpoint"):
            look("hostile.pt")
    assert capsys.readouterr().out == ""


def test_flags_that_do_not_go_together_are_refused(complaint, sets):
    for flag in ("--bf16", "--dims 64", "--inception-resize pil"):
        assert flag.split()[0] in complaint(f"fid real fake {flag}", *MINE)
    for flag in ("--num-images 0", "--splits 0", "--k 0"):
        assert flag.split()[0] in complaint(f"all real fake {flag}", *MINE)


def test_lpips_reads_folders_as_asked_for(measure, sets, weights):
    save(sets / "wide", random_images(20, size=64)[:, :, :40])
    for flags, n in (("--num-images 5", 5), ("", 20)):
        (score,) = measure(f"lpips wide wide --weights-dir weights {flags}")
        assert len(score["pairs"]) == n
    assert open_pictures("wide", (32, 16)).about == "16x32 px, crop" and open_pictures("wide", (32, 16)).side() == 16
    assert open_pictures("wide", (32, 16)).image(0).shape == (3, 32, 16)
    stretched = open_pictures("wide", 32, "stretch")
    save(sets / "square", [stretched.image(i) for i in range(20)])
    for how in ("stretch", "pad"):
        (score,) = measure(f"lpips wide square --image-size 32 --weights-dir weights --resize {how}")
        assert (score["value"] == 0) == (how == "stretch")


def test_a_checkpoint_draws_where_and_from_what_it_is_told(sets, monkeypatch):
    import dcgan

    torch.save({"script": "dcgan", "args": vars(dcgan.build_parser().parse_args([]))}, sets / "last.pt")
    asked = []
    monkeypatch.setattr(dcgan, "fakes", lambda args, checkpoint, n: asked.append((args.device, args.data_dir, n)))
    pictures = open_pictures("last.pt", data_dir="elsewhere", device="cpu", count=9)
    assert asked == [("cpu", "elsewhere", 9)] and (pictures.count, pictures.side()) == (9, 64)


def test_as_a_program_it_complains_of_data_in_one_sentence(run, sets):
    done = run("metrics.py", "fid", "digits:night", sets / "fake", "--image-size", 28, "--device", "cpu", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "unknown split 'night'" in done.stderr


def test_grey_and_colour_images_are_no_pair(sets):
    with pytest.raises(metrics.MetricError, match="with 1 channels and 40x40 with 3 channels"):
        metrics.lpips_distance(random_images(2, 1, 40), random_images(2, size=40), random_lpips())
