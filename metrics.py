"""Everything that is measured: FID, KID, IS, precision and recall, LPIPS, and the log of a training run.

    python metrics.py fid photos/ samples/                            FID, with its floor, its error bar and the KID
    python metrics.py all faces:test runs/dcgan-faces-s0/last.pt      all scores of what a checkpoint draws
    python metrics.py save-stats photos/ photos.npz                   statistics in pytorch-fid's format
    torchrun --nproc-per-node 4 metrics.py fid photos.npz samples/    the processes share the images

    net = load_inception(dims=768)                     # before training: fails here if its weights cannot be had
    print(fid(real, fake, net))                        # each uint8 images (N, C, H, W), a loader or a path
    print(lpips_diversity(samples, load_lpips()))      # k float images in [-1, 1] for each of some inputs
    judges = load_judges(0, train, test, "", "data")   # 0: a classifier trained on the set itself, "in-domain FID"
    print(*judge(fake, test, train, judges), sep="\\n")
    log = RunLog(folder, {"Losses": ["loss_D", "loss_G"]}); log.write(step, epoch, loss_D=1.2, loss_G=3.4); log.plot()

A score depends on choices that a bare number hides: the feature layer, how many images, the weights, the resize. A
`Score` prints them, and how far to trust it: an error bar, beside an FID the KID, and the *real-real floor*, what real
images score against other real images. A model at the floor, at the same n, cannot be told from the data; with n below
dims most of an FID is floor.

The network is the Inception of 2015-12-05 that FID was defined with (arXiv 1706.08500), not torchvision's Inception.
Three ways to bring an image to its 299 x 299 input are in use. Their scores differ; never compare one with another:
    "torch bilinear"   pixel centres aligned, range 2x/255 - 1        pytorch-fid; most papers after 2018
    "tf1 bilinear"     top-left corners aligned, (x - 128) / 128      the first code of FID and IS; torch-fidelity
    "pil bicubic"      Pillow's, antialiased, (x - 128) / 128         clean-fid (arXiv 2104.11222)
It knows photos. For sets with labels or attributes a small classifier trained on them gives the same scores, named
"in-domain ...": sharper on 28-px digits, and comparable only where its `weights` are the same.
"""

