"""What stands between pictures and a score: features of every kind of set, their moments, halves, caches, statistics.

Most nets here are thin on purpose (`grid`, the brightness of sixteen cells): what is tested is what is done with it.
"""

import dataclasses
import json
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from forks import output, torchrun_forks
from PIL import Image
from scipy.linalg import sqrtm
from test_metrics import check_sentence, random_images, random_inception, random_state

import metrics
from metrics import Extractor, Features, MetricError, Moments, extract, fid, frechet_distance, kid, open_pictures, prdc

RNG = np.random.default_rng(0)


def grid(images):
    """uint8 (B, C, H, W) -> (B, 16): the brightness of a 4 x 4 grid, whatever the size."""
    return torch.nn.functional.adaptive_avg_pool2d(images.float().mean(dim=1), 4).flatten(1) / 255


GRID = Extractor(grid, version="1")


def net_of(dims, **facts):
    """A network for features made before."""
    stamp = {"name": "x", "weights": "", "dims": dims, "resize": "", "domain": "", "precision": "fp32"}
    return SimpleNamespace(**stamp | facts)


def save(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(np.asarray(image).transpose(1, 2, 0)).save(folder / f"{i:04d}.png")
    return folder


def normal(n, d, seed=0, shift=0.0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=(n, d)) * scale + shift).astype(np.float32)


# ----- Moments


@pytest.mark.parametrize("cut", [1, 7, 1000, 1024, 5000])
def test_moments_are_those_of_numpy_however_the_rows_come(cut):
    rows = normal(3000, 5, shift=2)
    moments, whole = Moments(5), Moments(5)
    for start in range(0, 3000, cut):
        moments.add(rows[start : start + cut])
    whole.add(rows)
    (mu, sigma), again = moments.result(), whole.result()
    assert (mu == again[0]).all() and (sigma == again[1]).all()  # to the bit
    np.testing.assert_allclose(mu, rows.astype(float).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(sigma, np.cov(rows.astype(float), rowvar=False), rtol=1e-11, atol=1e-14)


def test_moments_stay_exact_far_from_zero():
    rows = RNG.normal(size=(4000, 3)) + 1e6
    moments = Moments(3)
    moments.add(rows)
    np.testing.assert_allclose(moments.result()[1], np.cov(rows, rowvar=False), rtol=1e-9, atol=1e-9)
    with pytest.raises(MetricError, match="two images"):
        Moments(3).result()


# ----- Sets of every kind


def test_a_set_gives_the_same_features_whatever_it_is(tmp_path):
    images = random_images(37, size=16)
    expected = grid(images).numpy()
    folder = save(tmp_path / "set", images)
    assert (extract((images[:20], images[20:]), GRID).rows == expected).all()  # a tuple, but no mean and covariance
    loaders = [
        torch.utils.data.DataLoader(images, batch_size=10),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.arange(37)), batch_size=8),
        [{"image": batch} for batch in images.split(5)],
    ]
    for source in (images, images.numpy(), folder, str(folder), *loaders, (batch for batch in images.split(40))):
        features = extract(source, GRID, batch_size=6)
        assert (features.rows == expected).all() and features.n == 37
    assert (extract(features, GRID) is features) and (extract(expected, GRID).rows == expected).all()


def test_a_folder_with_images_of_many_shapes_keeps_their_order(tmp_path):
    images = [random_images(1, size=size, seed=size)[0] for size in (16, 24, 16, 33, 24, 16, 20)]
    images[3] = images[3][:, :17]  # not square
    (tmp_path / "set" / "sub").mkdir(parents=True)
    for i, image in enumerate(images):
        path = tmp_path / "set" / ("sub" if i % 2 else ".") / f"{i}.png"
        Image.fromarray(image.numpy().transpose(1, 2, 0)).save(path)
    folder = tmp_path / "set"
    pictures = open_pictures(folder)
    numbers = [int(name.rpartition("/")[2].removesuffix(".png")) for name in pictures.names]
    assert sorted(numbers) == list(range(7))
    rows = extract(pictures, GRID, batch_size=4).rows
    for row, i in zip(rows, numbers, strict=True):
        np.testing.assert_array_equal(row, grid(images[i][None])[0].numpy())
    at_8 = extract(open_pictures(folder, image_size=8), GRID)
    assert at_8.note == "8 px, crop" and at_8.n == 7


def test_bad_files_are_left_out_and_counted_or_stop(tmp_path):
    folder = save(tmp_path / "set", random_images(5, size=16))
    (folder / "0002.png").write_bytes((folder / "0002.png").read_bytes()[:200])
    (folder / "notes.jpg").write_text("no picture")
    pictures = open_pictures(folder)
    features = extract(pictures, GRID)
    assert features.n == 4 and "left out 2 bad files" in features.note and "notes.jpg" in pictures.bad_files()
    assert "left out 2" in str(fid(folder, folder, GRID))
    with pytest.raises(MetricError) as error:
        extract(open_pictures(folder, strict=True), GRID)
    check_sentence(error, "0002.png", "mend or remove")
    for path in folder.iterdir():
        path.write_text("nothing")
    with pytest.raises(MetricError) as error:
        extract(folder, GRID)
    check_sentence(error, "no image that can be read", "0000.png")


def test_evenly_spaced_images_are_taken_where_fewer_are_asked_for(tmp_path):
    images = random_images(20, size=16)
    folder = save(tmp_path / "set", images)
    assert (extract(open_pictures(folder, count=5), GRID).rows == grid(images[::4]).numpy()).all()


@pytest.mark.parametrize(
    "images",
    [torch.rand(4, 3, 8, 8), torch.zeros(0, 3, 8, 8, dtype=torch.uint8), [], [torch.rand(4, 3, 8, 8)], iter([]), None],
    ids=["floats", "none", "empty", "loader of floats", "no batches", "nothing"],
)
def test_what_is_no_set_of_images_is_refused(images):
    with pytest.raises(MetricError) as error:
        extract(images, GRID)
    assert str(error.value).endswith(".") and "image" in str(error.value)


