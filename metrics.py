"""Everything that is measured: FID, KID, Inception Score, LPIPS, reconstruction error, and the log of a training run.

    net = load_inception(dims=768)                     # before training: fails here if its weights cannot be had
    print(fid(real, fake, net))                        # uint8 images (N, C, H, W), or their features (N, dims)
    print(lpips_diversity(samples, load_lpips()))      # k float images in [-1, 1] for each of some inputs
    judges = load_judges(0, train, test, "", "data")   # 0: a classifier trained on the set itself, "in-domain FID"
    print(*judge(fake, test, train, judges), sep="\n")
    log = RunLog(folder, {"Losses": ["loss_D", "loss_G"]}); log.write(step, epoch, loss_D=1.2, loss_G=3.4); log.plot()

A score depends on choices that a bare number hides: the feature layer, how many images, the weights, the resize. Every
function here returns a `Score`, which prints them, and beside an FID the *real-real floor*: what real images score
against other real images. A model at the floor cannot be told from the data; with n below dims most of an FID is floor.

The network is the Inception of 2015-12-05 that FID was defined with (arXiv 1706.08500), not torchvision's Inception.
Two ways to bring an image to its 299 x 299 input are in use. Their scores differ; never compare one with the other:
    "torch bilinear"   pixel centres aligned, range 2x/255 - 1        pytorch-fid; most papers after 2018
    "tf1 bilinear"     top-left corners aligned, (x - 128) / 128      the first code of FID and IS; torch-fidelity
It knows photos. For sets with labels or attributes a small classifier trained on them gives the same scores, named
"in-domain ...": sharper on 28-px digits, and comparable only where its `weights` are the same.
"""

import argparse
import hashlib
import io
import json
import os
import re
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from tqdm import tqdm


class MetricError(ValueError):
    """Bad input to a metric, or weights or a log that cannot be read or written: one sentence that says what to do."""


@dataclass
class Score:
    """A value with all that is needed to compare it honestly: `print` gives one line, `as_dict` what goes into JSON."""

    metric: str
    value: float
    std: float | None = None  # of what stands in `note`
    dims: int | None = None  # width of the feature layer
    n_real: int | None = None
    n_fake: int | None = None
    net: str = ""
    weights: str = ""  # first 8 hex digits of the sha256 of the weights file; of a classifier, of the weights
    resize: str = ""
    floor: float | None = None  # the same metric, real images against other real images
    floor_n: int | None = None
    note: str = ""

    def __str__(self) -> str:
        name = self.metric if self.dims is None else f"{self.metric}-{self.dims}"
        spread = "" if self.std is None else f" ± {self.std:.2g}"
        sets = [f"{side} {n}" for side, n in (("fake", self.n_fake), ("real", self.n_real)) if n is not None]
        facts = [
            " vs ".join(sets),
            "" if self.floor is None else f"real-real floor {self.floor:.4g} at n={self.floor_n}",
            f"{self.net} {self.weights}" + (f", {self.resize} 299" if self.resize else ""),
            self.note,
        ]
        return f"{name} {self.value:.4g}{spread} ({'; '.join(fact for fact in facts if fact.strip())})"

    def as_dict(self) -> dict:
        return asdict(self)


# ----- Weights: from the user's folder, else from torch's hub cache, else downloaded into that cache


@dataclass(frozen=True)
class WeightsFile:
    what: str
    url: str
    name: str  # of the download; the digits before .pth begin its sha256
    patterns: tuple[str, ...]  # what it, or the part of it that is needed, may be called


INCEPTION = WeightsFile(
    "the Inception of 2015-12-05",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
    ("*inception-2015-12-05*.pth",),
)
ALEXNET = WeightsFile(
    "the AlexNet of LPIPS",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "alexnet-owt-7be5be79.pth",
    ("alexnet*.pth",),
)
LPIPS_HEADS = WeightsFile(
    "the linear heads of LPIPS v0.1",
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
    "lpips_alex_v0.1-df73285e.pth",
    ("lpips_alex*.pth", "alex.pth"),
)


