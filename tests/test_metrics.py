"""metrics.py against closed forms and against plain restatements of the definitions. Offline; no weights needed but for
the tests at the end, which skip where the real ones are absent."""

import dataclasses
import functools
import http.server
import os
import pickle
import threading
from pathlib import Path
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import metrics
from metrics import MetricError, RunLog, Score, fid, frechet_distance, inception_features, inception_score, kid, mse

torch.set_num_threads(1)
SHARED = Path(__file__).parents[2] / "shared"


def random_state(shapes: dict, seed: int = 0) -> dict:
    """Random weights in the format of the file, scaled so that activations keep their size through the network."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("running_var"):
            state[key] = 0.5 + noise.abs()
        elif key.endswith("bn.weight"):
            state[key] = 1 + 0.1 * noise
        else:
            state[key] = noise * (2 / noise[0].numel()) ** 0.5 if len(shape) > 1 else 0.1 * noise
    return state


@functools.cache
def random_inception(dims: int, resize: str = "torch bilinear") -> metrics.Inception:
    net = metrics.Inception(dims, resize)
    return net.load(random_state(net.file_shapes()))


def random_lpips_state() -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(1)
    alexnet, heads = {}, {}
    for i, (index, c_in, c_out, k, *_) in enumerate(metrics.ALEXNET_CONVS):
        alexnet[f"features.{index}.weight"] = (
            torch.randn(c_out, c_in, k, k, generator=generator) / (c_in * k * k) ** 0.5
        )
        alexnet[f"features.{index}.bias"] = 0.1 * torch.randn(c_out, generator=generator)
        heads[f"lin{i}.model.1.weight"] = torch.rand(1, c_out, 1, 1, generator=generator)
    return alexnet, heads


@functools.cache
def random_lpips() -> metrics.LPIPS:
    return metrics.LPIPS().load(*random_lpips_state())


def random_images(n: int, channels: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


def floats(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def check_sentence(error: pytest.ExceptionInfo, *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 500, text
    for part in parts:
        assert part in text, text


# ----- The Fréchet distance

RNG = np.random.default_rng(0)


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(d).normal(size=(d, d)))[0]


def test_frechet_distance_in_one_dimension_by_hand():
    a, b = np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])  # means 1 and 3, variances 2 and 8
    assert frechet_distance(a, b) == pytest.approx(4 + (8**0.5 - 2**0.5) ** 2, rel=1e-14)


@pytest.mark.parametrize("d", [8, 1100])  # 1100: the branch with eigenvalues
def test_frechet_distance_of_commuting_covariances(d):
    a, b, mu = RNG.uniform(0.5, 2, d), RNG.uniform(0.5, 2, d), RNG.normal(size=d)
    q = rotation(d)
    expected = (mu**2).sum() + ((a**0.5 - b**0.5) ** 2).sum()
    got = frechet_distance((mu, q * a @ q.T), (np.zeros(d), q * b @ q.T))
    assert got == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_a_shift_is_its_length():
    sigma = np.cov(RNG.normal(size=(50, 6)).T)
    shift = np.arange(6.0)
    assert frechet_distance((shift, sigma), (np.zeros(6), sigma)) == pytest.approx(55, rel=1e-12)


def test_frechet_distance_of_covariances_that_do_not_commute():
    s, t = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, -0.5], [-0.5, 2.0]])
    root = np.sqrt(np.trace(s @ t) + 2 * np.sqrt(np.linalg.det(s @ t)))  # tr of the root of a 2 x 2 matrix
    expected = np.trace(s) + np.trace(t) - 2 * root
    assert frechet_distance((np.zeros(2), s), (np.zeros(2), t)) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_singular_covariances():
    a, b = np.array([4.0, 1.0, 0.0, 0.0, 0.0]), np.array([1.0, 0.0, 9.0, 0.0, 0.0])
    q = rotation(5)
    got = frechet_distance((np.zeros(5), q * a @ q.T), (np.zeros(5), q * b @ q.T))
    assert got == pytest.approx(1 + 1 + 9, rel=1e-7)
    constant = np.ones((20, 5))
    assert frechet_distance(constant, constant + 1) == 5  # no variance at all
    assert frechet_distance(constant[:3], constant[:3] + 1) == 5


@pytest.mark.parametrize("n, d", [(5, 40), (40, 40), (60, 40)])
def test_features_and_statistics_agree(n, d):
    x, y = RNG.normal(size=(n, d)), 1.5 * RNG.normal(size=(n + 3, d)) + 0.3
    from_statistics = frechet_distance((x.mean(0), np.cov(x.T)), (y.mean(0), np.cov(y.T)))
    assert frechet_distance(x, y) == pytest.approx(from_statistics, rel=1e-9)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-12)


def test_frechet_distance_against_the_matrix_square_root():
    from scipy.linalg import sqrtm

    x, y = RNG.normal(size=(400, 30)), RNG.normal(size=(300, 30)) @ RNG.normal(size=(30, 30)) / 5 + 0.2
    s, t = np.cov(x.T), np.cov(y.T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n, d", [(2, 50), (40, 50), (200, 50), (1100, 1200)])
def test_identical_sets_have_distance_zero(n, d):
    x = RNG.normal(size=(n, d)).astype(np.float32) * 3 + 10
    assert frechet_distance(x, x) == 0.0
    assert frechet_distance(x, x[::-1]) == 0.0
    assert frechet_distance(x, x + np.float32(0.01)) > 0


@pytest.mark.parametrize(
    "a, b, part",
    [
        (np.ones((1, 4)), np.ones((3, 4)), "two images"),
        (np.ones((3, 4)), np.array([[1.0, 2, 3, np.nan]] * 3), "NaN"),
        (np.ones((3, 4)), np.ones((3, 5)), "4 and 5 dims"),
        ((np.ones(4), np.ones((3, 3))), np.ones((3, 4)), "(4,) and (3, 3)"),
        (np.ones(4), np.ones((3, 4)), "two images"),
    ],
)
def test_frechet_distance_refuses(a, b, part):
    with pytest.raises(MetricError) as error:
        frechet_distance(a, b)
    check_sentence(error, part)


# ----- Inception


def plain_layer(state: dict, name: str, x: torch.Tensor, **options) -> torch.Tensor:
    x = F.conv2d(x, state[f"{name}.conv.weight"], **options)
    mean, var, weight, bias = (state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(F.batch_norm(x, mean, var, weight, bias, eps=0.001))


def test_inception_has_the_published_layers():
    with torch.device("meta"):
        shapes = metrics.Inception(2048).file_shapes()
    learned = {key: shape for key, shape in shapes.items() if "running" not in key}
    assert sum(np.prod(shape) for shape in learned.values()) == 23_850_960
    convs = sum(key.endswith("conv.weight") for key in shapes)
    assert (convs, len(shapes) + convs) == (94, 566)  # the file also has one num_batches_tracked for each of them
    assert shapes["Mixed_7c.branch_pool.conv.weight"] == (192, 2048, 1, 1)
    assert shapes["Mixed_6c.branch7x7dbl_2.conv.weight"] == (160, 160, 7, 1)


def test_blocks_after_the_asked_dims_are_not_built():
    with torch.device("meta"):
        counts = [len(metrics.Inception(dims).convs()) for dims in (64, 192, 768, 2048)]
        assert counts[0] == 3 and counts[1] == 5 and counts == sorted(counts)
        assert not any("Mixed_7" in key for key in metrics.Inception(768).file_shapes())


def test_first_features_by_the_definition():
    images = random_images(2, size=40)
    net = metrics.Inception(192)
    state = random_state(net.file_shapes())
    x = 2 * F.interpolate(images / 255, size=(299, 299), mode="bilinear", align_corners=False) - 1
    x = plain_layer(state, "Conv2d_1a_3x3", x, stride=2)
    x = plain_layer(state, "Conv2d_2a_3x3", x)
    x = F.max_pool2d(plain_layer(state, "Conv2d_2b_3x3", x, padding=1), 3, stride=2)
    features_64 = x.mean(dim=(2, 3))
    x = plain_layer(state, "Conv2d_4a_3x3", plain_layer(state, "Conv2d_3b_1x1", x))
    features_192 = F.max_pool2d(x, 3, stride=2).mean(dim=(2, 3))
    assert inception_features(images, net.load(state)) == pytest.approx(features_192.numpy(), rel=2e-5)
    assert inception_features(images, metrics.Inception(64).load(state)) == pytest.approx(features_64.numpy(), rel=2e-5)


def test_merged_heads_equal_the_separate_branches():
    layers = {"branch1x1": 5, "branch5x5_1": 3, "branch_pool": 4}
    for heads in (metrics.Heads("Mixed.", 6, **layers), metrics.MaxPoolHeads("Mixed.", 6, **layers)):
        state = random_state(heads.conv.file_shapes())
        heads.conv.load(state)
        x = torch.randn(2, 6, 7, 7, generator=torch.Generator().manual_seed(3))
        if isinstance(heads, metrics.MaxPoolHeads):
            pooled = F.max_pool2d(x, 3, 1, 1)
        else:  # the sum over the pixels that exist, divided by their number
            ones = F.conv2d(torch.ones(1, 1, 7, 7), torch.ones(1, 1, 3, 3), padding=1)
            pooled = F.conv2d(x, torch.ones(6, 1, 3, 3), padding=1, groups=6) / ones
        expected = [plain_layer(state, f"Mixed.{name}", y) for name, y in zip(layers, (x, x, pooled), strict=True)]
        for got, want in zip(heads(x), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_the_last_block_alone_has_the_max_pool():
    with torch.device("meta"):
        blocks = list(metrics.Inception(2048).body)
    kinds = [
        type(block.heads) for block in blocks if isinstance(block, (metrics.BlockA, metrics.BlockC, metrics.BlockE))
    ]
    assert kinds == [metrics.Heads] * 8 + [metrics.MaxPoolHeads]


def test_2048_features_do_not_depend_on_batch_or_order():
    images, net = random_images(3), random_inception(2048)
    features = inception_features(images, net)
    assert features.shape == (3, 2048) and features.dtype == np.float32 and features.std(axis=0).max() > 0
    assert inception_features(images.flip(0), net, batch_size=2)[::-1] == pytest.approx(features, rel=1e-5, abs=1e-6)
    assert inception_features(images.numpy(), net, batch_size=1) == pytest.approx(features, rel=1e-5, abs=1e-6)


def test_grey_images_are_repeated():
    grey, net = random_images(2, channels=1), random_inception(64)
    assert np.array_equal(inception_features(grey, net), inception_features(grey.repeat(1, 3, 1, 1), net))


@pytest.mark.parametrize("size", [1, 7, 64, 299, 400])
def test_tf1_resize_reads_from_the_corner(size):
    row = RNG.normal(size=size).astype(np.float32)
    position = np.arange(299) * size / 299
    expected = np.interp(position, np.arange(size), row)  # np.interp repeats the last pixel beyond it
    matrix = metrics._tf1_rows(size, torch.device("cpu")).numpy()
    assert matrix.sum(axis=1) == pytest.approx(np.ones(299), abs=1e-6)
    assert matrix @ row == pytest.approx(expected, abs=2e-4)  # positions are float32, as in TensorFlow


def test_tf1_features_by_the_definition():
    images, net = random_images(1, size=40), random_inception(64, "tf1 bilinear")
    x, state = images[0].double().numpy(), random_state(net.file_shapes())
    for axis in (1, 2):
        x = np.apply_along_axis(lambda row: np.interp(np.arange(299) * 40 / 299, np.arange(40), row), axis, x)
    x = (torch.from_numpy(x).float()[None] - 128) / 128
    x = plain_layer(state, "Conv2d_2a_3x3", plain_layer(state, "Conv2d_1a_3x3", x, stride=2))
    x = F.max_pool2d(plain_layer(state, "Conv2d_2b_3x3", x, padding=1), 3, stride=2).mean(dim=(2, 3))
    assert inception_features(images, net) == pytest.approx(x.numpy(), rel=2e-5)


def test_the_resize_changes_features_and_is_stamped():
    images = random_images(4)
    nets = [random_inception(64, resize) for resize in ("torch bilinear", "tf1 bilinear")]
    torch_bilinear, tf1 = (inception_features(images, net) for net in nets)
    assert np.abs(torch_bilinear - tf1).max() > 1e-3
    assert "tf1 bilinear 299" in str(fid(images, images, nets[1]))
    large = random_images(2, size=299)  # nothing to resize: only the range differs, by less than 1/128
    assert inception_features(large, nets[1]) == pytest.approx(inception_features(large, nets[0]), abs=0.05)


@pytest.mark.parametrize(
    "images",
    [
        random_images(2).float(),
        random_images(2)[0],
        random_images(2, channels=2),
        random_images(2)[:0],
        np.zeros((2, 32, 32, 3), np.uint8),
        [1, 2],
        None,
    ],
)
def test_inception_refuses_other_images(images):
    with pytest.raises(MetricError) as error:
        inception_features(images, random_inception(64))
    check_sentence(error, "uint8")


# ----- FID, KID, Inception Score


def test_fid_is_the_distance_of_the_features_with_a_floor():
    net = random_inception(64)
    real, fake, real2 = random_images(10), random_images(6, seed=1), random_images(8, seed=2)
    x, y, z = (inception_features(images, net) for images in (real, fake, real2))
    score = fid(real, fake, net, real2)
    assert score.value == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert score.floor == pytest.approx(frechet_distance(x, z[[0, 1, 2, 4, 5, 6]]), rel=1e-9)  # evenly spaced
    assert (score.n_real, score.n_fake, score.floor_n, score.dims) == (10, 6, 6, 64)
    assert "6 images are too few for 64 dims" in score.note
    assert fid(x, y, net, z) == dataclasses.replace(score, kid=kid(x, y, net).value)
    halves = fid(real, fake, net)
    order = np.random.default_rng(0).permutation(10)
    assert halves.floor == pytest.approx(frechet_distance(x[order[5:]], x[order[:5]]), rel=1e-9)
    assert halves.floor_n == 5 and "other 5" in halves.note
    assert fid(real, real, net).value == 0


def test_fid_does_not_depend_on_batch_or_order():
    net = random_inception(64)
    real, fake = random_images(24), (random_images(24, seed=1) // 2)
    value = fid(real, fake, net).value
    shuffled = fid(real.flip(0), inception_features(fake.roll(5, dims=0), net, batch_size=7), net).value
    assert shuffled == pytest.approx(value, rel=1e-5)


def test_fid_notes_small_images_and_refuses_other_features():
    net = random_inception(64)
    assert "below 32 px" in fid(random_images(4), random_images(4, size=28), net).note
    assert "below 32 px" not in fid(random_images(4), random_images(4), net).note
    with pytest.raises(MetricError) as error:
        fid(random_images(4), np.ones((4, 192), np.float32), net)
    check_sentence(error, "192", "64")
    with pytest.raises(MetricError) as error:
        fid(random_images(4), random_images(1), net)
    check_sentence(error, "two images")


STUB = SimpleNamespace(dims=3, name="stub", weights="", resize="", domain="", precision="fp32")


def test_kid_by_the_definition():
    x, y = RNG.normal(size=(7, 3)), RNG.normal(size=(5, 3)) + 1
    k = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    within = [np.mean([k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in (x, y)]
    expected = sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])
    score = kid(x, y, STUB)
    assert score.value == pytest.approx(expected, rel=1e-12) and score.std is None
    assert kid(x[::-1], y, STUB).value == pytest.approx(expected, rel=1e-12)


def plain_kid(x, y):
    kernel = [(a @ b.T / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = sum((m.sum() - np.trace(m)) / (len(m) * (len(m) - 1)) for m in kernel[:2])
    return within - 2 * kernel[2].mean()


def test_kid_of_groups_and_its_jackknife():
    x, y = RNG.normal(size=(1503, 3)), RNG.normal(size=(1107, 3)) + 0.1
    score = kid(x, y, STUB)
    assert score.value == pytest.approx(plain_kid(x, y), rel=1e-9)
    tenths = np.arange(1503) % 10, np.arange(1107) % 10
    without = [plain_kid(x[tenths[0] != i], y[tenths[1] != i]) for i in range(10)]
    assert score.std == pytest.approx(np.sqrt(0.9 * np.square(np.array(without) - np.mean(without)).sum()), rel=1e-6)
    assert kid(x[:99], y, STUB).std is None


def test_the_error_bar_of_kid_is_its_standard_error():
    """Away from 0, where it is not too large, as it is near 0."""
    scores = [kid(RNG.normal(size=(300, 3)), RNG.normal(size=(300, 3)) + 0.5, STUB) for _ in range(60)]
    true = np.std([score.value for score in scores])
    assert np.mean([score.std for score in scores]) == pytest.approx(true, rel=0.3)


def test_kid_is_unbiased():
    rng = np.random.default_rng(5)
    values = [kid(rng.normal(size=(8, 3)), rng.normal(size=(6, 3)), STUB).value for _ in range(1000)]
    error = np.std(values) / 1000**0.5
    assert abs(np.mean(values)) < 4 * error < 0.2  # the biased estimate would be off by about 1
    assert min(values) < 0


def test_kid_refuses_one_image_and_nan():
    for x, part in ((np.ones((1, 3)), "two images"), (np.full((4, 3), np.nan), "NaN")):
        with pytest.raises(MetricError) as error:
            kid(x, np.ones((4, 3)), STUB)
        check_sentence(error, part)


def logits_net() -> SimpleNamespace:
    """The first 1008 features are the logits; a bias that would change every score must be ignored."""
    fc = SimpleNamespace(weight=torch.eye(1008, 2048), bias=torch.arange(1008.0))
    net = SimpleNamespace(**{**vars(STUB), "dims": 2048}, fc=fc)
    net.log_probs = MethodType(metrics.Inception.log_probs, net)
    return net


def one_hot(classes: list[int]) -> np.ndarray:
    features = np.zeros((len(classes), 2048), np.float32)
    features[np.arange(len(classes)), classes] = 1000
    return features


def test_inception_score_of_one_and_of_k_classes():
    net = logits_net()
    assert inception_score(one_hot([3] * 20), net).value == pytest.approx(1, rel=1e-12)
    assert inception_score(np.zeros((20, 2048), np.float32), net).value == pytest.approx(1, rel=1e-12)
    score = inception_score(one_hot(list(range(7)) * 10), net)
    assert (score.value, score.std) == (pytest.approx(7, rel=1e-12), pytest.approx(0, abs=1e-9))


def test_inception_score_takes_its_parts_in_file_order():
    score = inception_score(one_hot([0, 0, 0, 0, 0, 1, 2, 3]), logits_net(), splits=2)
    assert score.value == pytest.approx((1 + 4) / 2, rel=1e-12) and score.std == pytest.approx(1.5, rel=1e-12)


def test_inception_score_of_soft_predictions_and_uneven_parts():
    features = RNG.normal(size=(11, 2048)).astype(np.float32)
    logits = features[:, :1008].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    parts = [p[0:3], p[3:7], p[7:11]]
    scores = [np.exp((q * np.log(q / q.mean(axis=0))).sum(axis=1).mean()) for q in parts]
    score = inception_score(features, logits_net(), splits=3)
    assert score.value == pytest.approx(np.mean(scores), rel=1e-10)
    assert score.std == pytest.approx(np.std(scores), rel=1e-8)


def test_inception_score_refuses():
    with pytest.raises(MetricError) as error:
        inception_score(one_hot([1, 2, 3]), logits_net())
    check_sentence(error, "3 images", "10 parts")
    with pytest.raises(MetricError) as error:
        inception_score(random_images(20), random_inception(64))
    check_sentence(error, "2048", "64")


def test_mse():
    x, y = floats(2, 3, 4, 4), floats(2, 3, 4, 4, seed=1)
    assert mse(x, y) == pytest.approx(((x - y) ** 2).mean().item(), rel=1e-6)
    black, white = np.zeros((1, 1, 2, 2), np.uint8), np.full((1, 1, 2, 2), 255, np.uint8)
    assert mse(black, white) == 4 and mse(torch.from_numpy(white), white) == 0
    with pytest.raises(MetricError) as error:
        mse(x, y[:1])
    check_sentence(error, "(2, 3, 4, 4)")


# ----- LPIPS


def plain_lpips(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The definition: squared difference of unit features, weighted per channel, mean over space, sum over layers."""
    alexnet, heads = random_lpips_state()
    shift, scale = (torch.tensor(v).view(3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    x, y, total = (x - shift) / scale, (y - shift) / scale, 0
    for i, (index, _, _, _, stride, padding) in enumerate(metrics.ALEXNET_CONVS):
        if i in (1, 2):
            x, y = F.max_pool2d(x, 3, 2), F.max_pool2d(y, 3, 2)
        weight, bias = alexnet[f"features.{index}.weight"], alexnet[f"features.{index}.bias"]
        x, y = (F.relu(F.conv2d(z, weight, bias, stride, padding)) for z in (x, y))
        a, b = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y))
        total = total + F.conv2d((a - b) ** 2, heads[f"lin{i}.model.1.weight"]).mean(dim=(1, 2, 3))
    return total


