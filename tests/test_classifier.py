"""The in-domain classifier of metrics.py, and the protocols of models that are judged by it: on the first drawn digits,
and on squares whose place and colour are known, with a few steps of training each."""

import io
import os
import random
import time

import numpy as np
import pytest
import torch
from test_metrics import SHARED, check_sentence, random_inception

import datasets
import metrics
from metrics import MetricError

STEPS = (60, 60)  # on squares; the true numbers are for real sets


def squares(count: int, split: str, attributes: bool = False, colours: int = 1, name: str = "squares"):
    """16-px pictures of a bright square in one of four corners: its class; or as attributes, right and bottom."""
    rng = np.random.default_rng([len(split), count])
    images, truth = rng.integers(0, 60, (count, colours, 16, 16), np.uint8), rng.integers(0, 4, count)
    for image, corner in zip(images, truth, strict=True):
        y, x = rng.integers(0, 3, 2) + (8 * (corner // 2), 8 * (corner % 2))
        image[:, y : y + 5, x : x + 5] += 150
    if not attributes:
        return datasets.ImageSet(name, split, images, labels=truth, classes=["nw", "ne", "sw", "se"])
    bits = np.stack([truth % 2, truth // 2], axis=1).astype(np.uint8)
    return datasets.ImageSet(name, split, images, attributes=bits, attribute_names=["right", "bottom"])


TRAIN, TEST = squares(500, "train"), squares(200, "test")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "CLASSIFIER_STEPS", STEPS)
        return metrics.load_classifier(TRAIN, TEST, tmp_path_factory.mktemp("squares"))


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (3, 3))


@pytest.fixture
def no_training(monkeypatch):
    """Call it: from then on a classifier that is not in the cache is an error."""
    return lambda: monkeypatch.setattr(metrics, "_train_classifier", lambda *_: pytest.fail("trained again"))


def kept(folder) -> list:
    return sorted((folder / "cache").iterdir())


# ----- Training


def digits(split: str, count: int):
    images, labels = datasets.draw_builtin("digits", split, count, 28)
    return datasets.ImageSet("digits", split, images, labels=labels, classes=[str(digit) for digit in range(10)])


def test_it_learns_digits(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (70, 70))
    train, test, began = digits("train", 1500), digits("test", 400), time.process_time()
    net = metrics.load_classifier(train, test, tmp_path)
    assert time.process_time() - began < 30  # seconds; 3 on an idle core
    assert net.accuracy > 0.95 and net.name == f"classifier of digits 28 px, test accuracy {net.accuracy:.3f}"
    assert net.accuracy == (net.predict(test.images) == test.labels).mean()
    fid, score, ceiling = metrics.judge(torch.from_numpy(train.images[:400]), test, train, [net])
    noise = torch.randint(0, 256, (400, 1, 28, 28), dtype=torch.uint8)
    assert fid.value < metrics.judge(noise, test, train, [net])[0].value / 10
    assert 8 < score.value <= 10 and 8 < ceiling.value <= 10


def test_what_it_knows(net):
    assert (net.dims, net.resize, net.classes, net.multi_label) == (128, "", ["nw", "ne", "sw", "se"], False)
    assert net.accuracy > 0.97 and len(net.weights) == 8 and int(net.weights, 16) >= 0
    images = torch.from_numpy(TEST.images)
    features = net(images)
    assert features.shape == (200, 128) and features.dtype == torch.float32 and not features.requires_grad
    log_p = net.log_probs(features)
    assert log_p.shape == (200, 4) and log_p.exp().sum(dim=1) == pytest.approx(np.ones(200), rel=1e-9)
    classes = net.predict(images, batch_size=7)
    assert classes.shape == (200,) and classes.dtype == np.int64
    assert np.array_equal(classes, log_p.argmax(dim=1)) and np.array_equal(classes, net.predict(features.numpy()))


def test_attributes(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", STEPS)
    train, test = squares(500, "train", attributes=True, colours=3), squares(200, "test", attributes=True, colours=3)
    net = metrics.load_classifier(train, test, tmp_path)
    assert net.multi_label and net.classes == ["right", "bottom"] and net.accuracy > 0.97
    found = net.predict(test.images)
    assert found.shape == (200, 2) and set(np.unique(found)) == {0, 1}
    assert net.accuracy == (found == test.attributes).mean(axis=0).mean()
    scores = metrics.judge(torch.from_numpy(test.images), test, train, [net])
    assert [score.metric for score in scores] == ["in-domain FID"]
    with pytest.raises(MetricError) as error:
        metrics.inception_score(test.images, net)
    check_sentence(error, "attributes")
    with pytest.raises(MetricError) as error:
        metrics.label_fidelity(test.images, np.zeros(200), test, net)
    check_sentence(error, "attributes")


@pytest.mark.parametrize("size", [16, 28, 32, 65, 128])
def test_any_size(size):
    for channels in (1, 3):
        net = metrics.Classifier(channels, size, ["a", "b"], False).eval()
        images = torch.zeros(2, channels, size, size, dtype=torch.uint8)
        assert net(images).shape == (2, 128)
        last = net.body(torch.zeros(1, channels, size, size))
        assert 2 <= last.shape[-1] <= 9


def test_sets_it_cannot_learn(tmp_path):
    plain = datasets.ImageSet("mine", "train", TRAIN.images)
    one = datasets.ImageSet("mine", "train", TRAIN.images, labels=np.zeros(500, np.int64), classes=["all"])
    for data in (plain, one):
        with pytest.raises(MetricError) as error:
            metrics.load_classifier(data, data, tmp_path)
        check_sentence(error, "mine has neither classes nor attributes", "--fid-dims 2048 (Inception)")
    other = datasets.ImageSet("squares", "test", TEST.images, labels=TEST.labels, classes=["a", "b", "c", "d"])
    for test in (other, squares(20, "test", colours=3)):
        with pytest.raises(MetricError) as error:
            metrics.load_classifier(TRAIN, test, tmp_path)
        check_sentence(error, "squares", "differ in classes or shape")
    assert not (tmp_path / "cache").exists()


# ----- The same again: random numbers, cache


def test_it_is_deterministic_and_leaves_random_numbers_alone(tmp_path, few_steps, no_training):
    weights = []
    for seed, folder in enumerate(("a", "b", "b")):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        net = metrics.load_classifier(TRAIN, TEST, tmp_path / folder)
        after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
        weights.append((net.weights, net.name, metrics.inception_features(TEST.images, net).tobytes()))
        if seed == 1:
            no_training()
    assert weights[0] == weights[1] == weights[2]


def test_the_cache_is_used_and_a_damaged_one_replaced(tmp_path, few_steps, no_training, monkeypatch):
    first = metrics.load_classifier(TRAIN, TEST, tmp_path)
    (path,) = kept(tmp_path)
    assert path.name.startswith("classifier-squares-16px-") and path.suffix == ".pt"
    whole, other = path.read_bytes(), io.BytesIO()
    torch.save({"state": dict(list(first.state_dict().items())[:3]), "accuracy": 1.0}, other)
    for damaged in (b"", whole[: len(whole) // 2], b"text", other.getvalue()):
        path.write_bytes(damaged)
        assert metrics.load_classifier(TRAIN, TEST, tmp_path).weights == first.weights
        assert len(kept(tmp_path)) == 1 and path.stat().st_size == len(whole)
    no_training()
    again = metrics.load_classifier(TRAIN, TEST, tmp_path)
    assert (again.weights, again.name, again.accuracy) == (first.weights, first.name, first.accuracy)
    assert not again.training and not any(p.requires_grad for p in again.parameters())


def test_other_data_have_another_classifier(tmp_path, few_steps):
    images, labels = TRAIN.images.copy(), TRAIN.labels.copy()
    images[250] ^= 1
    labels[499] = (labels[499] + 1) % 4
    other = {"labels": TRAIN.labels, "classes": TRAIN.classes}
    sets = [
        TRAIN,
        datasets.ImageSet("squares", "train", images, **other),
        datasets.ImageSet("squares", "train", TRAIN.images, labels=labels, classes=TRAIN.classes),
        datasets.ImageSet("/some/where/my squares", "train", TRAIN.images, **other),
        squares(499, "train"),
    ]
    for i, train in enumerate(sets):
        net = metrics.load_classifier(train, TEST, tmp_path)
        assert len(kept(tmp_path)) == i + 1
    assert any(path.name.startswith("classifier-my_squares-16px") for path in kept(tmp_path))
    metrics.load_classifier(train, squares(100, "test"), tmp_path)  # the accuracy depends on the test pictures
    assert len(kept(tmp_path)) == len(sets) + 1
    assert net.name.startswith("classifier of squares 16 px, test accuracy 0.")


def test_a_folder_that_cannot_be_written(tmp_path, few_steps, monkeypatch):
    (tmp_path / "file").write_text("")
    assert metrics.load_classifier(TRAIN, TEST, tmp_path / "file").weights
    read_only = tmp_path / "read-only"
    read_only.mkdir()
    read_only.chmod(0o555)
    refuse = OSError(30, "Read-only file system")
    if os.access(read_only, os.W_OK):  # root
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(refuse))
    assert metrics.load_classifier(TRAIN, TEST, read_only).weights
    read_only.chmod(0o755)
    assert not list(read_only.glob("cache/*"))


# ----- Its scores


class Sure(metrics.Classifier):
    """Its features are its logits."""

    def __init__(self, classes: int):
        super().__init__(1, 16, [str(k) for k in range(classes)], False)
        self.name = "sure"
        torch.nn.init.eye_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.requires_grad_(False)


def test_inception_score_of_one_and_of_k_classes():
    features = 1000 * np.eye(128, dtype=np.float32)[np.arange(70) % 7]
    score = metrics.inception_score(features, Sure(7), splits=10)
    assert (score.value, score.std) == (pytest.approx(7, rel=1e-12), pytest.approx(0, abs=1e-9))
    assert (score.metric, score.dims) == ("in-domain IS", 128) and "few" not in score.note
    assert (
        "14 images a part are few for 20 classes" in metrics.inception_score(np.tile(features, (2, 1)), Sure(20)).note
    )
    constant = metrics.inception_score(np.ones((50, 128), np.float32), Sure(7), splits=1)
    assert constant.value == pytest.approx(1, rel=1e-12) and constant.std is None and "±" not in str(constant)


def test_fid_and_kid_by_the_classifier(net):
    images = TEST.images
    noisy = images ^ np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    same, worse = metrics.fid(images, images, net), metrics.fid(images, noisy, net)
    assert same.value == 0 and worse.value > 10 * worse.floor > 0
    assert same.metric == "in-domain FID" and str(same).startswith("in-domain FID-128 0 ± 0 (KID ")
    assert str(same).endswith(f"; {net.name} {net.weights})") or f"; {net.name} {net.weights};" in str(same)
    assert "Inception" not in str(same)
    kid = metrics.kid(images, noisy, net)
    assert kid.metric == "in-domain KID" and kid.value > metrics.kid(images[::2], images[1::2], net).value


# ----- The protocols


def test_judge(net):
    fake = torch.from_numpy(squares(12, "fake").images)
    inception, cache = random_inception(64), {}
    scores = metrics.judge(fake, TEST, TRAIN, [inception, net], cache)
    ceiling = "in-domain IS of real pictures (ceiling)"
    assert [score.metric for score in scores] == ["FID", "in-domain FID", "in-domain IS", ceiling]
    assert "in-domain" not in str(scores[0]) and "below 32 px" in scores[0].note and "below" not in scores[1].note
    test, train = TEST.images[np.arange(12) * 200 // 12], TRAIN.images[np.arange(12) * 500 // 12]
    for score, judge in zip(scores, (inception, net), strict=False):
        expected = metrics.fid(test, fake, judge, real2=train)
        assert (score.value, score.floor) == pytest.approx((expected.value, expected.floor), rel=1e-6)
        assert (score.n_real, score.n_fake, score.floor_n) == (12, 12, 12)
    assert 2.5 < scores[2].value <= 4 and 2.5 < scores[3].value <= 4
    assert (scores[3].n_real, scores[3].n_fake) == (12, None)
    assert len(cache) == 4
    for again in (metrics.judge(fake, TEST, TRAIN, [inception, net], cache), metrics.judge(fake, TEST, TRAIN, [net])):
        assert [score.as_dict() for score in again] == [score.as_dict() for score in scores[-len(again) :]]
    assert len(cache) == 4
    metrics.judge(fake[:8], TEST, TRAIN, [net], cache)
    assert len(cache) == 6


def test_judge_draws_its_parts_at_random(net, monkeypatch):
    """Pictures sorted by class in ten parts: each part must hold every class."""
    order = np.argsort(TEST.labels, kind="stable")
    images = np.tile(TEST.images[order].repeat(13, axis=0), (2, 1, 1, 1))[:5000]
    data = datasets.ImageSet("sorted", "test", images)
    fid, score, ceiling = metrics.judge(torch.from_numpy(images), data, data, [net])
    assert fid.value == fid.floor == 0
    assert score.value == ceiling.value > 3.5 and "10 parts" in score.note


def test_judge_uses_all_of_a_smaller_test_set(net):
    fake = torch.from_numpy(squares(300, "fake").images)
    fid, score, ceiling = metrics.judge(fake, TEST, TRAIN, [net])
    assert (fid.n_real, fid.n_fake, fid.floor_n, score.n_fake, ceiling.n_real) == (200, 300, 300, 300, 200)


def test_inception_of_2048_dims_gives_its_score_too():
    fake = torch.from_numpy(TEST.images[:3])
    scores = metrics.judge(fake, TEST, TRAIN, [random_inception(2048)])
    assert [score.metric for score in scores] == ["FID", "IS", "IS of real pictures (ceiling)"]


def test_label_fidelity(net):
    data = squares(400, "fake")
    accuracy, distance = metrics.label_fidelity(torch.from_numpy(data.images), data.labels, TEST, net)
    assert accuracy.metric == "label accuracy" and accuracy.value > 0.97 and accuracy.dims is None
    assert f"real test pictures: {net.accuracy:.3f}; by class nw " in accuracy.note
    assert (distance.metric, distance.dims, distance.floor) == ("in-domain FID per class (mean)", 128, None)
    features = [metrics.inception_features(images, net) for images in (TEST.images, data.images)]
    pairs = [(features[0][TEST.labels == k], features[1][data.labels == k]) for k in range(4)]
    by_hand = [metrics.frechet_distance(*pair) for pair in pairs]
    assert distance.value == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert f"by class nw {by_hand[0]:.3g}, ne {by_hand[1]:.3g}" in distance.note
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(data.labels))
    wrong, far = metrics.label_fidelity(data.images, shuffled, TEST, net)
    assert wrong.value == pytest.approx(0.25, abs=0.08) and far.value > 5 * distance.value


def test_label_fidelity_of_few_pictures(net):
    few = np.concatenate([np.flatnonzero(TEST.labels == k)[:count] for k, count in enumerate((5, 1, 0, 4))])
    accuracy, distance = metrics.label_fidelity(TEST.images[few], TEST.labels[few], TEST, net)
    assert distance.note.endswith("; without ne, sw: fewer than 2 pictures") and "ne 1" in accuracy.note
    assert len(metrics.label_fidelity(TEST.images[:1], TEST.labels[:1], TEST, net)) == 1
    with pytest.raises(MetricError) as error:
        metrics.label_fidelity(TEST.images, TEST.labels[:5], TEST, net)
    check_sentence(error, "one label")


def test_judges(tmp_path, few_steps):
    plain = datasets.ImageSet("mine", "train", TRAIN.images)
    with pytest.raises(MetricError) as error:
        metrics.load_judges(0, plain, plain, "", tmp_path, "cpu")
    check_sentence(error, "mine", "--fid-dims 2048")
    (judge,) = metrics.load_judges(0, TRAIN, TEST, "", tmp_path, torch.device("cpu"))
    assert isinstance(judge, metrics.Classifier)
    if not (SHARED / "weights").exists():
        pytest.skip("the real weights are not on this machine")
    inception, judge = metrics.load_judges(64, TRAIN, TEST, str(SHARED / "weights"), tmp_path, "cpu")
    assert inception.dims == 64 and judge.domain == "in-domain " and inception.domain == ""
    assert [net.dims for net in metrics.load_judges(64, plain, plain, SHARED / "weights", tmp_path, "cpu")] == [64]


def test_edits_that_happen_and_what_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", STEPS)
    train, test = (squares(n, split, attributes=True) for n, split in ((500, "train"), (200, "test")))
    net = metrics.load_classifier(train, test, tmp_path)
    assert net.accuracy > 0.99
    mirrored = test.images[..., ::-1].copy()  # right becomes left, and the other way round
    wanted = test.attributes ^ np.array([1, 0], np.uint8)
    edits = {
        "mirror": (torch.from_numpy(mirrored), wanted, [True, False]),
        "none": (test.images, wanted, [True, False]),
    }
    done, kept = metrics.edit_fidelity(edits, net)
    assert done.value == pytest.approx(0.5, abs=0.02) and kept.value > 0.98 and done.n_fake == 400
    assert "mirror 1.00" in done.note and "none 0.0" in done.note and "accuracy" in str(kept)
    rows = np.zeros((200, 2), bool)
    rows[:100, 0] = True  # in the first half `right` was asked for, in the second nothing
    done, kept = metrics.edit_fidelity({"half": (mirrored, wanted, rows)}, net)
    assert done.value > 0.98 and kept.value > 0.98
    done, kept = metrics.edit_fidelity({"wrong": (mirrored, test.attributes, rows)}, net)
    assert done.value == pytest.approx(0.5, abs=0.02) and kept.value == pytest.approx(2 / 3, abs=0.02)
    assert len(metrics.edit_fidelity({"all": (mirrored, wanted, [True, True])}, net)) == 1


def test_edit_fidelity_of_classes_is_the_share_of_the_class_asked_for(net):
    one_hot, changed = np.eye(len(net.classes))[TEST.labels], np.ones(len(net.classes), bool)
    (done,) = metrics.edit_fidelity(
        {"a": (TEST.images, one_hot, changed), "none": (TEST.images[:0], one_hot[:0], changed)}, net
    )
    assert done.metric == "in-domain edit success" and done.value == pytest.approx(net.accuracy)
    (done,) = metrics.edit_fidelity({"a": (TEST.images, np.roll(one_hot, 1, axis=1), changed)}, net)
    assert done.value < 0.1 and "none" not in done.note
    assert metrics.edit_fidelity({}, net) == []


def test_edit_fidelity_needs_what_is_wanted_of_each_picture(net):
    with pytest.raises(MetricError, match="one-hot"):
        metrics.edit_fidelity({"a": (TEST.images, TEST.labels[:, None], [True])}, net)


def test_domain_fid_is_the_mean_of_the_fids(net):
    x = metrics.inception_features(TEST.images, net)
    a, b, c = (x[TEST.labels == k] for k in range(3))
    few = {"one": (a, c[:1], b), "none": (a, c[:0], b)}
    (score,) = metrics.domain_fid({"same": (a, a, b), "other": (a, c, b)} | few, net)
    fids = [metrics.fid(a, y, net, real2=b) for y in (a, c)]
    assert score.value == pytest.approx(np.mean([f.value for f in fids])) and score.value > 1
    assert score.floor == pytest.approx(np.mean([f.floor for f in fids]))
    assert score.metric == "in-domain mean domain FID" and score.dims == 128
    assert "same 0, other" in score.note and "one" not in score.note
    assert metrics.domain_fid(few, net) == []
