"""datasets.py: everything between a disk and a batch of images in [-1, 1], and back to a picture.

    data = load("edges2faces", "train", image_size=64)         # decoded and resized once: uint8 arrays
    loader = make_loader(data, batch_size=8, seed=0)           # torch's DataLoader, a batch at a time
    loader.batch_sampler.set_epoch(0)                          # the order depends on (seed, epoch) only
    for batch in loader:
        real_A = to_float(batch["image"], device)              # (B, C, H, W) float32 in [-1, 1]
        real_B = to_float(batch["target"], device)
        real_A, real_B = augment(real_A, real_B, flip=True)    # the same flips for both
    save_grid(torch.cat([real_A, real_B]), "pairs.png", columns=8)

A set is a built-in one (drawn here, nothing to download), a known one (found in `data_dir`, or downloaded into it), or
any folder of images: see `load`. Decoding one JPEG takes longer than a small network's step on it, so every picture is
decoded once, and kept as bytes in `data_dir/cache` (which may be deleted at any time).

    python datasets.py                                  the sets: images, size, licence, and which are here
    python datasets.py horse2zebra                      all about one, or about a folder of your own
    python datasets.py horse2zebra --download           fetch it now, not when a script asks for it
    python datasets.py photos/ --preview sheet.png      a contact sheet, with classes or attributes
    python datasets.py photos/ --check                  decode every file, name each bad one
"""

import argparse
import atexit
import colorsys
import contextlib
import csv
import difflib
import errno
import functools
import gzip
import hashlib
import http.client
import io
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import ssl
import stat
import struct
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows: `locked` does nothing there
    fcntl = None

CACHE_FORMAT = 2  # part of every cache's name: raise it when decoding changes
NPY_HEADER = 128  # bytes before the pixels in a .npy file
MMAP_BYTES = 256 << 20  # a larger array stays on the disk and is memory-mapped
FILE_COST = 4096  # bytes of the disk that an empty file takes: a flood of them counts too
MAX_PIXELS = 64_000_000  # a larger picture is refused: it may be a decompression bomb
IMAGE_TYPES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
OTHER_TYPES = {".heic", ".heif", ".avif", ".jp2", ".psd", ".tga", ".dng", ".cr2", ".nef"}  # counted as bad files
RESIZES = ("crop", "stretch", "pad")
Size = tuple[int, int]  # height, width


class DataError(ValueError):
    """What is wrong with the user's data, and what to do, in one sentence."""


class Damaged(DataError):
    """A file that is not what it ought to be: fetching it again may help."""


class NoSuchSplit(DataError):
    """The set is there, and has no pictures for this split."""


def shown(text: str) -> str:
    """The same in one line: names of files may hold anything."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def warn(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one speaks for all
        print(f"datasets: {shown(text)}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# The known sets
# ---------------------------------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """What there is to know of a set before it is here."""

    reader: str  # "builtin", "toy", "pix2pix", "cyclegan", "idx", "torchvision" or "by hand"
    what: str
    channels: tuple[int, ...]  # one number, or two for pairs: of A and of B; none for points
    images: dict[str, int]  # of each split, where the set is complete
    scripts: str  # those that it is meant for
    licence: str  # in the words of its source
    folder: str = ""  # its place in data_dir
    files: dict[str, str] = {}  # to fetch, and the md5 or sha256 of each, "" where none is published
    size: str = ""  # of these files
    home: str = ""  # the address before their names, or the page that hands them out


def counts(train: int, val: int = 0, test: int = 0, unlabeled: int = 0) -> dict[str, int]:
    images = {"train": train, "val": val, "test": test, "unlabeled": unlabeled}
    return {split: count for split, count in images.items() if count}


def pix2pix(name: str, what: str, channels: tuple[int, int], images: dict, size: str) -> Known:
    where = (name, {f"{name}.tar.gz": ""}, size, "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets")
    return Known("pix2pix", what + ", pairs", channels, images, "bicyclegan, cyclegan", "not stated", *where)


def cyclegan(name: str, train: str, test: str, megabytes: str, sha256: str) -> Known:
    what, images = name.replace("2", " and ", 1).replace("_", " "), counts(int(train), test=int(test))
    where = (name, {f"{name}.zip": sha256}, f"{megabytes} MB", "https://efrosgans.eecs.berkeley.edu/cyclegan/datasets")
    return Known("cyclegan", what + ", two domains", (3,), images, "cyclegan", "not stated", *where)


def idx(what: str, scripts: str, licence: str, folder: str, md5s: str, size: str, home: str) -> Known:
    files = (f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    md5s = dict(zip(files, md5s.split(), strict=True))  # as in torchvision
    return Known("idx", what, (1,), counts(60000, test=10000), scripts, licence, folder, md5s, size, home)


CYCLEGAN = """
horse2zebra            2401  260 117 a74d9d392eecca9966b51287a76ca126af473d9de4f3e8fc0e9cda08fa1730a1
apple2orange           2014  514  78 845a191e9af8926408ea597001cd03a452e3300a1f44a79fe329b3d59f6e3eb8
summer2winter_yosemite 2193  547 133 167fe1726807a9d22bd106b4a6c0bd7953b688af924ac1bf967439c4961e49f9
monet2photo            7359  872 305 88f91b00fc228f97c9411fbf1880ec1d119c98f1722e4cfcfaa2fb35fac05b04
cezanne2photo          6812  809 280 3a6c10ca21f9485862f1cbd707744b9dc258954a04631271d23a3605eeb63cff
ukiyoe2photo           6849 1014 293 02a2a2fb5ecf425ca1bf86aca7304377da64a2a1d3b86df54eb65e4068bf3b08
vangogh2photo          6687 1151 307 362c3473e70be0944bda08d49d660eafdc2854df55d697835b8186d1d79caaff
iphone2dslr_flower     5137 1049 340 8fcb5e374d631b107e1d961b8c4cd0a186aa2a4ff3e279923f4c426128de7113
"""  # training and test pictures, megabytes; the checksums that TensorFlow Datasets publishes
FACES, GANS = "dcgan, vaegan, starGAN, cyclegan", "dcgan, vae, cgan, wgan"
STL10 = (  # the labelled pictures and the others come in one archive
    "stl10_binary",
    {"stl10_binary.tar.gz": "91f7769df0f17e558f3565bffb0c7dfb"},
    "2.6 GB",
    "http://ai.stanford.edu/~acoates/stl10",
)
KNOWN = {
    "faces": Known("builtin", "cartoon faces, 8 attributes", (3,), counts(4000, test=1000), FACES, "MIT"),
    "edges2faces": Known(
        "builtin", "outlines to those faces, pairs", (1, 3), counts(2400, test=500), "bicyclegan, cyclegan", "MIT"
    ),
    "digits": Known("builtin", "written digits, 10 classes", (1,), counts(5000, test=1000), GANS, "MIT"),
    "8gaussians": Known("toy", "points, 8 clusters on a circle", (), counts(10000, test=2000), "wgan", "MIT"),
    "25gaussians": Known("toy", "points, 25 clusters on a grid", (), counts(10000, test=2000), "wgan", "MIT"),
    "swissroll": Known("toy", "points on a spiral", (), counts(10000, test=2000), "wgan", "MIT"),
    "mnist": idx(
        "written digits, 10 classes",
        GANS,
        "CC BY-SA 3.0",
        "MNIST/raw",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873 d53e105ee54ea40749a09fcbcd1e9432 "
        "9fb629c4189551a2d022fa330f9573f3 ec29112dd5afa0611ce80d1b7f02629c",
        "12 MB",
        "https://ossci-datasets.s3.amazonaws.com/mnist",
    ),
    "fashion-mnist": idx(
        "clothes, 10 classes",
        GANS,
        "MIT",
        "FashionMNIST/raw",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d 25c81989df183df01b3e8a0aad5dffbe "
        "bef4ecab320f06d8554ea6380940ec79 bb300cfdad3c16e7a12a480ee83cd310",
        "31 MB",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),
    "cifar10": Known(
        "torchvision",
        "photos, 10 classes",
        (3,),
        counts(50000, test=10000),
        GANS,
        "not stated",
        "cifar-10-batches-py",
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        "170 MB",
        "https://www.cs.toronto.edu/~kriz",
    ),
    "stl10": Known(
        "torchvision", "photos, 10 classes", (3,), counts(5000, 0, 8000, 100000), GANS, "not stated", *STL10
    ),
    "stl10-unlabeled": Known(
        "torchvision",
        "photos of stl10 without labels",
        (3,),
        counts(100000, test=8000),
        "dcgan, wgan",
        "not stated",
        *STL10,
    ),
    "celeba": Known(
        "by hand",
        "faces, 40 attributes",
        (3,),
        counts(162770, 19867, 19962),
        FACES,
        "non-commercial research",
        "celeba",
        {
            "img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
            "list_attr_celeba.txt": "75e246fa4810816ffd6ee81facbd244c",
            "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
        },
        "1.5 GB",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    ),
    "edges2shoes": pix2pix("edges2shoes", "outlines to shoes", (1, 3), counts(49825, 200), "2.2 GB"),
    "edges2handbags": pix2pix("edges2handbags", "outlines to bags", (1, 3), counts(138567, 200), "8.6 GB"),
    "facades": pix2pix("facades", "facades to labels", (3, 3), counts(400, 100, 106), "30 MB"),
    "maps": pix2pix("maps", "aerial photos to maps", (3, 3), counts(1096, 1098), "250 MB"),
    "night2day": pix2pix("night2day", "places by night to day", (3, 3), counts(17823, 10, 2287), "2.0 GB"),
    **{row.split()[0]: cyclegan(*row.split()) for row in CYCLEGAN.strip().splitlines()},
    "deepfashion-inshop": Known(
        "by hand",
        "clothes, 23 classes",
        (3,),
        counts(25882, test=26830),
        "vaegan, starGAN, cyclegan",
        "non-commercial research",
        "deepfashion-inshop",
        {"Img/img.zip": "", "Eval/list_eval_partition.txt": ""},
        "not stated",
        "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    ),
    "deepfashion-multimodal": Known(
        "by hand",
        "clothes, 23 classes",
        (3,),
        {"in all": 44096},
        "vaegan, starGAN, cyclegan",
        "non-commercial research",
        "deepfashion-multimodal",
        {"images.zip": ""},
        "5.4 GB",
        "https://github.com/yumingj/DeepFashion-MultiModal",
    ),
    "utkface": Known(
        "by hand",
        "faces, 10 attributes",
        (3,),
        {"in all": 23705},
        FACES,
        "non-commercial research",
        "utkface",
        {"UTKFace.tar.gz": ""},
        "107 MB",
        "https://susanqq.github.io/UTKFace/",
    ),
}


USES = {  # what a script makes of a set
    "vae": "codes, samples",
    "dcgan": "samples",
    "cgan": "samples of each class",
    "wgan": "samples",
    "bicyclegan": "many B for one A",
    "cyclegan": "one domain, class or attribute into another",
    "vaegan": "samples, edits of attributes",
    "starGAN": "changes of attributes or classes",
}
BUILTIN_SEED = 0  # of the drawings; train and test are drawn from different random numbers
TOYS = tuple(name for name, known in KNOWN.items() if known.reader == "toy")
DEBIAN = {"fashion-mnist": "/usr/share/datasets/fashion-mnist"}  # where a package of that system has a set
CLASSES = {
    "mnist": [str(digit) for digit in range(10)],
    "fashion-mnist": "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot".split(),
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck".split(),
    "stl10": "airplane bird car cat deer dog horse monkey ship truck".split(),
}
PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")  # CelebA's: 0 train, 1 val, 2 test
# WOMEN/Dresses/id_00000002/02_1_front.jpg of In-shop Clothes, WOMEN-Dresses-id_00000002-02_1_front.jpg of MultiModal
DEEPFASHION = re.compile(r"(?:^|/)(MEN|WOMEN)[-/]([^-/]+)[-/]id_(\d+)[-/][^/]*$")
# AGE_GENDER_RACE_TIME.jpg; some names lack the race
UTKFACE = re.compile(r"(?:^|/)(\d{1,3})_([01])_([0-4])_\d[^/]*$")
UTKFACE_NAMES = "Male Age_0-19 Age_20-39 Age_40-59 Age_60+ White Black Asian Indian Other".split()


# ---------------------------------------------------------------------------------------------------------------------
# One way in
# ---------------------------------------------------------------------------------------------------------------------


class Rows:
    """Rows of an array in a .npy file, read from the disk when they are indexed: for sets larger than memory.

    It has the array's shape, dtype and indexing; `rows` says which rows and in what order, None = all. The loader's
    workers get its name, not its bytes.
    """

    def __init__(self, path: Path, rows: np.ndarray | None = None):
        self.path, self.rows = path, rows
        self.array = np.load(path, mmap_mode="r")
        self.shape = (len(self.array) if rows is None else len(rows), *self.array.shape[1:])
        self.dtype, self.ndim, self.size = self.array.dtype, self.array.ndim, math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *others = key if isinstance(key, tuple) else (key,)
        found = self.array[first if self.rows is None else self.rows[first]]
        return found[(slice(None),) * (found.ndim == self.ndim) + tuple(others)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype)

    def __reduce__(self):
        return Rows, (self.path, self.rows)


def choose(images: np.ndarray | Rows, rows: np.ndarray) -> np.ndarray | Rows:
    """Some of the images, by index or mask: copied in memory, but not off the disk."""
    if not isinstance(images, Rows):
        return images[rows]
    return Rows(images.path, (np.arange(len(images)) if images.rows is None else images.rows)[rows])


def both(a: np.ndarray | Rows, b: np.ndarray | Rows) -> np.ndarray | Rows:
    """The images of a, then those of b."""
    if isinstance(a, Rows) and isinstance(b, Rows) and a.path == b.path:
        return Rows(a.path, np.concatenate([np.arange(len(x)) if x.rows is None else x.rows for x in (a, b)]))
    return np.concatenate([a, b])


@dataclass(eq=False)
class ImageSet(Dataset):
    """A set in memory (or memory-mapped): uint8 images, and what is known of each.

    An item is a dict of tensors: "image" uint8 (C, H, W), and where the set has them "target" uint8 (C, H, W), "label"
    int64 () and "attributes" uint8 (K,). `__getitems__` fetches a whole batch by one indexing, which is why the loader
    is fast.
    """

    name: str
    split: str
    images: np.ndarray | Rows  # uint8 (N, C, H, W); of a paired set, the input side
    targets: np.ndarray | Rows | None = None  # uint8 (N, C, H, W); the output side of a paired set
    labels: np.ndarray | None = None  # int64 (N,), indices into `classes`
    classes: list[str] = field(default_factory=list)
    attributes: np.ndarray | None = None  # uint8 (N, K), 0 or 1
    attribute_names: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # file names, in the order of `images`; empty if there are no files

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        arrays = {"image": self.images, "target": self.targets, "label": self.labels, "attributes": self.attributes}
        return {key: torch.from_numpy(array[list(indices)]) for key, array in arrays.items() if array is not None}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: batch[0] for key, batch in self.__getitems__([index]).items()}


@dataclass(eq=False)
class Unpaired(Dataset):
    """Two domains without pairs: an item is {"image": a picture of A, "target": one of B}, uint8 (C, H, W) each.

    As long as the larger of the two; `make_loader` gives each side an order of its own and repeats the shorter one.
    """

    A: ImageSet
    B: ImageSet
    names: tuple[str, str]

    def __len__(self) -> int:
        return max(len(self.A), len(self.B))

    def __getitems__(self, indices: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        of_A, of_B = (list(side) for side in zip(*indices, strict=True))
        return {"image": torch.from_numpy(self.A.images[of_A]), "target": torch.from_numpy(self.B.images[of_B])}

    def __getitem__(self, index: tuple[int, int]) -> dict[str, torch.Tensor]:
        return {key: batch[0] for key, batch in self.__getitems__([index]).items()}

    def both(self) -> ImageSet:
        """All pictures as one set, with the two domains as its classes."""
        images = both(self.A.images, self.B.images)
        labels = np.repeat(np.arange(2), [len(self.A), len(self.B)])
        name = f"{self.A.name} {self.names[0]} {self.names[1]}"
        return ImageSet(name, self.A.split, images, labels=labels, classes=list(self.names))


@dataclass(eq=False)
class Points(Dataset):
    """A set of points in the plane: an item is {"image": float32 (2,)}, and needs no scaling."""

    name: str
    split: str
    points: np.ndarray  # float32 (N, 2)

    def __len__(self) -> int:
        return len(self.points)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        return {"image": torch.from_numpy(self.points[list(indices)])}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": self.__getitems__([index])["image"][0]}


def load(
    name: str,
    split: str = "train",
    image_size: int | tuple[int, int] = 64,
    *,
    data_dir: str | Path = "data",
    direction: str = "AtoB",
    input_channels: int | None = None,
    channels: int | None = None,
    data_url: str = "",
    resize: str = "crop",
    strict: bool = False,
    paired: bool = False,
    points: bool = False,
) -> ImageSet | Points:
    """Load a data set, each image resized to image_size: the side of a square in pixels, or (height, width).

    name: a set in `KNOWN` (`python datasets.py` prints them), or the path of a folder, whose layout decides
    (a folder that has the name of a set: ./NAME):

    - `DIR/{train,val,test}/*.jpg`: pairs side by side in one picture, A left and B right; or, if they are not so wide,
      plain images
    - `DIR/{trainA,trainB,testA,testB}/*.jpg`: two unpaired domains, as classes "A" and "B"; with `paired`, the pictures
      of one name are a pair. So are those of `DIR/{A,B}/{train,val,test}` and `DIR/{A,B}`, and wide pictures in DIR
    - `DIR/{train,val,test}/CLASS/**/*.jpg`: classes
    - `DIR/CLASS/**/*.jpg`, `DIR/*.jpg`: classes, or plain images; every tenth by name belongs to the split "test"
    - names as in DeepFashion, `WOMEN/Dresses/id_00000002/*.jpg` or `WOMEN-Dresses-id_00000002-*.jpg`: the class is
      WOMEN_Dresses. `list_eval_partition.txt` says the split; without it every tenth item belongs to "test"
    - names as in UTKFace, AGE_GENDER_RACE_TIME.jpg: the attributes `UTKFACE_NAMES`
    - `DIR/train-images-idx3-ubyte` and so on, `.gz` or not: MNIST's format
    - `DIR/list_attr_celeba.txt`, or a `DIR/*.csv` with a header, whose rows are the name of a picture anywhere in DIR
      and 0 or -1 and 1 for each attribute: pictures with attributes. Their split is that of
      `DIR/list_eval_partition.{txt,csv}` (0, 1, 2), or of a folder train/, val/, test/; else as for plain images

    A name in `TOYS` gives `Points` (with `points`), whatever the size and the channels; all else is an `ImageSet`.
    split: "train", "test" or "val". "test" falls back to val/ and "val" to test/; built-in sets, MNIST, CIFAR-10 and
    STL-10 serve both from their test split. Folder names "validation" and "valid" stand for "val". STL-10 also has
    "unlabeled", which is the training split of "stl10-unlabeled".
    direction: "AtoB" makes A `images` and B `targets` of a paired set, "BtoA" the reverse.
    channels: 1 or 3 converts the images (of a paired set: the output side), None or 0 leaves them as the set
    has them (a folder: 3). input_channels: the same for the input side of a paired set.
    data_url: where the files to download are, instead of their home; or the environment variable DATASETS_URL. The
    address of a file is URL/FILE; a "{name}" in URL becomes the set's name.
    resize: "crop" cuts out the largest middle part of the shape, "stretch" takes all of the picture in that shape,
    "pad" all of it with white bars. The same for both sides of a pair.
    strict: raise DataError for bad files. paired: raise DataError if the set has no pairs. points: also take the sets
    of points, TOYS.

    Colours are 8-bit RGB or grey, transparency becomes white, and photos are turned as EXIF says. Bad files (damaged,
    not pictures, no pairs) are left out and named in one line on stderr. Raises DataError.
    """
    data_dir = Path(data_dir)
    if direction not in ("AtoB", "BtoA"):
        raise DataError(f"unknown direction {direction!r}: use AtoB or BtoA")
    size = size_of(image_size)
    if resize not in RESIZES:
        raise DataError(f"unknown way to resize {resize!r}: use {', '.join(RESIZES)}")
    if not {channels, input_channels} <= {None, 0, 1, 3}:
        raise DataError("images have 1 channel (grey) or 3 (colour)")
    no_pairs = DataError(
        f"{name} is not a set of pairs, A and B side by side in each file or called alike in folders: try edges2faces"
    )
    if paired and name in KNOWN and len(KNOWN[name].channels) != 2:
        raise no_pairs  # before anything is downloaded
    if name in TOYS:
        if not points:
            raise DataError(f"{name} is a set of points, not of images: only wgan.py takes it")
        return toy(name, split)
    asked = (input_channels, channels) if direction == "AtoB" else (channels, input_channels)  # of A and of B

    source = find_source(name, split, data_dir, data_url, paired)
    if len(source.channels) == 2:
        source.channels = (asked[0] or source.channels[0], asked[1] or source.channels[1])
    else:
        source.channels = (channels or source.channels[0],)
    source.resize = resize

    if paired and len(source.channels) != 2:
        raise no_pairs
    try:
        data = cached(source, size, data_dir, strict)
    except OSError as error:
        raise DataError(f"cannot read {name} or keep it: {error}") from error
    if direction == "BtoA" and data.targets is not None:
        data.images, data.targets = data.targets, data.images
    return data


def size_of(image_size: int | tuple[int, int]) -> Size:
    """-> (height, width). Raises DataError for what is no size."""
    size = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise DataError(f"the image size must be a positive whole number of pixels, not {image_size!r}")
    return size


def how_to_load(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `load` that every script has as flags."""
    return dict(data_dir=args.data_dir, data_url=args.data_url, resize=args.resize, strict=args.strict)