def _find_weights(
    file: WeightsFile, shapes: dict[str, tuple], purpose: str, weights_dir: str | Path | None, download: bool
) -> tuple[dict, str]:
    """-> the tensors of a file that has all those named in `shapes`, and the first 8 hex digits of its sha256."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    if weights_dir is not None and not Path(weights_dir).is_dir():
        raise MetricError(f"--weights-dir {weights_dir} is not a folder.")
    lacking = ""
    for folder in [cache] if weights_dir is None else [Path(weights_dir), cache]:
        for path in [path for pattern in file.patterns for path in sorted(folder.glob(pattern))]:
            state, sha = _read_weights(path)
            missing = [key for key in shapes if key not in state]
            if len(missing) == len(shapes) or any(state[k].shape != shapes[k] for k in shapes if k not in missing):
                raise MetricError(f"{path} does not hold {file.what}: move it away or rename it.")
            if not missing:
                return state, sha
            lacking = f"{path} ends before {missing[0].split('.')[0]} and so cannot serve {purpose}; "
    if download:
        return _read_weights(_download(file, cache, lacking))
    lacking, where = lacking or f"no weights for {purpose}: ", weights_dir or cache
    raise MetricError(f"{lacking}fetch {file.what} from {file.url} and put it into {where}.")


def _read_weights(path: Path) -> tuple[dict, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MetricError(f"{path} cannot be read ({error.strerror}).") from error
    sha = hashlib.sha256(content).hexdigest()[:8]
    named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    try:  # weights_only: tensors and plain types, so that a hostile file cannot run code
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # a dozen types, depending on where the file is broken
        state = None
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or (named and named[1] != sha):
        raise MetricError(f"{path} is damaged or is no file of PyTorch weights: delete it and fetch it again.")
    return state, sha


def _download(file: WeightsFile, folder: Path, lacking: str) -> Path:
    part, digest = folder / f".{file.name}.{os.getpid()}", hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(file.url, timeout=20) as response, open(part, "wb") as out:  # seconds
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm.wrapattr(response, "read", total=size, desc=file.name) as source:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    out.write(chunk)
        if f"-{digest.hexdigest()[:8]}.pth" not in file.name:
            raise OSError("what arrived has another checksum")
        os.replace(part, folder / file.name)
        return folder / file.name
    except (OSError, HTTPException) as error:
        reason = str(error).strip("<>")
        raise MetricError(
            f"{lacking}{file.what} could not be downloaded ({reason}): "
            f"fetch {file.url} and put it into {folder}, or into a folder given as --weights-dir."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


# On CUDA, convolutions are by default rounded to TF32's 10 bits of mantissa, which moves scores. Used as a decorator.
true_fp32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


# ----- The Inception of 2015-12-05. The same function as the published network, arranged to run twice as fast on a CPU:
# BatchNorm is folded into the convolutions, 1x1 convolutions that read the same input are one, channels come last.


class Conv(nn.Conv2d):
    """Convolution, BatchNorm (eps 0.001, folded in when the weights are read) and ReLU.

    layers: names in the weights file and output channels; layers that read the same input become one convolution.
    """

    def __init__(self, c_in: int, layers: dict[str, int], kernel=1, stride=1, padding=0):
        super().__init__(c_in, sum(layers.values()), kernel, stride, padding)
        self.layers = layers

    def file_shapes(self) -> dict[str, tuple]:
        shapes = {}
        for name, c_out in self.layers.items():
            shapes[f"{name}.conv.weight"] = (c_out, self.in_channels, *self.kernel_size)
            shapes |= {f"{name}.bn.{key}": (c_out,) for key in ("weight", "bias", "running_mean", "running_var")}
        return shapes

    def load(self, state: dict) -> None:
        weights, biases = [], []
        for name in self.layers:
            weight, gamma = state[f"{name}.conv.weight"].double(), state[f"{name}.bn.weight"].double()
            scale = gamma / (state[f"{name}.bn.running_var"].double() + 1e-3).sqrt()
            weights.append(weight * scale[:, None, None, None])
            biases.append(state[f"{name}.bn.bias"] - state[f"{name}.bn.running_mean"] * scale)
        self.weight = nn.Parameter(torch.cat(weights).float().contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.cat(biases).float())

    def forward(self, x):
        return F.relu_(super().forward(x))


ROW, COLUMN = (1, 7), (7, 1)


def chain(block: str, c_in: int, halve: bool = False, **layers: tuple) -> nn.Sequential:
    """Layers one after another, name=(output channels, kernel). halve: the last has stride 2 and no padding."""
    convs = []
    for name, (c_out, kernel) in layers.items():
        last = halve and name == list(layers)[-1]
        convs.append(Conv(c_in, {block + name: c_out}, kernel, 2 if last else 1, 0 if last else "same"))
        c_in = c_out
    return nn.Sequential(*convs)


class Heads(nn.Module):
    """The 1x1 convolutions with which the branches of a block begin, as one; the last is the pool branch, complete."""

    def __init__(self, block: str, c_in: int, **layers: int):
        super().__init__()
        self.conv = Conv(c_in, {block + name: c_out for name, c_out in layers.items()})

    def forward(self, x):
        x = F.conv2d(x, self.conv.weight, self.conv.bias)
        *branches, pool = x.split(list(self.conv.layers.values()), dim=1)
        # The network pools, then convolves. A 1x1 convolution commutes with an average pool that does not count its
        # padding, bias included (the average of a constant is that constant); ReLU does not commute and comes last.
        pool = F.avg_pool2d(pool, 3, stride=1, padding=1, count_include_pad=False)
        return [F.relu(branch) for branch in (*branches, pool)]


class MaxPoolHeads(Heads):
    """The last block has a max pool in place of the average pool: a slip of 2015 that every FID since includes. It does
    not commute with a convolution, so here the pool comes first."""

    def forward(self, x):
        *widths, c_pool = self.conv.layers.values()
        weight, pool_weight = self.conv.weight.split([sum(widths), c_pool])
        bias, pool_bias = self.conv.bias.split([sum(widths), c_pool])
        branches = F.relu_(F.conv2d(x, weight, bias)).split(widths, dim=1)
        return [*branches, F.relu_(F.conv2d(F.max_pool2d(x, 3, stride=1, padding=1), pool_weight, pool_bias))]


class BlockA(nn.Module):  # (B, c_in, 35, 35) -> (B, 224 + c_pool, 35, 35)
    def __init__(self, name: str, c_in: int, c_pool: int):
        super().__init__()
        self.heads = Heads(name, c_in, branch1x1=64, branch5x5_1=48, branch3x3dbl_1=64, branch_pool=c_pool)
        self.b5 = chain(name, 48, branch5x5_2=(64, 5))
        self.b3 = chain(name, 64, branch3x3dbl_2=(96, 3), branch3x3dbl_3=(96, 3))

    def forward(self, x):
        b1, b5, b3, pool = self.heads(x)
        return torch.cat([b1, self.b5(b5), self.b3(b3), pool], dim=1)


class BlockB(nn.Module):  # (B, 288, 35, 35) -> (B, 768, 17, 17)
    def __init__(self, name: str):
        super().__init__()
        self.b3 = chain(name, 288, halve=True, branch3x3=(384, 3))
        layers = {"branch3x3dbl_1": (64, 1), "branch3x3dbl_2": (96, 3), "branch3x3dbl_3": (96, 3)}
        self.b3dbl = chain(name, 288, halve=True, **layers)

    def forward(self, x):
        return torch.cat([self.b3(x), self.b3dbl(x), F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockC(nn.Module):  # (B, 768, 17, 17), 7x7 convolutions split into 1x7 and 7x1
    def __init__(self, name: str, c: int):
        super().__init__()
        self.heads = Heads(name, 768, branch1x1=192, branch7x7_1=c, branch7x7dbl_1=c, branch_pool=192)
        self.b7 = chain(name, c, branch7x7_2=(c, ROW), branch7x7_3=(192, COLUMN))
        layers = {"branch7x7dbl_2": (c, COLUMN), "branch7x7dbl_3": (c, ROW), "branch7x7dbl_4": (c, COLUMN)}
        self.b7dbl = chain(name, c, **layers, branch7x7dbl_5=(192, ROW))

    def forward(self, x):
        b1, b7, b7dbl, pool = self.heads(x)
        return torch.cat([b1, self.b7(b7), self.b7dbl(b7dbl), pool], dim=1)


class BlockD(nn.Module):  # (B, 768, 17, 17) -> (B, 1280, 8, 8)
    def __init__(self, name: str):
        super().__init__()
        self.heads = Conv(768, {f"{name}branch3x3_1": 192, f"{name}branch7x7x3_1": 192})
        self.b3 = chain(name, 192, halve=True, branch3x3_2=(320, 3))
        layers = {"branch7x7x3_2": (192, ROW), "branch7x7x3_3": (192, COLUMN), "branch7x7x3_4": (192, 3)}
        self.b7 = chain(name, 192, halve=True, **layers)

    def forward(self, x):
        b3, b7 = self.heads(x).chunk(2, dim=1)
        return torch.cat([self.b3(b3), self.b7(b7), F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockE(nn.Module):  # (B, c_in, 8, 8) -> (B, 2048, 8, 8)
    def __init__(self, name: str, c_in: int, heads: type[Heads] = Heads):
        super().__init__()
        self.heads = heads(name, c_in, branch1x1=320, branch3x3_1=384, branch3x3dbl_1=448, branch_pool=192)
        self.b3_row = chain(name, 384, branch3x3_2a=(384, (1, 3)))
        self.b3_column = chain(name, 384, branch3x3_2b=(384, (3, 1)))
        self.b3dbl = chain(name, 448, branch3x3dbl_2=(384, 3))
        self.b3dbl_row = chain(name, 384, branch3x3dbl_3a=(384, (1, 3)))
        self.b3dbl_column = chain(name, 384, branch3x3dbl_3b=(384, (3, 1)))

    def forward(self, x):
        b1, b3, b3dbl, pool = self.heads(x)
        b3dbl = self.b3dbl(b3dbl)
        b3dbl = [self.b3dbl_row(b3dbl), self.b3dbl_column(b3dbl)]
        return torch.cat([b1, self.b3_row(b3), self.b3_column(b3), *b3dbl, pool], dim=1)


def _tf1_rows(size: int, device: torch.device) -> torch.Tensor:
    """-> (299, size): one axis of TensorFlow 1's bilinear resize as a matrix; output pixel i reads at i size / 299."""
    position = torch.arange(299, dtype=torch.float32) * (size / 299)
    low = position.long()
    matrix, pixel = torch.zeros(299, size), torch.arange(299)
    matrix[pixel, low] = 1 - (position - low)
    matrix[pixel, (low + 1).clamp(max=size - 1)] += position - low  # past the last pixel: the last pixel again
    return matrix.to(device)


class Inception(nn.Module):
    """uint8 images (B, 1 or 3, H, W) -> features (B, dims), averaged over space: 64 after the first max pool, 192 after
    the second, 768 after Mixed_6e, 2048 after Mixed_7c. Blocks behind the asked layer are not built."""

    name, domain, batch_size = "Inception 2015-12-05", "", 16  # on a CPU 8 to 16 images at a time are fastest

    def __init__(self, dims: int = 2048, resize: str = "torch bilinear"):
        super().__init__()
        self.dims, self.resize, self.weights = dims, resize, ""
        body = [
            Conv(3, {"Conv2d_1a_3x3": 32}, 3, stride=2),  # 299 -> 149
            Conv(32, {"Conv2d_2a_3x3": 32}, 3),  # 147
            Conv(32, {"Conv2d_2b_3x3": 64}, 3, padding=1),
            nn.MaxPool2d(3, stride=2),  # 73
        ]
        if dims >= 192:
            body += [Conv(64, {"Conv2d_3b_1x1": 80}), Conv(80, {"Conv2d_4a_3x3": 192}, 3)]  # 71
            body += [nn.MaxPool2d(3, stride=2)]  # 35
        if dims >= 768:
            body += [BlockA("Mixed_5b.", 192, 32), BlockA("Mixed_5c.", 256, 64), BlockA("Mixed_5d.", 288, 64)]
            body += [BlockB("Mixed_6a."), BlockC("Mixed_6b.", 128), BlockC("Mixed_6c.", 160)]
            body += [BlockC("Mixed_6d.", 160), BlockC("Mixed_6e.", 192)]
        if dims >= 2048:
            body += [BlockD("Mixed_7a."), BlockE("Mixed_7b.", 1280), BlockE("Mixed_7c.", 2048, heads=MaxPoolHeads)]
            self.fc = nn.Linear(2048, 1008)
        self.body = nn.Sequential(*body)

    def convs(self) -> list[Conv]:
        return [module for module in self.modules() if isinstance(module, Conv)]

    def file_shapes(self) -> dict[str, tuple]:
        """-> the keys that this network reads from a weights file in pytorch-fid's format, with their shapes."""
        shapes = {key: shape for conv in self.convs() for key, shape in conv.file_shapes().items()}
        return shapes | ({"fc.weight": (1008, 2048), "fc.bias": (1008,)} if self.dims == 2048 else {})

    def load(self, state: dict) -> "Inception":
        for conv in self.convs():
            conv.load(state)
        if self.dims == 2048:
            self.fc.weight, self.fc.bias = (nn.Parameter(state[key].float()) for key in ("fc.weight", "fc.bias"))
        return self.eval().requires_grad_(False)

    @true_fp32
    def forward(self, images):
        x = images.to(self.body[0].weight.device).float().expand(-1, 3, -1, -1)  # grey: the channel three times
        if self.resize == "tf1 bilinear":
            x = _tf1_rows(x.shape[2], x.device) @ ((x - 128) / 128) @ _tf1_rows(x.shape[3], x.device).T
        else:  # the range first: the image is still small, and the weights of a bilinear resize sum to one
            x = (x * (2 / 255) - 1).contiguous(memory_format=torch.channels_last)
            x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        return self.body(x.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))

    def log_probs(self, features: torch.Tensor) -> torch.Tensor:
        """2048-d features (B, 2048) -> log p(y|x) (B, 1008), float64, of the logits *without* the bias (see IS)."""
        return (features.cpu().double() @ self.fc.weight.cpu().double().T).log_softmax(dim=1)