def test_lpips_by_the_definition():
    net = random_lpips()
    x, y = floats(3, 3, 48, 40), floats(3, 3, 48, 40, seed=1)
    torch.testing.assert_close(net(x, y), plain_lpips(x, y), rtol=1e-5, atol=0)
    torch.testing.assert_close(net(x, y), net(y, x), rtol=0, atol=0)
    assert net(x, x).tolist() == [0, 0, 0] and net(x, y).min() > 0
    assert net.embed(floats(1, 3, 64, 64)).shape == (1, 31872)


def test_lpips_of_grey_and_constant_images():
    net = random_lpips()
    grey = floats(2, 1, 32, 32)
    torch.testing.assert_close(net.embed(grey), net.embed(grey.repeat(1, 3, 1, 1)))
    assert net(torch.zeros(1, 3, 31, 31), torch.ones(1, 3, 31, 31)).isfinite().all()


def test_lpips_has_a_finite_gradient():
    net, x = metrics.LPIPS().load(*random_lpips_state()), torch.zeros(1, 3, 32, 32, requires_grad=True)
    net.convs[4].bias.data.fill_(-100)  # the last ReLU lets nothing through: its norm is 0
    net(x, floats(1, 3, 32, 32)).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


@pytest.mark.parametrize("pairs", ["all", "consecutive"])
def test_diversity_equals_the_average_over_pairs(pairs):
    net, samples = random_lpips(), floats(2, 18, 3, 32, 32)  # 18: more than one batch of 16
    samples[1] *= 0.5
    values = []
    for images in samples:
        index = [(i, j) for i in range(18) for j in range(i) if pairs == "all" or i - j == 1]
        i, j = torch.tensor(index).T
        values.append(net(images[i], images[j]).double().mean().item())
    score = metrics.lpips_diversity(samples, net, pairs)
    assert score.value == pytest.approx(np.mean(values), rel=1e-5)
    assert score.std == pytest.approx(np.std(values), rel=1e-4)
    assert metrics.lpips_diversity(iter(samples), net, pairs).value == score.value
    assert metrics.lpips_diversity(samples[:, :1].repeat(1, 4, 1, 1, 1), net, pairs).value == pytest.approx(
        0, abs=1e-12
    )
    assert pairs in score.note and "18 samples for each of 2 inputs" in score.note