def load_domains(
    name: str,
    split: str,
    image_size: int | tuple[int, int],
    *,
    attribute: str = "",
    classes: str = "",
    channels: int = 3,
    **how: Any,
) -> Unpaired:
    """Two domains A and B of a set that `load` knows, both with `channels` channels. how: its other options.

    attribute: pictures without it are A, with it B. classes: "A,B", two classes of a set by name; a set that has just
    two (such as trainA/, trainB/) needs no choice. A set of pairs: its two sides. Raises DataError.
    """
    data = load(name, split, image_size, channels=channels, input_channels=channels, **how)

    def part(names, sides):
        parts = [ImageSet(data.name, data.split, images) for images in sides]
        for what, images in zip(names, sides, strict=True):
            if len(images) < 2:
                raise DataError(f"{name}, {data.split}: {len(images)} pictures of {what!r}, at least 2 are needed")
        return Unpaired(*parts, names)

    if attribute:
        if attribute not in data.attribute_names:
            has = f"it has {', '.join(data.attribute_names)}" if data.attribute_names else "it has no attributes"
            raise DataError(f"{name} has no attribute {attribute!r}: {has}")
        has = data.attributes[:, data.attribute_names.index(attribute)] == 1
        return part((f"no {attribute}", attribute), (choose(data.images, ~has), choose(data.images, has)))
    if data.targets is not None:
        return part(("A", "B"), (data.images, data.targets))
    chosen = [word.strip() for word in classes.split(",")] if classes else data.classes
    if len(chosen) != 2 or not set(chosen) <= set(data.classes):
        how = "two of its classes: " + ", ".join(data.classes) if data.classes else "folders trainA/ and trainB/"
        how = "one of its attributes: " + ", ".join(data.attribute_names) if data.attribute_names else how
        raise DataError(f"{name} has no two domains{f' {classes}' if classes else ''}; choose {how}")
    return part(tuple(chosen), [choose(data.images, data.labels == data.classes.index(one)) for one in chosen])


def attributes_of(data: ImageSet) -> tuple[list[str], np.ndarray]:
    """What a set knows of its pictures -> names and 0 or 1 for each picture, uint8 (N, K): its attributes, or else its
    classes, of which each picture has one; K is 0 for a set that knows nothing."""
    if data.attributes is not None:
        return list(data.attribute_names), data.attributes
    if data.labels is not None and len(data.classes) > 1:
        return list(data.classes), np.eye(len(data.classes), dtype=np.uint8)[data.labels]
    return [], np.zeros((len(data), 0), np.uint8)


def choose_attributes(data: ImageSet, names: Sequence[str]) -> ImageSet:
    """The set with only these attributes, in this order; [] = all. Of a set with classes they become attributes, and
    all must stay. Raises DataError for a name that is not there, and for a set without either."""
    has, table = attributes_of(data)
    chosen = list(dict.fromkeys(names)) or has
    if not has or set(chosen) - set(has) or (data.attributes is None and chosen != has):
        what = ", ".join([*["the classes"] * (data.attributes is None), *has]) if has else "no attributes or classes"
        raise DataError(f"{data.name} has {what}; asked for: {', '.join(chosen) or 'either'}")
    data.attributes, data.attribute_names = table[:, [has.index(name) for name in chosen]], chosen
    return data


def those_with(data: ImageSet, settings: dict[int, int]) -> ImageSet:
    """The pictures of a set whose attribute k is 0 or 1, for each {k: 0 or 1}. Raises DataError if there is none."""
    rows = np.all([data.attributes[:, k] == value for k, value in settings.items()] or [[True] * len(data)], axis=0)
    if not rows.any():
        asked = ", ".join(f"{data.attribute_names[k]}={value:g}" for k, value in settings.items())
        raise DataError(f"{data.name}, {data.split}: no picture has {asked}")
    names = data.attribute_names
    images, attributes = choose(data.images, rows), data.attributes[rows]
    return ImageSet(data.name, data.split, images, attributes=attributes, attribute_names=names)


def change(c: torch.Tensor, settings: dict[int, int | None], rivals: Sequence[Sequence[int]]) -> torch.Tensor:
    """Attributes c (N, K) -> what they are with settings {number: 0, 1, or None: the other way round}, (N, K).

    rivals: for each attribute those that cannot be true together with it. What is set to 1 takes its rivals' place;
    what has rivals is set by None, never taken away: no face is left without hair.
    """
    c = c.clone()
    for k, value in settings.items():
        c[:, rivals[k] if value in (1, None) else []] = 0
        c[:, k] = value if value is not None else 1 if rivals[k] else 1 - c[:, k]
    return c


def rivals_of(data: ImageSet) -> list[list[int]]:
    """For each attribute those that a set's pictures have together with it at most a tenth as often as by chance."""
    has = data.attributes.astype(float)
    count = has.sum(axis=0)
    return [list(np.flatnonzero(row)) for row in has.T @ has < 0.1 * np.outer(count, count) / len(has)]


def read_settings(text: str, names: Sequence[str]) -> dict[str, float]:
    """ "Smiling=+1.5,Male=-1" -> {"Smiling": 1.5, "Male": -1.0}. Raises DataError for a name that is not in `names`."""
    settings = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in names:
            raise DataError(f"unknown name {name!r} in {text!r}: use NAME=NUMBER with {', '.join(names)}")
        try:
            settings[name] = float(value)
        except ValueError:
            raise DataError(f"{part.strip()!r} is not NAME=NUMBER, such as {name}=1") from None
        if not math.isfinite(settings[name]):
            raise DataError(f"{part.strip()!r} is not a finite number")
    return settings


# ---------------------------------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------------------------------


class EpochSampler(Sampler[list[int]]):
    """Lists of indices, one a batch. The order of an epoch is a function of (seed, epoch) and of nothing else.

    `world` processes share each global batch, order[k*B*W : (k+1)*B*W]; process `rank` takes its slice [rank::world].
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int, world: int, shuffle: bool, drop_last: bool):
        self.count, self.seed, self.rank, self.world = count, seed, rank, world
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the next epoch, and how many of its batches to leave out because a resumed run has had them."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        """Batches of a whole epoch, for one process."""
        full, rest = divmod(self.count, self.batch_size * self.world)
        return full + (not self.drop_last and rest > self.rank)

    def order(self) -> np.ndarray:
        """The indices of this epoch, (count,)."""
        order = np.arange(self.count)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        return order

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order()
        size = self.batch_size * self.world
        for k in range(self.skip, len(self)):
            yield order[k * size : (k + 1) * size][self.rank :: self.world].tolist()


class UnpairedSampler(EpochSampler):
    """Lists of [index in A, index in B]. Each side has an order of its own; the shorter goes round in a new one."""

    def __init__(self, data: Unpaired, *how):
        super().__init__(len(data), *how)
        self.sides = (len(data.A), len(data.B))

    def order(self) -> np.ndarray:
        sides = []
        for side, count in enumerate(self.sides):
            rounds = np.tile(np.arange(count), (-(-self.count // count), 1))  # (rounds, count)
            if self.shuffle:
                rounds = np.random.default_rng([self.seed, self.epoch, side]).permuted(rounds, axis=1)
            sides.append(rounds.ravel()[: self.count])
        return np.stack(sides, axis=1)  # (the larger count, 2)


def as_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """DataLoader's collate_fn: `__getitems__` has made the batch already."""
    return batch


def make_loader(
    data: Dataset,
    batch_size: int,
    *,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    shuffle: bool = True,
    drop_last: bool = True,
) -> DataLoader:
    """A DataLoader whose batches are dicts of uint8 / int64 tensors (see `ImageSet`), `batch_size` images a process.

    Call `loader.batch_sampler.set_epoch(epoch, skip=0)` before each epoch. The same seed and epoch give the same
    batches for any number of `workers` (rarely worth it here: a batch is one copy). `drop_last` leaves out the last,
    smaller batch, on which BatchNorm may fail; without it processes may differ by one batch. Raises DataError.
    """
    if batch_size < 1 or seed < 0:
        raise DataError(f"the batch size must be positive and the seed not negative, not {batch_size} and {seed}")
    if drop_last and len(data) < batch_size * world:
        sizes = f"{batch_size}" if world == 1 else f"{batch_size} on each of {world} processes"
        raise DataError(f"a batch of {sizes} is more than the {len(data)} images of the set: use a smaller batch")
    how = (batch_size, seed, rank, world, shuffle, drop_last)
    return DataLoader(
        data,
        batch_sampler=UnpairedSampler(data, *how) if isinstance(data, Unpaired) else EpochSampler(len(data), *how),
        collate_fn=as_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # otherwise each epoch would draw a number from the global one: no exact resume
    )


def draw_noise(
    shape: Sequence[int], generator: torch.Generator, device: str | torch.device = "cpu", rank: int = 0, world: int = 1
) -> torch.Tensor:
    """N(0, I) float32 of `shape`, drawn on the CPU, so that a GPU gets the same numbers.

    Every process draws the rows of all and keeps each world-th, as the loader does with images: so two processes with
    half the batch each compute what one with the whole computes.
    """
    return torch.randn(shape[0] * world, *shape[1:], generator=generator)[rank::world].to(device)


def draw_uniform(
    shape: Sequence[int], generator: torch.Generator, device: str | torch.device = "cpu", rank: int = 0, world: int = 1
) -> torch.Tensor:
    """U[0, 1) float32 of `shape`, shared out as `draw_noise` does: the weights of a mixture of real and fake, say."""
    return torch.rand(shape[0] * world, *shape[1:], generator=generator)[rank::world].to(device)