def test_many_features_go_to_a_file_that_vanishes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    images = random_images(300, size=8)
    expected = extract(images, GRID)
    monkeypatch.setattr(metrics, "ROWS_IN_MEMORY", 1000)
    features = extract(images, GRID, batch_size=11)
    assert isinstance(features.rows, np.memmap) and (features.rows == expected.rows).all()
    assert list(tmp_path.iterdir()) == []
    other = extract(random_images(300, size=8, seed=1), GRID)
    for score in (fid, kid):
        assert score(features, other, GRID) == score(expected, other, GRID)

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(MetricError) as error:
        extract(images, GRID)
    check_sentence(error, "No space left", "TMPDIR", "64 bytes")


def test_without_rows_only_mean_and_covariance_are_left():
    images, other = random_images(50, size=8), random_images(40, size=8, seed=1)
    lean, whole = extract(images, GRID, keep=False), extract(images, GRID)
    assert lean.rows is None and lean.n == 50
    assert frechet_distance(lean, extract(other, GRID)) == pytest.approx(fid(whole, other, GRID).value, rel=1e-9)
    score = fid(lean, other, GRID)
    assert (
        score.kid is None
        and score.floor is None
        and "statistics only" in score.note
        and "of the fake side alone" in score.note
    )
    assert score.std > 0  # of the images that are there
    for metric in (kid, metrics.precision_recall):
        with pytest.raises(MetricError) as error:
            metric(lean, other, GRID)
        check_sentence(error, "mean and a covariance")


def test_a_reading_process_that_dies_is_a_sentence(tmp_path, monkeypatch):
    class Dead:
        def __init__(self, *_, **options):
            assert options["num_workers"] == 0 and isinstance(options["generator"], torch.Generator)

        def __iter__(self):
            raise RuntimeError("DataLoader worker (pid 5) is killed")
            yield

    monkeypatch.setattr(torch.utils.data, "DataLoader", Dead)
    with pytest.raises(MetricError) as error:
        extract(save(tmp_path / "set", random_images(3, size=16)), GRID)
    assert "has died" in str(error.value) and "pid 5" in str(error.value)


def test_nan_features_are_found_where_they_come():
    def breaks(images):
        features = grid(images)
        features[images.flatten(1).float().mean(dim=1) == 255] = torch.nan
        return features

    images = random_images(30, size=8)
    images[17] = 255
    with pytest.raises(MetricError) as error:
        extract(images, Extractor(breaks), batch_size=4)
    check_sentence(error, "image 17", "NaN")


# ----- Kept features


def test_features_are_kept_until_an_image_or_the_protocol_changes(tmp_path):
    folder, cache, calls = save(tmp_path / "set", random_images(9, size=16)), tmp_path / "cache", []

    def counting(images):
        calls.append(len(images))
        return grid(images)

    net = Extractor(counting, version="1")

    def looks(net=net, source=folder):
        calls.clear()
        extract(source, net, cache=cache)
        return sum(calls)

    assert looks() == 9 and looks() == 0 and len(list(cache.iterdir())) == 1
    assert extract(folder, net, cache=cache).rows.tobytes() == extract(folder, net).rows.tobytes()
    Image.open(folder / "0003.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "0003.png")
    assert looks() == 9
    net.weights = "other"
    assert looks() == 9
    (folder / "0003.png").rename(folder / "0009.png")  # another order
    assert looks() == 9
    images = random_images(9, size=16, seed=3)
    assert looks(source=images) == 9 and looks(source=images) == 0
    images[4, 0, 0, 0] ^= 1
    assert looks(source=images) == 9
    assert looks(source=[images]) == 9 and looks(source=[images]) == 9  # who knows what an iterable gives


def test_features_of_a_function_that_may_change_are_not_kept(tmp_path):
    extract(random_images(5, size=16), Extractor(grid), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    one, two = (Extractor(grid, version=version) for version in "12")
    for net in (one, two, one):
        extract(random_images(5, size=16), net, cache=tmp_path / "cache")
    assert one.weights != two.weights and len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "pickle", "other dims", "no folder"])
def test_damaged_kept_features_are_made_anew(damage, tmp_path, capsys):
    images, cache = random_images(9, size=16), tmp_path / "cache"
    expected = extract(images, GRID, cache=cache).rows
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[-20] ^= damage == "bit"
    file.write_bytes(content[: -7 if damage == "cut" else None] * (damage != "empty"))
    if damage == "pickle":
        np.save(file, np.array([{}, {}], dtype=object), allow_pickle=True)
    elif damage == "other dims":
        metrics._keep_features(file, np.ones((9, 5), np.float32))
    elif damage == "no folder":
        cache = file / "below a file"
    assert (extract(images, GRID, cache=cache).rows == expected).all()
    assert ("not kept" in capsys.readouterr().err) == (damage == "no folder")
    if damage != "no folder":
        assert metrics._kept_features(file, 16) is not None