def test_lpips_refuses():
    net = random_lpips()
    for images in (floats(1, 3, 28, 28), floats(3, 32, 32), floats(1, 2, 32, 32), random_images(1)):
        with pytest.raises(MetricError) as error:
            net.embed(images)
        check_sentence(error, "at least 31")
    for samples, part in (
        (floats(2, 1, 3, 32, 32), "k >= 2"),
        ([], "at least one"),
        (floats(1, 2, 3, 32, 32) * float("nan"), "NaN"),
    ):
        with pytest.raises(MetricError) as error:
            metrics.lpips_diversity(samples, net)
        check_sentence(error, part)
    with pytest.raises(MetricError):
        metrics.lpips_diversity(floats(1, 2, 3, 32, 32), net, pairs="some")


# ----- What is printed


def test_score_says_what_it_is():
    facts = {"net": "Inception 2015-12-05", "weights": "ab12cd34", "resize": "torch bilinear"}
    score = Score("FID", 23.4123, dims=768, n_real=500, n_fake=400, floor=12.1, floor_n=400, **facts)
    assert str(score) == (
        "FID-768 23.41 (fake 400 vs real 500; real-real floor 12.1 at n=400; "
        "Inception 2015-12-05 ab12cd34, torch bilinear 299)"
    )
    score = Score("LPIPS diversity", 0.12345, 0.0123, n_fake=20, net="LPIPS v0.1 alex", weights="1+2", note="all pairs")
    assert str(score) == "LPIPS diversity 0.1235 ± 0.012 (fake 20; LPIPS v0.1 alex 1+2; all pairs)"
    assert score.as_dict()["value"] == 0.12345 and score.as_dict()["floor"] is None