def load_inception(
    dims: int = 2048,
    weights_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    download: bool = True,
    resize: str = "torch bilinear",
) -> Inception:
    """-> the network with its weights; dims 64, 192, 768 or 2048, the last one also for `inception_score`.

    The file is looked for in `weights_dir`, then in torch's hub cache, else downloaded into that cache; one that ends
    early serves the dims it reaches. MetricError, in one sentence, where none is to be had: call this before training.
    """
    if dims not in (64, 192, 768, 2048):
        raise MetricError(f"Inception has features of 64, 192, 768 or 2048 dims, not {dims}.")
    if resize not in ("torch bilinear", "tf1 bilinear"):
        raise MetricError(f'resize is "torch bilinear" or "tf1 bilinear", not "{resize}".')
    with torch.device("meta"):  # shapes without memory: no time lost on random weights
        net = Inception(dims, resize)
    purpose = f"{dims}-d features" + (" and the Inception Score" if dims == 2048 else "")
    state, net.weights = _find_weights(INCEPTION, net.file_shapes(), purpose, weights_dir, download)
    return net.load(state).to(device)


# ----- The in-domain classifier

CLASSIFIER_FORMAT = 1  # part of the name of a kept classifier: raise it when the network or its training changes
CLASSIFIER_STEPS = (300, 1500)  # of training, at least and at most; between them three epochs