def test_a_set_with_bad_files_is_not_kept(tmp_path):
    folder = save(tmp_path / "set", random_images(3, size=16))
    (folder / "bad.png").write_text("")
    extract(folder, GRID, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# ----- One protocol for both sides


def test_other_protocols_are_not_compared():
    images = random_images(5)
    made = extract(images, random_inception(64))
    for other in (random_inception(64, "tf1 bilinear"), random_inception(192)):
        with pytest.raises(MetricError) as error:
            fid(made, images, other)
        check_sentence(error, "one protocol", "torch bilinear" if other.dims == 64 else "dims 64, not 192")


def test_bf16_is_near_and_stamped_and_never_mixed():
    state = random_state(random_inception(192).file_shapes())
    net, half = random_inception(192), metrics.Inception(192, bf16=True).load(state)
    images = random_images(6)
    exact, rough = extract(images, net), extract(images, half)
    error = np.abs(exact.rows - rough.rows).max() / np.abs(exact.rows).max()
    assert 1e-5 < error < 0.05 and rough.rows.dtype == np.float32
    assert "bf16" in str(fid(rough, rough, half)) and "bf16" not in str(fid(exact, exact, net))
    with pytest.raises(MetricError) as message:
        fid(rough, images, net)
    check_sentence(message, "precision bf16, not fp32")


def test_pil_resize_of_a_long_side_is_put_together():
    matrix = metrics._pil_rows(1000, torch.device("cpu"))
    whole = Image.fromarray(np.eye(1000, dtype=np.float32)).resize((1000, 299), Image.BICUBIC)
    assert (matrix.numpy() == np.array(whole)).all()


def test_pil_resize_by_pillow():
    net, plain = random_inception(64, "pil bicubic"), random_inception(64)
    images = random_images(2, size=40)[:, :, :, :33]
    large = [
        [Image.fromarray(channel.numpy().astype(np.float32)).resize((299, 299), Image.BICUBIC) for channel in image]
        for image in images
    ]
    pixels = torch.from_numpy(np.array([[np.array(channel) for channel in image] for image in large])).clamp(0, 255)
    assert pixels.max() == 255 and pixels.min() == 0  # it overshoots, and is clipped
    with torch.inference_mode():
        expected = plain.body((pixels - 128) / 128).mean(dim=(2, 3))
        torch.testing.assert_close(net(images), expected, rtol=1e-5, atol=1e-6)
        assert (net(images) - plain(images)).abs().max() > 1e-3


# ----- A user's own network; torchvision's


def test_any_function_or_module_can_be_the_judge():
    module = torch.nn.Sequential(SimpleFloat(), torch.nn.Conv2d(3, 8, 3), torch.nn.Dropout(0.5))
    as_module, as_function = Extractor(module), Extractor(lambda images: module(images), name="conv")
    assert (as_function.dims, as_function.name, as_function.weights) == (8, "conv", "")
    assert as_module.dims == 8 and len(as_module.weights) == 8 and not module.training
    images = random_images(2)
    torch.testing.assert_close(as_module(images), module(images).mean(dim=(2, 3)))
    assert torch.equal(as_function(images), as_module(images))
    with torch.no_grad():
        module[1].weight[0, 0, 0, 0] += 1
    assert Extractor(module).weights != as_module.weights
    score = fid(random_images(20, size=16), random_images(20, size=16, seed=1), GRID)
    assert score.metric == "own FID" and "grid" in str(score) and score.dims == 16


class SimpleFloat(torch.nn.Module):
    def forward(self, images):
        return images.float()


@pytest.mark.parametrize(
    "function", [lambda x: x.float().mean(), lambda x: x.float().mean(1).sum(2)[:-1], lambda x: 1 / 0]
)
def test_a_judge_that_does_not_work_is_refused(function):
    with pytest.raises(MetricError) as error:
        Extractor(function, name="mine")
    check_sentence(error, "mine")


def test_torchvisions_inception_is_torchvisions():
    models = pytest.importorskip("torchvision.models")
    reference = models.inception_v3(weights=None, init_weights=False, transform_input=True).eval()
    state = reference.state_dict()
    net = metrics.TorchvisionInception().load({k: v for k, v in state.items() if "num_batches" not in k})
    for key, value in state.items():  # else its BatchNorms leave hardly a difference between images
        if "running" in key:
            value.uniform_(0.01, 0.1)
    net.load({k: v for k, v in state.items() if "num_batches" not in k})
    images = random_images(3)
    images[1:] //= 3
    large = torch.nn.functional.interpolate(images.float() / 255, size=(299, 299), mode="bilinear")
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = reference((large - mean) / std).double().log_softmax(dim=1)
        torch.testing.assert_close(net.log_probs(net(images)), expected, rtol=1e-4, atol=1e-5)
        assert (expected[0] - expected[1]).abs().max() > 1e-2
    score = metrics.inception_score(images, net, splits=1)
    assert score.metric == "torchvision IS" and "1000 classes" in score.note


# ----- Halves: how far a score is to be trusted


def test_halves_are_balanced():
    halves = metrics._halves(803)
    assert len(halves) == 14 and {len(half) for half in halves} <= {400, 401, 402, 403}
    inside = np.zeros((14, 803), int)
    for row, half in zip(inside, halves, strict=True):
        row[half] = 1
        assert (np.diff(half) > 0).all()
    assert (inside.sum(axis=0) == 7).all()  # every image is in every second half
    blocks = np.unique(inside, axis=1)  # (14, 8)
    assert blocks.shape == (14, 8)
    together = blocks.T @ blocks
    assert (together[~np.eye(8, dtype=bool)] == 3).all()  # and every pair of blocks together equally often


def test_the_error_bar_is_the_standard_error():
    """Of two Gaussians in the plane that lie 3 apart the FID is nearly 9, with standard error 2 * 3 * sqrt(2 / n)."""
    n, values, errors = 400, [], []
    for seed in range(40):
        score = fid(normal(n, 2, seed), normal(n, 2, 100 + seed, shift=3 / 2**0.5), net_of(2))
        values.append(score.value)
        errors.append(score.std)
    truth = 6 * (2 / n) ** 0.5
    assert np.mean(values) == pytest.approx(9, abs=0.2)
    assert np.std(values) == pytest.approx(truth, rel=0.35)
    assert np.mean(errors) == pytest.approx(truth, rel=0.2)


def test_confidence_costs_no_look_and_can_be_left_out():
    x, y = normal(200, 4), normal(150, 4, 1)
    score, bare = fid(x, y, net_of(4)), fid(x, y, net_of(4), confidence=False)
    assert (score.kid, score.kid_std) == (kid(x, y, net_of(4)).value, kid(x, y, net_of(4)).std)
    assert bare == dataclasses.replace(score, std=None, kid=None, kid_std=None, note=bare.note)
    assert f"± {score.std:.2g} (KID {score.kid:.3g} ± {score.kid_std:.2g};" in str(score)
    assert fid(x[:15], y, net_of(4)).std is None  # too few to halve


def test_a_floor_of_fewer_images_stands_beside_the_score_of_as_few():
    x, y = normal(100, 4), normal(90, 4, 1)
    score, order = fid(x, y, net_of(4)), np.random.default_rng(0).permutation(100)
    fewer = y[np.random.default_rng(0).permutation(90)[:50]]
    expected = np.mean([frechet_distance(x[part], fewer) for part in (order[:50], order[50:])])
    assert score.floor_n == 50 and score.at_floor_n == pytest.approx(expected, rel=1e-9)
    assert f"at n=50, where this is {score.at_floor_n:.4g}" in str(score)
    assert fid(x, y[:50], net_of(4)).at_floor_n is None  # the same n
    equal = [fid(normal(100, 16, 2 * i), normal(100, 16, 2 * i + 1), net_of(16)) for i in range(30)]
    assert np.mean([s.at_floor_n for s in equal]) == pytest.approx(np.mean([s.floor for s in equal]), rel=0.1)


def test_what_differs_between_the_sides_is_said_of_each(tmp_path):
    images = random_images(20, size=40)
    folder = save(tmp_path / "set", images)
    small = fid(folder, open_pictures(folder, image_size=16), random_inception(64))
    assert "real: as they are; fake: 16 px, crop" in small.note and "below 32 px" in small.note
    both = fid(open_pictures(folder, image_size=16), open_pictures(folder, image_size=16), random_inception(64))
    assert both.note.startswith("16 px, crop;") and both.note.count("16 px") == 1
    assert "below 32 px" not in fid(folder, images, random_inception(64)).note
    metrics.save_statistics(tmp_path / "s.npz", extract(open_pictures(folder, image_size=16), random_inception(64)))
    assert "real: 16 px, crop; fake: as they are" in fid(tmp_path / "s.npz", images, random_inception(64)).note


@pytest.mark.parametrize("n", [800, 7000])
def test_statistics_of_many_images_are_exact_in_every_way(n):
    """More images than dims, so that moments are used, in halves too."""
    x, y = normal(n, 40, scale=1.5), normal(n + 100, 40, 1)
    mu, nu, s, t = (
        f(z.astype(float), **how) for f, how in ((np.mean, {"axis": 0}), (np.cov, {"rowvar": False})) for z in (x, y)
    )
    expected = np.square(mu - nu).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert fid(x, y, net_of(40), confidence=False).value == pytest.approx(expected, rel=1e-9)
    half = metrics._halves(n)[3]
    part = metrics._part(Features(x, {}, n=n), half)
    assert part.rows is None and np.allclose(part.moments[1], np.cov(x[half].astype(float), rowvar=False), rtol=1e-10)


def test_fid_at_infinite_n_removes_the_bias_and_is_refused_below_5000():
    def wide(n, seed, scale):  # 128 dims whose variances fall off, as those of networks do
        return normal(n, 128, seed, scale=scale) / np.arange(1, 129, dtype=np.float32) ** 0.7

    spectrum = np.arange(1, 129.0) ** -1.4
    for scale in (1, 1.2):
        score = fid(wide(5000, 1, 1), wide(5000, 2, scale), net_of(128))
        truth = spectrum.sum() * (scale - 1) ** 2
        assert abs(score.infinite - truth) < 3 * score.std and abs(score.infinite - truth) < (score.value - truth) / 2
        assert "at infinite n" in str(score)
    score = fid(normal(4999, 2), normal(5000, 2, 1), net_of(2))
    assert score.infinite is None and "infinite" not in str(score)


def test_few_images_are_warned_of_in_plain_words():
    score = fid(normal(50, 64), normal(40, 64, 1), net_of(64))
    assert "40 images are too few for 64 dims" in score.note and "as its floor shows; compare" in score.note
    assert (
        "trust the KID" in fid(normal(120, 128), normal(110, 128, 1), net_of(128)).note
    )  # which has an error bar then
    bare = fid(normal(3, 64), normal(40, 64, 1), net_of(64), confidence=False)
    assert "as its floor" not in bare.note and "3 images are too few" in bare.note
    assert "too few" not in fid(normal(100, 64), normal(65, 64, 1), net_of(64)).note


def test_kid_of_many_images_is_the_mean_over_blocks_of_all(monkeypatch):
    x, y = normal(300, 6), normal(300, 6, 1, shift=0.3)
    whole = kid(x, y, net_of(6))
    monkeypatch.setattr(metrics, "KID_BLOCK", 100)
    score = kid(x, y, net_of(6))
    blocks = [metrics._mmd(x[i::3], y[i::3])[0] for i in range(3)]
    assert score.value == pytest.approx(np.mean(blocks), rel=1e-12) and "3 blocks" in score.note
    assert score.value == pytest.approx(whole.value, abs=3 * whole.std) and "blocks" not in whole.note.partition(";")[2]
    values = [kid(normal(250, 6, 2 * i), normal(250, 6, 2 * i + 1), net_of(6)).value for i in range(40)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 40**0.5  # unbiased
    assert score.std == pytest.approx(whole.std, rel=0.5)
    few = kid(x, y[:5], net_of(6))  # too few to be cut: so not all of the others
    assert few.value == pytest.approx(metrics._mmd(x[::3], y[:5])[0]) and (few.n_real, few.n_fake) == (300, 5)


# ----- Precision and recall


def plain_prdc(real, fake, k, k_density):
    """The definitions, image by image."""

    def distances(a, b):
        return np.sqrt(((a[:, None].astype(float) - b[None]) ** 2).sum(axis=2))

    reals, fakes, d = np.sort(distances(real, real)), np.sort(distances(fake, fake)), distances(real, fake)
    near, far, fake_radius = reals[:, k], reals[:, k_density], fakes[:, k]  # column 0 is the image itself
    return {
        "precision": np.mean([(d[:, j] <= near).any() for j in range(len(fake))]),
        "recall": np.mean([(d[i] <= fake_radius).any() for i in range(len(real))]),
        "density": np.mean([(d[:, j] <= far).sum() / k_density for j in range(len(fake))]),
        "coverage": np.mean([d[i].min() <= far[i] for i in range(len(real))]),
    }


@pytest.mark.parametrize(("n", "m", "k"), [(40, 30, 3), (30, 50, 1), (1100, 60, 4)])
def test_precision_and_recall_by_the_definition(n, m, k):
    real, fake = normal(n, 5, shift=100), normal(m, 5, 1, shift=100.5, scale=0.7)  # far from zero
    assert prdc(real, fake, k) == pytest.approx(plain_prdc(real, fake, k, 5), rel=1e-12)


def test_precision_and_recall_of_separated_equal_and_nested_sets():
    x = normal(200, 3)
    assert prdc(x, x + 1000) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    same = prdc(x, x)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1) and same["density"] == pytest.approx(1.2)
    inner = prdc(x, normal(200, 3, 1, scale=0.1))  # one mode of the real ones
    assert inner["precision"] == 1 and inner["recall"] < 0.1 and inner["coverage"] < 0.2
    outer = prdc(x, normal(200, 3, 1, scale=10))
    assert outer["precision"] < 0.2 and outer["recall"] > 0.8
    twin = prdc(np.ones((9, 2)), np.ones((9, 2)))  # constant images: every ball is a point, and holds all
    assert twin["precision"] == twin["recall"] == twin["coverage"] == 1


def test_precision_has_an_error_bar_and_what_real_images_reach():
    scores = metrics.precision_recall(normal(200, 4), normal(200, 4, 1), net_of(4))
    assert [score.metric for score in scores] == ["precision", "recall", "density", "coverage"]
    for score in scores:
        assert 0 < score.std < 0.1 and score.value == pytest.approx(score.floor, abs=0.15) and score.floor_n == 100
        assert "real-real 0." in str(score) or "real-real 1" in str(score)
    assert "k = 3" in scores[0].note and "k = 5" in scores[2].note
    few = metrics.precision_recall(normal(10, 4), normal(10, 4, 1), net_of(4))
    assert few[0].std is None and few[0].floor is None
    with pytest.raises(MetricError) as error:
        metrics.precision_recall(normal(5, 4), normal(10, 4), net_of(4))
    check_sentence(error, "k = 5", "not 5 and 10")


def test_precision_takes_evenly_spaced_images_of_very_many(monkeypatch):
    x, y = normal(120, 4), normal(90, 4, 1)
    monkeypatch.setattr(metrics, "PRDC_IMAGES", 60)
    scores = metrics.precision_recall(x, y, net_of(4))
    assert (scores[0].n_real, scores[0].n_fake) == (60, 60)
    assert scores[0].value == prdc(x[::2], y[metrics._spaced(60, 90)])["precision"]


# ----- Statistics in a file


@pytest.fixture
def statistics(tmp_path):
    """-> (file, the features that it was made of)."""
    features = extract(random_images(30, size=40), random_inception(64))
    metrics.save_statistics(tmp_path / "stats.npz", features)
    return tmp_path / "stats.npz", features


def test_statistics_are_written_and_read(statistics, tmp_path):
    file, features = statistics
    with np.load(file) as content:  # as pytorch-fid reads it
        mu, sigma = content["mu"][:], content["sigma"][:]
    np.testing.assert_allclose(mu, features.rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(sigma, np.cov(features.rows, rowvar=False), rtol=1e-3, atol=1e-7)
    net, other = random_inception(64), random_images(20, size=40, seed=1)
    score = fid(str(file), other, net)
    assert score.value == pytest.approx(fid(features, other, net).value, rel=1e-6) and score.n_real == 30
    assert score.kid is None and score.floor is None and score.std > 0
    metrics.save_statistics(tmp_path / "rows.npz", features, with_rows=True)
    assert fid(str(tmp_path / "rows.npz"), other, net).value == fid(features, other, net).value
    assert kid(str(tmp_path / "rows.npz"), other, net) == kid(features, other, net)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.npz", "stats.npz"]


def test_statistics_of_another_protocol_are_refused(statistics, tmp_path):
    file, _ = statistics
    images = random_images(20, size=40)
    with pytest.raises(MetricError) as error:
        fid(file, images, random_inception(64, "tf1 bilinear"))
    check_sentence(error, "stats.npz", "resize torch bilinear, not tf1 bilinear")
    with pytest.raises(MetricError) as error:
        fid(file, images, random_inception(192))
    check_sentence(error, "dims 64, not 192")
    np.savez(tmp_path / "bare.npz", mu=np.zeros(64), sigma=np.eye(64))  # pytorch-fid's own have no stamp
    score = fid(tmp_path / "bare.npz", images, random_inception(64))
    assert "taken for pytorch-fid's" in score.note and score.n_real is None and "real" not in str(score).split(";")[0]
    with pytest.raises(MetricError):
        fid(tmp_path / "bare.npz", images, random_inception(64, "tf1 bilinear"))


class Hostile:
    def __reduce__(self):
        return print, ("a pickle ran",)


MU, SIGMA = np.zeros(4), np.eye(4)
BROKEN = {
    "truncated": None,
    "no archive": b"mu sigma",
    "empty": b"",
    "pickle": {"mu": np.array([Hostile()] * 4, dtype=object), "sigma": SIGMA},
    "no sigma": {"mu": MU},
    "shapes": {"mu": MU, "sigma": np.eye(5)},
    "flat": {"mu": MU, "sigma": np.ones(16)},
    "words": {"mu": np.array(["a"] * 4), "sigma": SIGMA},
    "complex": {"mu": MU, "sigma": SIGMA.astype(complex) * 1j},
    "NaN": {"mu": MU, "sigma": SIGMA * np.nan},
    "infinite": {"mu": MU + np.inf, "sigma": SIGMA},
    "not symmetric": {"mu": MU, "sigma": np.triu(np.ones((4, 4)))},
    "negative": {"mu": MU, "sigma": -SIGMA},
    "other features": {"mu": MU, "sigma": SIGMA, "features": np.ones((3, 5), np.float32)},
    "features of words": {"mu": MU, "sigma": SIGMA, "features": np.array([["a"] * 4] * 3)},
    "of one image": {"mu": MU, "sigma": SIGMA, "n": 1},
    "no number": {"mu": MU, "sigma": SIGMA, "n": "many"},
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_or_hostile_statistics_are_refused(kind, tmp_path, capsys):
    file, content = tmp_path / "stats.npz", BROKEN[kind]
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez(file, **(content or {"mu": MU, "sigma": SIGMA}), allow_pickle=True)
    if content is None:
        file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(MetricError) as error:
        metrics.load_statistics(file)
    assert "stats.npz" in str(error.value) or "NaN" in str(error.value)
    assert capsys.readouterr().out == ""


def test_statistics_where_they_cannot_be(tmp_path):
    with pytest.raises(MetricError, match="there is no file"):
        metrics.load_statistics(tmp_path / "absent.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(MetricError):
        metrics.load_statistics(tmp_path / "folder.npz")
    with pytest.raises(MetricError, match="cannot be written"):
        metrics.save_statistics(tmp_path / "none" / "stats.npz", extract(random_images(5), random_inception(64)))


# ----- A million images, several processes


PEAK = """
import resource, sys
sys.path.insert(0, {root!r})
import torch, metrics

def wide(images):
    return torch.nn.functional.interpolate(images.flatten(1)[:, None].float(), 512)[:, 0]

net = metrics.Extractor(wide)
batch = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)

def peak(batches, keep):
    assert metrics.extract((batch for _ in range(batches)), net, batch_size=256, keep=keep).n == 256 * batches
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

peak(40, True), peak(80, False), peak(200, False), peak(200, True)
"""


def test_memory_does_not_grow_with_the_number_of_images(run, tmp_path):
    """Megabytes of a process at its peak: of 10,000 images, then of 50,000, whose features take 105 MB."""
    (tmp_path / "peak.py").write_text(PEAK.format(root=str(ROOT)))
    few, moments, many_moments, many = map(int, run(tmp_path / "peak.py").stdout.split())
    assert moments < few + 20 and many_moments < moments + 10 and many < many_moments + 30


OWN = """
import torch

def grid(images):
    return torch.nn.functional.adaptive_avg_pool2d(images.float().mean(dim=1), 4).flatten(1) / 255
"""


TWO = """
import sys
sys.path.insert(0, {root!r})
import metrics

leave, metrics.leave_processes = metrics.leave_processes, lambda: None  # one group for both commands
metrics.main([*{flags}, "--json", {out!r}])
metrics.leave_processes = leave
try:
    metrics.main([*{flags}, "--strict"])
except SystemExit as stop:
    print("ended with", stop.code)
"""


def test_two_processes_share_the_images_agree_with_one_and_stop_together(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    real = save(tmp_path / "real", random_images(41, size=16))  # an odd number of pieces
    fake = save(tmp_path / "fake", random_images(29, size=20, seed=1))
    for number in (6, 7, 22):  # the first of them in a piece of the second process
        (fake / f"{number:04d}.png").write_text("bad")
    flags = ["all", real, fake, "--net", f"{tmp_path / 'own.py'}:grid", "--batch-size", 5, "--no-cache"]
    flags = list(map(str, flags))
    metrics.main([*flags, "--json", str(tmp_path / "one.json")])
    (tmp_path / "two.py").write_text(TWO.format(root=str(ROOT), flags=flags, out=str(tmp_path / "two.json")))
    torchrun_forks(tmp_path, tmp_path / "two.py")
    out, err = output(tmp_path)
    one, two = (json.loads((tmp_path / name).read_text())["scores"] for name in ("one.json", "two.json"))
    assert one == two and len(one) == 6  # to the bit
    assert one[0]["n_fake"] == 26 and out.count("own FID-16") == 1
    assert err.count("left out 3 files: 0006.png (not a picture), 0007.png") == 1
    assert out.count("ended with 2") == 2 and err.count("0006.png cannot be read (not a picture)") == 1
    assert "Error" not in err


# ----- What small slips would change


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["array", "folder", "batches"])
def test_processes_share_a_set_piece_by_piece(kind, world, tmp_path):
    images = random_images(11, size=8)
    folder = save(tmp_path / "set", images)
    ranks = []
    for rank in range(world):
        source = {"array": images, "batches": iter(images.split(4))}.get(kind)
        pictures = open_pictures(folder) if source is None else metrics.Pictures("", source)
        ranks.append(list(pictures.pieces(2, rank, world)))
    assert len({len(pieces) for pieces in ranks}) == 1  # the processes meet after each piece
    rows = list(zip(*ranks, strict=True))
    found = [piece for row in rows for piece in row if piece is not None]
    assert max(map(len, found)) == 2 and all(row[0] is not None for row in rows)
    assert (np.stack([np.asarray(image) for piece in found for image in piece]) == images.numpy()).all()


def test_alone_no_other_process_is_waited_for(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert extract(random_images(3, size=8), GRID, share=False).n == 3


def test_the_batch_size_is_that_asked_for_or_the_networks():
    calls = []
    net = Extractor(lambda images: calls.append(len(images)) or grid(images))
    for size, expected in ((5, [5, 5, 5, 5]), (None, [16, 4])):
        calls.clear()
        extract(random_images(20, size=8), net, batch_size=size)
        assert calls == expected


def test_a_judge_whose_features_grow_with_the_image_is_refused():
    net = Extractor(lambda images: images.flatten(1).float(), name="mine")
    assert net.dims == 3 * 64 * 64
    with pytest.raises(MetricError) as error:
        extract(random_images(2, size=16), net)
    check_sentence(error, "mine", "(2, 768)")


def test_every_network_takes_grey_images(tmp_path):
    models = pytest.importorskip("torchvision.models")
    state = models.inception_v3(weights=None, init_weights=False).state_dict()
    old = {
        key: value for key, value in state.items() if "num_batches" not in key
    }  # of the time before BatchNorm counted
    torch.save(old, tmp_path / "inception_v3_google.pth")
    net, grey = metrics.load_torchvision_inception(tmp_path, download=False), random_images(2)[:, :1]
    assert len(net.weights) == 8
    for judge in (net, Extractor(torch.nn.Sequential(SimpleFloat(), torch.nn.Conv2d(3, 8, 3)))):
        with torch.inference_mode():
            torch.testing.assert_close(judge(grey), judge(grey.expand(-1, 3, -1, -1)))


def test_a_folder_is_read_in_the_channels_of_the_network(tmp_path):
    net = metrics.Classifier(1, 16, ["a", "b"], False).eval()
    assert extract(save(tmp_path / "set", random_images(3, size=16)), net).n == 3


def test_a_folder_is_brought_to_the_size_asked_for(tmp_path):
    folder = save(tmp_path / "set", random_images(1, size=24)[:, :, :12])
    found = {how: open_pictures(folder, 8, how).image(0) for how in ("crop", "stretch", "pad")}
    assert {image.shape for image in found.values()} == {(3, 8, 8)}
    assert len({image.tobytes() for image in found.values()}) == 3
    assert open_pictures(folder).image(0).shape == (3, 12, 24)


def test_bad_files_are_counted_once_in_every_way(tmp_path):
    good, bad = save(tmp_path / "good", random_images(9, size=16)), save(tmp_path / "bad", random_images(9, size=16))
    for number in (0, 3, 5, 8):
        (bad / f"{number:04d}.png").write_text("bad")
    pictures = open_pictures(bad)
    for keep in (True, False):
        features = extract(pictures, GRID, batch_size=2, keep=keep)
        assert features.n == 5 and len(pictures.bad) == 4 and "left out 4" in features.note
    assert pictures.bad_files().count(".png") == 3 and "..." in pictures.bad_files()
    assert "left out 4" in fid(bad, good, GRID).note and "left out 4" in fid(good, bad, GRID).note


def test_reading_a_folder_draws_no_random_numbers(tmp_path):
    folder = save(tmp_path / "set", random_images(3, size=16))
    torch.manual_seed(0)
    extract(folder, GRID)
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))


# ----- Kept features, again


def test_other_sizes_shapes_and_channels_are_kept_apart(tmp_path):
    folder, cache = save(tmp_path / "set", random_images(9, size=16)[:, :, :12]), tmp_path / "cache"
    images = random_images(9, size=16)
    asked = [{}, {"image_size": 8}, {"image_size": 8, "resize": "stretch"}, {"channels": 1}]
    sources = [open_pictures(folder, **how) for how in asked] + [images, images.view(9, 3, 8, 32)]
    for number, source in enumerate(sources, 1):
        made = extract(source, GRID, cache=cache)
        assert len(list(cache.iterdir())) == number
        kept = extract(source, GRID, cache=cache)
        assert kept.note == made.note and (kept.rows == made.rows).all()
    assert made.note == "" and extract(sources[2], GRID, cache=cache).note == "8 px, stretch"


def test_kept_features_in_several_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "CHUNK", 4)
    images, cache = random_images(9, size=16), tmp_path / "cache"
    expected = extract(images, GRID, cache=cache).rows
    (file,) = cache.iterdir()
    kept = metrics._kept_features(file, 16)
    assert (kept == expected).all() and not isinstance(kept, np.memmap)
    monkeypatch.setattr(metrics, "ROWS_IN_MEMORY", 100)
    assert isinstance(metrics._kept_features(file, 16), np.memmap)
    content = bytearray(file.read_bytes())
    content[150] ^= 1  # in the first chunk
    file.write_bytes(content)
    assert metrics._kept_features(file, 16) is None
    images[8, 0, 0, 0] ^= 1  # in the last
    extract(images, GRID, cache=cache)
    assert len(list(cache.iterdir())) == 2


def test_kept_features_never_run_a_pickle(tmp_path, capsys):
    np.save(tmp_path / "features.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    assert metrics._kept_features(tmp_path / "features.npy", 16) is None and capsys.readouterr().out == ""


def test_kept_features_have_a_name_that_every_disk_takes_and_leave_nothing_half_written(tmp_path, monkeypatch):
    pictures = metrics.Pictures("a: b*" + 250 * "x", random_images(3, size=8))
    extract(pictures, GRID, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name.startswith("features-a__b_xxx") and len(file.name) < 100

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics.os, "replace", full)
    assert extract(pictures, GRID, cache=tmp_path / "full").n == 3
    assert list((tmp_path / "full").iterdir()) == []


def test_a_file_that_goes_is_a_bad_file_and_no_trouble_for_kept_features(tmp_path):
    folder = save(tmp_path / "set", random_images(4, size=16))
    pictures = open_pictures(folder)
    (folder / "0002.png").unlink()
    assert extract(pictures, GRID, cache=tmp_path / "cache").n == 3 and len(pictures.bad) == 1


# ----- Scores, again


def test_a_small_distance_is_not_taken_for_none():
    near = frechet_distance((np.zeros(1), np.eye(1)), (np.full(1, 1e-4), np.eye(1)))
    assert near == pytest.approx(1e-8, rel=1e-6)


def test_large_singular_covariances_that_do_not_overlap_everywhere():
    """1030 dims, either side lacks four others: eigenvalues that ought to be zero may come out negative."""
    a, b = np.ones(1030), np.ones(1030)
    a[:4], b[-4:] = 0, 0
    u = np.random.default_rng(0).normal(size=1030)
    mirror = np.eye(1030) - 2 * np.outer(u, u) / (u @ u)
    mu, (s, t) = np.zeros(1030), ((mirror * x) @ mirror for x in (a, b))
    assert frechet_distance((mu, (s + s.T) / 2), (mu, (t + t.T) / 2)) == pytest.approx(8, abs=1e-3)


def test_the_floor_is_of_as_many_images_as_are_drawn():
    net, x, y = net_of(4), normal(40, 4), normal(10, 4, 1)
    score = fid(x, y, net)
    assert score.floor_n == 10 and "10 of the real images vs the other 30" in score.note
    assert fid(x, y, net, real2=normal(6, 4, 2)).floor_n == 6
    known = (np.zeros(4), np.eye(4))  # of which nobody knows how many images
    assert fid(x, known, net).floor_n == 20 and fid(x, known, net, real2=normal(6, 4, 2)).floor_n == 6
    assert fid(x, known, net).kid is None


def test_error_bars_begin_at_16_40_and_100_images():
    net = net_of(4)
    assert "4 images are too few for 4 dims" in fid(normal(9, 4), normal(4, 4, 1), net).note
    assert fid(normal(16, 4), normal(16, 4, 1), net).std > 0
    assert metrics.precision_recall(normal(40, 4), normal(40, 4, 1), net)[0].std is not None
    for n, known in ((99, False), (100, True)):
        assert (kid(normal(n, 4), normal(n, 4, 1), net).std is not None) == known


def test_sets_of_other_dims_are_refused_by_every_score():
    for score in (fid, kid, metrics.precision_recall):
        with pytest.raises(MetricError) as error:
            score(normal(20, 4), normal(20, 5), net_of(4))
        check_sentence(error, "5 dims", "4")


def test_kid_of_unequal_sets_in_blocks(monkeypatch):
    monkeypatch.setattr(metrics, "KID_BLOCK", 100)
    x, y = normal(350, 6), normal(120, 6, 1, shift=0.3)
    expected = np.mean([kid(x[i::4], y[i::4], net_of(6)).value for i in range(4)])
    assert kid(x, y, net_of(6)).value == pytest.approx(expected, rel=1e-12)


def test_precision_by_its_halves_and_with_other_k():
    x, y = normal(200, 4), normal(160, 4, 1, scale=0.8)
    scores = metrics.precision_recall(x, y, net_of(4), k=2, k_density=4)
    a, b = metrics._halves(200), metrics._halves(160)
    parts = [prdc(x[i], y[j], 2, 4) for i, j in zip(a[::2], b[::2], strict=True)]
    whole, reached = prdc(x, y, 2, 4), prdc(x[a[0]], x[np.setdiff1d(np.arange(200), a[0])], 2, 4)
    for score, k in zip(scores, (2, 2, 4, 4), strict=True):
        assert score.value == whole[score.metric] and score.floor == reached[score.metric]
        assert score.std == pytest.approx(np.std([part[score.metric] for part in parts], ddof=1), rel=1e-12)
        assert f"k = {k};" in score.note
    for k, k_density in ((0, 5), (3, 0)):
        with pytest.raises(MetricError):
            prdc(x, y, k, k_density)


def test_a_network_of_2048_dims_without_classes_has_no_inception_score():
    net = Extractor(lambda images: images.flatten(1)[:, :2048].float(), name="mine")
    with pytest.raises(MetricError):
        metrics.inception_score(random_images(20, size=32), net)


def test_statistics_hold_what_they_say(tmp_path):
    features = extract(random_images(30, size=8), GRID)
    metrics.save_statistics(tmp_path / "stats.npz", features)
    with np.load(tmp_path / "stats.npz") as content:
        assert "features" not in content and content["n"] == 30
    lean = extract(random_images(30, size=8), GRID, keep=False)
    metrics.save_statistics(tmp_path / "lean.npz", lean)
    read = [metrics.load_statistics(tmp_path / name) for name in ("stats.npz", "lean.npz")]
    assert read[0].n == read[1].n == 30 and read[0].protocol == read[1].protocol == metrics.protocol_of(GRID)
    assert (read[0].moments[1] == read[1].moments[1]).all()
    (tmp_path / "folder").mkdir()
    with pytest.raises(MetricError, match="cannot be written"):
        metrics.save_statistics(tmp_path / "folder", features)
    assert len(list(tmp_path.iterdir())) == 3
    np.savez(tmp_path / "nan.npz", mu=np.zeros(4), sigma=np.eye(4), features=np.full((3, 4), np.nan, np.float32))
    with pytest.raises(MetricError, match="NaN"):
        metrics.load_statistics(tmp_path / "nan.npz")


def test_statistics_of_other_weights_dims_or_arithmetic_are_refused(tmp_path):
    rows, net = normal(20, 4), net_of(4, name="n", weights="a", precision="fp32")
    other = [net_of(4, name="n", weights="b", precision="fp32"), net_of(4, name="n", weights="a", precision="bf16")]
    metrics.save_statistics(tmp_path / "s.npz", Features(rows, metrics.protocol_of(net), n=20))
    assert fid(tmp_path / "s.npz", rows, SimpleNamespace(channels=3, **vars(net))).value < 1e-9
    for wrong, part in zip(other, ("weights a, not b", "precision fp32, not bf16"), strict=True):
        with pytest.raises(MetricError, match=part):
            extract(metrics.load_statistics(tmp_path / "s.npz"), wrong)
    np.savez(tmp_path / "bare.npz", mu=np.zeros(5), sigma=np.eye(5))
    bare = net_of(4, name="Inception 2015-12-05", resize="torch bilinear")
    with pytest.raises(MetricError, match="dims 5, not 4"):
        extract(metrics.load_statistics(tmp_path / "bare.npz"), bare)


def test_the_judges_keep_what_each_saw_in_each_set_apart(tmp_path, monkeypatch):
    sets = [SimpleNamespace(name="set", images=random_images(4, seed=seed).numpy()) for seed in (1, 2)]
    nets = [random_inception(64), random_inception(64, "tf1 bilinear"), random_inception(192)]
    fake, looked, look, cache = random_images(4), [], metrics._look, {}
    monkeypatch.setattr(metrics, "_look", lambda net, piece: looked.append(len(piece)) or look(net, piece))
    monkeypatch.setattr(metrics, "load_inception", lambda *_: nets[0])
    scores = metrics.judge(fake, *sets, nets, cache)
    assert len(looked) == 9 and metrics.judge(fake, *sets, nets, cache) == scores and len(looked) == 12
    assert [score.value for score in scores] == [fid(sets[0].images, fake, net).value for net in nets]
    looked.clear()
    sets[0].labels = sets[1].labels = sets[0].attributes = sets[1].attributes = None
    judges = metrics.load_judges(64, sets[1], sets[0], "", tmp_path)  # what is kept on the disk serves the next run
    for expected in (3, 4):
        metrics.judge(fake, *sets, judges)
        assert len(looked) == expected
    del nets[0].cache


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("resize", metrics.RESIZES)
def test_a_gpu_sees_what_a_cpu_sees(resize):
    net = metrics.Inception(768, resize)
    net.load(random_state(net.file_shapes()))
    images = random_images(40, size=48)
    expected = extract(images, net).rows
    assert np.abs(extract(images, net.cuda()).rows - expected).max() < 1e-5 * np.abs(expected).max()