def to_float(batch: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """uint8 (B, C, H, W) -> float32 in [-1, 1] on `device`; floats, such as `Points`, only move there.

    The bytes travel, a quarter of the floats.
    """
    batch = batch.to(device, non_blocking=True)
    return batch if batch.is_floating_point() else batch.float().div_(127.5).sub_(1)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images in [-1, 1] -> uint8, rounded; values outside are clamped. The inverse of `to_float`."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def fixed_batch(data: ImageSet, n: int, device: str | torch.device) -> dict[str, torch.Tensor]:
    """n items (or all, if fewer) spread evenly over a set, the same at every call; images and targets in [-1, 1]."""
    n = min(n, len(data))
    batch = data.__getitems__([i * len(data) // n for i in range(n)])
    return {key: to_float(value, device) if key in ("image", "target") else value for key, value in batch.items()}


def augment(
    *images: torch.Tensor,
    crop: int = 0,
    flip: bool = False,
    rank: int = 0,
    world: int = 1,
    generator: torch.Generator | None = None,
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """Random crops to (crop, crop) pixels (0: none) and horizontal flips (half of the images).

    images: one or more (B, C, H, W) tensors of any type; image i of each is cut and flipped alike, as pairs need it.
    The random numbers (CPU `generator`) are drawn for the global batch of B * world images, and this process takes its
    slice [rank::world], as it does of the data: so two processes see what one with twice the batch would see.
    Returns the tensor, or a tuple of them if there are several. Raises DataError when the crop is larger than an image.
    """
    height, width = images[0].shape[-2:]
    if any(x.shape[-2:] != (height, width) for x in images) or crop > min(height, width):
        raise DataError(f"cannot cut {crop} pixels out of images of {[tuple(x.shape[-2:]) for x in images]}")
    draws = torch.rand(len(images[0]) * world, 3, generator=generator)[rank::world]
    if crop:
        tops = (draws[:, 0] * (height - crop + 1)).long().tolist()
        lefts = (draws[:, 1] * (width - crop + 1)).long().tolist()
        corners = list(zip(tops, lefts, strict=True))
        images = tuple(
            torch.stack([image[:, y : y + crop, x : x + crop] for image, (y, x) in zip(batch, corners, strict=True)])
            for batch in images
        )
    if flip:
        flipped = (draws[:, 2] < 0.5)[:, None, None, None].to(images[0].device)
        images = tuple(torch.where(flipped, batch.flip(-1), batch) for batch in images)
    return images if len(images) > 1 else images[0]


def diff_augment(x: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Brightness, saturation, contrast, a shift by up to an eighth and a hole (DiffAugment, arXiv:2006.10738).

    x: (B, C, S, S) in [-1, 1], real and fake images alike, so that a generator does not learn to make augmented ones.
    draws: (B, 7), uniform in [0, 1). Differentiable in x. Returns (B, C, S, S).
    """
    size, draws = x.shape[-1], draws.to(x.device)
    brighter, saturation, contrast = draws[:, :3].T[:, :, None, None, None]  # (B, 1, 1, 1) each
    x = x + brighter - 0.5
    x = torch.lerp(x.mean(dim=1, keepdim=True), x, 2 * saturation)
    x = torch.lerp(x.mean(dim=(1, 2, 3), keepdim=True), x, contrast + 0.5)
    reach, pixel = size // 8, torch.arange(size, device=x.device)
    corner = (draws[:, 3:5] * (2 * reach + 1)).long()  # (B, 2): rows, columns, in the padded image
    rows, columns = pixel + corner[:, :1], pixel + corner[:, 1:]  # (B, S) each: the pixels that are seen
    padded, image = torch.nn.functional.pad(x, [reach] * 4), torch.arange(len(x), device=x.device)
    x = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    near = (pixel - (draws[:, 5:] * size)[:, :, None]).abs() < size / 4  # (B, 2, S): the rows, the columns of the hole
    return x * ~(near[:, 0, :, None] & near[:, 1, None, :])[:, None]


def slerp(a: torch.Tensor, b: torch.Tensor, n: int) -> torch.Tensor:
    """n codes (n, nz) on the great circle from a to b, (nz,) each. A straight line between two normal codes of many
    dimensions leads through norms that no code has."""
    t = torch.linspace(0, 1, n, device=a.device)[:, None]
    angle = torch.acos((a @ b / (a.norm() * b.norm())).clamp(-0.9999, 0.9999))
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures: back to a file, and a user's own
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def generate(net: torch.nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """A generator's images (N, C, S, S) of inputs (N, ...), 100 at a time, in evaluation mode: no image depends on the
    others of its batch."""
    net.eval()
    images = torch.cat([net(*parts) for parts in zip(*(x.split(100) for x in inputs), strict=True)])
    net.train()
    return images


@torch.no_grad()
def encode(E: torch.nn.Module, batches: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Batches of images (B, C, H, W) -> mu, logvar of all, (N, nz) each. Without noise: the same at every call."""
    E.eval()
    codes = [E(x) for x in batches]
    E.train()
    return [torch.cat(parts) for parts in zip(*codes, strict=True)]


def batches_of(data: ImageSet, device: str | torch.device) -> Iterator[torch.Tensor]:
    """A whole set in its order, in [-1, 1], 500 images at a time, the last batch shorter."""
    for batch in make_loader(data, 500, shuffle=False, drop_last=False):
        yield to_float(batch["image"], device)


@torch.no_grad()
def paint(
    net: torch.nn.Module, images: torch.Tensor, z: torch.Tensor, names: Sequence[str] | None = None
) -> dict[str, torch.Tensor]:
    """Every image (n, C, S, S) translated with every code, z (k, nz) -> {name of the code: pictures (n, C, S, S)}."""
    names = names or [f"z{i + 1}" for i in range(len(z))]
    return {name: net(images, code.expand(len(images), -1)) for name, code in zip(names, z, strict=True)}


def save_grid(
    images: torch.Tensor, path: str | Path, columns: int, *, titles: Sequence[str] | None = None, padding: int = 2
) -> None:
    """Save images (N, C, H, W) in [-1, 1] as one picture with `columns` columns, filled row by row, on white.

    The range is fixed, so 0 is mid-grey whatever the other images are. titles: one for each column. The file appears
    whole or not at all. Raises DataError when it cannot be written.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise DataError(f"a grid needs images (N, 1 or 3, H, W), not {tuple(images.shape)}")
    pixels = to_uint8(images.detach()).permute(0, 2, 3, 1).cpu().numpy()  # (N, H, W, C)
    count, height, width, depth = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    size, font, top, upright = 15, None, 0, False
    while titles and (font is None or size > 8 and max(map(font.getlength, titles)) > width):
        size -= 1
        font = ImageFont.load_default(size)
        top = size + 6  # pixels for the titles
    if titles and max(map(font.getlength, titles)) > width:  # too long at any size: from below upwards
        font, upright = ImageFont.load_default(min(12, width - 2)), True
        top = int(max(map(font.getlength, titles))) + 8

    sheet = np.full(
        (top + padding + rows * (height + padding), padding + columns * (width + padding), depth), 255, "u1"
    )
    for i in range(count):
        y, x = top + padding + i // columns * (height + padding), padding + i % columns * (width + padding)
        sheet[y : y + height, x : x + width] = pixels[i]
    for i, title in zip(range(columns), titles or [], strict=False):
        label = Image.new("L", (top, width) if upright else (width, top), 255)
        ImageDraw.Draw(label).text((label.width / 2, label.height / 2), title, fill=0, font=font, anchor="mm")
        label = label.transpose(Image.Transpose.ROTATE_90) if upright else label
        x = padding + i * (width + padding)
        sheet[:top, x : x + width] = np.asarray(label)[:, :, None]

    save_whole(path, Image.fromarray(sheet.squeeze(2) if depth == 1 else sheet).save)


def save_whole(path: str | Path, save: Callable[[Path], None]) -> None:
    """save(file) under another name, then rename: `path` appears whole or not at all. DataError if it cannot."""
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        os.replace(temporary, path)
    except (OSError, ValueError) as error:  # ValueError: no such file type
        raise DataError(f"cannot save {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def save_rows(columns: dict[str, torch.Tensor], path: str | Path, rows: int = 8) -> None:
    """Save a picture with a titled column for each entry, {title: images (N, 1 or 3, H, W) in [-1, 1]}.

    Row i shows the i-th image of each, for the first `rows`. Raises DataError when it cannot be written.
    """
    images = torch.stack([column[:rows].expand(-1, 3, -1, -1).cpu() for column in columns.values()], dim=1)
    save_grid(images.flatten(0, 1), path, len(columns), titles=list(columns))


def save_contours(
    score: Callable[[torch.Tensor], torch.Tensor], real: np.ndarray, samples: torch.Tensor, path: str | Path
) -> None:
    """Draw a critic of points and what it judges: contours of score(points (N, 2)) -> (N,), brighter = higher, real
    points (N, 2) in orange and samples (N, 2) in green. Raises DataError when the file cannot be written."""
    from matplotlib.figure import Figure  # the object interface: needs no screen

    axis = torch.linspace(-2.2, 2.2, 111)
    height = score(torch.cartesian_prod(axis, axis)).view(111, 111).T.cpu()
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.contourf(axis, axis, height, levels=24, cmap="Greys_r")
    axes.contour(axis, axis, height, levels=24, colors="white", linewidths=0.4)
    axes.scatter(*real.T, s=4, color="tab:orange", label="data")
    axes.scatter(*samples.T.cpu(), s=4, color="tab:green", label="samples")
    axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal", title="brighter: the critic's score is higher")
    axes.legend(loc="upper right", fontsize="small")
    save_whole(path, figure.savefig)


def save_each(columns: dict[str, torch.Tensor], files: Sequence[str], folder: Path) -> None:
    """Save image i of each column, {title: images (N, C, H, W)}, as `folder`/i_FILE_TITLE.png. Raises DataError."""
    for i, file in enumerate(files):
        for title, images in columns.items():
            save_grid(images[i : i + 1], folder / f"{i:04d}_{Path(file).stem}_{title}.png", columns=1, padding=0)


def read_images(
    path: str | Path, image_size: int | tuple[int, int], channels: int = 3, limit: int = 0, resize: str = "crop"
) -> tuple[torch.Tensor, list[str]]:
    """A user's own picture, or all pictures of a folder and its sub-folders: uint8 (N, C, H, W), and their file names.

    Each is resized to image_size, the side of a square or (height, width), in the way `resize` (see `load`). limit: at
    most so many, first by name; 0 = all. Raises DataError.
    """
    path, size = Path(path), size_of(image_size)
    if not path.exists():
        raise DataError(f"there is no file or folder {path}")
    root, files = (path, list(pictures_in(path))) if path.is_dir() else (path.parent, [path.name])
    files = files[: limit or None]
    images, names, bad = [], [], []
    for i, result in decode(Reader(str(root), [(file,) for file in files], size, (channels,), resize)):
        if isinstance(result, str):
            bad.append((files[i], result))
        else:
            images.append(result[0])
            names.append(files[i])
    if not images:
        raise DataError(f"{path} holds no picture that can be read{describe(bad)}")
    if bad:
        warn(f"{path}: left out {len(bad)} of {len(files)} files{describe(bad)}")
    return torch.from_numpy(np.stack(images)), names


# ---------------------------------------------------------------------------------------------------------------------
# Readers: from a name or a folder to a list of pictures
# ---------------------------------------------------------------------------------------------------------------------


Row = list[np.ndarray] | str  # of one picture, uint8 (C, H, W); of a pair, A and B; of a bad file, the reason


@dataclass
class Source:
    """A set as a reader found it, before any picture is decoded."""

    name: str
    split: str
    kind: str  # what it was taken for
    channels: tuple[int, ...]  # one number for each side: two for pairs
    state: Any  # what the pixels depend on, as JSON: a cache is good as long as it stays the same
    rows: Callable[[Size], Iterator[tuple[int, Row]]]
    count: int  # of the pictures, good and bad
    names: list[str] = field(default_factory=list)
    labels: np.ndarray | None = None
    classes: list[str] = field(default_factory=list)
    attributes: np.ndarray | None = None
    attribute_names: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (file, reason), known without decoding
    resize: str = "crop"


def find_source(name: str, split: str, data_dir: Path, data_url: str = "", paired: bool = False) -> Source:
    """A known set, downloaded where it is not there, or a folder. Raises DataError."""
    if split not in ("train", "test", "val") and (name, split) != ("stl10", "unlabeled"):
        raise DataError(f"unknown split {split!r}: use train, test or val")
    if name in KNOWN:
        readers = {"builtin": read_builtin, "pix2pix": read_pix2pix, "cyclegan": read_cyclegan, "by hand": read_by_hand}
        readers |= {"idx": read_idx, "torchvision": read_torchvision}
        source = readers[KNOWN[name].reader](name, split, data_dir, data_url)
        source.name = name
        return source
    if os.path.isdir(name):
        return read_folder(Path(name), split, paired)
    close = difflib.get_close_matches(re.sub(r"[_ ]", "-", name.lower()), KNOWN, n=1)
    other = f"did you mean {close[0]}?" if close else "python datasets.py lists the sets"
    raise DataError(f"unknown data set {name!r}: it is neither a folder nor a set's name; {other}")


def read_builtin(name: str, split: str, data_dir: Path, data_url: str) -> Source:
    """A set drawn by this file, which is therefore its state: edit the drawing and the cache is made anew."""
    split = "train" if split == "train" else "test"
    known = KNOWN[name]
    count = known.images[split]
    state = [count, BUILTIN_SEED, hashlib.sha256(Path(__file__).read_bytes()).hexdigest()]

    def rows(size):
        warn(f"drawing the {count} pictures of {name}, {split}, once")
        *sides, truth = draw_builtin(name, split, count, max(size), BUILTIN_SEED)
        source.labels, source.attributes = (truth, None) if name == "digits" else (None, truth)
        for i, pictures in enumerate(zip(*sides, strict=True)):
            pictures = [Image.fromarray(x.squeeze(0) if len(x) == 1 else x.transpose(1, 2, 0)) for x in pictures]
            yield i, [to_array(x, c, size, source.resize) for x, c in zip(pictures, source.channels, strict=True)]

    source = Source(name, split, "drawn here", known.channels, state, rows, count)
    if name == "digits":
        source.classes = [str(digit) for digit in range(10)]
    else:
        source.attribute_names = list(FACE_ATTRIBUTES)
    return source


def read_pix2pix(name: str, split: str, data_dir: Path, data_url: str) -> Source:
    """One of pix2pix's paired sets, in data_dir/NAME, or from the archive data_dir/NAME.tar.gz, or downloaded."""
    folder = fetch_archive(name, data_dir, data_url)
    source = read_folder(folder, split)
    if len(source.channels) != 2:
        raise DataError(f"{folder} does not have the layout {name}/train/*.jpg: remove it to download it again")
    source.channels = KNOWN[name].channels
    return as_published(name, source, folder)


def read_cyclegan(name: str, split: str, data_dir: Path, data_url: str) -> Source:
    """One of CycleGAN's unpaired sets, in data_dir/NAME, or from the archive data_dir/NAME.zip, or downloaded."""
    folder = fetch_archive(name, data_dir, data_url)
    source = read_folder(folder, split)
    if source.classes != ["A", "B"]:
        raise DataError(f"{folder} does not have the layout {name}/trainA/*.jpg: remove it to download it again")
    return as_published(name, source, folder)


def as_published(name: str, source: Source, folder: Path) -> Source:
    """The same, with a warning if it has not as many pictures as it should have."""
    published = KNOWN[name].images.get(source.split)
    if published and published != source.count:
        warn(f"{folder}, {source.split}: {source.count} pictures, but {name} as published has {published}")
    return source


def read_by_hand(name: str, split: str, data_dir: Path, data_url: str) -> Source:
    """A set that its owners hand out to those who agree to their terms: CelebA, DeepFashion, UTKFace. It is looked for
    in data_dir/NAME, where its archives are unpacked; a mirror that is given is asked for what is missing."""
    known, folder = KNOWN[name], data_dir / KNOWN[name].folder
    if data_url or os.environ.get("DATASETS_URL"):
        if not (folder.is_dir() and any(pictures_in(folder))):
            fetch_files(name, list(known.files), data_dir, data_url)
    for archive, target in packed(name, data_dir).items():
        with writing(folder), locked(target):
            if not target.is_dir():
                unpack(archive, target)
    if not (folder.is_dir() and any(pictures_in(folder))):
        raise DataError(f"{name} is not in {folder}: {how_to_get(name, data_dir)}")
    source = read_folder(folder, split)
    if not (source.attribute_names if "attributes" in known.what else source.classes):
        raise DataError(f"{folder} does not tell the {known.what.split()[-1]} of {name}: {how_to_get(name, data_dir)}")
    return as_published(name, source, folder)


def read_folder(root: Path, split: str, paired: bool = False) -> Source:
    """Any folder of images: see `load` for how its layout decides what it is."""
    if table := attribute_table(root):
        return read_attributes(root, table, split)
    if find_idx(root, "train", "images") or find_idx(root, "t10k", "images"):
        return idx_source(root.resolve().name, split, root)
    first = list(itertools.islice(pictures_in(root), 20))
    if first and sum(bool(UTKFACE.search(file)) for file in first) > len(first) / 2:
        return read_utkface(root, split)
    val = ["val", "validation", "valid"]
    wanted = {"train": ["train"], "test": ["test", *val], "val": [*val, "test"]}[split]
    folders = folders_in(root)
    inside = [part for part in ("train", "test", *val) if all((root / name / part).is_dir() for name in folders)]
    every_tenth, pairs, lost = False, False, []
    if any(name in ("train", "test", *val, "trainA", "testA", "valA") for name in folders):
        found = next((name for name in wanted if name in folders or {name + "A", name + "B"} <= set(folders)), "")
        if not found:
            raise NoSuchSplit(f"{root} has no folder {wanted[0]}/ for the split {split!r}: it has {', '.join(folders)}")
        if found in folders:
            groups, lost = by_class(root, found)
            pairs = "" in groups and side_by_side(root, groups[""])
            if "" not in groups:  # a class keeps its number in a split that has no picture of it
                parts = [by_class(root, name)[0] for name in ("train", "test", *val) if name in folders]
                groups = {name: groups.get(name, []) for name in sorted(set().union(*parts) - {""})}
        else:
            groups = {side: list(pictures_in(root, found + side)) for side in "AB"}
    elif folders and inside:  # CLASS/train, CLASS/test
        found = next((name for name in wanted if name in inside), "")
        if not found:
            raise NoSuchSplit(f"{root} has no folders CLASS/{wanted[0]} for the split {split!r}")
        groups = {name: list(pictures_in(root, f"{name}/{found}")) for name in folders}
    else:
        found, every_tenth = "train" if split == "train" else "test", True
        groups, lost = by_class(root)
        groups = {name: files for name, files in groups.items() if files}
        pairs = paired and "" in groups and side_by_side(root, groups[""])
    if paired and list(groups) == ["A", "B"]:
        return pairs_of(root, found, *groups.values(), every_tenth)
    if every_tenth:
        groups, unnamed = tenths(root, groups, found)
        lost = lost + unnamed
    files = [file for group in groups.values() for file in group]
    if not files:
        raise NoSuchSplit(f"{root} holds no pictures for the split {split!r} (files {' '.join(sorted(IMAGE_TYPES))})")
    if "" in groups:
        kind, channels = ("pairs side by side", (3, 3)) if pairs else ("plain images", (3,))
        return file_source(root, found, kind, files, channels, left_out=lost)
    kind = "classes in the names of DeepFashion" if DEEPFASHION.search(files[0]) else "classes"
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups.values()])
    return file_source(root, found, kind, files, classes=list(groups), labels=labels, left_out=lost)


def file_source(
    root: Path, split: str, kind: str, files: Sequence[str | tuple[str, ...]], channels=(3,), **known: Any
) -> Source:
    """A source of files under `root`: of each row one, or two (A, B)."""
    rows = [(file,) if isinstance(file, str) else file for file in files]
    digest = hashlib.sha256()
    for row in rows:
        for file in row:
            digest.update(f"{file}\0{stamp(f'{root}/{file}')}\0".encode(errors="surrogateescape"))
    for key in ("labels", "attributes"):
        digest.update(known[key].tobytes() if key in known else b"")
    state = [digest.hexdigest(), known.get("classes"), known.get("attribute_names")]
    names = [row[0] for row in rows]
    source = Source(root.resolve().name, split, kind, channels, state, None, len(rows), names, **known)
    source.rows = lambda size: decode(Reader(str(root), rows, size, source.channels, source.resize))
    return source


def tenths(root: Path, groups: dict[str, list[str]], split: str) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """The part `split` of every class: by DeepFashion's partition, or each tenth file (or item of DeepFashion, all
    of whose views stay together) for the test. And what the partition does not name, with the reason."""
    parts, kept, lost = {}, {}, []
    named = any(DEEPFASHION.search(file) for files in groups.values() for file in files[:1])
    places = ("", "*/", "*/*/") if named else ()
    for path in itertools.chain(*(root.glob(f"{above}list_eval_partition.txt") for above in places)):
        if not path.is_file():
            continue
        lines = enumerate(read_text(path).split("\n"), 1)
        for number, line in itertools.islice(lines, 2, None):  # after their count and the names of the columns
            if row := line.split():
                if len(row) != 3 or row[2] not in ("train", "query", "gallery"):
                    raise DataError(f"{path}, line {number}: not a picture, its item, and train, query or gallery")
                parts[row[0].removeprefix("img/")] = "train" if row[2] == "train" else "test"
        if not parts:
            raise DataError(f"{path} says of no picture which split it belongs to; move it away")
    for name, files in groups.items():
        kept[name] = []
        for i, file in enumerate(files):
            part = "train" if i % 10 else "test"
            if found := DEEPFASHION.search(file):  # an item may be in two classes: so its number decides, not its place
                part = "train" if int(found[3]) % 10 else "test"
                part = parts.get(found[0].lstrip("/")) if parts else part
            if part is None:
                lost.append((file, "not in list_eval_partition.txt"))
            elif part == split:
                kept[name].append(file)
    return kept, lost


def pairs_of(root: Path, split: str, A: list[str], B: list[str], every_tenth: bool) -> Source:
    """Pairs of the files that are called the same in two folders, whatever their type. every_tenth: of them the test
    split has each tenth, the training split the others."""

    def by_name(files):  # without the folders that all have in common
        folder = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
        return {os.path.splitext(file[len(folder) :])[0]: file for file in files}

    A, B = by_name(A), by_name(B)
    names = [name for name in A if name in B]
    alone = [side[name] for side, other in ((A, B), (B, A)) for name in side if name not in other]
    if not names:
        raise DataError(f"{root} has no pairs: no picture of A is called as one of B; see {', '.join(alone[:2])}")
    if every_tenth:
        names = [name for i, name in enumerate(names) if (i % 10 == 0) == (split == "test")]
    left_out = [(file, "no partner") for file in alone]
    return file_source(root, split, "pairs in two folders", [(A[n], B[n]) for n in names], (3, 3), left_out=left_out)


def attribute_table(root: Path) -> Path | None:
    """The file that lists the attributes of the pictures of a folder, if there is one."""
    for name in ("list_attr_celeba.txt", "list_attr_celeba.csv"):
        if (root / name).is_file():
            return root / name
    tables = [entry.name for entry in visible(root) if entry.name.lower().endswith(".csv")]
    tables = [name for name in tables if name not in PARTITIONS and (root / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{root} holds {len(tables)} .csv files: leave there the one that lists the attributes")
    return root / tables[0] if tables else None


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error


def read_table(path: Path) -> tuple[list[str], dict[str, bytes]]:
    """A list of pictures with small whole numbers -> names of the columns, {picture: its numbers, int8}.

    A .csv has a header. A .txt is CelebA's: words between blanks; the number of rows and a header come first, or not.
    """
    text, comma = read_text(path), path.suffix.lower() == ".csv"
    rows = csv.reader(io.StringIO(text, newline="")) if comma else (line.split() for line in text.split("\n"))
    try:
        rows = ((number, [cell.strip() for cell in row]) for number, row in enumerate(rows, 1) if any(row))
        first = next(rows, (1, [""]))
        head = []
        if comma:
            head = first[1][1:]
        elif len(first[1]) == 1 and first[1][0].isdecimal():
            head = next(rows, (2, []))[1]
        else:
            rows = itertools.chain([first], rows)
        numbers = {}
        for number, (name, *cells) in rows:
            if len(cells) != len(head or cells):
                raise DataError(f"{path}, line {number}: {len(cells)} values for the {len(head)} columns")
            if name in numbers:
                raise DataError(f"{path}, line {number}: {name} has a line already")
            try:
                numbers[name] = struct.pack(f"{len(cells)}b", *map(int, cells))
            except (ValueError, struct.error):
                raise DataError(f"{path}, line {number}: a value is not a whole number, or a large one") from None
    except csv.Error as error:
        raise DataError(f"{path} is not a .csv file: {error}") from error
    if not numbers:
        raise DataError(f"{path} has no rows")
    return head, numbers


def read_attributes(root: Path, table: Path, split: str) -> Source:
    """A folder of pictures with a list of their attributes: CelebA, or a .csv."""
    names, rows = read_table(table)
    if not names or len(set(names)) < len(names) or not all(names):
        raise DataError(f"{table} needs a header with a different name for each attribute")
    values = np.frombuffer(b"".join(rows.values()), np.int8).reshape(len(rows), len(names))
    if len(wrong := np.flatnonzero((np.abs(values) > 1).any(axis=1))):
        name, row = list(rows)[wrong[0]], values[wrong[0]].tolist()
        raise DataError(f"{table}, {name}: an attribute is 1, or 0 or -1, not {row}")
    files = list(pictures_in(root))
    called = {}  # a row may name a picture without its folder, if only one is called so
    for path in files:
        called.setdefault(path.rpartition("/")[2], []).append(path)
    there, known, left_out = set(files), {}, []
    for name in rows:
        found = [name] if name in there else called.get(name, [])
        if len(found) > 1:  # CelebA's faces are also there as they were before they were cut out
            found = [path for path in found if "img_align_celeba" in path] or found
        if len(found) > 1:
            raise DataError(f"{table}, {name}: {len(found)} pictures are called so; name them with their folder")
        if not found:
            left_out.append((name, "there is no such picture"))
        elif found[0] in known:
            raise DataError(f"{table}, {name}: the picture {found[0]} has two lines")
        known |= dict.fromkeys(found, name)
    if not known:
        raise DataError(f"{table} names no picture that is in {root}; move it away if it is not about them")
    left_out += [(file, f"not in {table.name}") for file in files if file not in known]
    split, chosen, nowhere = of_split(root, known, split)
    number = {name: i for i, name in enumerate(rows)}
    truth = {"attributes": (values[[number[known[path]] for path in chosen]] == 1).astype(np.uint8)}
    truth |= {"attribute_names": names, "left_out": left_out + nowhere}
    return file_source(root, split, f"attributes of {table.name}", chosen, **truth)


def read_utkface(root: Path, split: str) -> Source:
    """Faces whose names tell age, gender and race, as in UTKFace; the set's own codes and words."""
    told = {file: UTKFACE.search(file) for file in pictures_in(root)}
    split, chosen, left_out = of_split(root, {file: file for file, found in told.items() if found}, split)
    age, gender, race = np.array([[int(n) for n in told[file].groups()] for file in chosen]).T
    ages = np.eye(4, dtype=np.uint8)[np.digitize(age, [20, 40, 60])]
    races = np.eye(5, dtype=np.uint8)[race]
    truth = {"attributes": np.column_stack([gender == 0, ages, races]).astype(np.uint8)}
    left_out += [(file, "not called AGE_GENDER_RACE_TIME") for file, found in told.items() if not found]
    kind = "attributes in the names of UTKFace"
    return file_source(root, split, kind, chosen, attribute_names=list(UTKFACE_NAMES), left_out=left_out, **truth)


def of_split(root: Path, known: dict[str, str], split: str) -> tuple[str, list[str], list[tuple[str, str]]]:
    """{path of a picture: its name in the table} -> the split that serves `split`, the pictures of it, by path, and
    those that are in no split, with the reason."""
    part = {}
    if partition := next((root / name for name in PARTITIONS if (root / name).is_file()), None):
        _, numbers = read_table(partition)
        number = {bytes([i]): name for i, name in enumerate(("train", "val", "test"))}
        part = {path: number.get(numbers.get(name)) for path, name in known.items()}
    else:
        folder = {"train": "train", "test": "test", "val": "val", "validation": "val", "valid": "val"}
        part = {path: folder.get(path.split("/")[0]) for path in known}
    if partition and not any(part.values()):
        raise DataError(f"{partition} says of no picture in {root} which split it belongs to; move it away")
    if not any(part.values()):
        base = {path: path.rpartition("/")[2] for path in known}  # copies in two folders stay on one side
        number = {name: i for i, name in enumerate(sorted(set(base.values())))}
        part = {path: "train" if number[name] % 10 else "test" for path, name in base.items()}
    for found in {"train": ["train"], "test": ["test", "val"], "val": ["val", "test"]}[split]:
        if chosen := [path for path in sorted(known) if part[path] == found]:
            where = f"in {partition.name}" if partition else "in train/, val/ or test/"
            return found, chosen, [(path, f"not {where}") for path in sorted(known) if not part[path]]
    raise NoSuchSplit(f"{root} holds no pictures for the split {split!r}")


def visible(folder: Path) -> list[os.DirEntry]:
    """What is in a folder, by name, without hidden files (such as the ._a.jpg that a Mac leaves in archives)."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))), key=lambda e: e.name
            )
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, and of the links to folders."""
    return [x.name for x in visible(folder) if x.is_dir(follow_symlinks=False) or os.path.isdir(x.path)]


def pictures_in(root: Path, inner: str = "", deep: bool = True) -> Iterator[str]:
    """Files in root/inner that look like pictures, as paths from root, by name; `deep`: also those of sub-folders."""
    if inner.count("/") > 50:
        raise DataError(f"{root} holds folders more than 50 deep: remove them")
    for entry in visible(root / inner):
        path = f"{inner}/{entry.name}" if inner else entry.name
        if os.path.splitext(path)[1].lower() in IMAGE_TYPES | OTHER_TYPES:
            yield path
        elif deep and entry.is_dir(follow_symlinks=False):  # a link may lead round in a circle
            yield from pictures_in(root, path)


def by_class(root: Path, inner: str = "") -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """{class: its pictures} of root/inner: by DeepFashion's names, else of its sub-folders; or {"": its pictures} if it
    holds pictures itself. And the pictures that are left out, with the reason."""
    if any(map(DEEPFASHION.search, pictures_in(root, inner))):
        copies = {}  # several of one set, such as img/ and img_highres/: the first is taken
        for file in pictures_in(root, inner):
            found = DEEPFASHION.search(file)
            copies.setdefault(file[: found.start()] if found else None, []).append((found, file))
        others = copies.pop(None, [])
        first = min(copies, key=lambda folder: (bool(re.search("anno|segm|densepose", folder, re.IGNORECASE)), folder))
        groups = {}
        for name, file in sorted((f"{found[1]}_{found[2]}", file) for found, file in copies[first]):
            groups.setdefault(name, []).append(file)
        return groups, [(file, "not called as in DeepFashion") for _, file in others if file.startswith(first)]
    own = list(pictures_in(root, inner, deep=False))
    folders = {name: f"{inner}/{name}".lstrip("/") for name in folders_in(root / inner)}
    deep = {name: list(pictures_in(root, path)) for name, path in folders.items() if path not in own}
    if own:
        return {"": own}, [(file, "in a folder beside pictures") for files in deep.values() for file in files]
    return deep, []


def side_by_side(root: Path, files: Sequence[str]) -> bool:
    """Whether most of some files, spread over the list, are at least half as wide again as high: pairs, A beside B."""
    wide = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on huge pictures
        for file in files[:: max(1, len(files) // 9)]:
            with contextlib.suppress(Exception), opened(f"{root}/{file}") as picture:  # a bad file has no vote
                wide.append(picture.width >= 1.5 * picture.height)
    return sum(wide) >= len(wide) / 2


def stamp(file: str | Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds: a cache made from another state of the file is not used."""
    try:
        found = os.stat(file)
        return found.st_size, found.st_mtime_ns
    except OSError:
        return -1, -1  # a link to nowhere: it will be counted as a bad file


def read_idx(name: str, split: str, data_dir: Path, data_url: str) -> Source:
    """MNIST or Fashion-MNIST, from torchvision's folder or Debian's, else downloaded."""
    folder = find(name, data_dir)
    if folder is None:
        folder = data_dir / KNOWN[name].folder
        fetch_files(name, list(KNOWN[name].files), data_dir, data_url)
    return idx_source(name, split, folder)


def find_idx(folder: Path, split: str, kind: str) -> Path | None:
    """The file of `kind` "images" or "labels" ("train-images-idx3-ubyte.gz"), or None."""
    found = folder.glob(f"{split}-{kind}?idx?-ubyte*")
    return min((path for path in found if path.name.endswith(("-ubyte", "-ubyte.gz")) and path.is_file()), default=None)


def idx_source(name: str, split: str, folder: Path) -> Source:
    prefix, split = ("train", "train") if split == "train" else ("t10k", "test")
    files = [find_idx(folder, prefix, kind) for kind in ("images", "labels")]
    if None in files:
        raise NoSuchSplit(f"{folder} lacks {prefix}-images-idx3-ubyte or {prefix}-labels-idx1-ubyte (.gz or not)")

    def rows(size):
        images, labels = (read_idx_file(file, dims) for file, dims in zip(files, (3, 1), strict=True))
        if len(images) != len(labels):
            raise DataError(f"{files[0]} has {len(images)} images, but {files[1]} has {len(labels)} labels")
        source.labels = labels.astype(np.int64)
        source.classes = CLASSES.get(name) or [str(label) for label in range(int(labels.max()) + 1)]
        if labels.max() >= len(source.classes):
            raise DataError(f"{files[1]} has the label {labels.max()}, but {name} has {len(source.classes)} classes")
        for i, image in enumerate(images):
            yield i, [to_array(Image.fromarray(image), source.channels[0], size, source.resize)]

    with idx_file(files[0], 3) as (_, shape):
        count = shape[0]
    state = [[file.name, *stamp(file)] for file in files]
    source = Source(name, split, "MNIST's format", (1,), state, rows, count)
    return source


@contextlib.contextmanager
def idx_file(path: Path, dims: int) -> Iterator[tuple[Any, list[int]]]:
    """An open idx file (yann.lecun.com/exdb/mnist) after its header, and its shape: 0, 0, 8 for uint8, dims, the sizes.

    Whatever is wrong with it, here or while it is read, is a `Damaged`.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4 + 4 * dims)
            shape = np.frombuffer(head[4:], ">u4").tolist() if len(head) == 4 + 4 * dims else [0]
            if head[:4] != bytes([0, 0, 8, dims]) or not 0 < math.prod(shape) < 1 << 31 or shape[0] > 10**7:
                raise EOFError("its header is not that of pictures or labels")
            yield file, shape
    except (OSError, EOFError, zlib.error) as error:
        raise Damaged(f"{path} is damaged ({error}): fetch it again") from error


def read_idx_file(path: Path, dims: int) -> np.ndarray:
    """The array in an idx file, uint8. No more is unpacked than its header promises."""
    with idx_file(path, dims) as (file, shape):
        raw = file.read(math.prod(shape) + 1)
        if len(raw) != math.prod(shape):
            raise EOFError("its size is not what its header says")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def read_torchvision(name: str, split: str, data_dir: Path, data_url: str) -> Source:
    """CIFAR-10 or STL-10, read by torchvision from its folder, or from the archive beside it, or downloaded.

    The archive is fetched here, not by torchvision, which would wait for a silent server for ever and start a cut
    download over.
    """
    split = {"train": "train", "unlabeled": "unlabeled"}.get(split, "test")
    unlabeled = split == "unlabeled" or (name, split) == ("stl10-unlabeled", "train")
    known, folder = KNOWN[name], fetch_archive(name, data_dir, data_url)

    def rows(size):
        import torchvision  # slow to import

        class LabelledSTL10(torchvision.datasets.STL10):
            train_list = torchvision.datasets.STL10.train_list[:2]  # without 2.8 GB of pictures that have no label

        # CIFAR-10 is pickled, and a pickle can run any code: torchvision opens only files of the published md5.
        try:
            if unlabeled:  # torchvision would read it all into memory
                file, md5 = torchvision.datasets.STL10.train_list[2]
                if not torchvision.datasets.utils.check_integrity(folder / file, md5):
                    raise RuntimeError
                data = np.memmap(folder / file, np.uint8, "r").reshape(-1, 3, 96, 96)
                pictures = (Image.fromarray(image.transpose(2, 1, 0)) for image in data)  # stored column by column
            elif known.folder == "stl10_binary":
                data = LabelledSTL10(data_dir, split)
                source.labels, pictures = data.labels.astype(np.int64), (data[i][0] for i in range(len(data)))
            else:
                data = torchvision.datasets.CIFAR10(data_dir, train=split == "train")
                source.labels, pictures = np.array(data.targets), (data[i][0] for i in range(len(data)))
        except RuntimeError as error:
            raise DataError(
                f"{folder} is not {name} as published (a file is missing or has another md5): remove it, and fetch "
                f"{known.home}/{next(iter(known.files))} again"
            ) from error
        for i, picture in enumerate(tqdm(pictures, total=len(data), desc="resizing", unit="img", disable=None)):
            yield i, [to_array(picture, source.channels[0], size, source.resize)]

    state = [[entry.name, *stamp(entry)] for entry in visible(folder)]
    source = Source(name, split, "read by torchvision", known.channels, state, rows, known.images[split])
    source.classes = [] if unlabeled else CLASSES[name.removesuffix("-unlabeled")]
    return source


# ---------------------------------------------------------------------------------------------------------------------
# Decoding, once
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Reader(Dataset):
    """Files of pictures, or pairs of files, under `root`: indexed by a list of numbers it gives what they hold."""

    root: str
    files: Sequence[tuple[str, ...]]
    size: Size | None  # None: each as large as it is
    channels: tuple[int, ...]
    resize: str

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, numbers: Sequence[int]) -> list[Row]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on files that it reads all the same or that are counted as bad
            return [self.attempt([f"{self.root}/{file}" for file in self.files[i]]) for i in numbers]

    def attempt(self, paths: list[str]) -> Row:
        try:
            return read_picture(paths, self.size, self.channels, self.resize)
        except UnidentifiedImageError:
            return "not a picture"
        except FileNotFoundError:
            return "a link to nowhere"
        except Exception as error:  # Pillow raises almost anything on a damaged file
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return " ".join(reason.split())[:100]


def decode(reader: Reader) -> Iterator[tuple[int, Row]]:
    """Yield (i, what file i holds) in order, decoded on all cores; a bad file yields the reason.

    By processes, where they start fast: Pillow holds Python's lock for most of its time on a small JPEG, so that two
    threads are slower than one. Memory stays flat: a few blocks of 64 pictures are on their way at any time.
    """
    count = len(reader)
    blocks = [range(start, min(start + 64, count)) for start in range(0, count, 64)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.ExitStack() as stack:
        if cores == 1 or count < 512 or multiprocessing.current_process().daemon:
            results = map(reader.__getitems__, blocks)
        elif sys.platform == "linux":
            how = {"num_workers": min(cores, 16), "multiprocessing_context": "fork", "generator": torch.Generator()}
            results = iter(DataLoader(reader, batch_sampler=blocks, collate_fn=as_is, **how))
        else:
            pool = stack.enter_context(ThreadPoolExecutor(min(cores, 8)))
            groups = (blocks[start : start + 16] for start in range(0, len(blocks), 16))
            results = itertools.chain.from_iterable(pool.map(reader.__getitems__, group) for group in groups)
        progress = tqdm(total=count, desc="decoding", unit="img", disable=None if count >= 1000 else True)
        stack.enter_context(progress)
        try:
            for block, rows in zip(blocks, results, strict=True):
                yield from zip(block, rows, strict=True)
                progress.update(len(rows))
        except RuntimeError as error:
            raise DataError(f"a process that decodes pictures has died ({error}): is there enough memory?") from error


@functools.cache
def formats() -> list[str]:
    """Pillow's decoders that a picture may ask for. Others are rare, or run a program (EPS)."""
    Image.init()
    return [name for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM") if name in Image.OPEN]


@contextlib.contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """A picture file, not decoded yet. Raises ValueError for what is no picture, or one too large."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a file")  # a pipe would be waited for
    if found.st_size == 0:
        raise ValueError("empty")
    if os.path.splitext(path)[1].lower() in OTHER_TYPES:
        raise ValueError("of a type that is not read here, convert it to PNG or JPEG")
    with Image.open(path, formats=formats()) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} is too large")
        yield picture


def read_picture(paths: Sequence[str], size: Size | None, channels: tuple[int, ...], resize: str) -> list[np.ndarray]:
    """Decode one file: [picture], or for two `channels` [left half, right half]; or two files: [A, B].

    uint8 (C, height, width) each. Raises ValueError for what is no pair, and whatever Pillow raises for a damaged file.
    """
    halves = 1 + (len(channels) > len(paths))
    sides = []
    for path in paths:
        with opened(path) as picture:
            across, down = sorted(picture.size, reverse=True)  # before a JPEG is decoded small, and turned
            # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that still leaves twice the pixels we need.
            if size:
                picture.draft(None, (halves * 2 * max(size), 2 * max(size)))
            picture = ImageOps.exif_transpose(picture)
        if picture.width < picture.height:
            across, down = down, across
        if halves == 2 and (across % 2 or across < 1.5 * down):
            raise ValueError(f"{across}x{down} is not two pictures of one size side by side")
        width, height = picture.width // halves, picture.height
        sides += [picture] if halves == 1 else [picture.crop((x, 0, x + width, height)) for x in (0, width)]
    shapes = [side.width / side.height for side in sides]
    if max(shapes) > 1.05 * min(shapes):
        raise ValueError(" and ".join(f"{side.width}x{side.height}" for side in sides) + " have not the same shape")
    return [to_array(side, count, size, resize) for side, count in zip(sides, channels, strict=True)]


def to_array(picture: Image.Image, channels: int, size: Size | None, resize: str = "crop") -> np.ndarray:
    """A picture of any mode, as 8-bit grey or RGB over white, resized (bicubic, antialiased): uint8 (C, height, width).

    size: None leaves it as large as it is. resize: of the largest middle part of that shape ("crop"), of all of it
    ("stretch"), or with white bars ("pad").
    """
    size = size or picture.size[::-1]
    scales = picture.width / size[1], picture.height / size[0]
    if resize == "crop":
        width, height = (max(1, round(side * min(scales))) for side in size[::-1])
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        if (width, height) != picture.size:
            picture = picture.crop((left, top, left + width, top + height))
    if picture.mode == "F":
        raise ValueError("floating-point pixels")
    if picture.mode.startswith("I"):  # 16-bit grey
        values, seen_through = np.asarray(picture), picture.info.get("transparency")
        grey = (values.clip(0, 65535) / 257).round().astype(np.uint8)
        picture = Image.fromarray(np.where(values == seen_through, np.uint8(255), grey))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("L" if channels == 1 else "RGB")
    inner = size[::-1]  # width, height
    if resize == "pad":
        inner = tuple(max(1, round(side / max(scales))) for side in picture.size)
    if picture.size != inner:
        picture = picture.resize(inner, Image.Resampling.BICUBIC)
    if inner != size[::-1]:
        sheet = Image.new(picture.mode, size[::-1], "white")
        sheet.paste(picture, ((size[1] - inner[0]) // 2, (size[0] - inner[1]) // 2))
        picture = sheet
    pixels = np.asarray(picture)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def describe(bad: Sequence[tuple[str, str]]) -> str:
    """The end of a message: ": a.jpg (not a picture), b.jpg (...), ..."."""
    listed = [f"{shown(name)} ({reason})" for name, reason in bad[:3]] + ["..."] * (len(bad) > 3)
    return f": {', '.join(listed)}" if bad else ""


# ---------------------------------------------------------------------------------------------------------------------
# The cache: data_dir/cache/NAME-SPLIT-SIZEpx-HASH/{images,targets,labels,attributes}.npy and meta.json
#
# The hash covers every option and the state of the source: a change of either leads to another folder, never to wrong
# pixels. A folder appears whole, by a rename; of several processes one makes it, and the others wait for it. A killed
# run leaves a *.tmp folder behind, which nothing reads, and which the next run that makes this cache removes.
# ---------------------------------------------------------------------------------------------------------------------


def cached(source: Source, size: Size, data_dir: Path, strict: bool = False) -> ImageSet:
    """The set from its cache, which is made if it is not there (or damaged); where it cannot be written, from a
    temporary folder that goes when this process ends."""
    shape = size[0] if size[0] == size[1] else size
    key = [CACHE_FORMAT, source.name, source.split, shape, source.channels, source.resize, source.state]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    name, shape = re.sub(r"[^\w.-]", "_", source.name)[:60], "x".join(str(side) for side in dict.fromkeys(size))
    folder = data_dir / "cache" / f"{name}-{source.split}-{shape}px-{digest}"
    data = open_cache(folder)
    if data is None:
        try:
            with locked(folder) as alone:
                data = open_cache(folder) or make_cache(folder, source, size, alone)
        except OSError as error:
            spare = Path(tempfile.mkdtemp(prefix="datasets-"))
            atexit.register(shutil.rmtree, spare, ignore_errors=True)
            warn(f"cannot write {folder.parent} ({error.strerror or error}): decoding into {spare}, for this run only")
            fill_cache(spare, source, size)
            data = open_cache(spare)
    arrays, meta = data
    count = meta["bad_count"] + len(source.left_out)
    if count:
        total, bad = len(arrays["images"]) + count, describe((meta["bad"] + source.left_out)[:4])
        if strict:
            raise DataError(
                f"{source.name}, {source.split}: {count} of {total} files are bad{bad}; `python datasets.py` with "
                "--check names them all, and without --strict they are left out"
            )
        warn(f"{source.name}, {source.split}: left out {count} of {total} files{bad}")
    return ImageSet(source.name, source.split, **arrays, **meta["lists"])


def make_cache(folder: Path, source: Source, size: Size, alone: bool) -> tuple[dict[str, np.ndarray], dict] | None:
    """Fill a folder and give it its name. alone: no other process makes this one, so other beginnings are left over."""
    for old in folder.parent.glob(f"{folder.name}.*.tmp") if alone else ():
        shutil.rmtree(old, ignore_errors=True)
    temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        fill_cache(temporary, source, size)
        return publish_cache(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fill_cache(folder: Path, source: Source, size: Size) -> None:
    """Decode `source` into the files of `folder`, row by row. Raises DataError if fewer than two pictures are good."""
    kept, bad, shapes = [], [], []
    with contextlib.ExitStack() as stack:
        names = ("images.npy", "targets.npy")[: len(source.channels)]
        files = [stack.enter_context(open(folder / name, "wb")) for name in names]
        for file in files:
            file.seek(NPY_HEADER)  # written last, when the number of good pictures is known
        for i, row in source.rows(size):
            if isinstance(row, str):
                bad.append((source.names[i], row))
                continue
            kept.append(i)
            shapes = [side.shape for side in row]
            for file, side in zip(files, row, strict=True):
                file.write(side.tobytes())
        if len(kept) < 2:
            raise DataError(
                f"{source.name}, {source.split}: {len(kept)} usable pictures of {len(kept) + len(bad)}, "
                f"at least 2 are needed{describe(bad)}"
            )
        for file, shape in zip(files, shapes, strict=True):
            file.seek(0)
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(kept), *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            assert file.tell() == NPY_HEADER
    for name, array in (("labels", source.labels), ("attributes", source.attributes)):
        if array is not None:
            np.save(folder / f"{name}.npy", array[kept])
    meta = {
        "files": {file.name: seal(file) for file in sorted(folder.iterdir())},
        "lists": {
            "names": [source.names[i] for i in kept] if source.names else [],
            "classes": source.classes,
            "attribute_names": source.attribute_names,
        },
        "bad": bad[:4],
        "bad_count": len(bad),
    }
    text = json.dumps(meta)
    (folder / "meta.json").write_text(f"{text}\n{zlib.crc32(text.encode())}", encoding="utf-8")
    for file in folder.iterdir():  # to the disk itself: a machine that loses power may keep a name and lose its bytes
        with open(file, "rb+") as handle:
            os.fsync(handle.fileno())


def seal(file: Path) -> list[int]:
    """The size and a checksum of a file, of a large one of its header only: by them a damaged cache is known."""
    size = file.stat().st_size
    with open(file, "rb") as handle:
        return [size, zlib.crc32(handle.read(NPY_HEADER if size > MMAP_BYTES else size))]


def open_cache(folder: Path) -> tuple[dict[str, np.ndarray | Rows], dict] | None:
    """The arrays of a cache by name, and its meta.json; None where there is none, or a file is damaged."""
    try:
        text, _, checksum = (folder / "meta.json").read_text(encoding="utf-8").rpartition("\n")
        if zlib.crc32(text.encode()) != int(checksum):
            return None
        arrays, meta = {}, json.loads(text)
        for name, sealed in meta["files"].items():
            if seal(folder / name) != sealed:
                return None
            large = sealed[0] > MMAP_BYTES and name in ("images.npy", "targets.npy")
            arrays[name.removesuffix(".npy")] = Rows(folder / name) if large else np.load(folder / name)
        return arrays, meta
    except (OSError, ValueError):
        return None


def publish_cache(temporary: Path, folder: Path) -> tuple[dict[str, np.ndarray], dict] | None:
    """Give a finished cache its name. If another process was first, its cache is used; a damaged one is replaced."""
    try:
        temporary.rename(folder)
    except OSError:
        data = open_cache(folder)
        if data is not None:
            return data
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    return open_cache(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Downloads
# ---------------------------------------------------------------------------------------------------------------------


def find(name: str, data_dir: Path) -> Path | None:
    """The folder of a known set, if it is there."""
    known = KNOWN[name]
    folder = data_dir / known.folder
    if known.reader == "idx":
        places = (folder, Path(DEBIAN.get(name, folder)))
        return next((x for x in places if all(find_idx(x, *file.split("-")[:2]) for file in known.files)), None)
    if packed(name, data_dir) or not (known.folder and folder.is_dir()):
        return None
    return folder if any(pictures_in(folder) if known.reader == "by hand" else visible(folder)) else None


def packed(name: str, data_dir: Path) -> dict[Path, Path]:
    """The archives of a known set that are there and not unpacked yet: {archive: the folder that it becomes}."""
    known, folder = KNOWN[name], data_dir / KNOWN[name].folder
    if known.reader == "by hand":  # several, in its folder
        becomes = {folder / file: folder / re.sub(r"\.(zip|tar\.gz)$", "", file) for file in known.files}
    else:
        becomes = {data_dir / file: folder for file in known.files if known.reader != "idx"}
    return {a: b for a, b in becomes.items() if a.name != b.name and a.is_file() and not b.is_dir()}


def how_to_get(name: str, data_dir: Path | str = "data") -> str:
    """What to do to have a known set, in a sentence without its full stop."""
    known = KNOWN[name]
    if not known.home:
        return "drawn when asked for"
    files = "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz" if known.reader == "idx" else ", ".join(known.files)
    if known.reader == "by hand":
        where = f"{known.home}, whose terms you have to agree to"
        return f"fetch it from {where}, and put {files} into {data_dir}/{known.folder}"
    place = f"{data_dir}/{known.folder}" if known.reader == "idx" else f"{data_dir}"
    return f"downloaded when asked for, or put {files} into {place}"


def address(name: str, file: str, data_url: str = "") -> str:
    """Where a file of a known set is: at its home, or at a mirror. Raises DataError."""
    base = data_url or os.environ.get("DATASETS_URL") or KNOWN[name].home
    try:
        parts = urllib.parse.urlsplit(base.replace("{name}", name))
        host = parts.netloc.encode("idna").decode("ascii")
        if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", host) or parts.port == 0:
            raise ValueError
    except ValueError:
        raise DataError(
            f"{base!r} is not a web address to download {name} from, such as https://mirror.org/sets"
        ) from None
    path = urllib.parse.quote(f"{parts.path.rstrip('/')}/{file}", safe="/%:@!$&'()*+,;=~")
    return urllib.parse.urlunsplit(parts._replace(netloc=host, path=path))


def fetch_archive(name: str, data_dir: Path, data_url: str = "") -> Path:
    """The folder of a set that comes as an archive: as it is there, or unpacked from the archive beside it, which is
    downloaded if it is not there. A damaged download is made once more. Raises DataError."""
    folder, ((file, checksum),) = data_dir / KNOWN[name].folder, KNOWN[name].files.items()
    archive = data_dir / file
    if folder.is_dir():
        return folder
    url = address(name, file, data_url)
    with writing(data_dir), locked(archive):  # of several processes one downloads; the others wait, and find the folder
        for last in (False, True):
            if folder.is_dir():
                break
            ours = not archive.exists()
            if not ours and not archive.is_file():
                raise DataError(f"{archive} is not a file: remove it")
            if ours:
                download(url, archive, checksum=checksum)
            try:
                unpack(archive, folder)
            except DataError as error:
                if ours:
                    archive.unlink()
                if ours and not last and isinstance(error, Damaged):
                    warn(f"{error}: once more")
                    continue
                what = "fetch it" if ours else "remove it, and fetch it"
                raise DataError(f"{error}; {what} again from {url}, or put the folder {folder} in its place") from error
            if ours:
                archive.unlink()
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """An archive becomes a folder, whole or not at all. Raises DataError for a bad archive, OSError for the disk."""
    warn(f"unpacking {archive}")
    (extract_zip if archive.name.endswith(".zip") else extract_tar)(archive, folder)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What goes wrong with the disk in here is a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write to {folder} ({error}): choose another data folder") from error


def fetch_files(name: str, files: Sequence[str], data_dir: Path, data_url: str = "") -> None:
    """Download those files of a known set that are not in its folder. Raises DataError."""
    folder = data_dir / KNOWN[name].folder
    with writing(folder), locked(folder):
        for file in files:
            if not (folder / file).exists():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                download(address(name, file, data_url), folder / file, checksum=KNOWN[name].files[file])


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold `path`, which need not exist, for this process; others wait here. -> whether the system knows such locks.

    It lets go however the process ends. OSError where the folder of `path` cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    while True:
        with open(lock, "a") as handle:
            alone = fcntl is not None
            try:
                if alone:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                warn(f"another process is making {path}: waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError:  # some network disks have no locks
                alone = False
            try:
                same = not alone or os.path.samestat(os.fstat(handle.fileno()), os.stat(lock))
            except FileNotFoundError:
                same = False
            if not same:
                continue  # its last owner has removed the file meanwhile
            try:
                yield alone
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink()
            return


def download(
    url: str, path: Path, *, checksum: str = "", timeout: float = 30, tries: int = 5, pause: float = 1
) -> None:
    """Fetch `url` into `path`, by way of `path`.part, so that `path` is complete whenever it exists.

    What an earlier try or run left in the .part is continued (HTTP Range), if the server confirms that it still has the
    same file (If-Range, with the ETag or date that came with the first part). checksum: md5 or sha256 of the file, ""
    if unknown; where it is another, the file is fetched once more. timeout: seconds without a byte; pause: seconds
    before the second try, doubled for each further one. Raises DataError with what to do; OSError for the disk.
    """
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    network = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
    reason, spoilt, parts = "", 0, True
    for attempt in range(tries):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        name = tag.read_bytes()[:1000].decode("latin-1") if tag.exists() and part.exists() else ""
        have = part.stat().st_size if parts and re.fullmatch(r"[!-~][ -~]*[!-~]", name) else 0
        headers = {"Range": f"bytes={have}-", "If-Range": name} if have else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as reply:
                have, total = receive(reply, part, tag, have)
        except urllib.error.HTTPError as error:
            reason, total = " ".join(str(error).split()), None
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
                total = have  # nothing comes after our part: it is whole
            elif have and error.code != 429 and (error.code < 500 or error.code == 501):
                parts = False  # it does not continue, or its file is shorter than our part: ask for the whole
            elif error.code < 500 and error.code != 429:
                break  # no such file: trying again will not help
            if total is None:
                continue
        except DataError:
            raise
        except (*network, ValueError) as error:  # ValueError: it sends us on to what is no address
            reason = str(getattr(error, "reason", "") or error)
            if attempt == 0 and isinstance(error, urllib.error.URLError):
                break  # no network
            continue
        if total not in (None, have):
            reason = f"cut at {have} of {total} bytes, the next run continues there"
        elif checksum and checksum_of(part, len(checksum)) != checksum:
            reason, spoilt = f"its checksum is not {checksum}, so it is damaged or another file", spoilt + 1
            part.unlink()
            tag.unlink(missing_ok=True)
            if spoilt == 2:
                break
        else:
            os.replace(part, path)
            tag.unlink(missing_ok=True)
            return
    raise DataError(f"cannot download {url} ({reason}): fetch it on a machine with a network and put it at {path}")


def checksum_of(path: Path, length: int = 32) -> str:
    """The md5 (32 letters) or sha256 (64) of a file. An md5 tells accidents, not forgers."""
    digest = hashlib.sha256() if length == 64 else hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def receive(reply: Any, part: Path, tag: Path, have: int) -> tuple[int, int | None]:
    """Write an HTTP reply to `part`, after the `have` bytes it holds if the server continues there.

    Returns how many bytes the part holds now, and how many the file has (None if the server did not say).
    """
    if reply.headers.get_content_type() == "text/html":
        raise DataError(
            f"{reply.url} is a web page, not the file: fetch it by hand and put it at {part.with_suffix('')}"
        )
    part_of = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", reply.headers.get("Content-Range", ""))
    if reply.status == 206 and not (part_of and int(part_of[1]) == have):
        tag.unlink(missing_ok=True)
        raise http.client.HTTPException("a part that was not asked for")
    if reply.status != 206:
        have = 0  # the whole file comes: the server cannot continue, or has another file now
    length = re.fullmatch(r"\d{1,18}", reply.headers.get("Content-Length", ""))
    total = have + int(length[0]) if length and not reply.headers.get("Transfer-Encoding") else None
    if have and part_of[2] != "*":
        total = int(part_of[2])
    with open(part, "ab" if have else "wb") as file:
        if not have:  # after the old part is gone: a tag never stands beside another file's bytes
            tag.unlink(missing_ok=True)
            if name := reply.headers.get("ETag") or reply.headers.get("Last-Modified"):
                tag.write_text(name)
        bar = tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, disable=None)
        with bar:
            while chunk := reply.read1(1 << 16):
                file.write(chunk)
                bar.update(len(chunk))
        return file.tell(), total


@contextlib.contextmanager
def unpacked(path: Path, folder: Path, kind: str) -> Iterator[Path]:
    """A temporary folder to unpack into; then it, or the folder called `folder.name` in it, becomes `folder`."""
    temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        inner = temporary / folder.name
        (inner if inner.is_dir() else temporary).rename(folder)
    except DataError:
        raise
    except Exception as error:  # the readers raise almost anything on a damaged archive
        names = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
        if getattr(error, "errno", None) in names:
            raise DataError(f"{path} is refused: it holds names that cannot be ({error.strerror})") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's
        raise Damaged(f"{path} is not a {kind} archive, or is damaged ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def inside(path: Path, name: str, plain: bool) -> PurePosixPath:
    """A member's path, if it is a plain file or folder inside the archive's own folder. Raises DataError."""
    inner = PurePosixPath(name)
    if inner.is_absolute() or ".." in inner.parts or re.search(r"\\|^\w:", name) or not plain:
        raise DataError(f"{path} is refused: {name[:200]!r} is a link, a device or outside the folder")
    if len(inner.parts) > 50:
        raise DataError(f"{path} is refused: it holds folders more than 50 deep")
    return inner


class Header(tarfile.TarInfo):
    """A tar's header that is whole, and no longer than it need be: where tarfile would take the rest for the end."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(512):  # the mark of the end
                raise
            raise ValueError(f"it breaks off: {error}") from error
        if header.type == tarfile.GNUTYPE_SPARSE or header.size > 1 << 14 and not (header.isfile() or header.isdir()):
            raise ValueError("a file with holes, or a name or comment of more than 16384 bytes")  # read into memory
        return header

    def _proc_gnusparse_10(self, *_: Any) -> None:  # tarfile's own name: it would read a list of any length
        raise ValueError("a file with holes")


def extract_tar(path: Path, folder: Path, max_bytes: int = 0) -> None:
    """Unpack a .tar.gz into `folder` (or the folder of that name in it, to that place), whole or not at all.

    Only plain files are written: an archive with a path outside the folder, a link, a device, or more than `max_bytes`
    when unpacked (0: 1 GiB and 20 times its size; pictures hardly shrink) is refused. Raises DataError for a refused
    archive, Damaged for a damaged one, OSError for the disk.
    """
    total, max_bytes = 0, max_bytes or (1 << 30) + 20 * path.stat().st_size
    with unpacked(path, folder, ".tar.gz") as temporary:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as archive:
            for member in archive:
                archive.members = []  # it would keep them all in memory
                plain = (member.isfile() or member.isdir()) and not member.issparse() and member.size >= 0
                name = inside(path, member.name, plain)
                total += FILE_COST + member.size
                if total > max_bytes:
                    raise DataError(f"{path} is refused: it unpacks to more than {max_bytes} bytes")
                if member.isfile():
                    (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                    with open(temporary / name, "wb") as file:
                        shutil.copyfileobj(archive.extractfile(member), file)
            while chunk := stream.read(1 << 20):  # to the end, where gzip compares its checksum
                total += len(chunk)
                if total > max_bytes:
                    raise DataError(f"{path} is refused: it unpacks to more than {max_bytes} bytes")


def extract_zip(path: Path, folder: Path, max_bytes: int = 0) -> None:
    """Unpack a .zip as `extract_tar` does a .tar.gz. What counts is what comes out, not the size that it states."""
    total, max_bytes, end = 0, max_bytes or (1 << 30) + 20 * path.stat().st_size, 0
    with unpacked(path, folder, ".zip") as temporary, zipfile.ZipFile(path) as archive:
        with open(path, "rb") as file:  # zipfile does not compare the number of files with the one at the end
            file.seek(-min(path.stat().st_size, 22 + 65535), os.SEEK_END)
            tail = file.read()
        (stated,) = struct.unpack_from("<H", tail, tail.rindex(b"PK\5\6") + 10)
        if stated not in (len(archive.infolist()) & 0xFFFF, 0xFFFF):  # the latter: more than fit into two bytes
            raise zipfile.BadZipFile(f"it lists {len(archive.infolist())} of {stated} files")
        for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the zip was not made on a Unix
            plain = bool(member.filename) and "\0" not in member.orig_filename
            name = inside(path, member.filename, plain and kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if member.header_offset < end:
                raise zipfile.BadZipFile("its files lie in each other")
            end = member.header_offset + 30 + len(member.filename) + member.compress_size
            total += FILE_COST
            if not member.is_dir():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                before = total
                with archive.open(member) as source, open(temporary / name, "wb") as file:
                    while total <= max_bytes and (chunk := source.read(1 << 20)):  # at its end zipfile compares its crc
                        total += len(chunk)
                        file.write(chunk)
                if total <= max_bytes and total - before != member.file_size:
                    raise zipfile.BadZipFile(f"{member.filename} is not as long as it should be")
            if total > max_bytes:
                raise DataError(f"{path} is refused: it unpacks to more than {max_bytes} bytes")


# ---------------------------------------------------------------------------------------------------------------------
# Built-in data sets, drawn with Pillow: nothing to download
#
# Everything is a smooth curve through a few control points, drawn at four times the size and averaged down. The
# coordinates come from `random()`, sums, products and quotients alone (no sines, no fonts), so that a picture is the
# same on every machine.
#
# A face is painted once, from back to front, as a *map of parts*: each pixel holds the number of the part seen there.
# The numbers looked up in a list of colours are the photo; the borders between the parts are its line drawing. So the
# lines cannot depend on the colours, and one drawing has many photos, as BicycleGAN assumes.
# ---------------------------------------------------------------------------------------------------------------------

HAIR_COLOURS = {  # the darkest and the lightest shade of each class; a face has exactly one class
    "Black_Hair": ((22, 18, 24), (48, 42, 58)),
    "Blond_Hair": ((228, 176, 72), (250, 222, 146)),
    "Brown_Hair": ((92, 48, 22), (150, 88, 42)),
    "Gray_Hair": ((146, 150, 160), (206, 208, 214)),
}
FACE_ATTRIBUTES = (*HAIR_COLOURS, "Eyeglasses", "Smiling", "Bangs", "Male")  # named as in CelebA
SKIN_COLOURS = ((255, 224, 200), (242, 196, 158), (214, 154, 108), (178, 116, 82), (132, 82, 64), (92, 58, 50))
EYE_COLOURS = ((92, 58, 36), (60, 40, 30), (60, 116, 180), (78, 138, 84), (104, 116, 130))

# No border is drawn between parts of one group. The last group is drawn in solid black.
FACE_GROUPS = (
    ("background", "backdrop"),
    ("clothes",),
    ("collar",),
    ("back hair",),
    ("neck", "neck shade"),
    ("ears", "inner ears"),
    ("earrings",),
    ("face", "blush"),
    ("nose",),
    ("beard",),
    ("lips", "mouth", "tongue"),
    ("teeth",),
    ("hair", "shine"),
    ("lenses",),
    ("eyes", "irises", "glint"),
    ("crease", "mouth line", "brows", "frames", "pupils", "lashes"),
)
FACE_PARTS = [part for group in FACE_GROUPS for part in group]
INK = len(FACE_GROUPS) - 1


def between(rng: random.Random, low: float, high: float) -> float:
    """A number drawn uniformly from [low, high)."""
    return low + (high - low) * rng.random()


def pick(rng: random.Random, *options):
    """One of the options, all equally likely."""
    return options[int(rng.random() * len(options))]


def mix(a: tuple, b: tuple, t: float) -> tuple:
    """The colour (1 - t) a + t b, rounded."""
    return tuple(int(x + (y - x) * t + 0.5) for x, y in zip(a, b, strict=True))


@functools.cache
def curve_weights(n: int, closed: bool) -> np.ndarray:
    """Weights (m, n) that turn n control points into m points of a curve: three corner cuttings (Chaikin 1974)."""
    points = np.eye(n)
    for _ in range(3):
        after = np.roll(points, -1, axis=0)
        cut = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], axis=1).reshape(-1, n)
        points = cut if closed else np.concatenate([points[:1], cut[1:-3], points[-1:]])
    return points


def curve(points: list, closed: bool = True) -> np.ndarray:
    """The smooth curve (m, 2), a quadratic B-spline, of control points (n, 2). A point given twice makes a corner."""
    return curve_weights(len(points), closed) @ np.array(points, dtype=float)


def disc(x: float, y: float, rx: float, ry: float | None = None, square: float = 0.414) -> np.ndarray:
    """Outline (m, 2) of an ellipse with centre (x, y) and radii rx, ry; `square` towards 1: of a rounded rectangle."""
    q = square  # the control points are the corners of an octagon
    corners = [(1, -q), (1, q), (q, 1), (-q, 1), (-1, q), (-1, -q), (-q, -1), (q, -1)]
    return curve(corners) * (rx, ry or rx) + (x, y)


def brush(points: list, width: float) -> np.ndarray:
    """Outline (m, 2) of a brush stroke from left to right, `width` thick."""
    return curve([(x, y - width / 2) for x, y in points] + [(x, y + width / 2) for x, y in reversed(points)])


def turn(tilt: float, scale: float) -> np.ndarray:
    """Matrix (2, 2) that turns row vectors by the angle 2 atan(tilt) and scales them."""
    cos, sin = (1 - tilt * tilt) / (1 + tilt * tilt), 2 * tilt / (1 + tilt * tilt)
    return scale * np.array([[cos, sin], [-sin, cos]])


def face_map(rng: random.Random, size: int, eyeglasses: int, smiling: int, bangs: int, male: int) -> Image.Image:
    """Paints the parts of one face: L image (4 size, 4 size). What is drawn from `rng` does not depend on the rest."""
    # Unit: 1/100 of the picture. (0, 0) is the middle of the face; y points down. The eyes lie at y = 0, the skull from
    # y = -29 to about 27, the shoulders at about 40.
    unit = size * 4 / 100
    pose = turn(between(rng, -0.05, 0.05), unit * between(rng, 0.98, 1.12))
    middle = unit * np.array([between(rng, 47, 53), between(rng, 47, 50)])
    image = Image.new("L", (4 * size, 4 * size), FACE_PARTS.index("background"))
    draw = ImageDraw.Draw(image)

    def paint(part, shape, pair=False, whole=False):
        # shape: control points (list) or an outline (array). pair: and its mirror image. whole: add its left half.
        if whole:
            shape = shape + [(-x, y) for x, y in reversed(shape)]
        if isinstance(shape, list):
            shape = curve(shape)
        for side in (1, -1) if pair else (1,):
            points = (shape * (side, 1)) @ pose + middle
            draw.polygon(np.rint(points).ravel().tolist(), fill=FACE_PARTS.index(part))

    # Every choice is made here, used or not, so that changing an attribute leaves all the others as they were.
    w, jaw, chin = between(rng, 20.5, 24), between(rng, 0.64, 0.9), between(rng, 26.5, 29.5)  # w: half the face's width
    short, long = pick(rng, "crop", "quiff", "curls", "flat"), pick(rng, "bob", "long", "wavy", "afro", "bun", "tails")
    volume, length = rng.random(), rng.random()
    hairline, parting = pick(rng, "round", "parted", "peak"), between(rng, -0.35, 0.35)
    fringe, left = pick(rng, "straight", "swept", "strands"), pick(rng, -1, 1)  # left: which side, where there is one
    facial_hair = pick(rng, "beard", "short beard", "goatee", "moustache", "none")
    collar, hair_in_front = pick(rng, "crew", "wide", "vee", "shirt", "turtle"), pick(rng, True, False)
    backdrop, earrings = pick(rng, "disc", "hill", "slope"), pick(rng, True, False)
    eye_x, eye_y = between(rng, 9.2, 10.4), between(rng, -0.5, 1.5)
    eye_w, eye_h, gaze = between(rng, 4.2, 5), between(rng, 3.5, 4.2), between(rng, -0.9, 0.9)
    brow_y, brow_tilt, brow_arch = between(rng, -9.5, -8), between(rng, -0.8, 1.2), between(rng, 0.6, 1.8)
    nose, glasses = pick(rng, "hook", "round", "wedge"), pick(rng, "round", "square", "wide")
    mouth, mouth_w, mouth_y = pick(rng, "straight", "sad", "full"), between(rng, 0.9, 1.1), between(rng, 15, 16.5)
    hair = short if male else long

    # Background; clothes and the hair behind the head, either of them in front.
    if backdrop == "disc":
        paint("backdrop", disc(0, 2, 40))
    elif backdrop == "hill":
        hill = [(-80, 30), (-20, 12 + 8 * left), (20, 12 - 8 * left), (80, 30), (80, 90), (-80, 90)]
        paint("backdrop", hill)
    else:
        paint("backdrop", np.array([(-60, -90), (30, 90), (-120, 90), (-120, -90)]) * (left, 1))
    shoulder = 39 if male else 35
    body = [(0, 35), (9, 35), (13, 39), (shoulder - 4, 43), (shoulder + 3, 50), (shoulder + 5, 90)]
    if hair_in_front:
        paint("clothes", body, whole=True)
    if hair in ("bob", "long"):
        out, end = w + 6 + 3 * volume, 20 + 6 * length if hair == "bob" else 36 + 12 * length
        fall = [(0, -34), (w, -33), (out, -12), (out, 8), (out, end), (out - 8, end + 3), (0, end)]
        paint("back hair", fall, whole=True)
    elif hair == "wavy":
        for k in range(6):
            paint("back hair", disc(w - 2 + volume + 2.5 * (k % 2), -16 + (10 + 2 * length) * k, 7.5, 8), pair=True)
        paint("back hair", [(0, -34), (w, -30), (w + 2, 0), (w, 36 + 10 * length), (0, 36 + 10 * length)], whole=True)
    elif hair == "afro":
        for x, y in ((0, -29), (13, -27), (24, -19), (30, -7), (29, 6), (24, 17)):
            paint("back hair", disc(x * (0.97 + 0.12 * volume), y * (0.97 + 0.1 * volume), 11), pair=True)
        paint("back hair", disc(0, -6, 27, 28))
    elif hair == "bun":
        paint("back hair", disc(parting * 0.4 * w, -34 - volume, 9 + 3 * volume, 8 + 2 * volume))
    elif hair == "tails":
        end = 14 + 12 * length
        tail = [(w - 3, -18), (w + 10, -22), (w + 15, -4), (w + 12, end), (w + 7, end + 6), (w + 2, 8)]
        paint("back hair", tail, pair=True)
    if not hair_in_front:
        paint("clothes", body, whole=True)

    # Neck and collar.
    neck = 10.5 if male else 8.5
    if collar == "vee":
        paint("collar", [(0, 60), (0, 60), (neck + 9, 36), (neck + 2, 31), (0, 31)], whole=True)
        paint("neck", [(neck, 10), (neck, 32), (neck + 3, 35), (0, 52), (0, 52)], whole=True)
    else:
        out, low = (neck + 6, 49) if collar == "wide" else (neck + 1, 44)
        if collar in ("crew", "wide"):
            paint("collar", [(0, low + 5), (out + 1, low + 3), (out + 4, 33), (0, 33)], whole=True)
        paint("neck", [(0, 10), (neck, 10), (neck, 30), (out, 37), (out - 3, low), (0, low)], whole=True)
    paint("neck shade", [(0, 10), (neck, 10), (neck, 27), (neck - 1, 32), (0, 36)], whole=True)
    if collar == "turtle":
        paint("collar", [(0, 31), (neck + 1, 30), (neck + 3, 33), (neck + 4, 42), (0, 45)], whole=True)
    elif collar == "shirt":
        flap = [(0, 45), (0, 45), (neck, 31), (neck + 3, 32), (neck + 7, 44), (neck + 1, 51), (0, 45)]
        paint("collar", flap, pair=True)

    # Ears and face, beard, nose and mouth.
    paint("ears", disc(w, 3, 4.5, 6), pair=True)
    paint("inner ears", disc(w + 1.2, 3.4, 2.2, 3.4), pair=True)
    if earrings and hair in ("bun", "tails", "afro"):
        paint("earrings", disc(w + 2.2, 10.5, 2.2), pair=True)
    corner = (jaw + 0.08 if male else jaw) * w
    face = [(0, -29), (0.75 * w, -29), (w + 1.2, -16), (w + 1, 5), (corner + 1, 20), (0.42 * w, chin), (0, chin)]
    paint("face", face, whole=True)
    paint("blush", disc(0.62 * w, 10.5, 4.2, 3), pair=True)
    if male and facial_hair in ("beard", "short beard"):
        top = 8.5 if facial_hair == "beard" else 13
        outside = [(0, chin + 2), (0.45 * w, chin + 2), (corner + 2.2, 21), (w + 1.6, 6), (w + 0.6, -2), (w - 2, -2)]
        paint("beard", [*outside, (w - 3.5, 7), (0.6 * w, top + 1), (4, top), (0, top + 1)], whole=True)
    if male and facial_hair in ("goatee", "moustache"):
        paint("beard", [(0, 11), (3, 9.5), (9, 12), (12, 16), (6, 14.5), (0, 14)], pair=True)
    if male and facial_hair == "goatee":
        paint("beard", [(0, mouth_y + 4), (6, mouth_y + 4), (8, chin - 2), (5, chin + 2), (0, chin + 2)], whole=True)
    if nose == "hook":
        paint("crease", brush([(2.6 * left, 6.2), (2.8 * left, 8.9), (-1.8 * left, 9.2)], 1.2))
    elif nose == "round":
        paint("nose", disc(0, 7.6, 2.8, 2))
    else:
        paint("nose", [(0, 2), (0, 2), (2.8, 8.6), (0, 9.6), (-2.8, 8.6)])
    if smiling:
        out, y, low = 9.5 * mouth_w, mouth_y - 2, mouth_y + 7
        paint(
            "lips", [(0, y - 0.6), (out, y - 1.6), (out + 2.4, y - 1.4), (out - 1.5, low), (0, low + 1.2)], whole=True
        )
        paint("mouth", [(0, y + 0.6), (out + 0.2, y - 0.2), (out - 2.5, low - 1.5), (0, low - 0.3)], whole=True)
        paint("tongue", disc(0, low - 2, 3.6 * mouth_w, 1.5))
        paint("teeth", [(0, y + 0.6), (out - 0.8, y), (out - 2.2, y + 3.4), (0, y + 4.2)], whole=True)
    else:
        out, y, sag = 6 * mouth_w, mouth_y + 1, 2 if mouth == "sad" else 0.4
        if mouth == "full" and not male:
            pout = [(0, y - 1.5), (1.8, y - 3), (out, y + 0.4), (out, y + 0.6), (2.2, y + 3.8), (0, y + 3.8)]
            paint("lips", pout, whole=True)
        paint("mouth line", brush([(-out, y + sag), (-out / 2, y), (out / 2, y), (out, y + sag)], 1.5))

    # Brows, and the hair in front: a cap with an opening for the face, more hair on it, a fringe over the forehead.
    arch = [(5, brow_y + brow_tilt), (9, brow_y - brow_arch), (15, brow_y + 1)]
    paint("brows", brush(arch, 2.4 if male else 1.5), pair=True)
    end, top = {"bob": 14, "long": 18, "wavy": 12}.get(hair, 3), -34 - 3 * volume
    cap = [(0.75 * w, top), (w + 3.2, -18), (w + 2.8, -2), (w + 0.5, end), (w - 1.5, end)]
    temple = {"round": [(w - 2, -8), (0.7 * w, -20)], "parted": [(w - 2, -6), (0.8 * w, -14)]}
    temple["peak"] = [(w - 2, -6), (0.9 * w, -16), (0.4 * w, -22)]
    peak = {"round": [(0, -21)], "parted": [(parting * w, -26)] * 2, "peak": [(0, -17)]}[hairline]
    right = cap + temple[hairline]
    paint("hair", [(0, top - 0.5), *right, *peak, *[(-x, y) for x, y in reversed(right)]])
    if hair == "curls":
        for x, y in ((0, -33), (0.41, -32), (0.78, -27), (1, -18)):
            paint("hair", disc(x * w, y - volume, 6.5), pair=True)
    elif hair == "quiff":
        tuft = [(-w, -20), (-w, -32), (-4, -40 - 4 * volume), (w, -38), (w, -20), (0, -24)]
        paint("hair", curve(tuft) * (left, 1))
    elif hair == "flat":
        box = [(0, -37), (0.7 * w, -39), (w + 2, -36), (w + 3, -18), (w, -14), (0.7 * w, -22), (0, -22)]
        paint("hair", box, whole=True)
    locks = [(-w, -5), (-w, -24), (0, -32), (w, -24), (w, -5)]
    if fringe == "straight":
        locks += [(w - 2, -9.5), (0.6 * w, -11), (-0.6 * w, -11), (2 - w, -9.5)]
    elif fringe == "swept":
        locks += [(w - 2, -8), (0.5 * w, -13), (-0.2 * w, -10), (3 - w, -8)]
    else:
        for x in (0.9 * w, 0.4 * w, -0.1 * w, -0.6 * w):  # four strands, each ending in a point
            locks += [(x, -14), (x - 0.23 * w, -8.5), (x - 0.23 * w, -8.5), (x - 0.3 * w, -14)]
    if bangs:
        paint("hair", curve(locks) * (left, 1))
    paint("shine", curve([(-0.78 * w, -23), (-0.5 * w, -30), (0.15 * w, -32), (-0.35 * w, -28)]) * (left, 1))

    # Glasses, and the eyes, which shine through the lenses.
    if eyeglasses:
        paint("frames", np.array([(-w - 1, -2.6), (w + 1, -2.6), (w + 1, 0.2), (-w - 1, 0.2)]))
        rx, ry, square = {"round": (8.8, 8.8, 0.414), "square": (8.8, 7.8, 0.85), "wide": (9.2, 6.4, 0.6)}[glasses]
        paint("frames", disc(eye_x, eye_y, rx, ry, square), pair=True)
        paint("lenses", disc(eye_x, eye_y, rx - 2.3, ry - 2.3, square), pair=True)
    paint("eyes", disc(eye_x, eye_y, eye_w, eye_h), pair=True)
    for x in (eye_x + gaze, -eye_x + gaze):
        paint("irises", disc(x, eye_y - 0.1, 3.1))
        paint("pupils", disc(x, eye_y - 0.1, 1.8))
        paint("glint", disc(x + 1, eye_y - 1.1, 0.85))
    wing, lid = (0, 0.4 - eye_h) if male else (3, 0.9 - eye_h)
    lashes = [(-eye_w, -0.2), (-eye_w, -1.8), (0, -eye_h - 2.2), (eye_w + wing, -1.8 - wing / 2), (eye_w, -0.2)]
    paint("lashes", curve([*lashes, (0, lid)]) + (eye_x, eye_y), pair=True)
    return image


def face_colours(rng: random.Random, hair_class: str) -> dict[str, tuple]:
    """A colour for every part: dict of RGB triples. What is drawn from `rng` does not depend on `hair_class`."""

    def hsv(hue, saturation, value):
        return tuple(int(255 * c + 0.5) for c in colorsys.hsv_to_rgb(hue, saturation, value))

    white, black = (255, 255, 255), (26, 24, 34)
    tone = between(rng, 0, len(SKIN_COLOURS) - 1)
    skin = mix(SKIN_COLOURS[int(tone)], SKIN_COLOURS[int(tone) + 1], tone % 1)
    hair = mix(*HAIR_COLOURS[hair_class], rng.random())
    lips = mix(skin, (196, 48, 70), between(rng, 0.35, 0.8))
    clothes = hsv(rng.random(), between(rng, 0.25, 0.8), between(rng, 0.35, 0.92))
    hue, saturation, value = rng.random(), between(rng, 0.12, 0.45), between(rng, 0.8, 0.98)
    return {
        "background": hsv(hue, saturation, value),
        "backdrop": hsv(hue, saturation * between(rng, 0.3, 1.4), value * between(rng, 0.92, 1.02)),
        "clothes": clothes,
        "collar": mix(clothes, pick(rng, white, black), 0.3),
        "back hair": tuple(int(c * k) for c, k in zip(hair, (0.84, 0.8, 0.79), strict=True)),
        "neck": mix(skin, (150, 60, 50), 0.1),
        "neck shade": mix(skin, (110, 40, 50), 0.28),
        "ears": mix(skin, (180, 60, 50), 0.12),
        "inner ears": mix(skin, (150, 50, 50), 0.28),
        "earrings": pick(rng, (250, 204, 80), (240, 240, 245), (90, 200, 190), (230, 80, 100)),
        "face": skin,
        "blush": mix(skin, (240, 90, 90), 0.2),
        "nose": mix(skin, (150, 50, 40), 0.22),
        "beard": mix(hair, black, 0.1),
        "lips": lips,
        "mouth": (110, 24, 40),
        "tongue": (222, 92, 98),
        "teeth": (255, 253, 248),
        "hair": hair,
        "shine": mix(hair, white, 0.18),
        "lenses": mix(skin, white, 0.35),
        "eyes": white,
        "irises": pick(rng, *EYE_COLOURS),
        "glint": white,
        "crease": mix(skin, (110, 40, 40), 0.45),
        "mouth line": mix(lips, (60, 10, 30), 0.45),
        "brows": mix(hair, black, 0.3),
        "frames": black,
        "pupils": black,
        "lashes": black,
    }


def draw_face(
    shape_rng: random.Random, colour_rng: random.Random, size: int, attributes: dict[str, int] | None = None
) -> tuple[Image.Image, Image.Image, dict[str, int]]:
    """One face: (photo, line drawing, attributes).

    Photo: RGB image (size, size). Line drawing: L image (size, size) of the same face, dark on white; it depends on
    `shape_rng` alone. Attributes: {name: 0 or 1} in the order of FACE_ATTRIBUTES, exactly true of the photo. "Male" is
    a convention of these drawings: short hair, broad shoulders, plain lids, mostly a beard or a moustache; without it,
    longer or tied hair and long lashes. The argument `attributes` forces some of them (of the hair colours, the one to
    have: {"Blond_Hair": 1}); every other choice stays as it was.
    """
    forced = attributes or {}
    truth = {
        "Eyeglasses": int(shape_rng.random() < 0.35),
        "Smiling": int(shape_rng.random() < 0.5),
        "Bangs": int(shape_rng.random() < 0.5),
        "Male": int(shape_rng.random() < 0.5),
    }
    truth.update((name, int(value)) for name, value in forced.items() if name in truth)
    u = colour_rng.random()  # 30% black, blond and brown each, 10% grey
    hair = next((name for name in HAIR_COLOURS if forced.get(name)), list(HAIR_COLOURS)[int(u / 0.3)])
    parts = face_map(shape_rng, size, truth["Eyeglasses"], truth["Smiling"], truth["Bangs"], truth["Male"])

    # A border is where two pixels, t apart on a diagonal, are in different groups (Roberts' cross); t is its thickness.
    t = max(3, size // 18)
    table = [g for g, group in enumerate(FACE_GROUPS) for _ in group]
    group = np.asarray(parts.point(table + [0] * (256 - len(table))))
    lines = group == INK
    for a, b in ((group[t:, t:], group[:-t, :-t]), (group[t:, :-t], group[:-t, t:])):
        lines[t // 2 : t // 2 - t, t // 2 : t // 2 - t] |= (a != b) & (a != INK) & (b != INK)
    lines = Image.fromarray(np.where(lines, np.uint8(20), np.uint8(255)))

    colours = face_colours(colour_rng, hair)
    parts.putpalette([c for part in FACE_PARTS for c in colours[part]])
    photo = parts.convert("RGB")
    truth = {name: truth.get(name, int(name == hair)) for name in FACE_ATTRIBUTES}
    return photo.reduce(4), lines.reduce(4), truth


# Handwriting: for each digit some ways to write it; for each way its strokes, divided by "|"; for each stroke the
# control points "x,y" of an open curve, in percent of the width and of the height.
DIGITS = {
    0: (
        "55,0 20,-2 0,30 0,70 20,102 55,102 85,100 100,70 100,30 85,0 50,0",
        "70,10 30,-10 -5,40 0,105 60,110 105,60 95,0 50,-2 35,10",
    ),
    1: ("50,0 50,50 50,100", "25,25 50,0 50,0 50,60 50,100", "20,25 50,0 50,0 50,100 | 15,100 85,100"),
    2: (
        "5,25 10,0 50,-10 100,0 95,40 50,70 0,100 0,100 100,98",
        "5,20 30,-10 100,-5 90,45 40,100 0,105 0,75 40,85 100,100",
    ),
    3: (
        "5,10 40,-10 100,0 90,45 35,48 35,48 100,50 105,100 50,110 0,90",
        "5,0 90,0 90,0 40,42 40,42 100,42 105,100 50,110 0,92",
    ),
    4: (
        "12,0 4,55 4,55 100,52 | 80,2 72,100",
        "70,100 70,0 70,0 0,64 0,64 100,64",
        "10,0 -5,55 30,65 85,50 | 90,0 80,50 78,100",
    ),
    5: (
        "90,0 20,0 20,0 12,45 12,45 60,30 105,50 95,105 40,110 0,92",
        "25,2 15,45 15,45 80,35 100,75 70,108 0,95 | 25,2 100,-4",
    ),
    6: ("75,0 30,15 -10,70 10,108 65,108 95,80 75,45 30,50 8,80", "45,0 10,40 -5,100 35,110 85,100 90,60 45,50 5,85"),
    7: (
        "0,5 95,0 95,0 55,50 40,100",
        "0,3 95,0 95,0 60,50 45,100 | 25,52 90,50",
        "0,22 3,3 3,3 100,0 100,0 50,50 35,100",
    ),
    8: (
        "80,15 50,-10 -5,0 5,40 90,60 105,100 50,115 -10,100 10,60 80,40 100,10 70,0",
        "50,0 25,0 8,15 8,32 25,47 50,47 75,47 92,32 92,15 75,0 50,0 "
        "| 50,47 22,47 0,62 0,85 22,100 50,100 78,100 100,85 100,62 78,47 50,47",
    ),
    9: (
        "85,20 65,-8 10,-5 -5,45 40,60 85,30 88,12 | 88,10 80,100",
        "85,20 60,-10 0,0 0,50 60,55 88,15 95,70 70,110 10,98",
    ),
}


def draw_digit(rng: random.Random, label: int, size: int = 28) -> Image.Image:
    """A handwritten `label` (0..9) like those of MNIST: L image (size, size), white on black, in the middle 20/28."""
    unit = 4 * size / 28  # one pixel of MNIST
    width = between(rng, 1.7, 3.6) * unit
    wide, slant = between(rng, 0.5, 0.95), between(rng, -0.15, 0.4)
    shape = np.array([(wide, 0), (-slant, 1)]) @ turn(between(rng, -0.08, 0.08), 1)
    strokes = []
    for stroke in pick(rng, *DIGITS[int(label)]).split("|"):
        points = [[int(c) / 100 + between(rng, -0.05, 0.05) for c in pair.split(",")] for pair in stroke.split()]
        strokes.append(curve(points, closed=False) @ shape)
    # Fill a box of 20 x 20 MNIST pixels, then bring the centre of mass to the middle, as MNIST was made.
    low, high = np.concatenate(strokes).min(axis=0), np.concatenate(strokes).max(axis=0)
    scale = (between(rng, 18.5, 20) * unit - width) / max(high - low)
    image = Image.new("L", (4 * size, 4 * size))
    draw = ImageDraw.Draw(image)
    for stroke in strokes:
        points = (stroke - (low + high) / 2) * scale + 2 * size
        draw.line(np.rint(points).ravel().tolist(), fill=255, width=int(width + 0.5))
        for x, y in np.rint(points):
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    ink = np.asarray(image)
    limit = int(2.8 * unit)  # so that nothing leaves the picture
    y, x = (max(-limit, min(limit, round(2 * size - axis.mean()))) for axis in ink.nonzero())
    return Image.fromarray(np.roll(ink, (y, x), axis=(0, 1))).reduce(4)


def draw_builtin(name: str, split: str, count: int, size: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Draws a built-in set. Picture i depends on (seed, split, i) alone: a small set is the beginning of a larger one.

    "faces": photos uint8 (N, 3, size, size), attributes uint8 (N, len(FACE_ATTRIBUTES)).
    "edges2faces": line drawings uint8 (N, 1, size, size), photos, attributes: of the same faces.
    "digits": images uint8 (N, 1, size, size), labels int64 (N,).
    """
    if name == "digits":
        digits, labels = np.empty((count, 1, size, size), np.uint8), np.empty(count, np.int64)
        for i in range(count):
            rng = random.Random(f"digits {seed} {split} {i}")
            labels[i] = int(10 * rng.random())
            digits[i, 0] = draw_digit(rng, labels[i], size)
        return digits, labels
    lines, photos = np.empty((count, 1, size, size), np.uint8), np.empty((count, 3, size, size), np.uint8)
    attributes = np.empty((count, len(FACE_ATTRIBUTES)), np.uint8)
    for i in range(count):
        shape_rng, colour_rng = (random.Random(f"face {what} {seed} {split} {i}") for what in ("shapes", "colours"))
        photo, drawing, truth = draw_face(shape_rng, colour_rng, size)
        lines[i, 0], photos[i] = drawing, np.asarray(photo).transpose(2, 0, 1)
        attributes[i] = list(truth.values())
    return (photos, attributes) if name == "faces" else (lines, photos, attributes)


def toy(name: str, split: str, count: int = 0) -> Points:
    """Points as in WGAN-GP's code (Gulrajani et al. 2017, gan_toy.py), all within about 2 of (0, 0).

    "8gaussians": std 0.02 round 8 points of a circle of radius 2, the sum divided by sqrt 2. "25gaussians": std 0.05
    round the grid of -4, -2, 0, 2, 4, divided by 2 sqrt 2. "swissroll": std 0.25 round t (cos t, sin t), t uniform in
    [1.5 pi, 4.5 pi), divided by 7.5. Clusters have equally many points, if `count` (0: as in `KNOWN`) allows it.
    """
    split = "train" if split == "train" else "test"
    count = count or KNOWN[name].images[split]
    rng = np.random.default_rng([BUILTIN_SEED, ("train", "test").index(split)])
    if name == "swissroll":
        t = 1.5 * np.pi * (1 + 2 * rng.random((count, 1)))
        centres, std, scale = t * np.hstack([np.cos(t), np.sin(t)]), 0.25, 7.5
    else:
        if name == "8gaussians":
            angles = np.arange(8)[:, None] * np.pi / 4
            centres, std, scale = 2 * np.hstack([np.cos(angles), np.sin(angles)]), 0.02, 2**0.5
        else:
            centres, std, scale = 2.0 * np.argwhere(np.ones((5, 5))) - 4, 0.05, 2 * 2**0.5
        centres = rng.permutation(centres[np.arange(count) % len(centres)])
    return Points(name, split, ((centres + std * rng.standard_normal((count, 2))) / scale).astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------------
# python datasets.py
# ---------------------------------------------------------------------------------------------------------------------


def per_split(images: dict[str, int], mark: str = "") -> str:
    return " / ".join(f"{count:{mark}} {split}" for split, count in images.items())


def place_of(name: str, data_dir: Path) -> str:
    """Whether a known set is already here: where, or which of its archives, or "no"."""
    if not KNOWN[name].home:
        return "drawn here"
    if folder := find(name, data_dir):
        return str(folder)
    return next((f"{archive}, not unpacked yet" for archive in packed(name, data_dir)), "no")


def table(data_dir: Path | None = None, markdown: bool = False) -> str:
    """The known sets, a line each: plain text, which says whether they are here, or README's table."""
    rows = [("name", "what", "images", "size", "licence", "scripts", *(("how",) if markdown else ("here", "from")))]
    for name, known in KNOWN.items():
        images = per_split(known.images, ",") if markdown else str(sum(known.images.values()))
        home = re.sub(r"^https?://|/.*", "", known.home)
        last = (how_to_get(name),) if markdown else (place_of(name, data_dir or Path("data")), home)
        rows.append((name, known.what, images, known.size, known.licence, known.scripts, *last))
    if markdown:
        rows.insert(1, ("---",) * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows)


def about(name: str, data_dir: Path) -> str:
    """What there is to say of a known set without opening it."""
    known = KNOWN[name]
    sides = {0: "points", 1: "grey" if known.channels[:1] == (1,) else "colour", 2: "pairs of pictures A and B"}
    lines = {
        "what": f"{known.what} ({sides[len(known.channels)]})",
        "images": per_split(known.images),
        "licence": known.licence,
        "from": known.home,
        "size": known.size,
        "files": ", ".join(known.files),
        "scripts": "; ".join(f"{script}: {USES[script]}" for script in known.scripts.split(", ")),
        "here": place_of(name, data_dir),
    }
    if lines["here"] == "no":
        lines["get it"] = how_to_get(name, data_dir)
    lines["train"] = f"python {known.scripts.split(', ')[0]}.py --dataset {name}"
    return "\n".join([name, *(f"  {key:8} {value}" for key, value in lines.items() if value)])


def splits_of(name: str, data_dir: Path, data_url: str = "") -> Iterator[Source]:
    """Every split that a set has, as its reader finds it."""
    seen, reason = set(), None
    for split in ("train", "val", "test", *["unlabeled"] * (name == "stl10")):
        try:
            source = find_source(name, split, data_dir, data_url)
        except NoSuchSplit as error:
            reason = error
            continue
        if source.split not in seen:
            seen.add(source.split)
            yield source
    if not seen:
        raise reason


def contents(source: Source) -> str:
    """A line about a split: how many pictures, what they are taken for, what is known of them."""
    parts = [f"{source.count} {'pairs' if len(source.channels) == 2 else 'pictures'}", source.kind]
    if source.labels is not None:
        number = np.bincount(source.labels, minlength=len(source.classes))
        parts.append("  ".join(f"{name} {n}" for name, n in zip(source.classes, number, strict=True)))
    if source.attributes is not None:
        parts.append("  ".join(map("{} {:.0%}".format, source.attribute_names, source.attributes.mean(axis=0))))
    if source.left_out:
        parts.append(f"left out {len(source.left_out)} files{describe(source.left_out)}")
    return f"  {source.split:8} {'; '.join(parts)}"


def check(name: str, image_size: int, data_dir: Path, data_url: str = "") -> int:
    """Decode every file of a set and print each bad one, with the reason -> how many there are."""
    size, count, faults, left_out = size_of(image_size), 0, {}, set()
    for source in splits_of(name, data_dir, data_url):
        print(contents(source))
        rows = ((source.names[i], row) for i, row in source.rows(size) if isinstance(row, str))
        for file, reason in itertools.chain(source.left_out, rows):
            if file not in faults:  # a file that is left out of one split may be left out of all
                print(f"    {shown(file)}: {reason}")
            faults[file] = reason
        count, left_out = count + source.count, left_out | {file for file, _ in source.left_out}
    print(f"{count + len(left_out)} pictures, {len(faults) or 'none'} bad")
    return len(faults)


def contact_sheet(data: ImageSet, path: str | Path, count: int = 40) -> None:
    """Save `count` images spread evenly over the set, with the class or the attributes below; of pairs, A beside B."""
    numbers = np.linspace(0, len(data) - 1, min(count, len(data))).astype(int).tolist()
    batch = data.__getitems__(numbers)
    sides = [batch[key].expand(-1, 3, -1, -1) for key in ("image", "target") if key in batch]
    pictures = torch.cat(sides, dim=3).permute(0, 2, 3, 1).numpy()  # (N, H, W or 2 W, 3)
    captions = [[data.classes[label]] if data.classes else [] for label in batch.get("label", [0] * len(numbers))]
    if "attributes" in batch:
        has = [np.flatnonzero(row).tolist() for row in batch["attributes"].numpy()]
        captions = [[data.attribute_names[k] for k in row] or ["none"] for row in has]
    font, (height, width) = ImageFont.load_default(11), pictures.shape[1:3]
    longest = max((font.getlength(line) for lines in captions for line in lines), default=0)
    lines = max(map(len, captions))
    cell = max(width, int(longest) + 1) + 6, height + 14 * lines + 6  # width, height
    columns = min(len(numbers), max(1, 1000 // cell[0]))
    sheet = Image.new("RGB", (6 + columns * cell[0], 6 + -(-len(numbers) // columns) * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        x, y = 6 + i % columns * cell[0], 6 + i // columns * cell[1]
        sheet.paste(Image.fromarray(picture), (x, y))
        for k, line in enumerate(captions[i]):
            draw.text((x, y + height + 1 + 14 * k), line, fill="black", font=font)
    save_whole(path, sheet.save)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=table(), formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", nargs="?", help="a set of the table, or a folder; without it the table is printed")
    parser.add_argument("--split", default="train", help="of the preview: train, val or test; stl10 also has unlabeled")
    parser.add_argument("--image-size", type=int, default=64, help="pixels on a side")
    parser.add_argument("--resize", default="crop", choices=RESIZES, help="how other shapes become a square")
    parser.add_argument("--data-dir", type=Path, default="data", help="folder for data sets and their caches")
    parser.add_argument("--data-url", default="", help="download from this address instead of the set's home")
    parser.add_argument("--download", action="store_true", help="fetch the set now")
    parser.add_argument("--preview", metavar="PNG", help="save a contact sheet; fetches the set")
    parser.add_argument("--check", action="store_true", help="decode every file and name the bad ones")
    parser.add_argument("--markdown", action="store_true", help="print the table as README has it")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files in any script
    name, data_dir, wanted = args.name, args.data_dir, bool(args.download or args.preview)
    try:
        if not name:
            if wanted or args.check:
                raise DataError("which set? Give its name or a folder")
            print(table(data_dir, args.markdown))
            return
        if name in KNOWN:
            print(about(name, data_dir))
        if name in TOYS and (wanted or args.check):
            raise DataError(f"{name} has points, no pictures: choose another set")
        if name in KNOWN and place_of(name, data_dir) == "no" and args.check and not wanted:
            raise DataError(f"{name} is not here, so there is nothing to check: {how_to_get(name, data_dir)}")
        if args.check:
            bad = check(name, args.image_size, data_dir, args.data_url)
        elif name not in KNOWN or KNOWN[name].home and (wanted or find(name, data_dir)):
            print(*map(contents, splits_of(name, data_dir, args.data_url)), sep="\n")
        if args.preview:
            how = dict(data_dir=data_dir, data_url=args.data_url, resize=args.resize)
            contact_sheet(load(name, args.split, args.image_size, **how), args.preview)
            print(f"{args.preview}: {args.split}")
        if args.check and bad:
            sys.exit(1)
    except DataError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
