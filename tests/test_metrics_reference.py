"""metrics.py against pytorch-fid, torch-fidelity, clean-fid, torchmetrics, lpips and prdc: same images, same weights. A
check for development, skipped where they are not installed: `pip install pytorch-fid torch-fidelity clean-fid
torchmetrics lpips prdc scikit-learn`."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_metrics import SHARED, floats, random_inception, random_state, real_weights

import metrics
from metrics import frechet_distance, inception_features

DIMS = (64, 192, 768, 2048)
pytestmark = pytest.mark.filterwarnings("ignore")  # those of the references


def photos(n: int, seed: int) -> torch.Tensor:
    """uint8 (n, 3, 64, 64): smooth random pictures, lighter for odd seeds, so that two sets differ."""
    coarse = floats(n, 3, 8, 8, seed=seed)
    fine = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic")
    return ((fine * 0.8 + 0.3 * (seed % 2) + 1) * 127.5).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def pytorch_fid_net(monkeypatch):
    """(state dict, dims) -> pytorch-fid's network with these weights instead of downloaded ones."""
    inception = pytest.importorskip("pytorch_fid.inception")

    def build(state, dims):
        monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *args, **options: {})
        load = torch.nn.Module.load_state_dict
        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.Module, "load_state_dict", lambda self, _: load(self, state, strict=False))
            return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]]).eval()

    return build


def pytorch_fid_features(net, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([net(batch.float() / 255)[0].mean(dim=(2, 3)) for batch in images.split(8)]).numpy()


@pytest.mark.parametrize("dims", DIMS)
def test_inception_is_that_of_pytorch_fid(dims, pytorch_fid_net):
    net = random_inception(dims)
    reference = pytorch_fid_net(random_state(net.file_shapes()), dims)
    a, b = photos(6, 0), photos(6, 1)
    ours, theirs = ([inception_features(x, net) for x in (a, b)], [pytorch_fid_features(reference, x) for x in (a, b)])
    for x, y in zip(ours, theirs, strict=True):
        assert np.abs(x - y).max() < 2e-6 * np.abs(y).max()
    assert frechet_distance(*ours) == pytest.approx(frechet_distance(*theirs), rel=1e-6)


@real_weights
@pytest.mark.parametrize("dims", DIMS[:3])
def test_fid_with_the_real_weights_is_that_of_pytorch_fid(dims, pytorch_fid_net):
    score = pytest.importorskip("pytorch_fid.fid_score")
    net = metrics.load_inception(dims, SHARED / "weights", download=False)
    file = next((SHARED / "weights").glob("pt_inception*.pth"))
    reference = pytorch_fid_net(torch.load(file, weights_only=True), dims)
    a, b = photos(70, 0), photos(70, 1)
    theirs = [pytorch_fid_features(reference, x) for x in (a, b)]
    assert metrics.fid(a, b, net).value == pytest.approx(frechet_distance(*theirs), rel=1e-6)
    if dims == 64:  # with more dims than images the matrix square root of pytorch-fid is itself off by more than this
        statistics = [part for x in theirs for part in (x.mean(axis=0), np.cov(x, rowvar=False))]
        assert metrics.fid(a, b, net).value == pytest.approx(score.calculate_frechet_distance(*statistics), rel=1e-6)


def test_tf1_protocol_inception_score_and_kid_are_those_of_torch_fidelity(tmp_path):
    extractors = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    net = random_inception(2048, "tf1 bilinear")
    state = random_state(net.file_shapes())
    counters = {
        key.replace("bn.weight", "bn.num_batches_tracked"): torch.tensor(0) for key in state if "bn.weight" in key
    }
    torch.save(state | counters, tmp_path / "weights.pth")
    names = ["64", "192", "768", "2048", "logits_unbiased"]
    reference = extractors.FeatureExtractorInceptionV3("reference", names, str(tmp_path / "weights.pth"))
    a, b = photos(10, 0), photos(10, 1)
    with torch.inference_mode():
        theirs = [dict(zip(names, reference(x), strict=True)) for x in (a, b)]
    for dims in DIMS:
        ours = [inception_features(x, random_inception(dims, "tf1 bilinear")) for x in (a, b)]
        expected = [x[str(dims)].numpy() for x in theirs]
        assert frechet_distance(*ours) == pytest.approx(frechet_distance(*expected), rel=1e-6)

    expected = isc_features_to_metric(theirs[0]["logits_unbiased"], splits=2, shuffle=False)
    score = metrics.inception_score(a, net, splits=2)
    assert score.value == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert score.std == pytest.approx(expected["inception_score_std"], rel=1e-5)

    # In float64, for in float32 its small difference of large sums keeps four digits; and one subset of all images.
    doubles = [x["2048"].double() for x in theirs]
    expected = kid_features_to_metric(*doubles, kid_subsets=1, kid_subset_size=10, rng_seed=0, verbose=False)
    assert metrics.kid(a, b, net).value == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-6)

    x, y = (np.random.default_rng(seed).normal(size=(400, 32)) * (1 + seed) for seed in (0, 1))
    statistics = [{"mu": z.mean(axis=0), "sigma": np.cov(z, rowvar=False)} for z in (x, y)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [64, (40, 100)])