class Classifier(nn.Module):
    """uint8 images (B, channels, H, W) -> features (B, 128), averaged over space; `load_classifier` trains it.

    3x3 convolutions with BatchNorm and ReLU: of stride 2 until the image is 8 px or less (three or more), then one of
    stride 1. Linear in the features: the logits of the classes, or of each attribute (multi_label).
    """

    domain, dims, resize, batch_size = "in-domain ", 128, "", 256

    def __init__(self, channels: int, size: int, classes: list[str], multi_label: bool):
        super().__init__()
        self.classes, self.multi_label = classes, multi_label
        self.name, self.weights, self.accuracy = "", "", 0.0  # accuracy: on the test split; the mean over attributes
        halvings = max(3, (size - 1).bit_length() - 3)
        widths, body = [channels, 32, 64] + [128] * (halvings - 1), []
        for i, (c_in, c_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            conv = nn.Conv2d(c_in, c_out, 3, stride=2 if i < halvings else 1, padding=1, bias=False)
            body += [conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*body).to(memory_format=torch.channels_last)
        self.head = nn.Linear(128, len(classes))

    @true_fp32
    def forward(self, images):
        x = images.to(self.head.weight.device).float() / 127.5 - 1
        return self.body(x.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return features.cpu().double() @ self.head.weight.cpu().double().T + self.head.bias.cpu().double()

    def log_probs(self, features: torch.Tensor) -> torch.Tensor:
        """features (B, 128) -> log p(y|x) (B, K), float64; of classes, not of attributes."""
        return self.logits(features).log_softmax(dim=1)

    def predict(self, images, batch_size: int = 256) -> np.ndarray:
        """uint8 images (N, C, H, W), or their features -> int64: classes (N,), or 0 and 1 for attributes (N, K)."""
        features = images if images.ndim == 2 else inception_features(images, self, batch_size)
        logits = self.logits(torch.as_tensor(features))
        return ((logits > 0).long() if self.multi_label else logits.argmax(dim=1)).numpy()


def _truth(data) -> tuple[np.ndarray | None, list[str]]:
    """What a set says of its images: labels (N,) and classes, or attributes (N, K) and their names, or None and []."""
    if data.labels is not None and len(data.classes) > 1:
        return data.labels, list(data.classes)
    return data.attributes, [] if data.attributes is None else list(data.attribute_names)


def _spaced(count: int, total: int) -> np.ndarray:
    """`count` evenly spaced indices below `total`; all of them if there are not more."""
    return np.arange(min(count, total)) * total // min(count, total)


def load_classifier(train, test, data_dir: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """-> a classifier of a set's classes, or of its attributes: trained on `train`, its accuracy measured on `test`.

    train, test: sets with uint8 `images` and `labels` + `classes` or `attributes` + `attribute_names`. It is kept in
    data_dir/cache, under a name that changes with the data; a damaged file is replaced, and where the folder cannot be
    written it is trained each time: 60,000 images of 28 px take 50 s of one CPU thread. The same data give the same
    weights (on one CPU), and the caller's random numbers are not touched. MetricError for sets that say nothing.
    """
    (truth, classes), (test_truth, test_classes) = _truth(train), _truth(test)
    name, shape = re.sub(r"[^\w.-]", "_", Path(train.name).name)[:60], train.images.shape[1:]
    if not classes:
        raise MetricError(
            f"{train.name} has neither classes nor attributes, which the in-domain classifier learns from; "
            "use --fid-dims 2048 (Inception) instead."
        )
    if (classes, shape) != (test_classes, test.images.shape[1:]):
        raise MetricError(f"training and test pictures of {train.name} differ in classes or shape; make them alike.")
    key = hashlib.sha256(repr((CLASSIFIER_FORMAT, CLASSIFIER_STEPS, name, classes)).encode())
    for data, what in ((train, truth), (test, test_truth)):
        some = data.images[_spaced(1000, len(data.images))]
        key.update(repr(data.images.shape).encode() + np.asarray(what).tobytes() + some.tobytes())
    path = Path(data_dir, "cache", f"classifier-{name}-{shape[-1]}px-{key.hexdigest()[:12]}.pt")
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        with torch.device("meta"):  # draws no random numbers
            net = Classifier(shape[0], shape[-1], classes, truth.ndim == 2)
        net.load_state_dict(kept["state"], assign=True)
        net.eval().requires_grad_(False).accuracy = float(kept["accuracy"])
    except Exception:  # absent, or damaged in one of a dozen ways
        net = _train_classifier(name, train.images, truth, classes, device)
        net.accuracy = float((net.predict(test.images) == test_truth).mean())
        file = io.BytesIO()
        torch.save({"state": net.cpu().state_dict(), "accuracy": net.accuracy}, file)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace_file(path, file.getvalue())
    weights = b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())
    net.weights = hashlib.sha256(weights).hexdigest()[:8]
    net.name = f"classifier of {name} {shape[-1]} px, test accuracy {net.accuracy:.3f}"
    return net.to(device)


def _train_classifier(name: str, images: np.ndarray, truth: np.ndarray, classes: list[str], device) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the GPUs too
        net = Classifier(images.shape[1], images.shape[-1], classes, truth.ndim == 2).to(device)
    n, (least, most) = len(images), CLASSIFIER_STEPS
    steps = min(max(least, 3 * n // 128), most)
    draw = torch.Generator().manual_seed(0)
    order = torch.cat([torch.randperm(n, generator=draw) for _ in range(-(-128 * steps // n))])[: 128 * steps]
    opt = torch.optim.Adam(net.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=6e-3, total_steps=steps)
    for batch in tqdm(order.view(steps, 128).numpy(), desc=f"classifier of {name}", unit="step"):
        logits, target = net.head(net(torch.from_numpy(images[batch]))), torch.from_numpy(truth[batch]).to(device)
        if net.multi_label:
            loss = F.binary_cross_entropy_with_logits(logits, target.float())
        else:
            loss = F.cross_entropy(logits, target.long())
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
    return net.eval().requires_grad_(False)


# ----- Scores on features

Net = Inception | Classifier


def inception_features(images, net: Net, batch_size: int | None = None, progress: bool = False) -> np.ndarray:
    """uint8 images (N, 1 or 3, H, W), tensor or array -> float32 features (N, dims).

    batch_size: None for the net's own. MetricError for other shapes or types, and for no image at all.
    """
    batch_size = batch_size or net.batch_size
    shape, dtype = tuple(getattr(images, "shape", ())), str(getattr(images, "dtype", type(images)))
    if not dtype.endswith("uint8") or len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise MetricError(f"images must be uint8 (N, 1 or 3, H, W), at least one of them, not {dtype} {shape}.")
    features = []
    with torch.inference_mode(), tqdm(total=len(images), desc=net.name, unit="image", disable=not progress) as bar:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            batch = batch if isinstance(batch, torch.Tensor) else torch.from_numpy(np.array(batch))
            features.append(net(batch).cpu())
            bar.update(len(batch))
    return torch.cat(features).numpy()


def _features(images, net: Net) -> np.ndarray:
    """uint8 images, or their features made before -> features."""
    if getattr(images, "ndim", 0) != 2:
        return inception_features(images, net)
    if images.shape[1] != net.dims:
        raise MetricError(f"these features have {images.shape[1]} dims, the network {net.dims}: make both with one.")
    return np.asarray(images)


def _check_finite(*arrays: np.ndarray) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise MetricError("the features hold NaN or infinite values: check the images and the network's weights.")


def _mean_and_factor(x) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) or (mu, sigma) -> mu (d,) and a factor F (r, d) of the covariance Fᵀ F, both float64."""
    if isinstance(x, tuple):
        mu, sigma = (np.asarray(part, dtype=np.float64) for part in x)
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise MetricError(f"(mu, sigma) must have the shapes (d,) and (d, d), not {mu.shape} and {sigma.shape}.")
        _check_finite(mu, sigma)
    else:
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or len(x) < 2:
            raise MetricError(f"a covariance needs two images or more: features (n >= 2, d), not {x.shape}.")
        _check_finite(x)
        mu, n = x.mean(axis=0), len(x)
        x = x - mu
        if n <= x.shape[1]:
            # n centred rows have rank n - 1. The Householder reflection that sends (1, ..., 1)/√n to the first axis
            # makes the first row zero and leaves the other rows as follows: a factor without a null row.
            return mu, (x[1:] + x[0] / (np.sqrt(n) - 1)) / np.sqrt(n - 1)
        sigma = x.T @ x / (n - 1)
    from scipy.linalg.lapack import dpstrf

    # Cholesky with pivoting finds the rank and stops there: a singular covariance needs nothing added to its diagonal.
    upper, pivots, rank, _ = dpstrf(sigma)
    factor = np.empty((rank, len(mu)))
    factor[:, pivots - 1] = np.triu(upper)[:rank]
    return mu, factor


def frechet_distance(a, b) -> float:
    """Squared Fréchet distance of two Gaussians, |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ (arXiv 1706.08500, eq. 6).

    a, b: features (n, d), or a tuple of mu (d,) and sigma (d, d). With factors S1 = Fᵀ F and S2 = Gᵀ G the last trace
    is the sum of the singular values of F Gᵀ: no square root of a matrix, and exact with fewer images than dims too.
    Never negative; 0 where what is left is below the rounding of the traces, so for identical sets.
    MetricError for a single image, unequal dims, NaN.
    """
    (mu_a, factor_a), (mu_b, factor_b) = _mean_and_factor(a), _mean_and_factor(b)
    if len(mu_a) != len(mu_b):
        raise MetricError(f"features of {len(mu_a)} and {len(mu_b)} dims cannot be compared: make both with one net.")
    product = factor_a @ factor_b.T
    if len(product) > product.shape[1]:
        product = product.T
    if len(product) <= 1024:
        root = np.linalg.svd(product, compute_uv=False).sum()
    else:  # several times faster, and as exact here: factors of full rank leave no eigenvalues that ought to be zero
        root = np.sqrt(np.linalg.eigvalsh(product @ product.T).clip(min=0)).sum()
    traces = np.square(factor_a).sum() + np.square(factor_b).sum()
    distance = np.square(mu_a - mu_b).sum() + traces - 2 * root
    return float(distance) if distance > 1e-12 * traces else 0.0


def _stamp(net: Net, metric: str, value: float, **facts) -> Score:
    metric = getattr(net, "domain", "") + metric
    return Score(metric, value, dims=net.dims, net=net.name, weights=net.weights, resize=net.resize, **facts)


def _small_note(images, net: Net) -> list[str]:
    small = images.ndim == 4 and min(images.shape[2:]) < 32 and not isinstance(net, Classifier)
    return ["images below 32 px: Inception sees little in them"] * small


def fid(real, fake, net: Net, real2=None) -> Score:
    """Fréchet Inception Distance between uint8 images (N, C, H, W), or their features (N, dims). 0 is best.

    The floor beside it: FID(real, real2[:n_fake]) with `real2`, a second set of real images disjoint from the first;
    without it `real` is split at random, always the same way, into n_fake images (at most half) and the others.
    """
    features_real, features_fake = _features(real, net), _features(fake, net)
    n_real, n_fake = len(features_real), len(features_fake)
    notes, floor, floor_n = [], None, None
    if real2 is not None:
        floor_n = min(n_fake, len(real2))
        floor = frechet_distance(features_real, _features(real2[:floor_n], net))
    elif n_real >= 4:
        floor_n = min(n_fake, n_real // 2)
        order = np.random.default_rng(0).permutation(n_real)
        floor = frechet_distance(features_real[order[floor_n:]], features_real[order[:floor_n]])
        notes.append(f"floor: {floor_n} of the real images vs the other {n_real - floor_n}")
    if min(n_real, n_fake) <= net.dims:
        notes.append("n <= dims: covariance is rank-deficient, compare only at equal n")
    notes += _small_note(fake, net)
    value = frechet_distance(features_real, features_fake)
    return _stamp(net, "FID", value, n_real=n_real, n_fake=n_fake, floor=floor, floor_n=floor_n, note="; ".join(notes))


def kid(real, fake, net: Net) -> Score:
    """Kernel Inception Distance (arXiv 1801.01401): squared maximum mean discrepancy for the kernel (x·y/d + 1)³.

    real, fake: as for `fid`. The U-statistic over all images is unbiased at every n: its expectation for two sets of
    one distribution is 0, so it may be slightly negative. ± is the standard error from ten disjoint blocks.
    """
    x, y = (np.asarray(_features(images, net), dtype=np.float64) for images in (real, fake))
    _check_finite(x, y)
    if min(len(x), len(y)) < 2:
        raise MetricError(f"KID needs two images or more on each side, not {len(x)} and {len(y)}.")
    blocks = [_mmd(x[i::10], y[i::10]) for i in range(10)] if min(len(x), len(y)) >= 100 else []
    std = float(np.std(blocks, ddof=1) / np.sqrt(10)) if blocks else None
    note = "± standard error from 10 blocks" if blocks else "no error bar below 100 images"
    return _stamp(net, "KID", _mmd(x, y), std=std, n_real=len(x), n_fake=len(y), note=note)


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
    def kernel_sum(a, b):  # 1024 rows at a time: memory for n, not for n² values
        return sum(((a[i : i + 1024] @ b.T / a.shape[1] + 1) ** 3).sum() for i in range(0, len(a), 1024))

    def mean_without_diagonal(a):  # an image with itself does not count: this makes the estimate unbiased
        diagonal = (np.square(a).sum(axis=1) / a.shape[1] + 1) ** 3
        return (kernel_sum(a, a) - diagonal.sum()) / (len(a) * (len(a) - 1))

    return float(mean_without_diagonal(x) + mean_without_diagonal(y) - 2 * kernel_sum(x, y) / (len(x) * len(y)))


def _knows_classes(net: Net) -> bool:
    return not net.multi_label if isinstance(net, Classifier) else net.dims == 2048


def inception_score(images, net: Net, splits: int = 10) -> Score:
    """Inception Score exp E KL(p(y|x) || p(y)) (arXiv 1606.03498, section 4). Higher is better, 1 to 1008, or to the
    number of classes of a `Classifier`.

    images: uint8 (N, C, H, W), or their 2048-d features. As in its first code: softmax of the 1008 logits *without* the
    bias, `splits` parts in file order, mean and standard deviation (ddof 0) over the parts.
    """
    if not _knows_classes(net):
        what = "knows attributes, not classes" if isinstance(net, Classifier) else f"ends at {net.dims}"
        raise MetricError(f"Inception Score needs the logits of classes, of Inception with 2048 dims; this net {what}.")
    features = torch.as_tensor(_features(images, net))
    n = len(features)
    if not 1 <= splits <= n:
        raise MetricError(f"Inception Score: {n} images cannot be cut into {splits} parts.")
    log_p = (Classifier if isinstance(net, Classifier) else Inception).log_probs(net, features)  # (N, classes)
    scores = [_exp_kl(log_p[i * n // splits : (i + 1) * n // splits]) for i in range(splits)]
    note, std = (f"± over {splits} parts", float(np.std(scores))) if splits > 1 else ("one part", None)
    if n < log_p.shape[1] * splits:  # the score of m images is at most m
        note += f"; {n // splits} images a part are few for {log_p.shape[1]} classes, compare only at equal n"
    return _stamp(net, "IS", float(np.mean(scores)), std=std, n_fake=n, note=note)


def _exp_kl(log_p: torch.Tensor) -> float:
    """log p(y|x), (n, classes) -> exp of the mean over x of KL(p(y|x) || p(y)), p(y) being their average."""
    p = log_p.exp()
    log_marginal = p.mean(dim=0).clamp(min=1e-300).log()  # a class that is never seen: 0 log 0 = 0
    return torch.where(p > 0, p * (log_p - log_marginal), 0).sum(dim=1).mean().exp().item()


def mse(x, y) -> float:
    """Mean squared difference of images in [-1, 1] of one shape; uint8 images are brought to that range first."""
    pair = []
    for images in (x, y):
        images = torch.as_tensor(images)
        pair.append(images.double() / 127.5 - 1 if images.dtype == torch.uint8 else images.double())
    if pair[0].shape != pair[1].shape or pair[0].numel() == 0:
        raise MetricError(f"mse needs images of one shape, not {tuple(pair[0].shape)} and {tuple(pair[1].shape)}.")
    return (pair[0] - pair[1]).square().mean().item()


# ----- LPIPS v0.1 with AlexNet: a perceptual distance

# Index in torchvision's `features`, input and output channels, kernel, stride, padding.
ALEXNET_CONVS = (
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)


class LPIPS(nn.Module):
    """Perceptual distance (arXiv 1801.03924, eq. 1) of images in [-1, 1], (B, 1 or 3, H, W): `net(x, y)` -> (B,).

    The sum over AlexNet's five ReLU layers l of mean_hw sum_c w_lc (x̂_lchw - ŷ_lchw)², where x̂ is the layer's output
    divided by its norm over the channels and w_lc >= 0 the linear heads. This is a squared Euclidean distance between
    embeddings e(x) = concat_l sqrt(w_lc / (H_l W_l)) x̂_lchw, which makes averages over many pairs cheap.
    """

    def __init__(self):
        super().__init__()
        self.weights = ""
        self.convs = nn.ModuleList(nn.Conv2d(*sizes) for _, *sizes in ALEXNET_CONVS)
        self.root_w = nn.ParameterList(torch.zeros(1, c_out, 1, 1) for _, _, c_out, *_ in ALEXNET_CONVS)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def load(self, alexnet: dict, heads: dict) -> "LPIPS":
        for i, (index, *_) in enumerate(ALEXNET_CONVS):
            self.convs[i].weight.data = alexnet[f"features.{index}.weight"].float()
            self.convs[i].bias.data = alexnet[f"features.{index}.bias"].float()
            self.root_w[i].data = heads[f"lin{i}.model.1.weight"].float().sqrt()
        return self.eval().requires_grad_(False)

    @true_fp32
    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """float images in [-1, 1], (B, 1 or 3, H, W), at least 31 px -> (B, E); E is 31,872 at 64 px. MetricError."""
        if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 31 or not x.is_floating_point():
            what = "float images in [-1, 1] of shape (B, 1 or 3, H, W), H and W at least 31"
            raise MetricError(f"LPIPS needs {what}, not {x.dtype} {tuple(x.shape)}.")
        h, parts = (x - self.shift) / self.scale, []
        for i, conv in enumerate(self.convs):
            h = F.max_pool2d(h, 3, stride=2) if i in (1, 2) else h
            h = F.relu(conv(h))
            unit = h / (h.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            parts.append((unit * self.root_w[i] / (h.shape[2] * h.shape[3]) ** 0.5).flatten(1))
        return torch.cat(parts, dim=1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (self.embed(x) - self.embed(y)).square().sum(dim=1)


def load_lpips(weights_dir: str | Path | None = None, device="cpu", download: bool = True) -> LPIPS:
    """-> LPIPS v0.1 with torchvision's ImageNet AlexNet and the authors' heads; both files as in `load_inception`."""
    shapes = {f"features.{index}.weight": (c_out, c_in, k, k) for index, c_in, c_out, k, *_ in ALEXNET_CONVS}
    shapes |= {f"features.{index}.bias": (c_out,) for index, _, c_out, *_ in ALEXNET_CONVS}
    alexnet, sha_alexnet = _find_weights(ALEXNET, shapes, "LPIPS", weights_dir, download)
    shapes = {f"lin{i}.model.1.weight": (1, c_out, 1, 1) for i, (_, _, c_out, *_) in enumerate(ALEXNET_CONVS)}
    heads, sha_heads = _find_weights(LPIPS_HEADS, shapes, "LPIPS", weights_dir, download)
    if min(heads[key].min() for key in shapes) < 0:
        raise MetricError(f"the LPIPS heads {sha_heads} have negative weights, so are not those of v0.1: delete them.")
    net = LPIPS().load(alexnet, heads)
    net.weights = f"{sha_alexnet}+{sha_heads}"
    return net.to(device)


def lpips_diversity(samples: Iterable[torch.Tensor], net: LPIPS, pairs: str = "all") -> Score:
    """Mean LPIPS between samples of one input, averaged over the inputs.

    samples: float in [-1, 1], (n_inputs, k, C, H, W), or any iterable of (k, C, H, W); k >= 2. pairs: "all" k(k-1)/2,
    or the k-1 "consecutive" ones (BicycleGAN's protocol: 100 inputs, k = 20, so 1900 pairs; arXiv 1711.11586). Either
    way k passes of the network: the mean of |e_i - e_j|² over all pairs is 2/(k-1) sum_i |e_i - mean(e)|². The ceiling
    for comparison is that of real images: give them as the samples of one input, real[None].
    """
    if pairs not in ("all", "consecutive"):
        raise MetricError(f'pairs is "all" or "consecutive", not "{pairs}".')
    values, n = [], 0
    with torch.inference_mode():
        for images in samples:
            if images.ndim != 4 or len(images) < 2:
                raise MetricError(f"diversity needs samples (k >= 2, C, H, W) of an input, not {tuple(images.shape)}.")
            e = torch.cat([net.embed(part.to(net.shift.device)) for part in images.split(16)])  # (k, E)
            difference = 2**0.5 * (e - e.mean(dim=0)) if pairs == "all" else e[1:] - e[:-1]
            values.append(difference.square().sum().item() / (len(e) - 1))
            n += len(e)
    if not values or not np.isfinite(values).all():
        raise MetricError("diversity needs the samples of at least one input, without NaN.")
    note = f"{n // len(values)} samples for each of {len(values)} inputs, {pairs} pairs; ± over the inputs"
    mean, std = float(np.mean(values)), float(np.std(values))
    return Score("LPIPS diversity", mean, std, n_fake=n, net="LPIPS v0.1 alex", weights=net.weights, note=note)


# ----- Protocols: what a kind of model is judged by


def load_instruments(dims: int, weights_dir: str, device: str | torch.device) -> tuple[Inception, LPIPS]:
    """Inception and LPIPS for `one_to_many`; "" = torch's cache. MetricError where weights cannot be had."""
    return load_inception(dims, weights_dir or None, device), load_lpips(weights_dir or None, device)


@torch.no_grad()
def one_to_many(sample, test, train, instruments: tuple[Inception, LPIPS], device: str | torch.device) -> list[Score]:
    """Realism and diversity of a model that makes many pictures of one input -> FID, LPIPS diversity, its ceiling.

    sample: inputs (n, C, S, S) in [-1, 1] on `device` -> pictures (n, C, S, S), each of a fresh code. test, train:
    paired sets (uint8 `images`, `targets`). FID: a sample of every test input against its targets; floor: train's.
    Diversity: BicycleGAN's protocol, 100 inputs x 20 samples, consecutive pairs; ceiling: between 100 true pictures.
    """
    inception, lpips = instruments

    def floats(images):
        return torch.from_numpy(np.array(images)).to(device).float() / 127.5 - 1

    fake = [sample(floats(test.images[i : i + 32])).cpu() for i in range(0, len(test.images), 32)]
    fake = (torch.cat(fake).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    n = min(100, len(test.images))
    some = [i * len(test.images) // n for i in range(n)]
    samples = (sample(floats(test.images[i : i + 1]).expand(20, -1, -1, -1)) for i in some)
    diversity = lpips_diversity(samples, lpips, pairs="consecutive")
    ceiling = lpips_diversity(floats(test.targets[some])[None], lpips)
    ceiling.metric = "LPIPS of true pictures (ceiling)"
    return [fid(test.targets, fake, inception, real2=train.targets), diversity, ceiling]


def load_judges(
    dims: int, train, test, weights_dir: str, data_dir: str | Path, device: str | torch.device = "cpu"
) -> list[Net]:
    """The nets for `judge`. dims 0: the classifier of the set; 64 to 2048: Inception, and the classifier if the set has
    classes or attributes. weights_dir "": torch's cache. MetricError where one cannot be had: call before training."""
    judges = [load_inception(dims, weights_dir or None, device)] if dims else []
    return judges + ([load_classifier(train, test, data_dir, device)] if _truth(train)[1] or not dims else [])


def judge(fake, test, train, judges: list[Net], cache: dict | None = None) -> list[Score]:
    """Realism of an unconditional model -> of each judge FID, and IS with its ceiling where the judge knows classes.

    fake: uint8 (n, C, H, W). test, train: sets of real `images`, of which n each are used, evenly spaced. FID: against
    test; floor: test against train. IS: 10 parts from 5,000 images on, else one; drawn at random (always the same way),
    since images may be sorted by class. cache: a dict that keeps the real features for the next call.
    """
    cache, scores = {} if cache is None else cache, []

    def real(net, side, data):
        key = (net.weights, net.dims, net.resize, data.name, side, data.images.shape, len(fake))
        if key not in cache:
            cache[key] = inception_features(data.images[_spaced(len(fake), len(data.images))], net)
        return cache[key]

    for net in judges:
        x, y = real(net, "test", test), inception_features(fake, net)
        scores.append(fid(x, y, net, real2=real(net, "train", train)))
        scores[-1].note = "; ".join(filter(None, [scores[-1].note, *_small_note(fake, net)]))
        if _knows_classes(net):
            splits = 10 if min(len(x), len(y)) >= 5000 else 1
            x, y = (part[np.random.default_rng(0).permutation(len(part))] for part in (x, y))
            scores += [inception_score(y, net, splits), inception_score(x, net, splits)]
            scores[-1].metric += " of real pictures (ceiling)"
            scores[-1].n_real, scores[-1].n_fake = len(x), None
    return scores


def label_fidelity(fake, labels, test, classifier: Classifier) -> list[Score]:
    """Does a conditional model draw what it was asked for? -> accuracy of the classifier, mean FID within the classes.

    fake: uint8 (n, C, H, W); labels: the classes asked for, integers (n,); test: a set of real `images` and `labels`.
    A class with fewer than two images on a side is left out of the FID; without any other there is no FID. MetricError.
    """
    labels = torch.as_tensor(labels).cpu().numpy()
    if classifier.multi_label or labels.shape != (len(fake),):
        raise MetricError("label fidelity needs a classifier of classes, not of attributes, and one label a picture.")
    x, y = inception_features(test.images, classifier), inception_features(fake, classifier)
    right, classes = classifier.predict(y) == labels, list(enumerate(classifier.classes))
    by_class = [f"{name} {right[labels == k].mean():.2f}" for k, name in classes if (labels == k).any()]
    note = f"real test pictures: {classifier.accuracy:.3f}; by class {', '.join(by_class)}"
    facts = {"n_fake": len(y), "net": classifier.name, "weights": classifier.weights}
    scores = [Score("label accuracy", float(right.mean()), **facts, note=note)]
    pairs = {name: (x[test.labels == k], y[labels == k]) for k, name in classes}
    few = [name for name, pair in pairs.items() if min(map(len, pair)) < 2]
    if distance := {name: frechet_distance(*pair) for name, pair in pairs.items() if name not in few}:
        note = "by class " + ", ".join(f"{name} {value:.3g}" for name, value in distance.items())
        note += f"; without {', '.join(few)}: fewer than 2 pictures" if few else ""
        metric, value = "FID per class (mean)", float(np.mean(list(distance.values())))
        scores.append(_stamp(classifier, metric, value, n_real=len(x), n_fake=len(y), note=note))
    return scores


def edit_fidelity(edits: dict[str, tuple], classifier: Classifier) -> list[Score]:
    """Do edits of attributes happen, and does the rest stay? -> the share of edits that the classifier sees, and of the
    other attributes that it sees as they were; means over the edits, the note has each. Of a set with classes: the
    share that it takes for the class asked for.

    edits: {title: (pictures uint8 (n, C, H, W), wanted (n, K), changed (K,) or (n, K))}: wanted is what the K
    attributes, or classes one-hot, should be after the edit, 0 or 1; changed (bool) those asked for, all of which must
    come out right. An edit without pictures is left out. What to compare with, the classifier's accuracy on real
    pictures, stands in its name. MetricError where `wanted` does not suit the classifier.
    """
    done, kept, n, width = {}, {}, 0, len(classifier.classes)
    for title, (pictures, wanted, changed) in edits.items():
        if np.asarray(wanted).shape != (len(pictures), width):
            raise MetricError(f"edit fidelity needs the {width} attributes or classes of each picture, one-hot.")
        if len(pictures) == 0:
            continue
        seen = classifier.predict(pictures)
        right = (seen if classifier.multi_label else np.eye(width)[seen]) == np.asarray(wanted)  # (n, K)
        changed = np.broadcast_to(np.asarray(changed, dtype=bool), right.shape)
        done[title] = float((right | ~changed).all(axis=1).mean())
        if classifier.multi_label and not changed.all():
            kept[title] = float(right[~changed].mean())
        n += len(right)
    scores, facts = [], {"n_fake": n, "net": classifier.name, "weights": classifier.weights}
    for metric, values in (("in-domain edit success", done), ("in-domain rest kept", kept)):
        note = "by edit " + ", ".join(f"{title} {value:.2f}" for title, value in values.items())
        if values:
            scores.append(Score(metric, float(np.mean(list(values.values()))), **facts, note=note))
    return scores


def domain_fid(domains: dict[str, tuple], net: Net) -> list[Score]:
    """The mean of the FIDs of several domains, in a list; the note has each. Empty where there is none.

    domains: {name: (real, fake, real2)}, pictures or features as for `fid`; real2: other real ones, for the floor. A
    domain with fewer than two pictures in any of them is left out.
    """
    scores = {name: fid(x, y, net, real2=z) for name, (x, y, z) in domains.items() if min(map(len, (x, y, z))) > 1}
    if not scores:
        return []
    first, *_ = scores.values()
    value, floor = (float(np.mean([getattr(score, key) for score in scores.values()])) for key in ("value", "floor"))
    note = "by domain " + ", ".join(f"{name} {score.value:.3g}" for name, score in scores.items())
    metric = first.metric.replace("FID", "mean domain FID")
    return [replace(first, metric=metric, value=value, floor=floor, note=note)]


def sliced_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Earth mover's distance of two sets of equally many points (N, 2), averaged over their shadows in 64 directions.

    On a line the best transport keeps the order: the i-th smallest goes to the i-th smallest.
    """
    angles = np.arange(64) * np.pi / 64
    shadows = [np.sort(points @ np.stack([np.cos(angles), np.sin(angles)]), axis=0) for points in (a, b)]
    return float(np.abs(shadows[0] - shadows[1]).mean())


def score_points(name: str, fake: np.ndarray, test: np.ndarray, train: np.ndarray) -> list[Score]:
    """Samples (N, 2) against the points of the toy set `name` -> their distance; of clusters, how many were found."""
    n, floor = len(fake), sliced_distance(train[: len(test)], test)
    scores = [Score("sliced Wasserstein", sliced_distance(fake, test), n_real=n, n_fake=n, floor=floor)]
    scores[0].floor_n = n
    if name == "swissroll":
        return scores
    if name == "8gaussians":
        angles = np.arange(8) * np.pi / 4
        centres, std = 2**0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.02 / 2**0.5
    else:
        centres, std = (np.argwhere(np.ones((5, 5))) - 2) / 2**0.5, 0.05 / 8**0.5
    distance = np.linalg.norm(fake[:, None] - centres, axis=2)  # (N, clusters)
    good, nearest = distance.min(axis=1) < 4 * std, distance.argmin(axis=1)
    found = (np.bincount(nearest[good], minlength=len(centres)) >= 5).sum()
    note = f"of {len(centres)}: with 5 samples or more within 4 std"
    scores += [Score("share within 4 std of a centre", float(good.mean()), n_fake=n)]
    return scores + [Score("clusters found", int(found), n_fake=n, note=note)]


# ----- How a GAN is doing, while it trains


@torch.no_grad()
def distinct(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Share of the samples, (B, C, S, S) as the real images, that are no near copy of another sample: 0 to 1, ().

    One is distinct if its nearest neighbour among the samples (by pixels) is at least half as far as the nearest
    neighbours of real images are in the median. 1 is healthy, near 0 the generator has collapsed.
    """

    def nearest(x):  # (B,) distance of each to the nearest other
        return torch.cdist(x.flatten(1), x.flatten(1)).fill_diagonal_(torch.inf).amin(dim=1)

    if len(fake) < 2:
        return torch.ones(())  # nothing to be a copy of
    return (nearest(fake) > 0.5 * nearest(real).median()).float().mean()


def grad_norms(**nets: nn.Module) -> dict[str, float]:
    """{"grad_G": Euclidean norm of the gradient in G, ...} after a backward."""
    grads = {name: [p.grad.norm() for p in net.parameters() if p.grad is not None] for name, net in nets.items()}
    return {f"grad_{name}": torch.stack(norms).norm().item() for name, norms in grads.items()}


def gan_health(row: dict[str, float]) -> str:
    """A row of the log (acc_real, acc_fake, distinct, grad_D, grad_G) -> a sentence that says how the game stands."""
    text = f"D is right on {row['acc_real']:.0%} of real and {row['acc_fake']:.0%} of fake images; "
    text += f"{row['distinct']:.0%} of the samples are distinct; gradients D {row['grad_D']:.2g}, G {row['grad_G']:.2g}"
    if row["distinct"] < 0.5:
        return text + ": G is collapsing"
    return text + (": D is winning" if min(row["acc_real"], row["acc_fake"]) > 0.95 else "")


# ----- One process or many


def pick_device(name: str) -> tuple[torch.device, int, int]:
    """--device -> (device, rank, number of processes); joins torchrun's process group where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    elif name != "cpu" and not getattr(torch, name).is_available():
        raise MetricError(f"--device {name}: this machine has none; use --device auto")
    ranks = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}  # what torchrun sets
    rank, world, local = (int(os.environ.get(key, fallback)) for key, fallback in ranks.items())
    if name == "cuda":
        torch.cuda.set_device(local)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if name == "cuda" else "gloo")
    return torch.device(name), rank, world


def broadcast_weights(*nets: nn.Module) -> None:
    """Give every process rank 0's weights and buffers."""
    for tensor in [t for net in nets for t in net.state_dict().values() if dist.is_initialized()]:
        dist.broadcast(tensor, src=0)


def average_gradients(*nets: nn.Module) -> None:
    """After backward: the mean gradient over all processes, by one all_reduce; nothing happens on one process."""
    if dist.is_initialized():
        grads = [p.grad for net in nets for p in net.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        for grad, mean in zip(grads, (flat / dist.get_world_size()).split([g.numel() for g in grads]), strict=True):
            grad.copy_(mean.view_as(grad))


def gather(x: torch.Tensor, world: int) -> torch.Tensor:
    """The part (B, ...) of a batch that each process has -> the whole batch, (B world, ...): row i of process r, which
    had taken its part as [r::world], is row i world + r. Without gradient."""
    if world == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world)]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def leave_processes() -> None:
    """At the end of a script, however it ends."""
    if dist.is_initialized():
        dist.destroy_process_group()


# ----- The run folder: flags, log and curves, scores, checkpoints


Own = tuple[float, str]  # the default of a common flag in one script, and its help


def new_parser(
    script: str,
    about: str,
    dataset: str,
    image_size: Own,
    epochs: Own,
    batch_size: Own,
    lr: Own,
    beta1: Own,
    beta2: Own,
    num_samples: Own,
    sample_every: int = 500,
) -> argparse.ArgumentParser:
    """A parser with the flags that all scripts have, in one order; `about` is its --help. A script adds its own."""
    p = argparse.ArgumentParser(f"{script}.py", "%(prog)s [flags]   (--help lists them)", about, allow_abbrev=False)
    p.formatter_class = argparse.RawDescriptionHelpFormatter

    def add(name, default, text, **options):
        p.add_argument(f"--{name}", default=default, help=text, **options)

    switch, saved = argparse.BooleanOptionalAction, {"metavar": "CKPT"}
    add("dataset", dataset, "a set's name (python datasets.py lists them) or a folder")
    add("data-dir", "data", "folder of downloaded sets and of decoded caches")
    add("data-url", "", "download the set from this address; empty = DATASETS_URL, or the set's home")
    add("image-size", *image_size, type=int)
    add("resize", "crop", "cut the middle out of other shapes, stretch or pad them", choices=("crop", "stretch", "pad"))
    add("strict", False, "stop at bad image files, which are else left out", action=switch)
    add("epochs", *epochs, type=int)
    add("max-steps", 0, "stop at this step; 0 = no limit", type=int)
    add("batch-size", *batch_size, type=int)
    add("lr", *lr, type=float)
    add("beta1", *beta1, type=float)
    add("beta2", *beta2, type=float)
    add("seed", 0, "seed of the weights, the order of the data and the noise", type=int)
    add("device", "auto", "auto = the best there is", choices=("auto", "cpu", "cuda", "mps"))
    add("amp", False, "bfloat16 autocast; meant for GPUs", action=switch)
    add("compile", False, "torch.compile the networks; meant for GPUs", action=switch)
    add("workers", 0, "processes that fetch batches; 0 = the main process", type=int)
    add("out", "", "run folder; empty = runs/SCRIPT-DATASET-sSEED")
    add("log-every", 50, "steps between two rows of log.csv; 0 = never", type=int)
    add("sample-every", sample_every, "steps between two pictures; 0 = only at the end", type=int)
    add("save-every", 500, "steps between two checkpoints; 0 = only at the end", type=int)
    add("eval-every", 0, "steps between two measurements; 0 = never", type=int)
    add("resume", "", "continue a run; auto = the run folder's last.pt", metavar="CKPT|auto")
    add("sample", "", "draw samples from a checkpoint and exit", **saved)
    add("evaluate", "", "measure a checkpoint, write metrics.json and exit", **saved)
    add("num-samples", *num_samples, type=int)
    add("weights-dir", "", "folder with the weights of Inception, AlexNet and LPIPS")
    return p


@contextmanager
def one_sentence(parser: argparse.ArgumentParser, *errors: type[Exception]) -> Iterator[None]:
    """What a script does in here: an error of these types ends it with its sentence and exit status 2, Ctrl-C with 130.
    However it ends, it leaves torchrun's process group."""
    try:
        yield
        if dist.is_initialized():
            dist.barrier()  # all leave together: one that leaves while others work may abort
    except (*errors, MetricError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: stopped; --resume auto continues from the last checkpoint\n")
    finally:
        leave_processes()


def parse_args(
    parser: argparse.ArgumentParser, argv: list[str] | None, script: str, free: Iterable[str]
) -> tuple[argparse.Namespace, dict | None]:
    """A script's flags, and the checkpoint that --resume, --sample or --evaluate name, or None.

    The flags kept in the checkpoint are the defaults of such a command: `--resume CKPT` alone continues what was begun.
    Only those in `free`, and common ones that change how far or where a run goes but not what it computes, may differ.
    `--resume auto` is the run folder's last.pt, or a new run where there is none. MetricError names what contradicts.
    """
    args = parser.parse_args(argv)
    if not all(beta is None or 0 <= beta < 1 for beta in (args.beta1, args.beta2)):
        raise MetricError("--beta1 and --beta2 are decays: 0 or more, and below 1")
    if args.workers < 0 or min(args.num_samples, args.epochs, args.batch_size) < 1:
        raise MetricError("--epochs, --batch-size, --num-samples must be 1 or more, --workers not negative")
    args.out = args.out or f"runs/{script}-{Path(args.dataset).name}-s{args.seed}"
    if args.resume == "auto":
        args.resume = f"{args.out}/last.pt" if Path(args.out, "last.pt").exists() else ""
    resume, path = args.resume, args.sample or args.evaluate or args.resume
    if not path:
        return args, None
    checkpoint = load_checkpoint(path, script)
    stored = checkpoint["args"] | {"out": str(Path(path).parent), "resume": "", "sample": "", "evaluate": ""}
    parser.set_defaults(**stored)
    args = parser.parse_args(argv)
    args.resume = resume
    may_differ = {*FREE_FLAGS, *free} | (set() if resume else {"dataset", "seed"})  # a trained net may see other images
    changed = [name for name in stored if name not in may_differ and getattr(args, name, None) != stored[name]]
    if changed:
        flags = ", ".join(f"--{name.replace('_', '-')} {stored[name]}" for name in changed)
        raise MetricError(f"{path} was trained with {flags}; leave these flags out, or train anew.")
    return args, checkpoint


FREE_FLAGS = (
    "data_dir data_url strict epochs max_steps device amp compile workers out log_every sample_every save_every "
    "eval_every resume sample evaluate num_samples weights_dir"
).split()


def check_ranges(args: argparse.Namespace, positive: str, not_negative: str = "") -> None:
    """Names of flags, separated by spaces. MetricError unless those are above 0, and these 0 or above."""
    wrong = [(name, "above 0") for name in positive.split() if not getattr(args, name) > 0]
    wrong += [(name, "0 or above") for name in not_negative.split() if not getattr(args, name) >= 0]
    if wrong:
        told = "; ".join(f"--{name.replace('_', '-')} {getattr(args, name)} must be {what}" for name, what in wrong)
        raise MetricError(told)


def due(step: int, every: int, last_step: int) -> bool:
    """True each `every` steps (0: never) and at the last."""
    return step == last_step or (every > 0 and step % every == 0)


def lr_factor(epoch: float, epochs: int, decay_from: int) -> float:
    """1 until the epoch (a fraction, from 0) decay_from, then linear to 0 at the end; decay_from 0: always 1."""
    return min(1.0, (epochs - epoch) / (epochs - decay_from)) if 0 < decay_from < epochs else 1.0


def decay_rates(opts: dict, epoch: float, epochs: int, decay_from: int) -> None:
    """Set each optimiser's rate to `lr_factor` of the one it began with."""
    for opt in opts.values():
        opt.param_groups[0]["lr"] = opt.defaults["lr"] * lr_factor(epoch, epochs, decay_from)


def last_step(args: argparse.Namespace, steps_per_epoch: int, done: int) -> int:
    """The step at which a run ends, by --epochs and --max-steps. MetricError where it has done that many already."""
    last = min(args.epochs * steps_per_epoch, args.max_steps or args.epochs * steps_per_epoch)
    if done >= last:
        raise MetricError(f"the run is at its end, step {done}; continue it with more --epochs or --max-steps")
    return last


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Write under a temporary name, then rename: at any moment `path` is a whole checkpoint, the old one or the new."""
    temporary = Path(f"{path}.tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError to torch
        temporary.unlink(missing_ok=True)
        raise MetricError(f"{path} cannot be written ({error}); free some space, or choose another --out.") from error


def save_run(
    out: Path, script: str, args, step: int, log: "RunLog", noise, nets: dict, opts: dict, file="last.pt", **facts
) -> None:
    """Keep all that a run needs to continue, as `out`/last.pt: noise, the generator of all its random numbers; nets and
    optimisers by name; facts (plain values and tensors) for the script. MetricError where a loss is not finite."""
    state = {"script": script, "args": vars(args), "step": step, "log": log.state(), **facts}
    state |= {"noise": noise.get_state()}
    state |= {name: net.state_dict() for name, net in nets.items()}
    save_checkpoint(out / file, state | {f"opt_{name}": opt.state_dict() for name, opt in opts.items()})


def restore(checkpoint: dict | None, noise: torch.Generator, opts: dict) -> int:
    """Bring noise and optimisers to where `save_run` left them -> steps done; 0 of a new run. `build` does the nets."""
    if checkpoint is None:
        return 0
    noise.set_state(checkpoint["noise"])
    for name, opt in opts.items():
        opt.load_state_dict(checkpoint[f"opt_{name}"])
    return checkpoint["step"]


def load_checkpoint(path: str | Path, script: str) -> dict:
    """What `script` saved there, on the CPU. MetricError for anything else, a pickle that would run code included."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        owner = state["script"]
    except FileNotFoundError as error:
        raise MetricError(f"there is no checkpoint {path}; mind the path, or train one first.") from error
    except Exception as error:
        raise MetricError(f"{path} is not a checkpoint that can be read ({type(error).__name__}).") from error
    if owner != script:
        raise MetricError(f"{path} is a checkpoint of {owner}.py, not of {script}.py.")
    return state


def start_run(
    folder: str | Path, flags: dict, figures: dict[str, list[str]], checkpoint: dict | None = None
) -> "RunLog":
    """Make the run folder, with args.json and samples/, and open its log where the checkpoint left it.

    MetricError where the folder holds a run that is not being continued, or cannot be written.
    """
    folder, step = Path(folder), checkpoint["step"] if checkpoint else 0
    if checkpoint is None and (folder / "last.pt").exists():
        raise MetricError(f"{folder} holds a run; continue it with --resume auto, or name another folder with --out.")
    try:
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        _replace_file(folder / "args.json", (json.dumps(flags, indent=2) + "\n").encode())
    except OSError as error:
        raise MetricError(f"{folder} cannot be written ({error.strerror}); choose another --out.") from error
    log = RunLog(folder, figures, step, every=flags["log_every"])
    if checkpoint:
        log.count, log.sums, log.seconds = (checkpoint["log"][key] for key in ("count", "sums", "seconds"))
    return log


def write_scores(path: str | Path, scores: Iterable[Score], **facts) -> None:
    """Print scores, and keep them with some facts (JSON values) about what was measured in a JSON file. MetricError."""
    scores = list(scores)
    print(*scores, sep="\n")
    text = json.dumps(facts | {"scores": [score.as_dict() for score in scores]}, indent=2) + "\n"
    try:
        _replace_file(Path(path), text.encode())
    except OSError as error:
        raise MetricError(f"{path} cannot be written ({error.strerror}).") from error


def write_evaluation(args: argparse.Namespace, checkpoint: dict, scores: Iterable[Score]) -> None:
    """What --evaluate found, with the flags, the step and the minutes of training, as metrics.json in --out."""
    facts = {"step": checkpoint["step"], "minutes": checkpoint["log"]["seconds"] / 60, "args": vars(args)}
    write_scores(f"{args.out}/metrics.json", scores, **facts)


class RunLog:
    """`log.csv` and `curves.png` in a run folder.

    figures: {title: columns drawn together}. start_step: 0 begins a new log, in place of an old one. A resumed run
    passes the step of its checkpoint: later rows, and a last line torn by a kill, are dropped, so that the file becomes
    what it would be without the break. Columns: step, epoch, those in `figures`, then what else the first `write` has.
    every: a row holds the means of what was added since the last step divisible by it (0: since the first).
    MetricError where the folder cannot be written, or where the log to be continued has other columns.
    """

    def __init__(self, folder: str | Path, figures: dict[str, list[str]], start_step: int = 0, every: int = 1):
        self.path, self.figures, self.every = Path(folder) / "log.csv", figures, every
        self.columns: list[str] = []  # known once the header is written
        self.sums: dict[str, torch.Tensor] = {}
        self.count, self.images, self.clock = 0, 0, time.time()
        self.began, self.seconds = time.time(), 0.0  # of this process, of those before
        try:
            if start_step == 0:
                self.path.unlink(missing_ok=True)
            elif self.path.exists():
                header, *rows = self.path.read_text().rpartition("\n")[0].split("\n")  # whole lines only
                rows = [row for row in rows if int(row.split(",")[0]) <= start_step]
                self.columns = header.split(",") if header else []
                _replace_file(self.path, "".join(line + "\n" for line in (header, *rows) if line).encode())
        except (OSError, ValueError) as error:
            raise MetricError(f"{self.path} cannot be continued ({error}): move it away.") from error
        if self.columns:
            self._check_columns(name for names in figures.values() for name in names)

    def _check_columns(self, names: Iterable[str]) -> None:
        if unknown := [name for name in names if name not in self.columns]:
            raise MetricError(f"{self.path} has no column {', '.join(unknown)}: its first row fixed the columns.")

    def add(self, images: int, **losses: torch.Tensor) -> None:
        """The losses of one step, which saw so many images: numbers, or vectors (k,), columns name_0 ... name_(k-1).

        They are summed where they are: nothing waits for a GPU.
        """
        for name, loss in losses.items():
            loss = loss.detach()
            self.sums[name] = self.sums[name].to(loss.device) + loss if name in self.sums else loss.clone()
        self.count, self.images = self.count + 1, self.images + images

    def means(self) -> dict[str, float]:
        """Column: mean of what was added. MetricError where one is not finite, since training on would be of no use."""
        means = {}
        for name, total in self.sums.items():
            values = (total / self.count).tolist()
            means |= {f"{name}_{i}": v for i, v in enumerate(values)} if isinstance(values, list) else {name: values}
        if bad := [name for name, mean in means.items() if not np.isfinite(mean)]:
            raise MetricError(f"{', '.join(bad)} is not finite any more; lower --lr and --resume the last checkpoint.")
        return means

    def state(self) -> dict:
        """What the checkpoint keeps of the log. MetricError as `means`: a broken run replaces no good checkpoint."""
        self.means()
        sums = {name: total.cpu() for name, total in self.sums.items()}
        return {"count": self.count, "sums": sums, "seconds": self.seconds + time.time() - self.began}

    def write(self, step: int, epoch: int, **scalars: float) -> dict[str, float]:
        """Append a row, of the means of what was added and of these scalars, and return it; it is in the file by then.

        A column that gets no value stays empty.
        """
        if self.count:
            scalars = self.means() | scalars | {"images_per_s": self.images / max(time.time() - self.clock, 1e-9)}
        if self.every and step % self.every == 0:
            self.sums, self.count = {}, 0
        self.images, self.clock = 0, time.time()
        scalars = {name: float(value) for name, value in scalars.items()}
        text = ""
        if not self.columns:
            drawn = [name for names in self.figures.values() for name in names]
            self.columns = list(dict.fromkeys(["step", "epoch", *drawn, *scalars]))
            text = ",".join(self.columns) + "\n"
        self._check_columns(scalars)
        row = {"step": f"{step}", "epoch": f"{epoch}"} | {name: f"{float(x):.6g}" for name, x in scalars.items()}
        text += ",".join(row.get(name, "") for name in self.columns) + "\n"
        try:
            with open(self.path, "a") as file:
                file.write(text)
        except OSError as error:
            raise MetricError(f"{self.path} cannot be written ({error.strerror}).") from error
        return scalars

    def plot(self) -> None:
        """`curves.png`: every column of `figures` faint, and its exponential average over a twentieth of the rows."""
        if not self.columns or not self.figures:
            return
        from matplotlib.figure import Figure  # the object interface: needs no screen

        try:
            rows = [line.split(",") for line in self.path.read_text().splitlines()[1:]]
            table = np.array([[float(cell or "nan") for cell in row] for row in rows]).reshape(-1, len(self.columns))
            height = -(-len(self.figures) // 2)  # two side by side
            figure = Figure(figsize=(12, 3 * height), layout="constrained")
            axes = figure.subplots(height, 2, squeeze=False).flatten()
            for axis in axes[len(self.figures) :]:
                axis.set_axis_off()
            for axis, (title, names) in zip(axes, self.figures.items(), strict=False):
                for name in names:
                    points = table[:, [0, self.columns.index(name)]]
                    step, value = points[np.isfinite(points[:, 1])].T  # without empty cells, NaN and infinities
                    (faint,) = axis.plot(step, value, marker="." if len(value) < 20 else "", alpha=0.3)
                    axis.plot(step, _smooth(value), color=faint.get_color(), label=name)
                axis.set(title=title, xlabel="step")
                axis.legend(fontsize="small", loc="best")
            image = io.BytesIO()
            figure.savefig(image, format="png")
            _replace_file(self.path.with_name("curves.png"), image.getvalue())
        except (OSError, ValueError) as error:
            raise MetricError(f"curves.png cannot be drawn from {self.path} ({error}).") from error


def _smooth(values: np.ndarray) -> list[float]:
    """Exponential average with a memory of a twentieth of the values, unbiased from the first one on."""
    keep, total, weight, smooth = 1 - 1 / max(1, len(values) / 20), 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smooth.append(total / weight)
    return smooth


def _replace_file(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename: nobody ever sees half a file. OSError where the disk refuses."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()