import argparse
import ctypes
import functools
import hashlib
import importlib.util
import io
import itertools
import json
import os
import pickle
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm
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
    at_floor_n: float | None = None  # this score, of as many images as the floor, where the floor has fewer
    note: str = ""
    kid: float | None = None  # beside an FID
    kid_std: float | None = None
    infinite: float | None = None  # an FID, extrapolated to endlessly many images
    precision: str = "fp32"  # of the network's arithmetic
    pairs: list[float] | None = None  # of LPIPS: each distance

    def __str__(self) -> str:
        name = self.metric if self.dims is None else f"{self.metric}-{self.dims}"
        spread, kid_spread = ("" if std is None else f" ± {std:.2g}" for std in (self.std, self.kid_std))
        sets = [f"{side} {n}" for side, n in (("fake", self.n_fake), ("real", self.n_real)) if n is not None]
        bound = "" if self.metric.split()[-1] in ("precision", "recall", "density", "coverage") else " floor"
        here = "" if self.floor_n is None else f" at n={self.floor_n}"
        here += "" if self.at_floor_n is None else f", where this is {self.at_floor_n:.4g}"
        facts = [
            "" if self.kid is None else f"KID {self.kid:.3g}{kid_spread}",
            "" if self.infinite is None else f"at infinite n {self.infinite:.4g}",
            " vs ".join(sets),
            "" if self.floor is None else f"real-real{bound} {self.floor:.4g}{here}",
            f"{self.net} {self.weights}".strip()
            + (f", {self.resize} 299" if self.resize else "")
            + (f", {self.precision}" if self.precision != "fp32" else ""),
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
TORCHVISION_INCEPTION = WeightsFile(
    "torchvision's Inception v3",
    "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
    "inception_v3_google-0cc3c7bd.pth",
    ("inception_v3_google*.pth",),
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


RESIZES = ("torch bilinear", "tf1 bilinear", "pil bicubic")
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


@functools.lru_cache(maxsize=8)
def _pil_rows(size: int, device: torch.device) -> torch.Tensor:
    """-> (299, size): one axis of Pillow's antialiased bicubic resize of floats as a matrix: what it makes of (size,
    size) identity, resized along one axis only."""
    from PIL import Image

    def resized(start):  # 256 columns of identity at a time: a side may be very long
        columns = Image.fromarray(np.eye(size, 256, -start, dtype=np.float32))
        return np.array(columns.resize((256, 299), Image.Resampling.BICUBIC))

    matrix = np.concatenate([resized(start) for start in range(0, size, 256)], axis=1)[:, :size]
    return torch.from_numpy(np.ascontiguousarray(matrix)).to(device)


class Inception(nn.Module):
    """uint8 images (B, 1 or 3, H, W) -> features (B, dims), averaged over space: 64 after the first max pool, 192 after
    the second, 768 after Mixed_6e, 2048 after Mixed_7c. Blocks behind the asked layer are not built."""

    name, domain, channels = "Inception 2015-12-05", "", 3

    def __init__(self, dims: int = 2048, resize: str = "torch bilinear", bf16: bool = False):
        super().__init__()
        self.dims, self.resize, self.weights, self.precision = dims, resize, "", "bf16" if bf16 else "fp32"
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

    @property
    def device(self) -> torch.device:
        return self.body[0].weight.device

    @property
    def batch_size(self) -> int:
        return 16 if self.device.type == "cpu" else 128  # on a CPU 8 to 16 images at a time are fastest

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
        if self.precision == "bf16":
            self.body.bfloat16()
        return self.eval().requires_grad_(False)

    def enlarge(self, x: torch.Tensor) -> torch.Tensor:
        """Floats of 0 to 255, (B, 3, H, W) -> the network's input, (B, 3, 299, 299)."""
        if self.resize == "tf1 bilinear":
            x = _tf1_rows(x.shape[2], x.device) @ ((x - 128) / 128) @ _tf1_rows(x.shape[3], x.device).T
        elif self.resize == "pil bicubic":  # which overshoots: clipped, as a picture would be
            x = (_pil_rows(x.shape[2], x.device) @ x @ _pil_rows(x.shape[3], x.device).T).clamp(0, 255)
            x = (x - 128) / 128
        else:  # the range first: the image is still small, and the weights of a bilinear resize sum to one
            x = (x * (2 / 255) - 1).contiguous(memory_format=torch.channels_last)
            x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        return x.to(self.body[0].weight.dtype).contiguous(memory_format=torch.channels_last)

    @true_fp32
    def forward(self, images):
        x = images.to(self.device).float().expand(-1, 3, -1, -1)  # grey: the channel three times
        # The first layers' outputs are the largest. On a CPU four images at a time go through them, so that memory is
        # used again and not mapped anew: the same bits, sooner.
        parts = x.split(4 if x.device.type == "cpu" else len(x))
        x = torch.cat([self.body[:7](self.enlarge(part)) for part in parts])
        return self.body[7:](x).float().mean(dim=(2, 3))

    def log_probs(self, features: torch.Tensor) -> torch.Tensor:
        """2048-d features (B, 2048) -> log p(y|x) (B, 1008), float64, of the logits *without* the bias (see IS)."""
        return (features.cpu().double() @ self.fc.weight.cpu().double().T).log_softmax(dim=1)


def load_inception(
    dims: int = 2048,
    weights_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    download: bool = True,
    resize: str = "torch bilinear",
    bf16: bool = False,
) -> Inception:
    """-> the network with its weights; dims 64, 192, 768 or 2048, the last one also for `inception_score`.

    The file is looked for in `weights_dir`, then in torch's hub cache, else downloaded into that cache; one that ends
    early serves the dims it reaches. bf16: bfloat16 arithmetic, faster where the hardware has it, but its
    scores are not those of fp32: for curves along a run, never in a table. MetricError, in one sentence, where none is
    to be had: call this before training.
    """
    if dims not in (64, 192, 768, 2048):
        raise MetricError(f"Inception has features of 64, 192, 768 or 2048 dims, not {dims}.")
    if resize not in RESIZES:
        raise MetricError(f'resize is "{", ".join(RESIZES[:2])}" or "{RESIZES[2]}", not "{resize}".')
    with torch.device("meta"):  # shapes without memory: no time lost on random weights
        net = Inception(dims, resize, bf16)
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

    domain, dims, resize, precision, batch_size = "in-domain ", 128, "", "fp32", 256

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
        self.channels, self.size = channels, size

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @true_fp32
    def forward(self, images):
        if images.shape[1:2] + images.shape[3:] != (self.channels, self.size):
            what = f"{self.channels} channels and {self.size} px, not {tuple(images.shape[1:])}"
            raise MetricError(f"{self.name or 'this classifier'} takes images of {what}.")
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


class TorchvisionInception(nn.Module):
    """uint8 images (B, 1 or 3, H, W) -> 2048-d features of torchvision's Inception v3, of ImageNet's 1000 classes.

    Another network than the FID's: its Inception Score is the one over 1000 classes that texts define. Images go to
    299 x 299 by torch's bilinear resize; the softmax is of all of its logits, bias included.
    """

    name, domain, dims, batch_size, channels = "torchvision Inception v3", "torchvision ", 2048, 16, 3
    resize, precision = "torch bilinear", "fp32"

    def __init__(self):
        super().__init__()
        from torchvision.models import inception_v3

        self.weights = ""
        self.body = inception_v3(weights=None, aux_logits=False, init_weights=False, transform_input=False)
        self.fc, self.body.fc = self.body.fc, nn.Identity()

    @property
    def device(self) -> torch.device:
        return self.fc.weight.device

    def load(self, state: dict) -> "TorchvisionInception":
        own = {f"body.{key}": value for key, value in state.items() if not key.startswith(("AuxLogits.", "fc."))}
        own |= {key: value for key, value in state.items() if key.startswith("fc.")}
        self.load_state_dict(own, assign=True)
        return self.eval().requires_grad_(False)

    @true_fp32
    def forward(self, images):
        x = images.to(self.device).float().expand(-1, 3, -1, -1) * (2 / 255) - 1  # the range that it was trained with
        return self.body(F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False))

    def log_probs(self, features: torch.Tensor) -> torch.Tensor:
        """features (B, 2048) -> log p(y|x) (B, 1000), float64."""
        logits = features.cpu().double() @ self.fc.weight.cpu().double().T + self.fc.bias.cpu().double()
        return logits.log_softmax(dim=1)


def load_torchvision_inception(
    weights_dir: str | Path | None = None, device: str | torch.device = "cpu", download: bool = True
) -> TorchvisionInception:
    """-> the network with its weights; the file as in `load_inception`. MetricError."""
    with torch.device("meta"):
        net = TorchvisionInception()
    kept = {key: value for key, value in net.state_dict().items() if "num_batches" not in key}  # older files lack them
    shapes = {key.removeprefix("body."): tuple(value.shape) for key, value in kept.items()}
    state, net.weights = _find_weights(TORCHVISION_INCEPTION, shapes, "torchvision's Inception", weights_dir, download)
    return net.load(state).to(device)


class Extractor(nn.Module):
    """Your own network as a judge.

    function: uint8 images (B, 3, H, W) on the device -> features (B, dims), or (B, dims, ...), whose other axes are
    averaged; a module or any callable. It is called once with a black image of 64 px, to see how wide it is. Its scores
    are named "own ...": they compare with nothing but scores of the same network. version: text that changes whenever
    the function does; without it no features are kept on the disk. MetricError where it cannot be used.
    """

    domain, resize, precision, batch_size, channels = "own ", "", "fp32", 16, 3

    def __init__(self, function, name: str = "", device: str | torch.device = "cpu", version: str = ""):
        super().__init__()
        module = isinstance(function, nn.Module)
        self.function = function.eval().requires_grad_(False).to(device) if module else function
        self.name, self.device = name or getattr(function, "__name__", type(function).__name__), torch.device(device)
        state = self.state_dict() if module else {}
        digest, self.version = hashlib.sha256(version.encode()), version
        for tensor in state.values():
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        self.weights = digest.hexdigest()[:8] if state or version else ""
        self.eval()
        self.dims = 0
        with torch.inference_mode():
            self.dims = self(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape[1]

    @true_fp32
    def forward(self, images):
        images = images.to(self.device).expand(-1, 3, -1, -1)
        try:
            features = self.function(images)
            features = features.float().flatten(2).mean(dim=2) if features.ndim > 2 else features.float()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise MetricError(f"{self.name} failed on images {tuple(images.shape)} ({reason}).") from error
        if features.ndim != 2 or len(features) != len(images) or self.dims not in (0, features.shape[1]):
            raise MetricError(f"{self.name} must give features (B, dims), not {tuple(features.shape)}.")
        return features


# ----- Features: what a network sees in a set of pictures

Net = Inception | TorchvisionInception | Classifier | Extractor
CHUNK = 1024  # rows that are worked on at a time: memory grows with neither the number of images nor its square
ROWS_IN_MEMORY = 32 << 20  # bytes of features; more go to a temporary file (TMPDIR), which vanishes by itself


@dataclass
class Features:
    """What a network saw in a set: `extract` makes it, and every score takes it in place of the images."""

    rows: np.ndarray | None  # (n, dims) float32, of many images mapped from a file; None: there are only moments
    protocol: dict[str, str]  # the network, its weights, dims, resize and precision: only equals may be compared
    moments: tuple[np.ndarray, np.ndarray] | None = None  # mu (dims,), sigma (dims, dims), float64
    n: int | None = None  # None: not known, as of pytorch-fid's statistics
    name: str = ""
    note: str = ""
    side: int | None = None  # pixels of the images' shorter side, where it is known


class Moments:
    """Mean and covariance of rows (n, d) that come in parts, in float64: the update of Chan, Golub and LeVeque (1983),
    in which nothing large is ever subtracted from something large."""

    def __init__(self, d: int):
        self.n, self.mean, self.scatter = 0, np.zeros(d), np.zeros((d, d))
        self.waiting: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """The parts may be of any length: they are added CHUNK rows at a time, so that the sum is always the same."""
        self.waiting.append(np.asarray(rows))
        if sum(map(len, self.waiting)) >= CHUNK:
            rows = np.concatenate(self.waiting)
            for start in range(0, len(rows) - CHUNK + 1, CHUNK):
                self._update(rows[start : start + CHUNK])
            self.waiting = [rows[len(rows) // CHUNK * CHUNK :]]

    def _update(self, rows: np.ndarray) -> None:
        rows = rows.astype(np.float64)
        k, mean = len(rows), rows.mean(axis=0)
        rows -= mean
        shift = mean - self.mean
        self.scatter += rows.T @ rows
        self.scatter += np.outer(shift, shift) * (self.n * k / (self.n + k))
        self.mean += shift * (k / (self.n + k))
        self.n += k

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """-> mu (d,), sigma (d, d) with n - 1 in the denominator. MetricError for fewer than two rows."""
        if rest := [rows for rows in self.waiting if len(rows)]:
            self._update(np.concatenate(rest))
        self.waiting = []
        if self.n < 2:
            raise MetricError(f"a covariance needs two images or more, not {self.n}.")
        return self.mean, self.scatter / (self.n - 1)


class _Store:
    """Rows of features as they come: in memory, then in a temporary file; or, with keep False, only their moments."""

    def __init__(self, dims: int, keep: bool):
        self.dims, self.n, self.parts, self.file = dims, 0, [], None
        self.moments = None if keep else Moments(dims)

    def add(self, rows: np.ndarray) -> None:
        if not np.isfinite(rows).all():
            bad = self.n + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise MetricError(f"image {bad} has features that are NaN or infinite: check it, and the weights.")
        self.n += len(rows)
        if self.moments:
            return self.moments.add(rows)
        if self.file is None:
            self.parts.append(rows)
            if self.n * self.dims * 4 <= ROWS_IN_MEMORY:
                return None
            self.file, rows, self.parts = tempfile.TemporaryFile(), np.concatenate(self.parts), []
        try:
            self.file.write(rows.tobytes())
        except OSError as error:
            where = f"{tempfile.gettempdir()} has no room for the features ({error.strerror})"
            raise MetricError(f"{where}: let TMPDIR name a folder with {self.dims * 4} bytes an image.") from error

    def rows(self) -> np.ndarray:
        if self.file is None:
            return np.concatenate(self.parts)
        self.file.flush()
        return np.memmap(self.file, dtype=np.float32, mode="r", shape=(self.n, self.dims))


STAMP = ("net", "weights", "dims", "resize", "precision")  # of a score, and of a file of statistics


def protocol_of(net: Net) -> dict[str, str]:
    """What has to be the same on both sides of a score."""
    return {key: str(getattr(net, "name" if key == "net" else key)) for key in STAMP}


def _check_protocol(features: Features, net: Net) -> Features:
    asked, wrong = protocol_of(net), []
    for key, value in features.protocol.items():
        if value != asked[key]:
            wrong.append(f"{key} {value or 'none'}, not {asked[key] or 'none'}")
    if wrong:
        name = features.name or "these features"
        raise MetricError(f"{name}: made with {'; '.join(wrong)}: make both sides with one protocol.")
    return features


def extract(
    source,
    net: Net,
    batch_size: int | None = None,
    progress: bool = False,
    cache: str | Path | None = None,
    share: bool = True,
    keep: bool = True,
) -> Features:
    """What `net` sees in a set of images -> Features, in the order of the images. MetricError.

    source: uint8 images (N, 1 or 3, H, W), array or tensor; an iterable of such batches, as a DataLoader is (of tuples
    the first is taken, of dicts "image"); a path or `Pictures` (see `open_pictures`); Features; or features made
    before, (N, dims) or (mu, sigma), of which nobody can check how they were made.
    batch_size: at a time; None for the net's own. cache: a folder that keeps the features of these contents, made by
    this protocol, for the next call (no iterables). share: under torchrun every process looks at its part of the
    images, and all get the features of all, so all must call; False: this one looks at all, alone. keep: False keeps
    only mean and covariance, so that a million images need no more memory, and no more disk, than a thousand.
    """
    if isinstance(source, str | os.PathLike):
        source = open_pictures(source, channels=net.channels)
    if isinstance(source, Features):
        return _check_protocol(source, net)
    if isinstance(source, tuple) and not any(np.ndim(part) == 4 for part in source):  # else a tuple of batches
        return Features(None, {}, tuple(np.asarray(part, dtype=np.float64) for part in source))
    if not isinstance(source, Pictures):
        if getattr(source, "ndim", 0) == 2:
            if source.shape[1] != net.dims:
                have = f"these features have {source.shape[1]} dims, the network {net.dims}"
                raise MetricError(f"{have}: make both with one.")
            return Features(np.asarray(source), {}, n=len(source))
        source = Pictures("", source, len(source) if hasattr(source, "shape") else None)
    rank, world = (dist.get_rank(), dist.get_world_size()) if share and dist.is_initialized() else (0, 1)
    path = _cache_path(source, net, cache) if cache and keep and getattr(net, "version", True) else None
    rows = _kept_features(path, net.dims) if path else None
    if world > 1:  # all take the kept features, or none does: else some would wait for the others
        here = torch.tensor(rows is not None, dtype=torch.int32, device=net.device)
        dist.all_reduce(here, dist.ReduceOp.MIN)
        rows = rows if here.item() else None
    facts = {"protocol": protocol_of(net), "name": source.name, "side": source.side()}
    if rows is not None:
        return Features(rows, n=len(rows), note=source.note(), **facts)
    store, size = _Store(net.dims, keep), batch_size or net.batch_size
    look = {"desc": source.name or net.name, "unit": "image", "disable": not progress or rank > 0}
    with torch.inference_mode(), tqdm(total=source.count, **look) as bar:
        for features in _looks(source, net, size, rank, world):
            store.add(features.cpu().numpy())
            bar.update(len(features))
    if world > 1:
        found = [None] * world
        dist.all_gather_object(found, source.bad)
        source.bad = sorted(bad for part in found for bad in part)
    if store.n == 0:
        raise MetricError(f"{source.name or 'the set'} holds no image that can be read{source.bad_files()}.")
    if not keep:
        return Features(None, moments=store.moments.result(), n=store.n, note=source.note(), **facts)
    if path and rank == 0 and not source.bad:
        _keep_features(path, store.rows())
    return Features(store.rows(), n=store.n, note=source.note(), **facts)


def inception_features(images, net: Net, batch_size: int | None = None, progress: bool = False) -> np.ndarray:
    """The rows of `extract`: uint8 images (N, 1 or 3, H, W) -> float32 features (N, dims)."""
    return extract(images, net, batch_size, progress).rows


def _look(net: Net, piece) -> torch.Tensor:
    """uint8 images (B, C, H, W), or a list of (C, H, W) of any sizes -> features (B, dims), in their order."""
    if isinstance(piece, torch.Tensor):
        return net(piece)
    by_shape: dict[tuple, list[int]] = {}
    for i, picture in enumerate(piece):
        by_shape.setdefault(picture.shape, []).append(i)
    features = torch.empty(len(piece), net.dims, device=net.device)
    for numbers in by_shape.values():
        features[numbers] = net(torch.from_numpy(np.stack([piece[i] for i in numbers])))
    return features


def _looks(source: "Pictures", net: Net, size: int, rank: int, world: int) -> Iterator[torch.Tensor]:
    """Features, of one piece after another or of as many as there are processes; MetricError on all, if on one."""
    pieces = source.pieces(size, rank, world, workers=0 if net.device.type == "cpu" else 8)
    while True:
        rows, problem = torch.zeros(0, net.dims, device=net.device), ""
        try:
            piece = next(pieces, False)
            if piece is False:
                return
            rows = rows if piece is None else _look(net, piece)
        except MetricError as error:
            if world == 1:
                raise
            problem = str(error)
        yield rows if world == 1 else _gather_rows(rows, size, world, problem)


def _gather_rows(rows: torch.Tensor, size: int, world: int, problem: str = "") -> torch.Tensor:
    """The rows (at most `size`) of each process, in the order of their ranks, on every process."""
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([-1 if problem else len(rows)], device=rows.device))
    if any(count.item() < 0 for count in counts):
        problems = [""] * world
        dist.all_gather_object(problems, problem)
        raise MetricError(next(filter(None, problems)) if dist.get_rank() == 0 else "")  # one of them says it
    parts = [torch.empty(size, rows.shape[1], device=rows.device) for _ in range(world)]
    dist.all_gather(parts, F.pad(rows, (0, 0, 0, size - len(rows))))
    return torch.cat([part[: count.item()] for part, count in zip(parts, counts, strict=True)])


FEATURES_FORMAT = 1  # part of the name of kept features: raise it when the way to make them changes


def _cache_path(source: "Pictures", net: Net, folder: str | Path) -> Path | None:
    """A name that changes with every byte of the images and every part of the protocol."""
    content = source.digest()
    if content is None:
        return None
    key = hashlib.sha256(repr((FEATURES_FORMAT, content, sorted(protocol_of(net).items()))).encode()).hexdigest()
    name = re.sub(r"[^\w.-]", "_", Path(source.name).name)[:60]
    return Path(folder, f"features-{name}{'-' * bool(name)}{key[:16]}.npy")


def _checksum(rows: np.ndarray) -> bytes:
    crc = 0
    for start in range(0, len(rows), CHUNK):
        crc = zlib.crc32(np.ascontiguousarray(rows[start : start + CHUNK]), crc)
    return crc.to_bytes(4, "big")


def _kept_features(path: Path, dims: int) -> np.ndarray | None:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)
            whole = rows.ndim == 2 and rows.dtype == np.float32 and file.read() == _checksum(rows)
    except Exception:  # absent, or damaged in one of a dozen ways
        return None
    if not whole or rows.shape[1] != dims or not len(rows):
        return None
    return np.array(rows) if rows.nbytes <= ROWS_IN_MEMORY else rows


def _keep_features(path: Path, rows: np.ndarray) -> None:
    """A .npy file with a checksum behind it; where there is no room for it, the features are made again each time."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows))
            for start in range(0, len(rows), CHUNK):
                file.write(np.ascontiguousarray(rows[start : start + CHUNK]))
            file.write(_checksum(rows))
        os.replace(part, path)
    except OSError as error:
        print(f"metrics: features are not kept in {path.parent} ({error.strerror})", file=sys.stderr)
    finally:
        with suppress(OSError):
            part.unlink()


# ----- Scores on features


def _check_finite(*arrays: np.ndarray) -> None:
    parts = (array[start : start + CHUNK] for array in arrays for start in range(0, len(array), CHUNK))
    if not all(np.isfinite(part).all() for part in parts):
        raise MetricError("the features hold NaN or infinite values: check the images and the network's weights.")


def _mean_and_factor(x) -> tuple[np.ndarray, np.ndarray]:
    """Features, (n, d) or (mu, sigma) -> mu (d,) and a factor F (r, d) of the covariance Fᵀ F, both float64."""
    if isinstance(x, Features):
        x = x.moments if x.rows is None else x.rows
    if isinstance(x, tuple):
        mu, sigma = (np.asarray(part, dtype=np.float64) for part in x)
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise MetricError(f"(mu, sigma) must have the shapes (d,) and (d, d), not {mu.shape} and {sigma.shape}.")
        _check_finite(mu, sigma)
    else:
        if np.ndim(x) != 2 or len(x) < 2:
            raise MetricError(f"a covariance needs two images or more: features (n >= 2, d), not {np.shape(x)}.")
        n, d = x.shape
        if n <= d:
            x = np.asarray(x, dtype=np.float64)
            _check_finite(x)
            mu = x.mean(axis=0)
            x = x - mu
            # n centred rows have rank n - 1. The Householder reflection that sends (1, ..., 1)/√n to the first axis
            # makes the first row zero and leaves the other rows as follows: a factor without a null row.
            return mu, (x[1:] + x[0] / (np.sqrt(n) - 1)) / np.sqrt(n - 1)
        mu, sigma = _moments(x)
        _check_finite(mu, sigma)
    from scipy.linalg.lapack import dpstrf

    # Cholesky with pivoting finds the rank and stops there: a singular covariance needs nothing added to its diagonal.
    upper, pivots, rank, _ = dpstrf(sigma)
    factor = np.empty((rank, len(mu)))
    factor[:, pivots - 1] = np.triu(upper)[:rank]
    return mu, factor


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    moments = Moments(rows.shape[1])
    for start in range(0, len(rows), CHUNK):
        moments.add(rows[start : start + CHUNK])
    return moments.result()


# The seven balanced halves of eight blocks, one in each row (a Hadamard matrix without its constant row): every pair of
# blocks is together in as many halves as any other, so that the spread over halves and complements misses no pair.
HALVES = np.array([[(i & mask).bit_count() % 2 == 1 for i in range(8)] for mask in range(1, 8)])


def _halves(n: int) -> list[np.ndarray]:
    """14 halves of n images, as sorted indices: random, but always the same."""
    blocks = np.array_split(np.random.default_rng(0).permutation(n), 8)
    halves = [half for row in HALVES for half in (row, ~row)]
    return [np.sort(np.concatenate([blocks[i] for i in np.flatnonzero(half)])) for half in halves]


def _part(features: Features, rows: np.ndarray) -> Features:
    """Those rows, in memory only where they are few; or only their moments; or all, where only those are left."""
    if features.rows is None:
        return features
    if len(rows) <= features.rows.shape[1]:
        return replace(features, rows=features.rows[rows], n=len(rows))
    moments = Moments(features.rows.shape[1])
    for start in range(0, len(rows), CHUNK):
        moments.add(features.rows[rows[start : start + CHUNK]])
    return replace(features, rows=None, moments=moments.result(), n=len(rows))


def _over_halves(function, *sets: Features) -> list:
    """function(half of each set) for the 14 halves; a set that is only statistics stays whole; [] below 16 images."""
    sizes = [len(features.rows) for features in sets if features.rows is not None]
    if not sizes or min(sizes) < 16:
        return []
    halves = [[None] * 14 if x.rows is None else _halves(len(x.rows)) for x in sets]
    return [function(*(_part(x, half) for x, half in zip(sets, row, strict=True))) for row in zip(*halves, strict=True)]


def frechet_distance(a, b) -> float:
    """Squared Fréchet distance of two Gaussians, |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ (arXiv 1706.08500, eq. 6).

    a, b: Features, their rows (n, d), or a tuple of mu (d,) and sigma (d, d). With factors S1 = Fᵀ F and S2 = Gᵀ G the
    last trace is the sum of the singular values of F Gᵀ: no square root of a matrix, and exact with fewer images than
    dims too. Never negative; 0 where what is left is below the rounding of the traces, so for identical sets.
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
    return Score(net.domain + metric, value, **facts, **protocol_of(net) | {"dims": net.dims})


def _small_note(side: int | None, net: Net) -> str:
    return "images below 32 px: Inception sees little in them" * (isinstance(net, Inception) and (side or 32) < 32)


def _notes(*parts: str) -> str:
    return "; ".join(dict.fromkeys(part for part in parts if part))


INFINITE_FROM = 5000  # images: with fewer, the bias of an FID is not yet a straight line in 1/n
HALF_NOTE = "± by halves of the images"


def _facts_of_both(x: Features, y: Features) -> list[str]:
    """What is to be said of either side, once where it is the same."""
    if x.note == y.note:
        return [x.note]
    return [f"{side}: {part.note or 'as they are'}" for side, part in (("real", x), ("fake", y))]


def fid(real, fake, net: Net, real2=None, confidence: bool = True) -> Score:
    """Fréchet Inception Distance of two sets, each as `extract` takes them. 0 is best.

    The floor beside it: FID of `real` and `real2`, a second set of real images disjoint from the first, of which as
    many as there are fakes are taken, evenly spaced. Without real2, `real` is split at random, always the same way,
    into as many as there are fakes (at most half) and the others; where those are fewer than the fakes, `at_floor_n` is
    what so few fakes score against so few real ones: compare that with the floor.

    confidence: what it costs no further look at the images to say. ±, the standard error: the deviation over 14 halves
    of both sets (balanced half-samples; McCarthy 1969); near the floor it is rather too large. KID, unbiased
    however few images there are. From 5,000 images on each side the FID at infinitely many: its bias falls as 1/n
    (arXiv 1911.07023, there by a line through many n), so that it is twice the FID minus the mean over the halves.
    """
    x, y = extract(real, net), extract(fake, net)
    for features in (x, y):
        if features.n is not None and features.n < 2:
            raise MetricError(f"FID needs two images or more: {features.name or 'one side'} has {features.n}.")
    facts, notes = {"n_real": x.n, "n_fake": y.n}, _facts_of_both(x, y)
    whole = x.rows is not None and y.rows is not None
    value = frechet_distance(x, y)
    if real2 is not None:
        if getattr(real2, "ndim", 0) == 4 and y.n:
            real2 = real2[_spaced(y.n, len(real2))]
        z = extract(real2, net)
        z = _part(z, _spaced(y.n, z.n)) if z.rows is not None and y.n else z
        facts |= {"floor": frechet_distance(x, z), "floor_n": z.n}
    elif x.rows is not None and x.n >= 4:
        n = min(y.n or x.n, x.n // 2)
        order = np.random.default_rng(0).permutation(x.n)
        parts = [_part(x, np.sort(part)) for part in (order[n:], order[:n])]
        facts |= {"floor": frechet_distance(*parts), "floor_n": n}
        notes.append(f"floor: {n} of the real images vs the other {x.n - n}")
        if y.rows is not None and n < y.n:
            fewer = _part(y, np.sort(np.random.default_rng(0).permutation(y.n)[:n]))
            facts["at_floor_n"] = float(np.mean([frechet_distance(part, fewer) for part in parts]))
    if confidence and (halves := _over_halves(frechet_distance, x, y)):
        facts["std"] = float(np.std(halves))
        notes.append(HALF_NOTE + ("" if whole else f" of the {'real' if y.rows is None else 'fake'} side alone"))
        if whole and min(x.n, y.n) >= INFINITE_FROM:
            facts["infinite"] = 2 * value - float(np.mean(halves))
    if confidence and whole:
        beside = kid(x, y, net)
        facts |= {"kid": beside.value, "kid_std": beside.std}
    if not whole:
        sides = " and ".join(side for side, part in (("real", x), ("fake", y)) if part.rows is None)
        notes.append(
            f"no KID{' and no floor' * ('floor' not in facts)}: the {sides} images are known by statistics only"
        )
    few = min(n for n in (x.n, y.n, net.dims + 1) if n is not None)
    if few <= net.dims:
        text = f"{few} images are too few for {net.dims} dims: much of this FID is the price of the small sample"
        text += ", as its floor shows" if "floor" in facts else ""
        text += "; trust the KID" if facts.get("kid_std") else ""
        notes.append(f"{text}; compare only with FIDs of equally many")
    return _stamp(net, "FID", value, **facts, note=_notes(*notes, _small_note(y.side, net)))


KID_BLOCK = 10_000  # more images are taken in blocks of at most so many: time grows with n, not with n²


def kid(real, fake, net: Net) -> Score:
    """Kernel Inception Distance (arXiv 1801.01401): squared maximum mean discrepancy for the kernel (x·y/d + 1)³.

    real, fake: as for `fid`. The U-statistic over all images is unbiased at every n: its expectation for two sets of
    one distribution is 0, so it may be slightly negative (and is below 0 for sets that share images). ± is the standard
    error, by a jackknife that leaves out each tenth of the images. Of more than 10,000 images it is the mean over
    disjoint blocks, which is as unbiased, and uses all images.
    """
    x, y = _rows_of("KID", net, real, fake)
    if min(len(x), len(y)) < 2:
        raise MetricError(f"KID needs two images or more on each side, not {len(x)} and {len(y)}.")
    facts = {"n_real": len(x), "n_fake": len(y)}
    parts = -(-max(len(x), len(y)) // KID_BLOCK)
    if parts > min(len(x), len(y)) // 2:  # too few on one side to be cut: so of the other side not all
        x, y = (rows[_spaced(KID_BLOCK, len(rows))] for rows in (x, y))
        parts = 1
    groups = 10 if min(len(x), len(y)) >= 100 * parts else 1
    values, variances = zip(*(_mmd(x[i::parts], y[i::parts], groups) for i in range(parts)), strict=True)
    note = "± standard error, leaving out tenths" if groups > 1 else "no error bar below 100 images"
    note += f"; mean over {parts} blocks" if parts > 1 else ""
    std = sum(variances) ** 0.5 / parts if groups > 1 else None
    return _stamp(net, "KID", float(np.mean(values)), std=std, **facts, note=note)


def _rows_of(metric: str, net: Net, *sets) -> list[np.ndarray]:
    """The features (n, d) of some sets. MetricError for what is only statistics, and for NaN."""
    found = [extract(images, net) for images in sets]
    for features in found:
        _need_rows(metric, features)
        _check_finite(features.rows)
    return [features.rows for features in found]


def _need_rows(metric: str, features: Features) -> None:
    if features.rows is None:
        name = f"{features.name} holds" if features.name else "(mu, sigma) are"
        raise MetricError(f"{metric} needs features: {name} only a mean and a covariance; give the images.")


def _mmd(x: np.ndarray, y: np.ndarray, groups: int = 1) -> tuple[float, float]:
    """Features (n, d), (m, d) -> the unbiased squared MMD of the kernel (x·y/d + 1)³, and its variance by a jackknife
    over `groups` (every groups-th row), for which the sums of the kernel are kept apart; 0 for one group."""
    x, y = (np.asarray(rows, dtype=np.float64) for rows in (x, y))

    def sums(a, b):  # (groups, groups), of each group of a with each of b
        pairs = [[(a[i::groups], b[j::groups]) for j in range(groups)] for i in range(groups)]
        return np.array([[((p @ q.T / p.shape[1] + 1) ** 3).sum() for p, q in row] for row in pairs])

    def without_itself(a):  # an image with itself does not count: this makes the estimate unbiased
        diagonal = (np.square(a).sum(axis=1) / a.shape[1] + 1) ** 3
        return sums(a, a) - np.diag([diagonal[i::groups].sum() for i in range(groups)])

    xx, yy, xy = without_itself(x), without_itself(y), sums(x, y)
    n, m = (np.array([len(rows[i::groups]) for i in range(groups)]) for rows in (x, y))

    def of(kept):  # numbers of groups
        block, a, b = np.ix_(kept, kept), n[kept].sum(), m[kept].sum()
        return xx[block].sum() / (a * (a - 1)) + yy[block].sum() / (b * (b - 1)) - 2 * xy[block].sum() / (a * b)

    every = np.arange(groups)
    without = [of(every[every != i]) for i in every] if groups > 1 else [0.0]
    return float(of(every)), float((groups - 1) * np.var(without))


PRDC_IMAGES = 10_000  # of more, so many evenly spaced ones are taken: the time grows with n²


def prdc(real: np.ndarray, fake: np.ndarray, k: int = 3, k_density: int = 5) -> dict[str, float]:
    """Features (n, d), (m, d) -> precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797).

    An image's ball reaches to the k-th nearest of its own set (itself not counted). precision: share of fake images in
    the ball of some real one; recall: of real ones in the ball of some fake one; density: in how many real balls a
    fake image lies, over k (above 1 where fakes crowd where real images are dense); coverage: share of real balls with
    a fake image in them. MetricError unless each side has more images than k.
    """
    need = max(k, k_density)
    if min(len(real), len(fake)) <= need or min(k, k_density) < 1:
        raise MetricError(f"precision needs more than k = {need} images a side, not {len(real)} and {len(fake)}.")
    centre = np.mean(real, axis=0, dtype=np.float64)
    real, fake = (np.asarray(rows, dtype=np.float64) - centre for rows in (real, fake))

    def squared(a, b):  # |a - b|², some rows at a time: (start, (rows, len(b)))
        norms = np.square(b).sum(axis=1)
        for i in range(0, len(a), CHUNK):
            part = a[i : i + CHUNK]
            yield i, np.maximum(np.square(part).sum(axis=1)[:, None] + norms - 2 * part @ b.T, 0)

    def radii(a, *ks):  # squared, (len(a),) for each k
        found = []
        for i, distance in squared(a, a):
            rows = np.arange(len(distance))
            distance[rows, i + rows] = -1  # itself, the first of all
            found.append(np.partition(distance, ks, axis=1)[:, ks].T)
        return np.concatenate(found, axis=1)

    (real_k, real_density), (fake_k,) = radii(real, k, k_density), radii(fake, k)
    inside, recalled, balls, covered = np.zeros(len(fake), bool), 0, 0, 0
    for i, distance in squared(real, fake):
        rows = slice(i, i + len(distance))
        inside |= (distance <= real_k[rows, None]).any(axis=0)
        recalled += (distance <= fake_k).any(axis=1).sum()
        close = distance <= real_density[rows, None]
        balls, covered = balls + close.sum(), covered + close.any(axis=1).sum()
    density = balls / (k_density * len(fake))
    found = {"precision": inside.mean(), "recall": recalled / len(real), "density": density}
    return {name: float(value) for name, value in (found | {"coverage": covered / len(real)}).items()}


def precision_recall(real, fake, net: Net, k: int = 3, k_density: int = 5) -> list[Score]:
    """-> Scores of `prdc`: precision, recall, density, coverage. Is what is drawn real, and is all that is real drawn?

    real, fake: as for `fid`. Beside each, as `floor`, what one half of the real images scores against the other, and as
    `at_floor_n` what halves of real and fake do. ±: the deviation over seven halves of both sets.
    """
    x, y = (rows[_spaced(PRDC_IMAGES, len(rows))] for rows in _rows_of("precision", net, real, fake))
    values, facts = prdc(x, y, k, k_density), {"n_real": len(x), "n_fake": len(y)}
    enough = min(len(x), len(y)) >= 8 * max(k, k_density)
    halves = list(zip(_halves(len(x)), _halves(len(y)), strict=True)) if enough else []
    spread = [prdc(x[a], y[b], k, k_density) for a, b in halves[::2]]
    bound = prdc(x[halves[0][0]], x[halves[1][0]], k, k_density) if enough else {}  # a half against the other half
    scores = []
    for metric, value in values.items():
        note = f"k = {k if metric in ('precision', 'recall') else k_density}" + (f"; {HALF_NOTE}" if enough else "")
        more = {"floor": bound[metric], "floor_n": len(halves[0][0])} if enough else {}
        if enough:
            of_halves = [part[metric] for part in spread]
            more |= {"std": float(np.std(of_halves, ddof=1)), "at_floor_n": float(np.mean(of_halves))}
        scores.append(_stamp(net, metric, value, **facts, **more, note=note))
    return scores


def _knows_classes(net: Net) -> bool:
    return not net.multi_label if isinstance(net, Classifier) else hasattr(net, "log_probs") and net.dims == 2048


def _check_knows_classes(net: Net) -> None:
    if not _knows_classes(net):
        what = "knows attributes, not classes" if isinstance(net, Classifier) else f"ends at {net.dims}"
        raise MetricError(f"Inception Score needs the logits of classes, of Inception with 2048 dims; this net {what}.")


def _parts(*counts: int) -> int:
    """How many parts of an Inception Score so many images allow."""
    return 10 if min(counts) >= 5000 else 1


def inception_score(images, net: Net, splits: int = 10, shuffle: bool = False) -> Score:
    """Inception Score exp E KL(p(y|x) || p(y)) (arXiv 1606.03498, section 4). Higher is better, 1 to 1008, or to the
    number of classes of a `Classifier`.

    images: as for `fid`. As in its first code: softmax of the 1008 logits *without* the bias, `splits` parts in file
    order, mean and standard deviation (ddof 0) over the parts. shuffle: parts drawn at random, always the same way;
    images that lie sorted by class make parts of few classes, which all score low.
    """
    _check_knows_classes(net)
    (rows,) = _rows_of("Inception Score", net, images)
    n = len(rows)
    if not 1 <= splits <= n:
        raise MetricError(f"Inception Score: {n} images cannot be cut into {splits} parts.")
    order = np.random.default_rng(0).permutation(n) if shuffle else np.arange(n)
    parts = [_exp_kl(rows, order[i * n // splits : (i + 1) * n // splits], net) for i in range(splits)]
    scores, (classes, *_) = zip(*parts, strict=True)
    note, std = "one part", None
    if splits > 1:
        note, std = f"± over {splits} parts {'at random' if shuffle else 'in file order'}", float(np.std(scores))
    if n < classes * splits:  # the score of m images is at most m
        note += f"; {n // splits} images a part are few for {classes} classes, compare only at equal n"
    return _stamp(net, "IS", float(np.mean(scores)), std=std, n_fake=n, note=note)


def _as_ceiling(score: Score) -> Score:
    return replace(score, metric=f"{score.metric} of real pictures (ceiling)", n_real=score.n_fake, n_fake=None)


def _exp_kl(rows: np.ndarray, chosen: np.ndarray, net: Net) -> tuple[float, int]:
    """Features (n, d), of which some -> exp of the mean over x of KL(p(y|x) || p(y)), p(y) being the average of those;
    how many classes. That mean is the entropy of the average less the average of the entropies."""
    total, entropies = 0, 0
    for start in range(0, len(chosen), CHUNK):
        p = net.log_probs(torch.as_tensor(np.array(rows[chosen[start : start + CHUNK]]))).exp()  # (B, classes)
        total, entropies = total + p.sum(dim=0), entropies + torch.special.entr(p).sum()
    marginal = total / len(chosen)
    return (torch.special.entr(marginal).sum() - entropies / len(chosen)).exp().item(), len(marginal)


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
            if x.ndim == 4 and min(x.shape[2:]) < 31:
                raise MetricError(f"LPIPS needs images of at least 31 px, not {x.shape[3]}x{x.shape[2]}.")
            what = "float images in [-1, 1] of shape (B, 1 or 3, H, W), at least 31 px"
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


def lpips_distance(x, y, net: LPIPS) -> Score:
    """Mean LPIPS between the images of x and their partners in y; `pairs` of the Score has each.

    x, y: float in [-1, 1] or uint8, at least 31 px: (N, 1 or 3, H, W), or an iterable of batches; the i-th belongs to
    the i-th. Or two folders (paths, or `Pictures` of `open_pictures`): those of one name belong together, in the order
    of the names. Sizes may differ from pair to pair, not within one. ± is the standard error over the pairs. Beside it,
    what chance gives: each x with the y of the pair before. MetricError.
    """
    distances, strangers, waiting, names = [], [], [], None
    if any(isinstance(side, str | os.PathLike | Pictures) for side in (x, y)):
        x, y, names = _paired(
            *(open_pictures(side) if isinstance(side, str | os.PathLike) else side for side in (x, y))
        )

    def measure():  # of pairs of one shape
        a, b = (torch.stack([_unit_range(pair[side]) for pair in waiting]).to(net.shift.device) for side in (0, 1))
        a, b = net.embed(a), net.embed(b)
        distances.extend((a - b).square().sum(dim=1).tolist())
        strangers.extend((a[1:] - b[:-1]).square().sum(dim=1).tolist())
        waiting.clear()

    with torch.inference_mode():
        for i, (a, b) in enumerate(itertools.zip_longest(_one_by_one(x), _one_by_one(y))):
            if a is None or b is None:
                raise MetricError(f"LPIPS needs pairs: one side has {i} images, the other one more.")
            if tuple(a.shape) != tuple(b.shape):
                which = names[i] if names else f"pair {i}"
                sizes = " and ".join(f"{x.shape[-1]}x{x.shape[-2]} with {x.shape[0]} channels" for x in (a, b))
                raise MetricError(f"LPIPS compares images of one size, and {which} has {sizes}: try --image-size.")
            if waiting and (len(waiting) == 16 or waiting[0][0].shape != a.shape):
                measure()
            waiting.append((a, b))
        if waiting:
            measure()
    if not distances or not np.isfinite(distances).all():
        raise MetricError("LPIPS needs at least one pair of images, without NaN.")
    n = len(distances)
    note = _notes(
        "± standard error over the pairs" if n > 1 else "one pair",
        f"pairs that do not belong together {np.mean(strangers):.4g}" if strangers else "",
    )
    std = float(np.std(distances, ddof=1) / np.sqrt(n)) if n > 1 else None
    facts = {"n_real": n, "n_fake": n, "net": "LPIPS v0.1 alex", "weights": net.weights}
    return Score("LPIPS", float(np.mean(distances)), std, **facts, note=note, pairs=distances)


def _one_by_one(images) -> Iterator:
    """(N, C, H, W), or an iterable of such batches or of single images -> images (C, H, W)."""
    for image in images:
        yield from image if image.ndim == 4 else [image]


def _unit_range(image) -> torch.Tensor:
    """uint8 or float in [-1, 1] -> float32 in [-1, 1]."""
    image = torch.as_tensor(np.array(image) if isinstance(image, np.ndarray) else image)
    return image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image.float()


def _stems(pictures: "Pictures") -> dict[str, int]:
    """{name without its ending: number of the file}, by name; of two files of one such name the later."""
    return {stem: i for stem, i in sorted((os.path.splitext(name)[0], i) for i, name in enumerate(pictures.names))}


def _paired(x: "Pictures", y: "Pictures") -> tuple[Iterator, Iterator, list[str]]:
    """Two folders -> the images of one name, one by one from each, and the names. MetricError."""
    for pictures in (x, y):
        if not isinstance(pictures, Pictures) or not pictures.names:
            name = getattr(pictures, "name", "") or "one side"
            raise MetricError(f"{name} is not a folder: LPIPS compares the images of two folders, or two tensors.")
    a, b = _stems(x), _stems(y)
    for pictures, stems in ((x, a), (y, b)):
        if twice := sorted(set(range(len(pictures.names))) - set(stems.values())):
            name = pictures.names[twice[0]]
            raise MetricError(f"{pictures.name} holds {name} and another file of that name: lpips pairs them by name.")
    if alone := sorted(set(a) ^ set(b)):
        where = x.name if alone[0] in a else y.name
        raise MetricError(
            f"{where} holds {alone[0]}, which has no partner of that name in the other folder "
            f"({_files(len(alone), 'such ')}): lpips compares images that are called alike."
        )
    bar = tqdm(a.values(), desc="LPIPS", unit="pair", disable=None)
    return (x.image(i) for i in bar), (y.image(b[name]) for name in a), list(a)


def _samples_in(root, image_size: int | None = None, resize: str = "crop", count: int | None = None) -> Iterator:
    """A folder with a folder of samples for each input -> float images (k, C, H, W) in [-1, 1] of each. MetricError."""
    import datasets

    root = Path(root)
    folders = datasets.folders_in(root) if root.is_dir() else []
    if not folders:
        raise MetricError(f"{root}: diversity wants a folder that holds a folder of samples for each input.")
    sets = [open_pictures(root / folder, image_size, resize, count=count) for folder in folders]
    if few := [pictures.name for pictures in sets if len(pictures.names) < 2]:
        raise MetricError(f"{few[0]} holds one sample: diversity needs two or more of each input.")

    def each():
        for pictures in tqdm(sets, desc="LPIPS diversity", unit="input", disable=None):
            images = [pictures.image(i) for i in range(len(pictures.names))]
            if len({image.shape for image in images}) > 1:
                raise MetricError(f"{pictures.name} holds samples of several sizes: try --image-size.")
            yield torch.stack([_unit_range(image) for image in images])

    return each()


def lpips_diversity(samples: Iterable[torch.Tensor] | str | Path, net: LPIPS, pairs: str = "all") -> Score:
    """Mean LPIPS between samples of one input, averaged over the inputs.

    samples: float in [-1, 1], (n_inputs, k, C, H, W), or any iterable of (k, C, H, W), k >= 2; or the path of a folder
    that holds a folder of samples for each input. pairs: "all" k(k-1)/2, or the k-1 "consecutive" ones (BicycleGAN's
    protocol: 100 inputs, k = 20, so 1900 pairs; arXiv 1711.11586). Either way k passes of the network: the mean of
    |e_i - e_j|² over all pairs is 2/(k-1) sum_i |e_i - mean(e)|². The ceiling for comparison is that of real images:
    give them as the samples of one input, real[None].
    """
    if pairs not in ("all", "consecutive"):
        raise MetricError(f'pairs is "all" or "consecutive", not "{pairs}".')
    values, n = [], 0
    samples = _samples_in(samples) if isinstance(samples, str | os.PathLike) else samples
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
    note = f"{n // len(values)} samples for each of {len(values)} inputs, {pairs} pairs"
    mean, std = float(np.mean(values)), None  # of a single input there is no deviation
    if len(values) > 1:
        note, std = f"{note}; ± over the inputs", float(np.std(values))
    return Score("LPIPS diversity", mean, std, n_fake=n, net="LPIPS v0.1 alex", weights=net.weights, note=note)


# ----- Sets by name: folders, statistics, data sets, checkpoints


@dataclass
class Pictures:
    """A set of images that are read, or drawn, as they are needed; `open_pictures` makes it of a path."""

    name: str
    images: Any  # uint8 (N, C, H, W), array or tensor; a datasets.Reader of files; or an iterable of batches
    count: int | None = None
    names: list[str] = field(default_factory=list)  # of the files, from the folder
    about: str = ""
    strict: bool = False
    pixels: int | None = None  # on a side, where all are brought to one size
    bad: list[tuple[str, str]] = field(default_factory=list)  # (file, reason), left out

    def pieces(self, size: int, rank: int = 0, world: int = 1, workers: int = 0) -> Iterator:
        """Every world-th piece of at most `size` images: (B, C, H, W), or a list of (C, H, W) of any sizes; at the end
        None where other processes have one more."""
        if hasattr(self.images, "shape"):
            _check_images(self.images)
            starts = range(0, len(self.images), size)
            pieces = (_tensor(self.images[i : i + size]) for i in starts[rank::world])
        elif hasattr(self.images, "files"):
            starts = range(0, len(self.images), size)
            pieces = self._files([range(i, min(i + size, len(self.images))) for i in starts[rank::world]], workers)
        else:
            yield from self._stream(size, rank, world)
            return
        yield from pieces
        if rank >= len(starts) % world > 0:
            yield None

    def _files(self, blocks: list[range], workers: int) -> Iterator[list[np.ndarray]]:
        from torch.utils.data import DataLoader

        self.bad = []
        options = {"num_workers": min(workers, os.cpu_count() or 1, len(blocks) // 8), "collate_fn": list}
        options["generator"] = torch.Generator()  # else it would draw from the caller's random numbers
        batches = iter(DataLoader(self.images, batch_sampler=blocks, **options))
        for block in blocks:
            try:
                found = next(batches)
            except RuntimeError as error:
                raise MetricError(f"a process that reads images has died ({error}): is there enough memory?") from error
            bad = [(self.names[i], row) for i, row in zip(block, found, strict=True) if isinstance(row, str)]
            if bad and self.strict:
                raise MetricError(f"{self.name}/{bad[0][0]} cannot be read ({bad[0][1]}): mend or remove it.")
            self.bad += bad
            yield [row[0] for row in found if not isinstance(row, str)]

    def _stream(self, size: int, rank: int, world: int) -> Iterator:
        waiting = []
        if not isinstance(self.images, Iterable):
            _check_images(self.images)
        for batch in self.images:
            batch = batch.get("image") if isinstance(batch, dict) else batch
            batch = batch[0] if isinstance(batch, list | tuple) and len(batch) else batch
            _check_images(batch)
            for start in range(0, len(batch), size):
                waiting.append(batch[start : start + size])
                if len(waiting) == world:
                    yield _tensor(waiting[rank])
                    waiting = []
        if waiting:
            yield _tensor(waiting[rank]) if rank < len(waiting) else None

    def image(self, i: int) -> np.ndarray:
        """One file's, (C, H, W). MetricError where it cannot be read."""
        (found,) = self.images.__getitems__([i])
        if isinstance(found, str):
            raise MetricError(f"{self.name}/{self.names[i]} cannot be read ({found}): mend or remove it.")
        return found[0]

    def side(self) -> int | None:
        """Pixels of the shorter side, of the first image; None of an iterable."""
        if hasattr(self.images, "shape"):
            return min(self.images.shape[2:])
        if self.pixels or not self.names:
            return self.pixels
        with suppress(MetricError):
            return min(self.image(0).shape[1:])
        return None

    def bad_files(self) -> str:
        some = [f"{name} ({reason})" for name, reason in self.bad[:3]] + ["..."] * (len(self.bad) > 3)
        return f" (left out {_files(len(self.bad))}: {', '.join(some)})" if some else ""

    def note(self) -> str:
        return _notes(self.about, f"{self.name}: left out {_files(len(self.bad), 'bad ')}" if self.bad else "")

    def digest(self) -> str | None:
        """A checksum of what the images are made of; None of an iterable."""
        digest = hashlib.blake2b(self.about.encode(), digest_size=16)
        if hasattr(self.images, "shape"):
            digest.update(repr(tuple(self.images.shape)).encode())
            for start in range(0, len(self.images), CHUNK):
                digest.update(np.ascontiguousarray(_tensor(self.images[start : start + CHUNK]).cpu()))
            return digest.hexdigest()
        if not hasattr(self.images, "files"):
            return None
        reader = self.images
        digest.update(repr((reader.size, reader.channels, reader.resize)).encode())
        try:
            for (file,) in tqdm(reader.files, desc="looking for kept features", disable=len(reader) < 5000):
                with open(f"{self.images.root}/{file}", "rb") as opened:
                    digest.update(hashlib.blake2b(opened.read()).digest())
        except OSError:
            return None  # reading it will say why
        return digest.hexdigest()


def _files(n: int, kind: str = "") -> str:
    return f"{n} {kind}file{'s' * (n != 1)}"


def _tensor(images) -> torch.Tensor:
    return images if isinstance(images, torch.Tensor) else torch.from_numpy(np.array(images))


def _check_images(images) -> None:
    shape, dtype = tuple(getattr(images, "shape", ())), str(getattr(images, "dtype", type(images).__name__))
    if not dtype.endswith("uint8") or len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        hint = "; floats in [-1, 1] become so by datasets.to_uint8" if "float" in dtype else ""
        raise MetricError(f"images must be uint8 (N, 1 or 3, H, W), at least one of them, not {dtype} {shape}{hint}.")


def open_pictures(
    source: str | Path,
    image_size: int | tuple[int, int] | None = None,
    resize: str = "crop",
    channels: int = 3,
    data_dir: str | Path = "data",
    count: int | None = None,
    strict: bool = False,
    device: str = "auto",
) -> "Pictures | Features":
    """A set by its name -> `Pictures` or, of statistics, `Features`. MetricError.

    source: a folder, whose images are taken with those of its sub-folders, by name; a file NAME.npz of statistics, as
    `save_statistics` or pytorch-fid writes it; SET:SPLIT, a data set of datasets.py or a folder as it understands them,
    and SET:SPLIT:CLASS only that class (A and B of two domains; of pairs a side, without it B); a checkpoint of a
    script, NAME.pt, which then draws: of cyclegan.py NAME.pt:A or NAME.pt:B.
    image_size: pixels on a side, or (height, width); None leaves a folder's images as they are. resize: how other
    shapes become that one (see datasets.load). channels: 1 grey, 3 colour. count: at most so many images, evenly
    spaced; of a checkpoint so many (None: 10,000). strict: a bad file stops, in place of being left out and counted.
    """
    import datasets

    name, text = str(source).rstrip("/"), str(source)
    parts = text.split(":")
    try:
        if os.path.isdir(text):
            return _folder(text, image_size, resize, channels, count, strict)
        if text.endswith(".npz"):
            return load_statistics(text)
        if parts[0].endswith(".pt") and len(parts) <= 2:
            return _drawn(parts[0], parts[1:], count or 10_000, data_dir, device)
        if len(parts) in (2, 3) and (parts[0] in datasets.KNOWN or os.path.isdir(parts[0])):
            if image_size is None:
                raise MetricError(f"{text}: a data set is read at a size; say --image-size, in pixels.")
            how = {"resize": resize, "data_dir": data_dir, "strict": strict}
            data = datasets.load(parts[0], parts[1], image_size, channels=channels, **how)
            images = _only(data, parts[2] if len(parts) == 3 else "", name)
            if count and count < len(images):
                images = images[_spaced(count, len(images))]
            return Pictures(name, images, len(images), about=_about(image_size, resize))
    except datasets.DataError as error:
        raise MetricError(f"{text}: {error}.") from error
    if text in datasets.KNOWN:
        raise MetricError(f"{text}: of which split? Say {text}:test or {text}:train.")
    if os.path.exists(text):
        raise MetricError(f"{text} is neither a folder, nor .npz statistics, nor a .pt checkpoint of a script.")
    raise MetricError(f"there is no folder or file {text}, and no data set of that name (see python datasets.py).")


def _folder(root: str, image_size, resize: str, channels: int, count: int | None, strict: bool) -> Pictures:
    import datasets

    files = list(datasets.pictures_in(Path(root)))
    if not files:
        raise MetricError(f"{root} holds no images; a folder of images is asked for, and sub-folders count.")
    if count and count < len(files):
        files = [files[i] for i in _spaced(count, len(files))]
    size = None if image_size is None else datasets.size_of(image_size)
    reader = datasets.Reader(root, [(file,) for file in files], size, (channels,), resize)
    about, pixels = ("", None) if size is None else (_about(size, resize), min(size))
    return Pictures(root.rstrip("/"), reader, len(files), files, about, strict, pixels)


def _about(image_size: int | tuple[int, int], resize: str) -> str:
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    return f"{height} px, {resize}" if height == width else f"{width}x{height} px, {resize}"


def _only(data, part: str, name: str):
    """The images of one class, or one side of pairs."""
    if data.targets is not None:
        if part not in ("", "A", "B"):
            raise MetricError(f"{name}: of pairs there are the sides A and B.")
        return data.images if part == "A" else data.targets
    if not part:
        return data.images
    if part not in data.classes:
        raise MetricError(f"{name}: there is no class {part}; it has {', '.join(data.classes) or 'none'}.")
    return data.images[np.flatnonzero(data.labels == data.classes.index(part))]


def _drawn(path: str, domain: list[str], count: int, data_dir: str | Path, device: str) -> Pictures:
    """What the script that trained this checkpoint draws with it."""
    try:
        owner = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["script"]
        if not re.fullmatch(r"\w+", owner) or not Path(__file__).with_name(f"{owner}.py").exists():
            raise ImportError(owner)
        script = importlib.import_module(owner)
    except FileNotFoundError as error:
        raise MetricError(f"there is no checkpoint {path}.") from error
    except Exception as error:
        raise MetricError(f"{path} is not a checkpoint of a script of this folder.") from error
    argv = ["--evaluate", path, "--device", device]
    args, checkpoint = parse_args(script.build_parser(), argv, owner, [])
    args.data_dir = str(data_dir)
    if domain and "domain" not in script.fakes.__code__.co_varnames[: script.fakes.__code__.co_argcount]:
        raise MetricError(f"{path}:{domain[0]}: only of cyclegan.py a checkpoint draws two domains.")
    about = f"drawn by {owner}.py"
    if owner in ("bicyclegan", "cyclegan", "starGAN"):
        about += " from test images, so near to them: compare with the training split"
    pictures = script.fakes(args, checkpoint, count, *domain)
    return Pictures(path, pictures, count, about=about, pixels=args.image_size)


PYTORCH_FID = {"net": "Inception 2015-12-05", "resize": "torch bilinear", "precision": "fp32"}


def save_statistics(path: str | Path, features: Features, with_rows: bool = False) -> None:
    """Write mu (d,) and sigma (d, d), float64, in pytorch-fid's format, and beside them n and the protocol, which other
    programs ignore. with_rows: also the features, float32 (n, d), for KID, floor and error bars. MetricError."""
    mu, sigma = features.moments or _moments(features.rows)
    arrays = {"mu": mu, "sigma": sigma, "name": features.name, "note": features.note, **features.protocol}
    arrays |= {} if features.n is None else {"n": features.n}
    arrays |= {"features": features.rows} if with_rows and features.rows is not None else {}
    part = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
    try:
        with open(part, "wb") as file:  # a file, not a name: numpy would add .npz to that
            np.savez(file, **arrays)
        os.replace(part, path)
    except OSError as error:
        raise MetricError(f"{path} cannot be written ({error.strerror}).") from error
    finally:
        with suppress(OSError):
            part.unlink()


def load_statistics(path: str | Path) -> Features:
    """Statistics of `save_statistics`, pytorch-fid or others with mu and sigma -> Features. A file without a stamp is
    taken for pytorch-fid's: torch bilinear, fp32. MetricError for what is damaged, no covariance, or pickled."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in {"mu", "sigma", "n", "note", "features", *STAMP} & set(file.files)}
        if not all(np.isrealobj(arrays[key]) for key in ("mu", "sigma")):
            raise ValueError("complex numbers")
        mu, sigma = (np.asarray(arrays[key], dtype=np.float64) for key in ("mu", "sigma"))
        rows = np.asarray(arrays["features"], dtype=np.float32) if "features" in arrays else None
        n = int(arrays["n"]) if "n" in arrays else None
    except FileNotFoundError as error:
        raise MetricError(f"there is no file {path}.") from error
    except Exception as error:  # numpy raises a dozen types; a pickle, which could run code, is a ValueError
        message = "it is damaged, holds pickled objects, or is no .npz with mu and sigma; make it anew"
        raise MetricError(f"{path} cannot be read as statistics: {message}.") from error
    if n is not None and n < 2:
        raise MetricError(f"{path}: statistics of {n} images; two or more are needed.")
    d = mu.shape[0] if mu.ndim == 1 else 0
    if not d or sigma.shape != (d, d) or (rows is not None and (rows.ndim != 2 or rows.shape[1] != d)):
        raise MetricError(f"{path}: mu {mu.shape} and sigma {sigma.shape} are no mean and covariance of one set.")
    _check_finite(mu, sigma, *([] if rows is None else [rows]))
    if (np.diag(sigma) < 0).any() or not np.allclose(sigma, sigma.T, rtol=1e-6, atol=1e-8 * abs(sigma).max()):
        raise MetricError(f"{path}: sigma is no covariance: it is not symmetric, or has negative variances.")
    stamp = {key: str(arrays[key]) for key in STAMP if key in arrays}
    note = str(arrays.get("note", ""))
    if not stamp:
        note = "without a stamp, taken for pytorch-fid's (else say --inception-resize)"
    stamp = (stamp or PYTORCH_FID) | {"dims": str(d)}
    return Features(rows, stamp, None if rows is not None else (mu, sigma), n, str(path), note)


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
    for net in judges:
        net.cache = Path(data_dir, "cache")  # Inception is slow: what it sees in real images is kept
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
            images = data.images[_spaced(len(fake), len(data.images))]
            kept = Pictures(f"{data.name}-{side}", images, len(images))
            cache[key] = extract(kept, net, cache=getattr(net, "cache", None))
        return cache[key]

    for net in judges:
        x, y = real(net, "test", test), extract(fake, net)
        scores.append(fid(x, y, net, real2=real(net, "train", train)))
        if _knows_classes(net):
            splits = _parts(x.n, y.n)
            scores += [inception_score(side, net, splits, shuffle=True) for side in (y, x)]
            scores[-1] = _as_ceiling(scores[-1])
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
    scores = [Score("label accuracy", float(right.mean()), float(right.std() / np.sqrt(len(y))), **facts, note=note)]
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
    enough = {name: sets for name, sets in domains.items() if min(map(len, sets)) > 1}
    scores = {name: fid(x, y, net, real2=z, confidence=False) for name, (x, y, z) in enough.items()}
    if not scores:
        return []
    first, *_ = scores.values()
    value, floor = (float(np.mean([getattr(score, key) for score in scores.values()])) for key in ("value", "floor"))
    note = "by domain " + ", ".join(f"{name} {score.value:.3g}" for name, score in scores.items())
    metric = first.metric.replace("FID", "mean domain FID")
    beside = {"std": None, "kid": None, "kid_std": None, "infinite": None}
    return [replace(first, metric=metric, value=value, floor=floor, note=note, **beside)]


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


def broadcast_weights(*nets: nn.Module, sync_bn: bool = False) -> None:
    """Give every process rank 0's weights and buffers. sync_bn: from now on BatchNorm sees the batch of all of them."""
    for net in nets if dist.is_initialized() else ():
        for tensor in net.state_dict().values():
            dist.broadcast(tensor, src=0)
        for layer in net.modules() if sync_bn else ():
            if isinstance(layer, _BatchNorm):
                layer.__class__ = SyncBatchNorm  # the same weights and buffers under the same names


class _Sum(torch.autograd.Function):
    """A tensor -> its sum over all processes. Each process's loss depends on it: so the gradient is a sum as well."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        return _Sum.apply(grad)


class SyncBatchNorm(_BatchNorm):
    """BatchNorm (arXiv:1502.03167) of (B, C, ...) whose mean and variance, in training, are those over the batches of
    all processes, equal in size: together they compute what one process with the whole batch would. In evaluation mode
    a BatchNorm like any other. torch's own is for GPUs alone; this one runs on gloo too."""

    def _check_input_dim(self, x):
        """Any number of dimensions."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        rank, world, axes = dist.get_rank(), dist.get_world_size(), [0, *range(2, x.ndim)]
        own = torch.stack(torch.var_mean(x.float(), axes, correction=0))  # (2, C)
        every = _Sum.apply(F.pad(own[None], (0, 0, 0, 0, rank, world - 1 - rank)))  # (world, 2, C), each adds its row
        mean = every[:, 1].mean(dim=0)
        var = (every[:, 0] + (every[:, 1] - mean).square()).mean(dim=0)  # within the parts, and between them
        if self.running_mean is not None:
            n = world * x.numel() / len(mean)
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(var.detach() * n / (n - 1), self.momentum)
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = (self.weight * torch.rsqrt(var + self.eps)).view(shape)
        return (x * scale + (self.bias.view(shape) - mean.view(shape) * scale)).to(x.dtype)


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
    add("sync-bn", False, "under torchrun: BatchNorm over the batches of all processes", action=switch)
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


@dataclass
class _Stop:
    """Whether this process was asked to end, by Ctrl-C or SIGTERM."""

    signal: int = 0  # the signal, once it has come
    stepping: bool = False  # training steps are being taken: the present one comes to its end
    agreed: bool = False  # all processes know: this step is the last
    owner: int = 0  # worker processes inherit the handler, and die as they always did


_stop = _Stop()


def stopping() -> bool:
    """True in the last step of a run that Ctrl-C or SIGTERM ends: time for a checkpoint."""
    return _stop.agreed


def _on_signal(number: int, frame: object) -> None:
    if os.getpid() != _stop.owner:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    again, _stop.signal = _stop.signal, number
    alone = not dist.is_initialized()  # torchrun hands a Ctrl-C on: the second one is not the user's
    if not _stop.stepping or (again and alone and number == signal.SIGINT):
        raise KeyboardInterrupt
    if not again and (alone or dist.get_rank() == 0):  # not print: the signal may have come in the middle of one
        os.write(2, b"\nstopping soon, with a checkpoint" + b"; Ctrl-C again stops at once" * alone + b"\n")


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is done in here by KeyboardInterrupt, training after its step: see `steps`."""
    numbers = [signal.SIGINT, signal.SIGTERM] if threading.current_thread() is threading.main_thread() else []
    numbers = [number for number in numbers if signal.getsignal(number) not in (None, signal.SIG_IGN)]  # nohup, &
    before = {number: signal.signal(number, _on_signal) for number in numbers}
    vars(_stop).update(vars(_Stop(owner=os.getpid())))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of large tensors for the next of their size. It would hand it back to the kernel, which
    clears every fresh page: on a CPU a good part of a step where networks are wide and batches small. Elsewhere nothing
    happens."""
    with suppress(AttributeError, TypeError, OSError):
        for name, value in ((-4, 0), (-1, 2**31 - 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD
            ctypes.CDLL(None).mallopt(name, value)


def steps(loader: torch.utils.data.DataLoader, done: int, last: int) -> tqdm:
    """Training steps done + 1 ... last, over as many epochs as it takes -> an iterable of (step from 1, epoch from 0,
    batch); rank 0 shows its progress.

    After Ctrl-C or SIGTERM there comes a last step, the same for all processes, in which `stopping()` is true; then
    KeyboardInterrupt, whose text says where the run stands.
    """
    several, rank = dist.is_initialized(), dist.get_rank() if dist.is_initialized() else 0
    keep_freed_memory()

    def is_last(step: int) -> bool:
        if not several:
            return _stop.signal > 0
        if step % 10:
            return False  # to ask the others in each step would hold a GPU up
        asked = torch.tensor(_stop.signal, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        _stop.signal = int(asked)
        return _stop.signal > 0

    def walk(done):
        _stop.stepping, _stop.agreed = True, False
        while done < last:
            epoch, skip = divmod(done, len(loader))
            loader.batch_sampler.set_epoch(epoch, skip)
            for batch in loader:
                done += 1
                _stop.agreed = is_last(done)
                yield done, epoch, batch
                if done == last:
                    _stop.stepping = _stop.agreed = False
                    return
                if _stop.agreed:
                    raise KeyboardInterrupt(f"stopped after step {done}; the same command with --resume auto continues")

    return tqdm(walk(done), total=last, initial=done, unit="step", disable=rank > 0)


@contextmanager
def one_sentence(
    parser: argparse.ArgumentParser,
    *errors: type[Exception],
    stopped: str = "stopped; --resume auto continues from the last checkpoint",
) -> Iterator[None]:
    """What a script does in here: an error of these types ends it with its sentence and exit status 2, Ctrl-C with 130,
    SIGTERM with 143, each after a checkpoint of the present step. However it ends, it leaves torchrun's process
    group; where another process of it has died, it says so."""
    try:
        with _signals():
            yield
            if dist.is_initialized():
                dist.barrier()  # all leave together: one that leaves while others work may abort
    except (*errors, MetricError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n" if str(error) else None)
    except KeyboardInterrupt as stop:
        if dist.is_initialized() and stopping():
            with suppress(RuntimeError):
                dist.barrier()  # rank 0 is still writing the checkpoint
        first = not dist.is_initialized() or dist.get_rank() == 0
        text = f"\n{parser.prog}: {stop if str(stop) else stopped}\n"
        parser.exit(128 + (_stop.signal or signal.SIGINT), text if first else None)
    except RuntimeError as error:
        if not dist.is_initialized() or not re.search("gloo|nccl|connection|peer", str(error), re.IGNORECASE):
            raise
        how = "start all with --resume auto to continue from the last checkpoint"
        parser.exit(2, f"{parser.prog}: another process of this job has ended, and so this one does; {how}\n")
    finally:
        leave_processes()


def parse_args(
    parser: argparse.ArgumentParser, argv: list[str] | None, script: str, free: Iterable[str]
) -> tuple[argparse.Namespace, dict | None]:
    """A script's flags, and the checkpoint that --resume, --sample or --evaluate name, or None.

    The flags kept in the checkpoint are the defaults of such a command: `--resume CKPT` alone continues what was begun.
    Only those in `free`, and common ones that change how far or where a run goes but not what it computes, may differ.
    `--resume auto` is the run folder's last.pt, or a new run where there is none. A run may continue on another number
    of processes, with the same batches: --batch-size becomes a process's share. MetricError names what contradicts.
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
    if resume:  # on another number of processes each takes its share of the same whole batch
        before, now = checkpoint.get("processes", 1), int(os.environ.get("WORLD_SIZE", 1))
        if stored["batch_size"] * before % now:
            whole = f"batches of {stored['batch_size'] * before}, by {before} processes"
            raise MetricError(f"{path} was trained on {whole}; {now} processes cannot share them evenly.")
        stored["batch_size"] = stored["batch_size"] * before // now
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
    "data_dir data_url strict epochs max_steps device amp compile sync_bn workers out log_every sample_every "
    "save_every eval_every resume sample evaluate num_samples weights_dir"
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
        why = error.strerror if isinstance(error, OSError) else "the disk is full, or fails"
        raise MetricError(f"{path} cannot be written ({why}); free some space, or choose another --out.") from error


def save_run(
    out: Path, script: str, args, step: int, log: "RunLog", noise, nets: dict, opts: dict, file="last.pt", **facts
) -> None:
    """Keep all that a run needs to continue, as `out`/last.pt: noise, the generator of all its random numbers; nets and
    optimisers by name; facts (plain values and tensors) for the script. MetricError where a loss is not finite."""
    state = {"script": script, "args": vars(args), "step": step, "log": log.state(), "made": made_with(), **facts}
    state |= {"noise": noise.get_state(), "processes": dist.get_world_size() if dist.is_initialized() else 1}
    state |= {name: net.state_dict() for name, net in nets.items()}
    save_checkpoint(out / file, state | {f"opt_{name}": opt.state_dict() for name, opt in opts.items()})


def restore(checkpoint: dict | None, noise: torch.Generator, opts: dict) -> int:
    """Bring noise and optimisers to where `save_run` left them -> steps done; 0 of a new run. `build` does the nets.
    MetricError where the processes of torchrun do not all continue the same."""
    found = [checkpoint["step"] if checkpoint else 0]
    if dist.is_initialized():
        found *= dist.get_world_size()
        dist.all_gather_object(found, found[0])
    if len(set(found)) > 1:
        where = f"the processes found checkpoints of steps {', '.join(map(str, found))}"
        raise MetricError(f"{where}: put --out on a disk that all machines share." if dist.get_rank() == 0 else "")
    if checkpoint is None:
        return 0
    noise.set_state(checkpoint["noise"])
    for name, opt in opts.items():
        opt.load_state_dict(checkpoint[f"opt_{name}"])
    return checkpoint["step"]


def load_checkpoint(path: str | Path, script: str) -> dict:
    """What `script` saved there, on the CPU. MetricError for anything else, a pickle that would run code included."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch thinks of a file that it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
        owner = state["script"]
    except FileNotFoundError as error:
        raise MetricError(f"there is no checkpoint {path}; mind the path, or train one first.") from error
    except Exception as error:
        why = "it is cut short or damaged"
        if isinstance(error, pickle.UnpicklingError) and re.search("unsupported global", str(error), re.IGNORECASE):
            why = "opening it might run code"
        elif isinstance(error, PermissionError | IsADirectoryError):
            why = error.strerror.lower()
        raise MetricError(f"{path} is not a checkpoint that can be read: {why}; take another.") from error
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
    made_with()  # now, not when the first checkpoint is kept: the code may be another by then
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


@functools.cache
def made_with() -> dict[str, str | int]:
    """What stands beside a result: the commit of this code, the versions, the device."""
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty= with changes", "--exclude=*"]
    try:
        commit = subprocess.run(describe, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""  # no git here, or the file stands alone
    names = [line.split(":")[1].strip() for line in _read_text("/proc/cpuinfo").splitlines() if "model name" in line]
    device = f"{os.cpu_count()} x {(names or [platform.processor() or platform.machine()])[0]}"
    if torch.cuda.is_initialized():
        device = torch.cuda.get_device_name()
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    return {"commit": commit or "unknown", **versions, "device": device, "threads": torch.get_num_threads()}


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def write_scores(path: str | Path, scores: Iterable[Score], **facts) -> None:
    """Print scores, and keep them with some facts (JSON values) about what was measured in a JSON file. MetricError.
    Under torchrun rank 0 does."""
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    scores = list(scores)
    print(*scores, sep="\n")
    text = json.dumps(facts | {"scores": [score.as_dict() for score in scores]}, indent=2) + "\n"
    try:
        _replace_file(Path(path), text.encode())
    except OSError as error:
        raise MetricError(f"{path} cannot be written ({error.strerror}).") from error


def write_evaluation(args: argparse.Namespace, checkpoint: dict, scores: Iterable[Score]) -> None:
    """What --evaluate found, with the flags, step, minutes and machine of the training, as metrics.json in --out."""
    facts = {"step": checkpoint["step"], "minutes": checkpoint["log"]["seconds"] / 60, "args": vars(args)}
    facts |= {"made": checkpoint.get("made", {}), "processes": checkpoint.get("processes", 1)}
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


# ----- The command

COMMANDS = {
    "fid": ("REAL FAKE", "Fréchet Inception Distance, with its floor, error bar and KID"),
    "kid": ("REAL FAKE", "Kernel Inception Distance"),
    "is": ("FAKE", "Inception Score"),
    "pr": ("REAL FAKE", "precision, recall, density, coverage"),
    "lpips": ("REAL FAKE", "LPIPS between the images of the same name in two folders"),
    "lpips-diversity": ("FAKE", "LPIPS among the samples of each input: a folder with a folder of samples for each"),
    "all": ("REAL FAKE", "FID, KID, IS, precision, recall, density, coverage; of paired folders LPIPS"),
    "save-stats": ("REAL OUT.npz", "keep mean and covariance in pytorch-fid's format"),
}
NETS = (
    "inception, torchvision (ImageNet's, of torchvision), classifier (learnt from REAL, a data set with classes), or "
    "FILE.py:NAME, your own: uint8 (B, 3, H, W) -> (B, dims)"
)
SETS = """REAL and FAKE are each one of
  photos/               a folder: its images, and those of its sub-folders
  photos.npz            statistics, as save-stats or pytorch-fid writes them
  fashion-mnist:test    a split of a data set (python datasets.py lists them), or of a folder, photos/:test
  horse2zebra:test:B    one class or domain of it; of pairs one side (B if none is named)
  runs/NAME/last.pt     what the script that made this checkpoint draws with it; of cyclegan.py last.pt:A or last.pt:B
"""
INCEPTION_RESIZES = {"torch": "torch bilinear", "tf1": "tf1 bilinear", "pil": "pil bicubic"}


def build_parser() -> argparse.ArgumentParser:
    look = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": SETS, "allow_abbrev": False}
    p = argparse.ArgumentParser("metrics.py", description=__doc__, **look)
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (operands, text) in COMMANDS.items():
        sub = commands.add_parser(command, help=text, description=text, **look)
        for operand in operands.split():
            sub.add_argument(operand.lower().partition(".")[0], metavar=operand)
        add, switch = sub.add_argument, argparse.BooleanOptionalAction
        add("--image-size", type=int, help="bring all images to this side in pixels; needed for data sets")
        add("--resize", default="crop", choices=("crop", "stretch", "pad"), help="how other shapes become that square")
        add(
            "--num-images",
            type=int,
            help="at most so many, evenly spaced; of a checkpoint so many (as many as REAL has, or 10000)",
        )
        add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="auto = the best there is")
        add("--weights-dir", default="", help="folder with the weights of Inception, AlexNet and LPIPS")
        if command != "save-stats":
            add("--json", default="", metavar="FILE", help="also write the scores there; - = only them, on the screen")
        if command == "lpips-diversity":
            add("--pairs", default="all", choices=("all", "consecutive"), help="consecutive: as BicycleGAN's README")
        if "lpips" in command:
            continue
        add("--net", default="inception", help=NETS)
        add("--dims", type=int, default=2048, choices=(64, 192, 768, 2048), help="Inception's feature layer")
        what = "to 299 px: torch as pytorch-fid, tf1 as torch-fidelity, pil as clean-fid"
        add("--inception-resize", default="torch", choices=INCEPTION_RESIZES, help=what)
        add("--bf16", default=False, action=switch, help="bfloat16: faster, for curves along a run; stamped")
        add("--batch-size", type=int, help="images at a time")
        add("--data-dir", default="data", help="folder of data sets; its cache/ keeps the features of REAL")
        add("--cache", default=True, action=switch, help="keep the features of REAL, and take kept ones")
        add("--strict", default=False, action=switch, help="stop at bad image files, which are else left out")
        if command in ("fid", "all"):
            add("--floor", metavar="REAL2", help="other real images, for the floor; else a half of REAL's")
        if command in ("is", "all"):
            add("--splits", type=int, help="parts of the Inception Score (10 from 5000 images on, else 1)")
            add("--shuffle", default=True, action=switch, help="parts at random; else in file order, as first defined")
        if command in ("pr", "all"):
            add("--k", type=int, default=3, help="neighbours of precision and recall (density and coverage: 5)")
        if command == "save-stats":
            add("--features", default=False, action=switch, help="keep the features too: for KID, floor, error bars")
    return p


def main(argv: list[str] | None = None) -> None:
    """`python metrics.py`: see --help. Under torchrun the processes share the images, and the first one speaks."""
    import datasets

    parser = build_parser()
    args = parser.parse_args(argv)
    with one_sentence(parser, datasets.DataError, stopped="stopped"):
        for flag in ("image_size", "num_images", "batch_size", "splits", "k"):
            if getattr(args, flag, None) is not None and getattr(args, flag) < 1:
                raise MetricError(f"--{flag.replace('_', '-')} must be 1 or more.")
        args.json = getattr(args, "json", "")
        if args.json and args.json != "-" and not Path(args.json).parent.is_dir():
            raise MetricError(f"--json {args.json}: there is no folder {Path(args.json).parent}.")
        device, rank, _ = pick_device(args.device)
        if "lpips" in args.command:  # not shared: it takes seconds
            one = {"lpips": _paired_lpips, "lpips-diversity": _folder_diversity}[args.command]
            scores = [] if rank else [one(args, device)]
        else:
            scores = _net_command(args, device, rank)
        if rank == 0:
            _report(args, scores)


def _report(args: argparse.Namespace, scores: list[Score]) -> None:
    facts = {key: value for key, value in vars(args).items() if key != "json" and value is not None}
    if args.json == "-":
        print(json.dumps({"args": facts, "scores": [score.as_dict() for score in scores]}, indent=2))
    elif args.json:
        write_scores(args.json, scores, args=facts)
    elif scores:
        print(*scores, sep="\n")


def _net_command(args: argparse.Namespace, device: torch.device, rank: int) -> list[Score]:
    """The commands that look at images through a network; under torchrun only rank 0 gets scores."""
    import datasets

    opened, net = _open_operands(args, device)
    lpips = None
    if args.command == "all" and _are_paired(opened["real"], opened["fake"]):
        try:
            lpips = load_lpips(args.weights_dir or None, device)
        except MetricError as error:
            datasets.warn(f"without LPIPS of the paired images: {error}")
    seen, keep = {}, args.command != "save-stats" or args.features
    for side, pictures in opened.items():
        cache = Path(args.data_dir, "cache") if args.cache and side != "fake" else None
        seen[side] = extract(pictures, net, args.batch_size, True, cache, share=True, keep=keep)
        if isinstance(pictures, Pictures) and pictures.bad:
            datasets.warn(f"{pictures.name}{pictures.bad_files()}")
    if rank:
        return []
    if args.command == "save-stats":
        real = seen["real"]
        save_statistics(args.out, real, args.features)
        print(f"{args.out}: {real.n} images, {', '.join(filter(None, real.protocol.values()))}")
        return []
    scores = _scores(args, net, seen.get("real"), seen["fake"], seen.get("floor"))
    if lpips:
        try:
            scores.append(_paired_lpips(args, device, lpips))
        except MetricError as error:
            datasets.warn(f"without LPIPS of the paired images: {error}")
    return scores


def _open_operands(args: argparse.Namespace, device: torch.device) -> tuple[dict[str, Pictures | Features], Net]:
    """-> the sets REAL, FAKE and REAL2, and the network. All that can be refused is refused here, before any work."""
    operands = {side: getattr(args, side) for side in ("real", "fake", "floor") if getattr(args, side, None)}
    size = {"image_size": args.image_size, "resize": args.resize}
    checkpoints = [path for path in operands.values() if path.partition(":")[0].endswith(".pt")]
    for path in checkpoints:
        trained = _trained_size(path.partition(":")[0])
        size = size if args.image_size else trained  # what a model drew is compared with data of its size
    how = size | {"data_dir": args.data_dir, "strict": args.strict, "device": args.device}
    if args.net != "inception" and (args.dims, args.inception_resize, args.bf16) != (2048, "torch", False):
        raise MetricError("--dims, --inception-resize and --bf16 are options of --net inception.")
    net = _data_classifier(args, size, device) if args.net == "classifier" else None
    opened: dict[str, Pictures | Features] = {}
    for side, path in operands.items():
        how["count"] = args.num_images
        real = opened.get("real")
        many = real.count if isinstance(real, Pictures) else real and real.n
        if path in checkpoints and many:
            how["count"] = args.num_images or min(many, 10_000)  # as many as there are real ones
        opened[side] = open_pictures(path, channels=net.channels if net else 3, **how)
    if args.command == "save-stats":
        if not args.out.endswith(".npz"):
            raise MetricError(f"{args.out}: a file of statistics is called NAME.npz.")
        if not Path(args.out).absolute().parent.is_dir():
            raise MetricError(f"{args.out} cannot be written: there is no folder {Path(args.out).parent}.")
    least = {"is": getattr(args, "splits", 0) or 1, "pr": max(getattr(args, "k", 0), 5) + 1}.get(args.command, 2)
    for pictures in opened.values():
        if isinstance(pictures, Pictures) and pictures.count < least:
            raise MetricError(f"{pictures.name}: {args.command} needs {least} images or more, not {pictures.count}.")
    net = net or _load_net(args, device)
    if args.command == "is":
        _check_knows_classes(net)
    for features in opened.values():
        if isinstance(features, Features):
            _check_protocol(features, net)
            if args.command in ("kid", "pr", "is"):
                _need_rows(args.command, features)
    return opened, net


def _scores(args: argparse.Namespace, net: Net, x: Features | None, y: Features, floor: Features | None) -> list[Score]:
    """Those that --command asks for; of `all`, those that can be had."""
    every, whole = args.command == "all", y.rows is not None and (x is None or x.rows is not None)
    scores = []
    if every or args.command == "fid":
        scores.append(fid(x, y, net, real2=floor))
    if every and whole or args.command == "kid":
        scores.append(kid(x, y, net))
    if every and y.rows is not None and _knows_classes(net) or args.command == "is":
        counts = [side.n for side in (x, y) if side and side.rows is not None]
        splits, how = args.splits or _parts(*counts), {"shuffle": args.shuffle}
        scores.append(inception_score(y, net, splits, **how))
        if every and whole:
            scores.append(_as_ceiling(inception_score(x, net, splits, **how)))
    if every and whole and min(x.n, y.n) > max(args.k, 5) or args.command == "pr":
        scores += precision_recall(x, y, net, args.k)
    return scores


def _trained_size(path: str) -> dict:
    try:
        if not os.path.exists(path):
            raise MetricError(f"there is no checkpoint {path}.")
        flags = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["args"]
        width = flags.get("image_width")  # of vaegan.py's pictures, which need not be square
        size = (flags["image_size"], width) if width else flags["image_size"]
        return {"image_size": size, "resize": flags.get("resize", "crop")}
    except MetricError:
        raise
    except Exception as error:
        raise MetricError(f"{path} is not a checkpoint of a script of this folder.") from error


def _data_classifier(args: argparse.Namespace, size: dict, device: torch.device) -> Classifier:
    """--net classifier: learnt from the data set that REAL names."""
    import datasets

    name = (args.real if hasattr(args, "real") else args.fake).split(":")[0]
    if name not in datasets.KNOWN and not os.path.isdir(name) or size["image_size"] is None:
        raise MetricError(
            "--net classifier learns from the data set that REAL (of `is`, FAKE) names: give it as SET:test (python "
            "datasets.py lists the sets), with --image-size."
        )
    how = {"data_dir": args.data_dir, "resize": size["resize"], "channels": 0}
    train, test = (datasets.load(name, split, size["image_size"], **how) for split in ("train", "test"))
    return load_classifier(train, test, args.data_dir, device)


def _load_net(args: argparse.Namespace, device: torch.device) -> Net:
    folder = args.weights_dir or None
    if args.net == "inception":
        resize = INCEPTION_RESIZES[args.inception_resize]
        return load_inception(args.dims, folder, device, resize=resize, bf16=args.bf16)
    if args.net == "torchvision":
        return load_torchvision_inception(folder, device)
    file, colon, name = args.net.rpartition(":")
    if not colon or not file.endswith(".py"):
        known = "inception, torchvision, classifier, or FILE.py:NAME of your own"
        raise MetricError(f"--net {args.net}: there are {known}.")
    try:
        spec = importlib.util.spec_from_file_location("own_net", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function = getattr(module, name)
    except Exception as error:
        raise MetricError(f"--net {args.net} cannot be used ({type(error).__name__}: {error}).") from error
    version = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return Extractor(function, f"{Path(file).name}:{name}", device, version)


def _pictures_for_lpips(args: argparse.Namespace, path: str) -> Pictures:
    if not os.path.isdir(path):
        raise MetricError(f"{path} is not a folder: LPIPS compares the images of folders.")
    return open_pictures(path, args.image_size, args.resize, count=args.num_images, strict=True)


def _are_paired(a, b) -> bool:
    return all(isinstance(x, Pictures) and len(x.names) > 1 for x in (a, b)) and set(_stems(a)) == set(_stems(b))


def _paired_lpips(args: argparse.Namespace, device: torch.device, net: LPIPS | None = None) -> Score:
    folders = [_pictures_for_lpips(args, path) for path in (args.real, args.fake)]
    return lpips_distance(*folders, net or load_lpips(args.weights_dir or None, device))


def _folder_diversity(args: argparse.Namespace, device: torch.device) -> Score:
    samples = _samples_in(args.fake, args.image_size, args.resize, args.num_images)
    return lpips_diversity(samples, load_lpips(args.weights_dir or None, device), args.pairs)


if __name__ == "__main__":
    from metrics import main  # the module that the scripts import too: one class of every error

    main()