def test_lpips_is_that_of_lpips(size):
    lpips = pytest.importorskip("lpips")
    pytest.importorskip("torchvision")
    heads_file = Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth"
    alexnet_file = SHARED / "weights" / "alexnet_features.pth"
    if alexnet_file.exists():
        alexnet = torch.load(alexnet_file, map_location="cpu", weights_only=True)
    else:
        generator = torch.Generator().manual_seed(0)
        shapes = [(i, torch.Size((c_out, c_in, k, k))) for i, c_in, c_out, k, *_ in metrics.ALEXNET_CONVS]
        alexnet = {
            f"features.{i}.weight": torch.randn(s, generator=generator) / s[1:].numel() ** 0.5 for i, s in shapes
        }
        alexnet |= {f"features.{i}.bias": torch.zeros(s[0]) for i, s in shapes}
    net = metrics.LPIPS().load(alexnet, torch.load(heads_file, map_location="cpu", weights_only=True))
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    slices = [
        reference.net.slice1,
        reference.net.slice2,
        reference.net.slice3,
        reference.net.slice4,
        reference.net.slice5,
    ]
    for module in slices:
        module.load_state_dict({key: alexnet[f"features.{key}"] for key in module.state_dict()})
    h, w = (size, size) if isinstance(size, int) else size
    x, y = floats(12, 3, h, w), floats(12, 3, h, w, seed=1)
    with torch.inference_mode():
        expected = reference(x, y).flatten()
        torch.testing.assert_close(net(x, y), expected, rtol=1e-6, atol=0)
        pairs = [reference(x[i : i + 1], x[j : j + 1]).item() for i in range(12) for j in range(i)]
    assert metrics.lpips_diversity(x[None], net).value == pytest.approx(np.mean(pairs), rel=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (28, 28), (200, 431)])
def test_pil_bicubic_is_the_resize_of_clean_fid(size):
    resize = pytest.importorskip("cleanfid.resize").make_resizer("PIL", False, "bicubic", (299, 299))
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    height, width = (metrics._pil_rows(side, torch.device("cpu")) for side in size)
    ours = (height @ image.float() @ width.T).clamp(0, 255)
    assert np.abs(ours.permute(1, 2, 0).numpy() - resize(image.permute(1, 2, 0).numpy())).max() < 2e-4  # of 255


def test_precision_recall_density_coverage_are_those_of_prdc_and_torch_fidelity():
    reference = pytest.importorskip("prdc")
    x, y = (np.random.default_rng(seed).normal(size=(n, 16)) * (1 + seed / 5) for seed, n in ((0, 300), (1, 250)))
    for k in (3, 5):
        expected = reference.compute_prdc(x, y, k)
        assert metrics.prdc(x, y, k, k) == pytest.approx(expected, rel=1e-12)
    prc = pytest.importorskip("torch_fidelity.metric_prc").prc_features_to_metric
    expected = prc(*(torch.from_numpy(rows) for rows in (y, x)), prc_neighborhood=3, verbose=False)
    ours = metrics.prdc(x, y)
    assert (ours["precision"], ours["recall"]) == pytest.approx((expected["precision"], expected["recall"]), rel=1e-6)


def test_kid_and_frechet_distance_are_those_of_torchmetrics():
    image = pytest.importorskip("torchmetrics.image")
    x, y = (np.random.default_rng(seed).normal(size=(200, 24)) * (1 + seed / 5) for seed in (0, 1))
    kernel = pytest.importorskip("torchmetrics.image.kid").poly_mmd
    stub = SimpleNamespace(name="", weights="", dims=24, resize="", domain="", precision="fp32")
    expected = kernel(*(torch.from_numpy(rows) for rows in (x, y)), degree=3, gamma=None, coef=1.0).item()
    assert metrics.kid(x, y, stub).value == pytest.approx(expected, rel=1e-6)

    class Given(torch.nn.Module):
        num_features = 24

        def forward(self, rows):
            return rows

    fid = image.FrechetInceptionDistance(Given(), reset_real_features=False).set_dtype(torch.float64)
    fid.update(torch.from_numpy(x), real=True)
    fid.update(torch.from_numpy(y), real=False)
    assert frechet_distance(x, y) == pytest.approx(fid.compute().item(), rel=1e-6)