# ----- Weights


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def save_inception(path: Path, dims: int) -> dict:
    with torch.device("meta"):
        shapes = metrics.Inception(dims).file_shapes()
    state = random_state(shapes)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return state


def test_a_file_serves_the_dims_it_reaches(tmp_path, no_cache):
    save_inception(tmp_path / "pt_inception-2015-12-05-part.pth", 192)
    for dims in (64, 192):
        net = metrics.load_inception(dims, tmp_path, download=False)
        assert inception_features(random_images(1), net) == pytest.approx(
            inception_features(random_images(1), metrics.Inception(dims).load(random_state(net.file_shapes()))),
            rel=1e-6,
        )
        assert len(net.weights) == 8
    with pytest.raises(MetricError) as error:
        metrics.load_inception(768, tmp_path, download=False)
    check_sentence(error, "part.pth ends before Mixed_5b", "768-d", metrics.INCEPTION.url, str(tmp_path))


def test_the_cache_is_searched_after_the_folder(tmp_path, no_cache):
    save_inception(no_cache / "weights-inception-2015-12-05-full.pth", 192)
    assert metrics.load_inception(192, download=False).dims == 192
    (tmp_path / "mine").mkdir()
    save_inception(tmp_path / "mine" / "pt_inception-2015-12-05-part.pth", 64)
    from_cache, from_mine = (metrics.load_inception(dims, tmp_path / "mine", download=False) for dims in (192, 64))
    assert from_cache.weights != from_mine.weights


def test_no_weights_at_all(tmp_path, no_cache, monkeypatch):
    for load, url in ((metrics.load_inception, metrics.INCEPTION.url), (metrics.load_lpips, metrics.ALEXNET.url)):
        with pytest.raises(MetricError) as error:
            load(download=False)
        check_sentence(error, url, str(no_cache))
    with pytest.raises(MetricError) as error:
        metrics.load_inception(64, tmp_path / "absent", download=False)
    check_sentence(error, "absent", "--weights-dir")
    closed = dataclasses.replace(metrics.INCEPTION, url="http://127.0.0.1:9/weights.pth")
    monkeypatch.setattr(metrics, "INCEPTION", closed)
    with pytest.raises(MetricError) as error:
        metrics.load_inception(64)
    check_sentence(error, closed.url, str(no_cache), "refused")
    assert list(no_cache.iterdir()) == []


class Hostile:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "hostile", "list", "foreign", "shape", "checksum"])
def test_bad_weights_files(kind, tmp_path, no_cache):
    path = tmp_path / "pt_inception-2015-12-05-x.pth"
    if kind == "text":
        path.write_text("<html>not found</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        save_inception(path, 64)
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "hostile":
        path.write_bytes(pickle.dumps({"Conv2d_1a_3x3.conv.weight": Hostile(tmp_path / "mark")}, protocol=2))
    elif kind == "list":
        torch.save([1, 2, 3], path)
    elif kind == "foreign":
        torch.save({"layer.weight": torch.zeros(3)}, path)
    elif kind == "shape":
        torch.save(save_inception(path, 64) | {"Conv2d_2a_3x3.bn.bias": torch.zeros(33)}, path)
    else:
        path = tmp_path / "pt_inception-2015-12-05-12345678.pth"
        save_inception(path, 64)
    with pytest.raises(MetricError) as error:
        metrics.load_inception(64, tmp_path, download=False)
    check_sentence(error, str(path), "does not hold" if kind in ("foreign", "shape") else "damaged")
    assert not (tmp_path / "mark").exists()


def test_heads_of_another_version_are_refused(tmp_path, no_cache):
    alexnet = {f"features.{i}.weight": torch.zeros(o, c, k, k) for i, c, o, k, *_ in metrics.ALEXNET_CONVS}
    alexnet |= {f"features.{i}.bias": torch.zeros(o) for i, _, o, *_ in metrics.ALEXNET_CONVS}
    heads = {f"lin{i}.model.1.weight": torch.ones(1, o, 1, 1) for i, (_, _, o, *_) in enumerate(metrics.ALEXNET_CONVS)}
    torch.save(alexnet, tmp_path / "alexnet.pth")
    torch.save(heads, tmp_path / "alex.pth")
    assert len(metrics.load_lpips(tmp_path, download=False).weights) == 17
    heads["lin3.model.1.weight"][0, 5] = -1
    torch.save(heads, tmp_path / "alex.pth")
    with pytest.raises(MetricError) as error:
        metrics.load_lpips(tmp_path, download=False)
    check_sentence(error, "negative")


def test_download(tmp_path, no_cache, monkeypatch):
    save_inception(tmp_path / "served" / "weights.pth", 64)
    sha = metrics._read_weights(tmp_path / "served" / "weights.pth")[1]

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/weights.pth"
        for bad, part in (("-00000000.pth", "checksum"), (f"-{sha}.pth", "404")):
            file = dataclasses.replace(
                metrics.INCEPTION,
                name=f"pt_inception-2015-12-05{bad}",
                url=url if part == "checksum" else url + "x",
            )
            monkeypatch.setattr(metrics, "INCEPTION", file)
            with pytest.raises(MetricError) as error:
                metrics.load_inception(64)
            check_sentence(error, part, file.url)
            assert list(no_cache.iterdir()) == []
        monkeypatch.setattr(metrics, "INCEPTION", dataclasses.replace(file, url=url))
        assert metrics.load_inception(64).weights == sha
        assert [path.name for path in no_cache.iterdir()] == [f"pt_inception-2015-12-05-{sha}.pth"]
        server.shutdown()
    assert metrics.load_inception(64).weights == sha  # the server is gone: from the cache


@pytest.mark.parametrize("options", [{"dims": 100}, {"dims": 64, "resize": "bicubic"}])
def test_load_inception_refuses_other_options(options):
    with pytest.raises(MetricError) as error:
        metrics.load_inception(download=False, **options)
    check_sentence(error, str(list(options.values())[-1]))


# ----- The run's log

FIGURES = {"Losses": ["loss_D", "loss_G"], "Diversity": ["lpips"]}


def write_rows(log: RunLog, steps: range) -> None:
    for step in steps:
        extra = {"lpips": 0.1 * step} if step % 4 == 0 else {}
        log.write(step, step // 5, loss_D=1 / step, loss_G=torch.tensor(2.0 / step), images_per_s=100, **extra)


def test_log_rows_and_columns(tmp_path):
    log = RunLog(tmp_path, FIGURES)
    log.write(1, 0, loss_G=float("nan"), loss_D=1 / 3, time=2)
    assert (tmp_path / "log.csv").read_text() == "step,epoch,loss_D,loss_G,lpips,time\n1,0,0.333333,nan,,2\n"
    with pytest.raises(MetricError) as error:
        log.write(2, 0, loss_X=1)
    check_sentence(error, "loss_X")


@pytest.mark.parametrize("torn", ["", "8,1,0.1", "7,1,0.142857,0.285714,,100"])
def test_a_resumed_log_equals_the_undisturbed_one(tmp_path, torn):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_rows(RunLog(tmp_path / "a", FIGURES), range(1, 13))
    write_rows(RunLog(tmp_path / "b", FIGURES), range(1, 9))
    with open(tmp_path / "b" / "log.csv", "a") as file:
        file.write(torn)
    write_rows(RunLog(tmp_path / "b", FIGURES, start_step=6), range(7, 13))
    assert (tmp_path / "b" / "log.csv").read_bytes() == (tmp_path / "a" / "log.csv").read_bytes()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["log.csv"]


def test_a_new_log_replaces_an_old_one(tmp_path):
    write_rows(RunLog(tmp_path, FIGURES), range(1, 4))
    RunLog(tmp_path, {"Other": ["x"]}).write(1, 0, x=1)
    assert (tmp_path / "log.csv").read_text() == "step,epoch,x\n1,0,1\n"


@pytest.mark.parametrize("content", ["", "step,epo", "step,epoch,loss_D,loss_G,lpips\n"])
def test_resuming_a_log_without_rows(tmp_path, content):
    (tmp_path / "log.csv").write_text(content)
    log = RunLog(tmp_path, FIGURES, start_step=5)
    log.plot()
    log.write(6, 0, loss_D=1)
    assert (tmp_path / "log.csv").read_text() == "step,epoch,loss_D,loss_G,lpips\n6,0,1,,\n"


def test_curves_survive_nan_infinity_and_empty_columns(tmp_path, monkeypatch):
    smooth, drawn = metrics._smooth, []
    monkeypatch.setattr(metrics, "_smooth", lambda values: drawn.append(values) or smooth(values))
    log = RunLog(tmp_path, FIGURES)
    log.plot()  # nothing written yet: nothing to draw
    assert not (tmp_path / "curves.png").exists()
    write_rows(log, range(1, 40))
    log.write(40, 9, loss_D=float("nan"), loss_G=float("inf"))
    log.plot()
    assert [len(values) for values in drawn] == [39, 39, 9] and all(np.isfinite(values).all() for values in drawn)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "log.csv"]


def test_smooth():
    assert metrics._smooth(np.full(50, 3.0)) == pytest.approx([3] * 50)
    assert metrics._smooth(np.array([1.0, 5.0])) == [1, 5]  # few values are left alone
    noise = np.random.default_rng(0).normal(size=1000)
    assert np.std(metrics._smooth(noise)[100:]) < 0.2


def test_log_in_a_bad_folder(tmp_path):
    with pytest.raises(MetricError) as error:
        RunLog(tmp_path / "absent", FIGURES).write(1, 0, loss_D=1)
    check_sentence(error, "absent", "cannot be written")
    (tmp_path / "file").write_text("")
    with pytest.raises(MetricError) as error:
        RunLog(tmp_path / "file", FIGURES)
    check_sentence(error, "file")
    write_rows(RunLog(tmp_path, FIGURES), range(1, 3))
    with pytest.raises(MetricError) as error:
        RunLog(tmp_path, {"Other": ["another"]}, start_step=2)
    check_sentence(error, "another")
    (tmp_path / "log.csv").write_text("step,epoch\nx,1\n")
    with pytest.raises(MetricError) as error:
        RunLog(tmp_path, {}, start_step=2)
    check_sentence(error, "log.csv")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without room")
def test_log_on_a_full_disk(tmp_path):
    log = RunLog(tmp_path, FIGURES)
    (tmp_path / "log.csv").symlink_to("/dev/full")
    with pytest.raises(MetricError) as error:
        log.write(1, 0, loss_D=1)
    check_sentence(error, "No space")


# ----- With the real weights

real_weights = pytest.mark.skipif(
    not (SHARED / "weights" / "pt_inception-2015-12-05-to-mixed6e.pth").exists()
    or not (SHARED / "data" / "lpips_examples").exists(),
    reason="the real weights and the LPIPS example images are not on this machine",
)


def example(name: str) -> torch.Tensor:
    from PIL import Image

    image = Image.open(SHARED / "data" / "lpips_examples" / f"ex_{name}.png").convert("RGB")
    return torch.tensor(np.array(image)).permute(2, 0, 1)[None]


@real_weights
def test_lpips_of_the_authors_examples():
    net = metrics.load_lpips(SHARED / "weights", download=False)
    ref, p0, p1 = (example(name).float() / 127.5 - 1 for name in ("ref", "p0", "p1"))
    assert net(ref, p0).item() == pytest.approx(0.7219, abs=5e-5)
    assert net(ref, p1).item() == pytest.approx(0.1376, abs=5e-5)


@real_weights
def test_features_of_the_partial_file(no_cache):
    expected = {  # mean and first three features of ex_ref.png as pytorch-fid 0.3.0 gives them
        64: (1.613909, 1.768631, 0.998148, 2.331962),
        192: (2.089009, 2.982762, 0.2027427, 2.302341),
        768: (0.04716338, 0.1798234, 0.07221024, 0.0521226),
    }
    for dims, values in expected.items():
        features = inception_features(example("ref"), metrics.load_inception(dims, SHARED / "weights", download=False))
        assert [features.mean(), *features[0, :3]] == pytest.approx(values, rel=1e-5)
    with pytest.raises(MetricError) as error:
        metrics.load_inception(2048, SHARED / "weights", download=False)
    check_sentence(error, "ends before Mixed_7a", "Inception Score", metrics.INCEPTION.url)
