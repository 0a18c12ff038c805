"""datasets.py: what the world may throw at it. Damaged files, odd pictures, hostile archives, servers that misbehave.

Random damage comes from seeded generators: the same bytes at every run.
"""

import csv
import gzip
import hashlib
import io
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from test_datasets import BODY, QUICK, Handler, Server, facades_archive, picture, special, tar_gz, write_idx
from test_domains import celeba, png, zipped

import datasets
import vae
from datasets import IMAGE_TYPES, KNOWN, DataError, download, extract_tar, extract_zip, load

Image.init()
FORMATS = {kind: Image.EXTENSION.get(kind, "JPEG") for kind in sorted(IMAGE_TYPES)}
COLOUR = (200, 100, 50)
NO_TEXT = [os.fsdecode(b"\xff\xfe")] * (sys.platform == "linux")  # a name of a file that is no UTF-8


@pytest.fixture(autouse=True)
def nothing_hangs_and_nothing_from_elsewhere(monkeypatch):
    """After a minute a test fails, by what is no Exception, so that nothing can swallow it."""

    def stop(*_):
        pytest.fail("it hangs")

    monkeypatch.delenv("DATASETS_URL", raising=False)
    monkeypatch.setattr(datasets, "DEBIAN", {})
    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def encoded(image: Image.Image, kind: str = ".png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, FORMATS[kind], **options)
    return file.getvalue()


def damaged(rng: np.random.Generator, whole: bytes) -> bytes:
    """`whole` after an accident: bits flipped, the end or a piece lost, a piece doubled, zeros put in or over it."""
    body, accident = bytearray(whole), rng.integers(6)
    a, b = sorted(rng.integers(0, len(body), 2))
    if accident == 0:
        for place in rng.integers(0, len(body), rng.integers(1, 4)):
            body[place] ^= 1 << rng.integers(8)
    elif accident == 1:
        del body[a:]
    elif accident == 2:
        del body[a : a + rng.integers(1, 40)]
    elif accident == 3:
        body[a:a] = body[b : b + 40]
    elif accident == 4:
        body[a:a] = bytes(rng.integers(1, 600))
    else:
        body[a : b + 1] = bytes(b + 1 - a)
    return bytes(body)


def damages(rng: np.random.Generator, whole: bytes, count: int) -> list[bytes]:
    """`count` different ones, none of which is `whole`."""
    made = (damaged(rng, whole) for _ in itertools.count())
    return list(itertools.islice((body for body in made if body != whole), count))


def tree(folder: Path) -> dict[str, bytes | str]:
    """All that is in a folder: the bytes of a file, the target of a link, "" for the rest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        found[str(path.relative_to(folder))] = content
    return found


def left_out(capsys) -> int:
    """How many files the one line on stderr says are left out."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 1, lines
    return int(re.search(r"left out (\d+) of", lines[0])[1]) if lines else 0


# --- Damaged pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_damaged_pictures_of_a_class_folder_never_change_the_label_of_another(tmp_path, capsys, seed):
    rng, shades, total = np.random.default_rng(seed), {"cat": 40, "dog": 120, "eel": 200}, 0
    for (name, shade), kind in itertools.product(shades.items(), FORMATS):
        folder = tmp_path / "mine" / "train" / name
        folder.mkdir(parents=True, exist_ok=True)
        whole = encoded(Image.new("RGB", (20, 20), (shade,) * 3), kind)
        for i, body in enumerate([whole, whole, *damages(rng, whole, 12)]):
            (folder / f"{i:02}{'' if i > 1 else '-good'}{kind}").write_bytes(body)
            total += 1
    data = load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d")
    assert data.classes == list(shades)
    assert [data.classes[k] for k in data.labels] == [name.split("/")[1] for name in data.names]
    assert total > len(data) and left_out(capsys) == total - len(data)
    good = {name: image for name, image in zip(data.names, data.images, strict=True) if "-good" in name}
    assert len(good) == 3 * 2 * len(FORMATS)
    for name, image in good.items():
        assert np.abs(image.astype(int) - shades[name.split("/")[1]]).max() <= 4, name


@pytest.mark.parametrize("layout", ["side by side", "two folders"])
def test_damaged_pairs_never_part_another_pair(tmp_path, capsys, layout):
    rng, total = np.random.default_rng(2), 0
    for kind in FORMATS:
        for i in range(12):
            a, b = (Image.new("RGB", (20, 20), (shade + 10 * i,) * 3) for shade in (0, 120))
            if layout == "side by side":
                sheet = Image.new("RGB", (40, 20))
                sheet.paste(a, (0, 0))
                sheet.paste(b, (20, 0))
                sides = {"train": sheet}
            else:
                sides = {"trainA": a, "trainB": b}
            broken = rng.integers(len(sides)) if i % 3 else -1  # which side, if any
            for k, (folder, image) in enumerate(sides.items()):
                body = encoded(image, kind)
                path = tmp_path / "mine" / folder / f"{kind[1:]}-{i:02}{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(damages(rng, body, 1)[0] if k == broken else body)
            total += 1
    data = load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d", paired=True)
    assert total > len(data) and left_out(capsys) == total - len(data)
    number = {name: int(Path(name).stem[-2:]) for name in data.names}
    good = [k for k, name in enumerate(data.names) if number[name] % 3 == 0]
    assert len(good) == 4 * len(FORMATS)
    for k in good:
        shade = 10 * number[data.names[k]]
        assert np.abs(data.images[k].astype(int) - shade).max() <= 4, data.names[k]
        assert np.abs(data.targets[k].astype(int) - shade - 120).max() <= 4, data.names[k]


# --- Damaged lists ---------------------------------------------------------------------------------------------------


def in_idx(body: bytes, packed: bool) -> np.ndarray | None:
    """What an idx file says, read without the code under test; None if it contradicts itself."""
    try:
        raw = gzip.decompress(body) if packed else body
        dims = raw[3]
        shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
        return np.frombuffer(raw[4 + 4 * dims :], np.uint8).reshape(shape) if raw[:3] == b"\0\0\x08" else None
    except (OSError, EOFError, ValueError, IndexError, zlib.error, struct.error):
        return None


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("broken", ["images-idx3", "labels-idx1"])
def test_a_damaged_idx_file_is_refused_or_read_as_it_says(tmp_path, suffix, broken):
    rng, refused = np.random.default_rng(3), 0
    arrays = {"images-idx3": rng.integers(0, 256, (9, 8, 8), np.uint8), "labels-idx1": np.arange(9, dtype=np.uint8)}
    for kind, array in arrays.items():
        write_idx(tmp_path / "m" / f"train-{kind}-ubyte{suffix}", array)
    file = tmp_path / "m" / f"train-{broken}-ubyte{suffix}"
    for i, body in enumerate(damages(rng, file.read_bytes(), 60)):
        file.write_bytes(body)
        said = {**arrays, broken: in_idx(body, bool(suffix))}
        try:
            data = load(str(tmp_path / "m"), "train", 8, data_dir=tmp_path / f"d{i}")
        except DataError:
            refused += 1
            continue
        assert np.array_equal(data.images[:, 0], said["images-idx3"])
        assert np.array_equal(data.labels, said["labels-idx1"])
        assert not suffix or np.array_equal(said[broken], arrays[broken])  # gzip's checksum finds the rest
    assert 30 < refused


LISTS = {
    "list_attr_celeba.txt": str.split,
    "mine.csv": lambda line: [cell.strip() for cell in next(csv.reader([line]), [])],
}


@pytest.mark.parametrize("table", LISTS)
def test_a_damaged_list_of_attributes_is_refused_or_read_as_it_says(tmp_path, table, capsys):
    rng, names, refused = np.random.default_rng(4), ["Bald", "Smiling", "Male"], 0
    root = tmp_path / "mine"
    truth = rng.integers(0, 2, (12, 3))
    rows = [[f"{i:02}.png", *map(str, 2 * row - 1)] for i, row in enumerate(truth)]
    for i in range(12):
        picture(root / f"{i:02}.png", 4, 4, (20 * i,) * 3)
    space = {"mine.csv": ",", "list_attr_celeba.txt": "  "}[table]
    head = ["12", " ".join(names)] if space != "," else [",".join(["file", *names])]
    text = "\n".join([*head, *map(space.join, rows)]) + "\n"
    for i, body in enumerate(damages(rng, text.encode(), 150)):
        (root / table).write_bytes(body)
        try:
            data = load(str(root), "train", 4, data_dir=tmp_path / f"d{i}")
        except DataError:
            refused += 1
            continue
        lines = [LISTS[table](line) for line in body.decode().split("\n")]
        assert any(line[-3:] == data.attribute_names for line in lines)
        for image, name, row in zip(data.images, data.names, data.attributes.tolist(), strict=True):
            (said,) = (line[1:] for line in lines if line[:1] == [name])
            assert {*map(int, said)} <= {-1, 0, 1} and [int(value) == 1 for value in said] == row
            assert (image == 20 * int(name[:2])).all()
    assert 30 < refused < 140
    capsys.readouterr()


def test_a_csv_names_pictures_in_any_script(tmp_path, capsys):
    root = tmp_path / "mine"
    names = ["名字.png", "a,b.png", 'say "hi".png', " blank.png", "it's.png", "🙂.png", "deep/صورة.png"]
    for i, name in enumerate([*names, "two\nlines.png", "twolines.png"]):
        picture(root / "train" / name, colour=(20 * i,) * 3)
    with open(root / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "Odd"], *([f"train/{name}", i % 2] for i, name in enumerate(names))])
        file.write('"train/two\nlines.png",1\n')
    data = load(str(root), "train", 8, data_dir=tmp_path / "d")
    odd = dict(zip(data.names, data.attributes[:, 0].tolist(), strict=True))
    assert odd.pop("train/two\nlines.png", 1) == 1  # the one picture whose row may be too odd to be read
    assert odd == {f"train/{name}": i % 2 for i, name in enumerate(names)}


@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_a_damaged_partition_never_moves_a_picture_into_another_split(tmp_path, kind, capsys):
    rng, root, seen = np.random.default_rng(5), tmp_path / "mine", 0
    celeba(root, 9, partition=())
    space = {"txt": " ", "csv": ","}[kind]
    rows = ["image_id,partition"] * (kind == "csv") + [f"{i + 1:06d}.jpg{space}{i // 3}" for i in range(9)]
    says_nothing = [b"", b"\n\n", b"000001.jpg", "\n".join(rows[:1]).replace("0", "x").encode()]
    for i, body in enumerate([*damages(rng, "\n".join(rows).encode(), 80), *says_nothing]):
        (root / f"list_eval_partition.{kind}").write_bytes(body)
        for split in ("train", "val", "test"):
            try:
                data = load(str(root), split, 4, data_dir=tmp_path / f"d{i}")
            except DataError:
                continue
            said = {}
            for line in body.decode().split("\n"):
                name, _, number = line.replace(",", " ").strip().partition(" ")
                number = re.fullmatch(r"\+?0*([012])", number.strip())
                said[name] = number and ("train", "val", "test")[int(number[1])]
            assert {said.get(Path(name).name) for name in data.names} == {data.split}, (body, split)
            seen += 1
    assert 30 < seen
    capsys.readouterr()


def test_a_damaged_partition_of_deepfashion_never_moves_a_picture_into_another_split(tmp_path, capsys):
    rng, root, seen = np.random.default_rng(6), tmp_path / "mine", 0
    rows, item = ["40", "image_name item_id evaluation_status"], "img/WOMEN/Dresses/id_{:08}"
    for i, view in itertools.product(range(20), range(2)):
        name = f"{item.format(i)}/0{view}_1_front.png"
        picture(root / name, 4, 4)
        status = ["train", "query", "gallery"][i % 2 * (1 + view)]
        rows.append(f"{name}      id_{i:08} {status}  ")
    splits = {"train": ["train"], "test": ["query", "gallery"]}
    cut = ["\n".join(rows[:count]).encode() for count in (0, 1, 2, 12)]
    for i, body in enumerate([*damages(rng, "\n".join(rows).encode(), 80), *cut]):
        (root / "list_eval_partition.txt").write_bytes(body)
        for split, status in splits.items():
            try:
                data = load(str(root), split, 4, data_dir=tmp_path / f"d{i}")
            except DataError:
                continue
            lines = [line.split() for line in body.decode().split("\n") if line.strip()]
            said = {words[0].removeprefix("img/"): words[-1] for words in lines}
            assert {said.get(name.removeprefix("img/")) for name in data.names} <= {*status}, (body, split)
            seen += 1
    assert 20 < seen
    capsys.readouterr()


# --- Damaged archives ------------------------------------------------------------------------------------------------


CONTENT = {f"set/{part}/{i}.bin": np.random.default_rng(i).bytes(300 + i) for part in "ab" for i in range(4)}
INSIDE = {name.removeprefix("set/"): body for name, body in CONTENT.items()}


def packed_content() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i, (name, body) in enumerate(CONTENT.items()):
            archive.writestr(name, body, zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED)
    return file.getvalue()


def with_sentinels(folder: Path) -> Path:
    """A folder deep in others, with a file in each and beside it that must stay as they are."""
    inside = folder / "above" / "data"
    inside.mkdir(parents=True)
    for place in (folder, folder / "above", inside):
        (place / "sentinel").write_text("as it was")
    return inside


def outcome(extract, folder: Path, body: bytes, **options) -> dict[str, bytes] | None:
    """What an archive unpacks to, None if it is refused. Nothing else in folder/../.. has changed."""
    path, there = folder / "set.archive", folder / "set"
    path.write_bytes(body)
    before = tree(folder.parents[1])
    try:
        extract(path, there, **options)
    except DataError:
        assert tree(folder.parents[1]) == before
        return None
    found = tree(there)
    shutil.rmtree(there)
    assert tree(folder.parents[1]) == before
    return {name: content for name, content in found.items() if content != ""}


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_damaged_archive_is_refused_or_unpacks_to_what_was_packed(tmp_path, kind):
    extract, whole = (extract_zip, packed_content()) if kind == "zip" else (extract_tar, tar_gz(CONTENT))
    inside, rng, refused = with_sentinels(tmp_path), np.random.default_rng(7), 0
    assert outcome(extract, inside, whole) == INSIDE
    for body in damages(rng, whole, 250):
        found = outcome(extract, inside, body)
        assert found in (None, INSIDE)
        refused += found is None
    assert refused > 150


def test_a_tar_that_breaks_off_or_has_a_damaged_header_is_not_taken_for_a_whole_one(tmp_path):
    inside, plain = with_sentinels(tmp_path), gzip.decompress(tar_gz(CONTENT))
    for end in range(0, 1024 * len(CONTENT), 512):
        assert outcome(extract_tar, inside, gzip.compress(plain[:end], 1)) is None, end
    for k in range(len(CONTENT)):
        for place in (0, 100, 124, 150, 156, 157, 257, 345):  # name, mode, size, checksum, type, link, magic, prefix
            body = bytearray(plain)
            body[1024 * k + place] ^= 1
            assert outcome(extract_tar, inside, gzip.compress(body, 1)) is None, (k, place)


# --- Damaged caches --------------------------------------------------------------------------------------------------


def known_facts(data) -> list:
    arrays = (data.images, data.labels, data.attributes)
    return [data.names, data.classes, data.attribute_names, *(None if x is None else x.tolist() for x in arrays)]


@pytest.mark.parametrize("file, header", [("meta.json", 0), ("images.npy", 128), ("labels.npy", 128)])
def test_a_cache_of_which_a_header_is_damaged_is_made_again(tmp_path, capsys, file, header):
    rng, root = np.random.default_rng(8), tmp_path / "mine"
    for i in range(12):
        picture(root / "train" / f"class {i % 3}" / f"{i:02}.png", colour=(20 * i,) * 3)
    (root / "train" / "class 0" / "bad.png").write_text("bad")
    whole = known_facts(load(str(root), "train", 4, data_dir=tmp_path / "d"))
    warning = capsys.readouterr().err
    (cache,) = (tmp_path / "d" / "cache").iterdir()
    body = (cache / file).read_bytes()
    odd = [b"", b"[]", b"1", b"null", b'{"bytes": {}}', b'{"bytes": 5}', b"PK\3\4" + body[4:], b"\x80" + body[1:]]
    header = header or len(body)
    for wrong in [*odd, *(beginning + body[header:] for beginning in damages(rng, body[:header], 80))]:
        (cache / file).write_bytes(wrong)
        assert known_facts(load(str(root), "train", 4, data_dir=tmp_path / "d")) == whole, wrong
        assert capsys.readouterr().err == warning
    assert os.listdir(tmp_path / "d" / "cache") == [cache.name]


@pytest.mark.parametrize("file", ["images.npy", "labels.npy"])
def test_a_cache_with_another_pixel_or_label_is_made_again(tmp_path, file):
    rng = np.random.default_rng(9)
    for i in range(12):
        picture(tmp_path / "mine" / "train" / f"class {i % 3}" / f"{i:02}.png", colour=(20 * i,) * 3)
    whole = known_facts(load(str(tmp_path / "mine"), "train", 4, data_dir=tmp_path / "d"))
    (cache,) = (tmp_path / "d" / "cache").iterdir()
    body = (cache / file).read_bytes()
    for place in rng.integers(128, len(body), 20):
        (cache / file).write_bytes(body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])
        assert known_facts(load(str(tmp_path / "mine"), "train", 4, data_dir=tmp_path / "d")) == whole, place


# --- Own pictures ----------------------------------------------------------------------------------------------------


def raw_png(*pixel: int, bits: int = 16, **chunks: bytes) -> bytes:
    """A PNG of one colour, grey or RGB or RGBA, with 16 bits for each channel (Pillow writes none) or 8."""
    pixel = struct.pack(f">{len(pixel)}{'BH'[bits == 16]}", *pixel)
    kind = {1: 0, 3: 2, 4: 6}[len(pixel) * 8 // bits]
    chunks = {
        "IHDR": struct.pack(">IIBBBBB", 6, 6, bits, kind, 0, 0, 0),
        **chunks,
        "IDAT": zlib.compress((b"\0" + pixel * 6) * 6),
        "IEND": b"",
    }
    packed = ((name.encode(), body) for name, body in chunks.items())
    packed = (struct.pack(">I", len(x)) + k + x + struct.pack(">I", zlib.crc32(k + x)) for k, x in packed)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def of_mode(mode: str, kind: str, **options) -> tuple[bytes, tuple[int, int, int]]:
    """A picture of that mode, and the colour that it should come out as."""
    grey = (99, 99, 99)
    image = Image.new("RGB", (12, 12), COLOUR)
    if mode in ("I;16", "I"):
        image, colour = Image.fromarray(np.full((12, 12), 257 * 99, {"I": np.int32, "I;16": np.uint16}[mode])), grey
    elif mode in ("L", "LA"):
        image, colour = Image.new(mode, (12, 12), (99, 255)[: len(mode)] if mode == "LA" else 99), grey
    elif mode == "1":
        image, colour = Image.new("1", (12, 12), 1), (255, 255, 255)
    elif mode == "P":
        image, colour = image.quantize(4), COLOUR
    else:
        image, colour = image.convert(mode), COLOUR
    return encoded(image, kind, **options), colour


def good_pictures() -> dict[str, tuple[bytes, tuple[int, int, int]]]:
    """Names and contents of files of every type and mode, and the colour of each."""
    modes = {
        ".jpg": "L CMYK RGB",
        ".png": "1 L LA P RGB RGBA I;16",
        ".webp": "RGB RGBA",
        ".bmp": "1 L P RGB RGBA",
        ".gif": "1 L P RGB",
        ".tif": "1 L LA P RGB RGBA CMYK YCbCr I I;16",
        ".tiff": "RGB",
        ".ppm": "RGB",
        ".pgm": "1 L",
        ".jfif": "RGB",
        ".jpeg": "RGB",
    }
    made = {f"{kind[1:]} {m.replace(';', '')}{kind}": of_mode(m, kind) for kind in modes for m in modes[kind].split()}
    plain = encoded(Image.new("RGB", (12, 12), COLOUR))
    for kind in (".webp", ".gif"):  # moving pictures: the first counts
        frames = [Image.new("RGB", (12, 12), shade) for shade in ("red", "blue")]
        first = Image.new("RGB", (12, 12), COLOUR)
        made[f"moving{kind}"] = encoded(first, kind, save_all=True, append_images=frames, lossless=True), COLOUR
    deep, white = [257 * value for value in COLOUR], (255, 255, 255)
    made["deep RGB.png"] = raw_png(*deep), COLOUR
    made["deep RGBA.png"] = raw_png(*deep, 65535), COLOUR
    for name, pixel, bits in (
        ("RGB 16", deep, 16),
        ("RGB 8", COLOUR, 8),
        ("grey 16", [257 * 99], 16),
        ("grey 8", [99], 8),
    ):  # one colour is told to be transparent: this one, or another
        clear = struct.pack(f">{len(pixel)}H", *pixel)
        colour = COLOUR if len(pixel) == 3 else (99, 99, 99)
        made[f"transparent {name}.png"] = raw_png(*pixel, bits=bits, tRNS=clear), white
        made[f"not transparent {name}.png"] = raw_png(*pixel, bits=bits, tRNS=clear[:-2] + b"\0\7"), colour
    for name, exif in (("none", b"Exif\0\0none"), ("cut", b"Exif\0\0II*\0\x08\0\0\0\5"), ("empty", b"Exif\0\0")):
        made[f"exif {name}.jpg"] = encoded(Image.new("RGB", (12, 12), COLOUR), ".jpg", exif=exif, quality=95), COLOUR
    for number in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = number
        made[f"exif {number}.jpg"] = encoded(Image.new("RGB", (12, 12), COLOUR), ".jpg", exif=exif), COLOUR
    made["progressive.jpg"] = encoded(Image.new("RGB", (900, 700), COLOUR), ".jpg", progressive=True), COLOUR
    made["two in one.jpg"] = of_stereo_camera(), COLOUR
    made["lzw.tif"] = encoded(Image.new("RGB", (12, 12), COLOUR), ".tif", compression="tiff_lzw"), COLOUR
    made["a webp.png"] = encoded(Image.new("RGB", (12, 12), COLOUR), ".webp", lossless=True), COLOUR
    made["a bmp.gif"] = encoded(Image.new("RGB", (12, 12), COLOUR), ".bmp"), COLOUR
    names = "名字 صورة עברית हिन्दी имя 🙂🎨 é e\u0301 UPPER.PNG a.b.c -rf --help %s{}$HOME #?&=; * [a-z]".split()
    names += ["a\nb", "tab\there", "quo\"te's", " blank ", "back\\slash", "\x1b[31mred", "n" * 246, *NO_TEXT]
    for name in names:
        made[name if name.endswith(".PNG") else f"{name}.png"] = plain, COLOUR
    sizes = {"1x1": (1, 1), "1x2000": (1, 2000), "2000x1": (2000, 1), "3x3": (3, 3)}
    for name, size in sizes.items():
        for kind in (".png", ".jpg", ".gif", ".webp"):
            made[f"{name}{kind}"] = encoded(Image.new("RGB", size, COLOUR), kind, quality=95), COLOUR
    return made


def of_stereo_camera() -> bytes:
    file = io.BytesIO()
    images = [Image.new("RGB", (12, 12), colour) for colour in (COLOUR, "blue")]
    images[0].save(file, "MPO", save_all=True, append_images=images[1:], quality=95)
    return file.getvalue()


def bad_pictures() -> dict[str, tuple[bytes, str]]:
    """Names and contents of files that are no pictures, or none that can be used, and what is said of each."""
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), ".jpg")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(ran) print showpage\n%%EOF\n"
    made = {
        "empty.jpg": (b"", "empty"),
        "cut.jpg": (whole[:1500], "truncated"),
        "head.png": (encoded(Image.new("RGB", (12, 12)))[:20], "Truncated"),
        "float.tif": (of_float(), "floating-point"),
        "eps.jpg": (eps, "not a picture"),
        "pdf.jpg": (b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n", "not a picture"),
        "svg.jpg": (b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>", "not a picture"),
        "wmf.png": (b"\xd7\xcd\xc6\x9a" + bytes(200), "not a picture"),
        "page.png": (b"<!DOCTYPE html><title>404</title>", "not a picture"),
        "zip.png": (zipped({"a.png": png()}), "not a picture"),
        "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(100), "convert it"),
        "good inside.avif": (png(), "convert it"),
        "zeros.bmp": (bytes(5000), "not a picture"),
        "long text.png": (raw_png(*COLOUR, bits=8, zTXt=b"k\0\0" + zlib.compress(bytes(20_000_000))), "too large"),
        "\x1b[2Jbad\nname.png": (b"x", "not a picture"),
    }
    return made


def of_float() -> bytes:
    return encoded(Image.fromarray(np.full((12, 12), 0.5, np.float32)), ".tif")


def fill(folder: Path, files: dict[str, tuple[bytes, object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (body, _) in files.items():
        (folder / name).write_bytes(body)


def special_files(folder: Path, monkeypatch) -> dict[str, str]:
    """What is called as a picture and is no file -> what is said of each."""
    os.mkfifo(folder / "pipe.png")
    monkeypatch.chdir(folder)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket.png")
    (folder / "folder.png").mkdir()
    picture(folder / "folder.png" / "inside.png")
    (folder / "nowhere.png").symlink_to("absent.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    return {
        "pipe.png": "not a file",
        "socket.png": "not a file",
        "folder.png": "not a file",
        "nowhere.png": "a link to nowhere",
        "loop.png": "symbolic links",
        "zero.png": "not a file",
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a Unix")
def test_everything_in_one_folder(tmp_path, capsys, monkeypatch):
    ran = []
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **_: ran.append(command))
    folder, good, bad = tmp_path / "mine" / "train", good_pictures(), bad_pictures()
    fill(folder, {**good, **bad})
    reasons = {**{name: reason for name, (_, reason) in bad.items()}, **special_files(folder, monkeypatch)}
    data = load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d")
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message[:-1].isprintable()
    assert f"left out {len(reasons)} of {len(reasons) + len(good)} files: train/" in message
    assert data.names == sorted(f"train/{name}" for name in good)
    for name, image in zip(data.names, data.images, strict=True):
        colour = np.array(good[name.removeprefix("train/")][1])
        assert np.abs(image[:, 4, 4] - colour).max() <= 4 and np.ptp(image, axis=(1, 2)).max() <= 4, name
    with pytest.raises(DataError, match=f"{len(reasons)} of {len(reasons) + len(good)} files are bad") as error:
        load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d", strict=True)
    assert str(error.value).isprintable()

    assert datasets.check(str(tmp_path / "mine"), 8, tmp_path / "d") == len(reasons)
    listed = dict(line.strip().rsplit(": ", 1) for line in capsys.readouterr().out.splitlines()[1:-1])
    assert len(listed) == len(reasons)
    for name, reason in reasons.items():
        name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
        assert reason in listed[f"train/{name}"], name
    assert not ran  # such as Ghostscript, on a PostScript file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a Unix")
def test_a_picture_of_its_own_may_be_anything_too(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, sentence in (("pipe.png", "not a file"), ("loop.png", "no file or folder|symbolic links")):
        with pytest.raises(DataError, match=sentence):
            datasets.read_images(tmp_path / name, 8)
    (tmp_path / "a\nb.png").write_bytes(png(COLOUR))
    images, names = datasets.read_images(tmp_path / "a\nb.png", 4)
    assert names == ["a\nb.png"] and (images[0, :, 2, 2].numpy() == COLOUR).all()


@pytest.mark.parametrize("name", ["名字", "🙂", "a\nb", 'it\'s "x"', " blank ", "-rf", "n" * 250, *NO_TEXT])
def test_folders_of_any_name_may_be_sets_and_classes(tmp_path, capsys, name):
    for i in range(4):
        picture(tmp_path / name / "train" / name / f"{i}.png", colour=(50 * i,) * 3)
        picture(tmp_path / name / "train" / "zzz" / f"{i}.png", colour=(50 * i,) * 3)
    data = load(str(tmp_path / name), "train", 8, data_dir=tmp_path / "d")
    assert data.name == name and data.labels.tolist() == [data.classes.index(n.split("/")[1]) for n in data.names]
    assert sorted(data.classes) == sorted([name, "zzz"]) and data.images[:, 0, 0, 0].tolist() == 2 * [0, 50, 100, 150]
    assert len(os.listdir(tmp_path / "d" / "cache")) == 1 and capsys.readouterr().err == ""
    datasets.main([str(tmp_path / name), "--data-dir", str(tmp_path / "d"), "--preview", str(tmp_path / "a.png")])
    assert Image.open(tmp_path / "a.png").size[0] > 8 * 64


ORIENTED = {  # the rows and columns of a file, of those that are seen: TIFF 6.0, the tag Orientation
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.swapaxes(0, 1),
    6: lambda seen: seen[:, ::-1].swapaxes(0, 1),
    7: lambda seen: seen[::-1, ::-1].swapaxes(0, 1),
    8: lambda seen: seen[::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("paired", [False, True])
def test_every_orientation_is_turned_upright(tmp_path, kind, paired):
    size = (32, 32) if paired else (32, 40)
    width = 64 if paired else 40
    seen = np.zeros((32, width, 3), np.uint8)
    seen[:16, : width // 2], seen[:16, width // 2 :], seen[16:, : width // 2] = 255, (255, 0, 0), (0, 0, 255)
    (tmp_path / "mine" / "train").mkdir(parents=True)
    for number, turn in ORIENTED.items():
        exif = Image.Exif()
        exif[0x0112] = number
        options = {"exif": exif, "lossless": True, "quality": 100, "subsampling": 0}
        options = options if kind in (".jpg", ".webp") else {"exif": exif}
        body = encoded(Image.fromarray(np.ascontiguousarray(turn(seen))), kind, **options)
        (tmp_path / "mine" / "train" / f"{number}{kind}").write_bytes(body)
    data = load(str(tmp_path / "mine"), "train", size, data_dir=tmp_path / "d", channels=3)
    assert len(data) == 8 and (data.targets is not None) == paired == (data.images.shape[3] == 32)
    sheets = data.images if data.targets is None else np.concatenate([data.images, data.targets], axis=3)
    for number, sheet in enumerate(sheets, 1):
        assert np.abs(sheet.transpose(1, 2, 0).astype(int) - seen)[4:-4, 4:-4].mean() < 8, number


@pytest.mark.parametrize("resize", datasets.RESIZES)
@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (1999, 2000)])
def test_extreme_shapes_keep_their_colour(tmp_path, resize, size):
    for i in range(2):
        picture(tmp_path / "mine" / "train" / f"{i}.png", *size, COLOUR)
    picture(tmp_path / "mine" / "train" / "2.png", 9, 12, COLOUR)  # else they would be pairs
    picture(tmp_path / "mine" / "train" / "3.png", 9, 12, COLOUR)
    for shape in ((8, 8), (6, 10)):
        data = load(str(tmp_path / "mine"), "train", shape, data_dir=tmp_path / "d", resize=resize)
        assert data.images.shape == (4, 3, *shape) or data.targets is not None
        assert (data.images[0, :, (shape[0] - 1) // 2, (shape[1] - 1) // 2] == COLOUR).all()
        white = (data.images[0] == 255).all(axis=0)
        assert resize == "pad" or not white.any()
        assert not (white ^ white[::-1, ::-1]).any() or resize == "pad"


def patched(kind: str, width: int, height: int) -> bytes:
    """A small file that says it is width x height."""
    body = bytearray(encoded(Image.new("L" if kind in (".jpg", ".png") else "RGB", (16, 16)), kind))
    if kind == ".png":
        body[16:24] = struct.pack(">II", width, height)
        body[29:33] = struct.pack(">I", zlib.crc32(body[12:29]))
    elif kind == ".jpg":
        place = body.index(b"\xff\xc0") + 5
        body[place : place + 4] = struct.pack(">HH", height, width)
    elif kind == ".bmp":
        body[18:26] = struct.pack("<ii", width, height)
    elif kind == ".gif":
        body[6:10] = struct.pack("<HH", width, height)
    elif kind == ".ppm":
        body = body.replace(b"16 16", b"%d %d" % (width, height))
    elif kind == ".tif":
        for tag, value in ((256, width), (257, height)):
            place = body.index(struct.pack("<H", tag), 8)
            body[place : place + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(body)


@pytest.mark.parametrize("kind", [".png", ".jpg", ".bmp", ".gif", ".ppm", ".tif"])
@pytest.mark.parametrize("width, height", [(8001, 8000), (65000, 65000)])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, monkeypatch, kind, width, height):
    loaded, load_picture = [], ImageFile.ImageFile.load
    (tmp_path / f"bomb{kind}").write_bytes(patched(kind, width, height))
    (tmp_path / f"small{kind}").write_bytes(patched(kind, 16, 16))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: loaded.append(self.size) or load_picture(self))
    with pytest.raises(DataError, match="too large|exceeds limit"):
        datasets.read_images(tmp_path / f"bomb{kind}", 8)
    assert not loaded
    datasets.read_images(tmp_path / f"small{kind}", 8)
    assert loaded[0] == (16, 16)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_folders_and_files_that_may_not_be_read(tmp_path, capsys):
    for i in range(4):
        picture(tmp_path / "mine" / "train" / f"{i}.png")
    (tmp_path / "mine" / "train" / "3.png").chmod(0)
    assert len(load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d")) == 3
    assert "3.png (Permission denied)" in capsys.readouterr().err
    (tmp_path / "mine" / "train").chmod(0)
    try:
        with pytest.raises(DataError, match="cannot read the folder"):
            load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d")
    finally:
        (tmp_path / "mine" / "train").chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a Unix")
@pytest.mark.parametrize(
    "name", ["list.csv", "train-images-idx3-ubyte", "list_attr_celeba.txt", "list_eval_partition.txt"]
)
@pytest.mark.parametrize("what", ["pipe", "folder", "loop", "nowhere"])
def test_what_is_called_as_a_list_and_is_no_file_is_passed_over(tmp_path, name, what):
    for i in range(4):
        picture(tmp_path / "mine" / "train" / f"{i}.png")
    path = tmp_path / "mine" / name
    if what in ("pipe", "folder"):
        {"pipe": os.mkfifo, "folder": os.mkdir}[what](path)
    else:
        path.symlink_to({"loop": name, "nowhere": "absent"}[what])
    data = load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d")
    assert len(data) == 4 and data.attributes is None and data.labels is None


def test_names_that_no_folder_can_have_and_folders_without_end(tmp_path, monkeypatch):
    for name in ("x" * 5000, "a\0b", os.fsdecode(b"\xff"), "a\nb", ""):
        with pytest.raises(DataError, match="unknown data set"):
            load(name, data_dir=tmp_path)
    for i in range(4):
        picture(tmp_path / "mine" / "train" / f"{i}.png")
    monkeypatch.chdir(tmp_path / "mine" / "train")
    for _ in range(1200):
        os.mkdir("a")
        os.chdir("a")
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(DataError, match="deep|File name too long|files are bad"):
            load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d", strict=True)
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "mine")], check=True)  # Python's own way is recursive


# --- Hostile archives ------------------------------------------------------------------------------------------------


def raw_zip(*entries: dict) -> bytes:
    """A zip written field by field: name, data, and what the headers say where that is not the truth."""
    body, directory = bytearray(), bytearray()
    for entry in entries:
        name, data = entry.get("name", b"set/a"), entry.get("data", b"content")
        size, packed = entry.get("size", len(data)), entry.get("packed", len(data))
        flags, method, crc = entry.get("flags", 0), entry.get("method", 0), entry.get("crc", zlib.crc32(data))
        offset, mode = entry.get("offset", len(body)), entry.get("mode", stat.S_IFREG | 0o644)
        fields = struct.pack("<HHHHHIIIH", 20, flags, method, 0, 33, crc, packed, size, len(name))
        body += b"PK\3\4" + fields + b"\0\0" + name + data
        directory += b"PK\1\2" + struct.pack("<H", 3 << 8 | 20) + fields
        directory += struct.pack("<HHHHII", 0, 0, 0, 0, mode << 16, offset) + name
    count = min(len(entries), 0xFFFF)
    return body + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)


def nested_zip(count: int, size: int) -> bytes:
    """Each file holds the header of the next one as a stored block of its own: one run of zeros, unpacked `count` times
    (David Fifield, A better zip bomb, 2019)."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(size)
    kernel = deflate.compress(zeros) + deflate.flush()
    quoted, chain, files = kernel, b"", []  # what stands in the archive, and what precedes the zeros, after the header
    for i in reversed(range(count)):
        crc = zlib.crc32(zeros, zlib.crc32(chain))
        fields = struct.pack("<HHHHHIIIH", 20, 0, 8, 0, 33, crc, len(quoted), len(chain) + size, 7)
        header = b"PK\3\4" + fields + b"\0\0" + b"set/%03d" % i
        files.append((fields, b"set/%03d" % i))
        quoted, chain = b"\0" + struct.pack("<HH", len(header), len(header) ^ 0xFFFF) + header + quoted, header + chain
    body, directory = quoted[5:], b""  # the first header is quoted by no other
    step = len(header) + 5
    for i, (fields, name) in enumerate(reversed(files)):
        directory += b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHHII", 0, 0, 0, 0, 0, i * step) + name
    return body + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)


def pax(name: str, **headers: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.pax_headers = headers
    return member


def sized(name: str, size: int) -> bytes:
    """A .tar.gz of which a member says that it is so long."""
    member = tarfile.TarInfo(name)
    member.size = size
    return gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))


OUTSIDE = [  # names that lead out of the folder, or would on another system
    "/outside",
    "//server/outside",
    "..",
    "set/..",
    "./../outside",
    "set/a/../../../outside",
    "set\\..\\..\\outside",
    "\\\\server\\outside",
    "c:/outside",
    "C:\\outside",
    "set/" + "a/" * 400 + "b",
]
TARS = {
    **{f"to {name[:30]}": {name: b"x"} for name in OUTSIDE},
    "a folder outside": {"..": special(tarfile.DIRTYPE, "set/../../outside")},
    "outside by pax": {"x": pax("set/x", path="../outside")},
    "absolute by pax": {"x": pax("set/x", path="/outside")},
    "a long name": {"x": pax("set/x", path="../" + "a" * 200)},
    "a link up, then a file through it": {"l": special(tarfile.SYMTYPE, "set/l", ".."), "set/l/outside": b"x"},
    "a link to a link": {
        "1": special(tarfile.SYMTYPE, "set/1", "/tmp"),
        "2": special(tarfile.SYMTYPE, "set/2", "1"),
        "set/2/outside": b"x",
    },
    "a hard link, then a file through it": {"l": special(tarfile.LNKTYPE, "set/l", "sentinel"), "set/l": b"x"},
    "a hard link inside": {"set/a": b"x", "l": special(tarfile.LNKTYPE, "set/l", "set/a")},
    "a disk": {"d": special(tarfile.BLKTYPE, "set/d")},
    "what no one knows": {"d": special(b"Z", "set/d")},
    "a file, then a folder": {"set/a": b"x", "set/a/b": b"x"},
    "a folder, then a file": {"set/a/b": b"x", "set/a": b"x"},
    "no name": {"": b"x"},
    "the folder itself": {".": b"x"},
    "a name too long": {"set/" + "n" * 300: b"x"},
    "a negative size": {"x": pax("set/x", size="-512")},
    "a size without end": {"x": pax("set/x", size="9" * 30)},
    "holes": {
        "x": pax("set/x", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 42)})
    },
}
TAR_BODIES = {
    "a bomb": sized("set/zeros", 5 << 30),
    "more than can be counted": sized("set/zeros", 1 << 70),
}
ZIPS = {
    **{f"to {name[:30]}": [{"name": name.encode()}] for name in OUTSIDE},
    "a folder outside": [{"name": b"set/../../outside/", "data": b""}],
    "a link, then a file through it": [
        {"name": b"set/l", "data": b"..", "mode": stat.S_IFLNK | 0o777},
        {"name": b"set/l/outside"},
    ],
    "a disk": [{"mode": stat.S_IFBLK | 0o644}],
    "a socket": [{"mode": stat.S_IFSOCK | 0o644}],
    "a file, then a folder": [{"name": b"set/a"}, {"name": b"set/a/b"}],
    "a folder, then a file": [{"name": b"set/a/b"}, {"name": b"set/a"}],
    "no name": [{"name": b""}],
    "the folder itself": [{"name": b"."}],
    "a name too long": [{"name": b"set/" + b"n" * 300}],
    "encrypted": [{"flags": 1, "data": bytes(40)}],
    "an unknown compression": [{"method": 99}],
    "bzip2 that is none": [{"method": 12, "data": b"no bzip2" * 9}],
    "LZMA that is none": [{"method": 14, "data": b"\x09\x04\x05\x00\xff\xff\xff\xff\xff" + b"no lzma" * 9}],
    "deflate that is none": [{"method": 8, "data": b"\xff" * 40}],
    "shorter than it says": [{"size": 500, "packed": 500}],
    "longer than it says": [{"size": 3}],
    "another checksum": [{"crc": 1}],
    "behind the end": [{"offset": 1 << 31}],
    "a bomb": [{"name": b"set/%d" % i, "size": 0xFFFFFFF0} for i in range(9)],
    "a bomb that says what it is": [{"method": 8, "data": zlib.compress(bytes(9_000_000))[2:-4], "size": 5 << 28}],
    "files in files": [{"name": b"set/a"}, {"name": b"set/a", "offset": 0}],
}


def refused_as_a_set(tmp_path: Path, name: str, file: str, body: bytes) -> str:
    """Put an archive into the data folder and load it -> the sentence. Nothing anywhere has changed then."""
    inside = with_sentinels(tmp_path)
    (inside / file).write_bytes(body)
    before = tree(tmp_path)
    with pytest.raises(DataError) as error:
        load(name, "train", 8, data_dir=inside)
    assert tree(tmp_path) == before
    assert str(inside / file) in str(error.value) and "choose another data folder" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("case", [*TARS, *TAR_BODIES])
def test_a_hostile_tar_is_refused_and_leaves_no_trace(tmp_path, case):
    good = {f"facades/train/{i}.png": png() for i in range(3)}
    members = {name.replace("set/", "facades/"): x for name, x in TARS.get(case, {}).items()}
    for member in members.values():
        if isinstance(member, tarfile.TarInfo):
            member.name = member.name.replace("set/", "facades/")
    body = TAR_BODIES.get(case) or tar_gz({**good, **members})
    assert "is refused" in (text := refused_as_a_set(tmp_path, "facades", "facades.tar.gz", body)) or "damaged" in text


@pytest.mark.parametrize("case", ZIPS)
def test_a_hostile_zip_is_refused_and_leaves_no_trace(tmp_path, case):
    good = [
        {"name": b"horse2zebra/train%s/%d.png" % (side, i), "data": png()} for side in (b"A", b"B") for i in range(3)
    ]
    first = sum(30 + len(entry["name"]) + len(entry["data"]) for entry in good)
    hostile = [{**entry} for entry in ZIPS[case]]
    for entry in hostile:
        entry["name"] = entry.get("name", b"set/a").replace(b"set/", b"horse2zebra/")
        if entry.get("offset") == 0:
            entry["offset"] = first
    body = raw_zip(*good, *hostile)
    text = refused_as_a_set(tmp_path, "horse2zebra", "horse2zebra.zip", body)
    assert "is refused" in text or "damaged" in text


def test_the_zip_without_what_is_hostile_is_accepted(tmp_path):
    """So the tests above do not refuse what their own writer did wrong."""
    entries = [{"name": b"set/%d" % i, "data": bytes([i]) * 50} for i in range(5)]
    deflated = zlib.compress(b"deflated")[2:-4]
    entries.append({"name": b"set/d", "method": 8, "data": deflated, "size": 8, "crc": zlib.crc32(b"deflated")})
    inside = with_sentinels(tmp_path)
    content = {str(i): bytes([i]) * 50 for i in range(5)}
    assert outcome(extract_zip, inside, raw_zip(*entries)) == {**content, "d": b"deflated"}


def test_a_zip_of_files_in_files_is_refused(tmp_path):
    inside, body = with_sentinels(tmp_path), nested_zip(40, 500_000)
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert sum(member.file_size for member in archive.infolist()) > 20_000_000 > 1000 * len(body)
    assert outcome(extract_zip, inside, body) is None


def long_header(kind: bytes, content: bytes) -> bytes:
    member = tarfile.TarInfo("set/a")
    member.type, member.size = kind, len(content)
    return member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512 + 1024)


def holes() -> bytes:
    """A sparse file, whose beginning is a list of a million numbers."""
    file, numbers = io.BytesIO(), b"500000\n" + 1_000_000 * b"0\n"
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = pax("set/a", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"})
        member.size = len(numbers)
        archive.addfile(member, io.BytesIO(numbers))
    return file.getvalue()


def old_holes() -> bytes:
    """The same of GNU's older format: each block of the list says that another follows."""
    head = bytearray(tarfile.TarInfo("set/a").tobuf(tarfile.GNU_FORMAT))
    head[156:157], head[482] = tarfile.GNUTYPE_SPARSE, 1
    head[148:156] = b"%06o\0 " % tarfile.calc_chksums(head)[0]
    block = bytearray(b"00000000001\0" * 42 + bytes(8))
    block[504] = 1
    return bytes(head) + bytes(block) * 20_000 + bytes(1024)


LONG = {
    "a name": lambda: long_header(tarfile.GNUTYPE_LONGNAME, bytes(10_000_000)),
    "a link": lambda: long_header(tarfile.GNUTYPE_LONGLINK, bytes(10_000_000)),
    "a comment": lambda: long_header(tarfile.XHDTYPE, bytes(10_000_000)),
    "a comment for all": lambda: long_header(tarfile.XGLTYPE, bytes(10_000_000)),
    "Sun's comment": lambda: long_header(tarfile.SOLARIS_XHDTYPE, bytes(10_000_000)),
    "holes": holes,
    "old holes": old_holes,
}


@pytest.mark.parametrize("what", LONG)
def test_a_tars_headers_do_not_fill_the_memory(tmp_path, what):
    inside, body = with_sentinels(tmp_path), gzip.compress(LONG[what](), 1)
    tracemalloc.start()
    try:
        assert outcome(extract_tar, inside, body) is None
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_a_comment_of_numbers_is_not_searched_for_ever(tmp_path):
    """tarfile looks through a comment by a pattern that takes hours for a million digits (CVE-2024-6232)."""
    body = gzip.compress(long_header(tarfile.XHDTYPE, b"1" * 1_000_000), 1)
    assert outcome(extract_tar, with_sentinels(tmp_path), body) is None


def test_many_members_do_not_fill_the_memory(tmp_path):
    inside, member = with_sentinels(tmp_path), tarfile.TarInfo("set/a")
    member.type = tarfile.DIRTYPE
    body = gzip.compress(member.tobuf() * 8000 + bytes(1024), 1)
    tracemalloc.start()
    try:
        assert outcome(extract_tar, inside, body) == {}
        assert tracemalloc.get_traced_memory()[1] < 8000 * 200
    finally:
        tracemalloc.stop()


def test_of_a_zip_that_swells_no_more_is_unpacked_than_the_limit(tmp_path, monkeypatch):
    unpacked, read = [], zipfile.ZipExtFile.read
    body = packed({"set/a": bytes(50_000_000)})

    def counted(self, count=-1):
        unpacked.append(read(self, count))
        return unpacked[-1]

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    assert outcome(extract_zip, with_sentinels(tmp_path), body, max_bytes=3_000_000) is None
    assert sum(map(len, unpacked)) < 10_000_000


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_flood_of_empty_files_is_refused(tmp_path, kind):
    count, inside = 70_000, with_sentinels(tmp_path)
    if kind == "zip":
        extract, body = extract_zip, raw_zip(*({"name": b"set/%d" % i, "data": b""} for i in range(count)))
    else:
        headers = b"".join(tarfile.TarInfo(f"set/{i}").tobuf() for i in range(70))
        extract, body = extract_tar, gzip.compress(headers * (count // 70) + bytes(1024), 1)
    assert outcome(extract, inside, body, max_bytes=1_000_000) is None


def test_odd_names_in_archives_stay_inside(tmp_path):
    """Such as two that differ by case only, one that comes twice, a line break, a zero byte, a Mac's own."""
    inside = with_sentinels(tmp_path)
    names = [
        "a",
        "A",
        "b\nb",
        "c c ",
        "名字",
        "-rf",
        "a b/-x",
        "2010-09-07 12:23:20",
        "__MACOSX/._a",
        "...",
        "..a",
        "~",
    ]
    content = {f"set/{name}": name.encode() for name in names}
    assert outcome(extract_tar, inside, tar_gz(content)) == {name: name.encode() for name in names}
    assert outcome(extract_zip, inside, zipped(content)) == {name: name.encode() for name in names}
    twice = raw_zip({"data": b"first"}, {"data": b"second"})
    assert outcome(extract_zip, inside, twice) in ({"a": b"first"}, {"a": b"second"}, None)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for body in (b"first", b"second"):
            member = tarfile.TarInfo("set/a")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    assert outcome(extract_tar, inside, file.getvalue()) in ({"a": b"first"}, {"a": b"second"}, None)
    for body, extract in (
        (raw_zip({"name": b"set/a\0/../../../outside"}), extract_zip),
        (tar_gz({"set/a\0/../../../outside": b"x"}), extract_tar),
        (tar_gz({"x": pax("set/x", path="set/a\0/../../../outside")}), extract_tar),
    ):
        found = outcome(extract, inside, body)
        assert found is None or set(found) == {"a"}
    lost = raw_zip({"name": b"set/a"}, {"name": b"set/b/\0.png"})  # without what follows the zero byte: a folder
    assert outcome(extract_zip, inside, lost) is None


def test_an_archive_that_may_unpack_to_much_still_may(tmp_path):
    """Pictures of one colour shrink a hundredfold: a small set of them is no bomb."""
    inside = with_sentinels(tmp_path)
    content = {f"set/{i}": bytes(2_000_000) for i in range(3)}
    for extract, body in ((extract_tar, tar_gz(content)), (extract_zip, packed(content))):
        assert len(body) < 60_000 and set(outcome(extract, inside, body)) == {"0", "1", "2"}


def packed(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in content.items():
            archive.writestr(name, body)
    return file.getvalue()


def test_a_hostile_archive_of_celeba_is_a_sentence(tmp_path):
    celeba(tmp_path / "celeba", folder="elsewhere")
    for body in (raw_zip({"name": b"a"}, {"name": b"a/b"}), raw_zip({"name": b"../a"}), raw_zip({"method": 12}), b"x"):
        (tmp_path / "celeba" / "img_align_celeba.zip").write_bytes(body)
        before = tree(tmp_path)
        with pytest.raises(DataError, match="img_align_celeba.zip is"):
            load("celeba", "train", 8, data_dir=tmp_path)
        assert tree(tmp_path) == before


# --- Servers ---------------------------------------------------------------------------------------------------------


class Odd(Handler):
    """Handler's manners, and more."""

    def do_GET(self):
        server, manners = self.server, self.server.manners[0]
        server.paths.append(self.path)
        act = getattr(self, "do_" + manners.replace(" ", "_"), None)
        if act is None:
            return super().do_GET()
        server.manners = server.manners[1:] or server.manners
        server.requests.append(self.headers.get("Range"))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")
        act(server.body, int(asked[1]))

    def answer(self, code, body=b"", **headers):
        headers = {"Content_Length": len(body), "ETag": self.server.tag, **headers}
        self.send_response(code)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_500(self, body, start):
        self.answer(500)

    def do_503(self, body, start):
        self.answer(503)

    def do_429(self, body, start):
        self.answer(429)

    def do_403(self, body, start):
        self.answer(403)

    def do_400(self, body, start):
        self.answer(400)

    def do_no_parts(self, body, start):
        self.answer(self.server.code) if self.headers.get("Range") else self.answer(200, body)

    def do_round(self, body, start):
        self.answer(302, Location=self.path)

    def do_to_a_file(self, body, start):
        self.answer(302, Location="file:///etc/passwd")

    def do_to_nowhere(self, body, start):
        self.answer(302, Location="http://[")

    def do_to_another(self, body, start):
        self.answer(302, Location=self.server.other)

    def do_silent(self, body, start):
        self.close_connection = True

    def do_spoilt(self, body, start):
        self.answer(200, body[:1000] + bytes([body[1000] ^ 1]) + body[1001:])

    def do_chunks(self, body, start, cut=False):
        self.answer(200, Content_Length=None, Transfer_Encoding="chunked")
        for place in range(0, len(body), 70_000):
            piece = body[place : place + 70_000]
            if cut and place:
                self.wfile.write(b"%x\r\n" % len(piece) + piece[:100])
                return
            self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def do_chunks_and_a_length(self, body, start):
        self.answer(200, b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n", Transfer_Encoding="chunked")

    def do_chunks_cut(self, body, start):
        self.do_chunks(body, start, cut=True)

    def do_chunks_garbled(self, body, start):
        self.answer(200, b"no number\r\n" + body[:100], Content_Length=None, Transfer_Encoding="chunked")

    def do_slow(self, body, start):
        self.answer(200, Content_Length=len(body))
        for place in range(0, len(body), 30_000):
            time.sleep(0.05)  # less than the timeout, but more than it altogether
            self.wfile.write(body[place : place + 30_000])
            self.wfile.flush()

    def do_other_total(self, body, start):
        self.answer(206, body[start:], Content_Range=f"bytes {start}-{len(body) - 1}/{len(body) + 999}")

    def do_half_part(self, body, start):
        end = (start + len(body)) // 2 + 1
        self.answer(206, body[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(body)}")

    def do_odd_part(self, body, start):
        self.answer(206, body[start:], Content_Range="bytes from here")

    def do_zipped(self, body, start):
        self.answer(200, gzip.compress(body), Content_Encoding="gzip")

    def do_called_zipped(self, body, start):
        self.answer(200, body, Content_Encoding="gzip")

    def do_length(self, body, start):
        self.answer(200, body, Content_Length="9" * 5000)

    def do_no_number(self, body, start):
        self.answer(200, body, Content_Length="many")

    def do_of_files(self, body, start):
        if body := self.server.files.get(self.path):
            self.answer(200, body)
        else:
            self.answer(404)


class OddServer(Server):
    def __init__(self, body: bytes, *manners: str, files: dict[str, bytes] | None = None):
        self.paths, self.files, self.other, self.code = [], files, "", 200
        super().__init__(body, *manners)
        self.RequestHandlerClass = Odd


MD5 = hashlib.md5(BODY).hexdigest()


@pytest.mark.parametrize(
    "manners",
    [
        "spoilt, well",
        "cut, spoilt, well",
        "500, well",
        "503, 503, well",
        "429, well",
        "cut, 400, well",
        "cut, 403, well",
        "cut, 500, well",
        "silent, well",
        "silent, silent, silent, silent, well",
        "chunks",
        "chunks and a length",
        "chunks cut, well",
        "chunks garbled, well",
        "slow",
        "cut, odd part, well",
        "cut, half part, well",
        "cut, half part, half part, well",
        "cut, other total, well",
        "called zipped",
        "zipped, well",
        "no number",
        "length",
        "says less, well",
        "says more, well",
    ],
)
def test_a_server_that_is_well_in_the_end_is_enough(tmp_path, manners):
    with OddServer(BODY, *manners.split(", ")) as server:
        download(server.url, tmp_path / "a", checksum=MD5, **QUICK)
        assert len(server.requests) <= 5
    assert tree(tmp_path) == {"a": BODY}


@pytest.mark.parametrize("manners", ["cut, half part, half part, well", "cut, other total, well", "cut, 400, well"])
def test_a_part_is_no_whole_without_a_checksum_either(tmp_path, manners):
    with OddServer(BODY, *manners.split(", ")) as server:
        try:
            download(server.url, tmp_path / "a", **QUICK)
        except DataError:
            assert not (tmp_path / "a").exists()
        else:
            assert tree(tmp_path) == {"a": BODY}


@pytest.mark.parametrize("code", [400, 403, 412, 501])
def test_a_server_that_refuses_to_continue_is_asked_for_the_whole(tmp_path, code):
    with OddServer(BODY, "cut") as server:
        with pytest.raises(DataError):
            download(server.url, tmp_path / "a", tries=1, **QUICK)
        server.manners, server.code = ["no parts"], code
        download(server.url, tmp_path / "a", **QUICK)
        assert server.requests == [None, "bytes=150000-", None]
    assert tree(tmp_path) == {"a": BODY}


@pytest.mark.parametrize(
    "manners, sentence, tries",
    [
        ("spoilt", "its checksum is not", 2),
        ("zipped", "its checksum is not", 2),
        ("503", "503", 5),
        ("500", "500", 5),
        ("403", "403", 1),
        ("round", "infinite loop", 99),
        ("to a file", "not allowed", 1),
        ("to nowhere", "cannot download", 5),
        ("silent", "without response|closed|reset", 5),
        ("chunks cut", "IncompleteRead|cut", 5),
        ("web page", "is a web page", 1),
    ],
)
def test_a_server_that_is_never_well_is_a_sentence(tmp_path, manners, sentence, tries):
    with OddServer(BODY, manners) as server:
        with pytest.raises(DataError, match=sentence) as error:
            download(server.url + "/a", tmp_path / "a", checksum=MD5, timeout=0.3, pause=0.001)
        assert len(server.requests) <= tries and str(error.value).count("\n") == 0
        assert not (tmp_path / "a").exists()
        if manners == "spoilt":
            assert os.listdir(tmp_path) == []
        server.manners = ["well"]
        download(server.url + "/a", tmp_path / "a", checksum=MD5, **QUICK)
    assert tree(tmp_path) == {"a": BODY}


def test_a_server_may_send_on_to_another(tmp_path):
    with OddServer(BODY, "well") as other, OddServer(BODY, "to another") as server:
        server.other = other.url + "/a b"
        download(server.url, tmp_path / "a", checksum=MD5, **QUICK)
        assert other.paths == ["/a%20b"]
        os.remove(tmp_path / "a")
        server.other = "ftp://127.0.0.1:9/a"
        with pytest.raises(DataError, match="cannot download"):
            download(server.url, tmp_path / "a", **QUICK)
    assert os.listdir(tmp_path) == []


def test_a_damaged_beginning_never_gets_into_the_file(tmp_path):
    rng, (part, tag) = np.random.default_rng(10), (tmp_path / "a.part", tmp_path / "a.part.tag")
    odd = [b"", b"\xff\xfe", '"ж"'.encode(), b'"v1"\r\nX-Header: 1', b"\0\0\0\0", b'"v1" ', b"x" * 70_000]
    tags = [*odd, *damages(rng, b'"v1"', 15), *[b'"v1"'] * 15]
    with OddServer(BODY, "well") as server:
        for text in tags:
            part.write_bytes(damages(rng, BODY[:200_000], 1)[0] if text == b'"v1"' else BODY[:100])
            tag.write_bytes(text)
            download(server.url, tmp_path / "a", checksum=MD5, **QUICK)
            assert tree(tmp_path) == {"a": BODY}, text


def test_a_set_whose_checksum_is_wrong_is_fetched_once_more(tmp_path, monkeypatch, capsys):
    members = {f"horse2zebra/train{side}/{i}.png": png() for side in "AB" for i in range(3)}
    body = zipped(members)
    known = KNOWN["horse2zebra"]._replace(files={"horse2zebra.zip": hashlib.sha256(body).hexdigest()})
    monkeypatch.setitem(KNOWN, "horse2zebra", known)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with OddServer(body, "spoilt", "well") as server:
        assert len(load("horse2zebra", "train", 8, data_dir=tmp_path / "a", data_url=server.url)) == 6
        assert len(server.requests) == 2 and sorted(os.listdir(tmp_path / "a")) == ["cache", "horse2zebra"]
    with OddServer(body, "spoilt") as server:
        with pytest.raises(DataError, match="its checksum is not .*put it at .*horse2zebra.zip"):
            load("horse2zebra", "train", 8, data_dir=tmp_path / "b", data_url=server.url)
        assert os.listdir(tmp_path / "b") == []
    hostile = zipped({**members, "../outside": b"x"})
    monkeypatch.setitem(
        KNOWN, "horse2zebra", known._replace(files={"horse2zebra.zip": hashlib.sha256(hostile).hexdigest()})
    )
    with OddServer(hostile, "well") as server, pytest.raises(DataError, match="is refused"):
        load("horse2zebra", "train", 8, data_dir=tmp_path / "c", data_url=server.url)
    assert not (tmp_path / "c" / "horse2zebra").exists() and sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def handed_out(monkeypatch) -> tuple[str, dict[str, bytes], dict[str, bytes]]:
    """MNIST of 6 pictures and CelebA of 7: {file: bytes} of each, with the checksums that go with them."""
    rng, idx, faces = np.random.default_rng(0), {}, {}
    for split, count in (("train", 6), ("t10k", 4)):
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (count, 28, 28), np.uint8)),
            ("labels-idx1", np.arange(count, dtype=np.uint8)),
        ):
            raw = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            idx[f"{split}-{kind}-ubyte.gz"] = gzip.compress(raw)
    names = [f"{i + 1:06d}.jpg" for i in range(7)]
    faces["img_align_celeba.zip"] = zipped({f"img_align_celeba/{n}": png((40 * i,) * 3) for i, n in enumerate(names)})
    faces["list_attr_celeba.txt"] = "\n".join(["7", "Odd", *(f"{n} {2 * (i % 2) - 1}" for i, n in enumerate(names))])
    faces["list_eval_partition.txt"] = "\n".join(f"{n} {int(i > 4)}" for i, n in enumerate(names))
    faces = {name: body if isinstance(body, bytes) else body.encode() for name, body in faces.items()}
    for name, files in (("mnist", idx), ("celeba", faces)):
        md5s = {file: hashlib.md5(body).hexdigest() for file, body in files.items()}
        assert set(md5s) == set(KNOWN[name].files)
        monkeypatch.setitem(KNOWN, name, KNOWN[name]._replace(files=md5s))
    return idx, faces


def test_mirrors_by_name_by_variable_and_by_a_scripts_flag(tmp_path, monkeypatch, no_curves):
    idx, faces = handed_out(monkeypatch)
    files = {f"/sets/mnist/{file}": body for file, body in idx.items()}
    files |= {f"/sets/celeba/{file}": body for file, body in faces.items()}
    with OddServer(b"", "of files", files=files) as server:
        url = server.url + "/sets/{name}/"
        data = load("celeba", "train", 8, data_dir=tmp_path / "a", data_url=url)
        assert data.images[:, 0, 4, 4].tolist() == [0, 40, 80, 120, 160]
        assert data.attributes[:, 0].tolist() == [0, 1, 0, 1, 0]
        monkeypatch.setenv("DATASETS_URL", url)
        assert load("mnist", "train", 28, data_dir=tmp_path / "b").labels.tolist() == list(range(6))
        monkeypatch.setenv("DATASETS_URL", "http://127.0.0.1:9")  # the flag is before the variable
        flags = (
            "--dataset mnist --image-size 8 --batch-size 4 --nz 2 --ngf 2 --nef 2 --max-steps 1 --device cpu".split()
        )
        vae.main([*flags, "--data-url", url, "--data-dir", str(tmp_path / "c"), "--out", str(tmp_path / "run")])
        assert (tmp_path / "run" / "last.pt").exists()
        assert sorted(server.paths) == sorted([*files, *(path for path in files if "mnist" in path)])


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/sets",
        "/usr/share",
        "C:\\sets",
        "http:/one-slash",
        "http://",
        "http://[",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://a b/",
        "http://" + "x" * 300,
        "//127.0.0.1",
        "javascript:1",
    ],
)
def test_what_is_no_web_address_is_said_at_once(tmp_path, url, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits, though nothing will change"))
    for name in ("facades", "mnist"):
        with pytest.raises(DataError, match="is not a web address|cannot download"):
            load(name, data_dir=tmp_path / "d", data_url=url)
    assert not (tmp_path / "d").exists() or not list((tmp_path / "d").rglob("*.gz*"))


def test_an_address_in_any_script(tmp_path):
    with OddServer(b"", "of files", files={"/%D0%B4%20x/facades.tar.gz": facades_archive(tmp_path)}) as server:
        assert len(load("facades", "train", 8, data_dir=tmp_path / "d", data_url=server.url + "/д x")) == 3
        assert len(load("facades", "train", 8, data_dir=tmp_path / "e", data_url=server.url + "/%D0%B4%20x")) == 3


# --- Several processes -----------------------------------------------------------------------------------------------


def processes(count: int, target, *args) -> list:
    """`count` processes that do `target`(*args) at once -> what each returns, or raises."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(count), context.Queue()

    def work():
        barrier.wait(20)
        try:
            queue.put(target(*args))
        except BaseException as error:
            queue.put(repr(error))

    started = [context.Process(target=work) for _ in range(count)]
    for process in started:
        process.start()
    results = [queue.get(timeout=40) for _ in started]
    for process in started:
        process.join(20)
    return results


def start(target, *args) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=args, daemon=True)
    process.start()
    return process


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["mnist", "celeba"])
def test_two_processes_at_once_fetch_each_file_once(tmp_path, monkeypatch, name):
    files = dict(zip(("mnist", "celeba"), handed_out(monkeypatch), strict=True))[name]

    def work():
        data = load(name, "train", 8, data_dir=tmp_path / "d", data_url=server.url)
        return hashlib.md5(data.images.tobytes()).hexdigest()

    with OddServer(b"", "of files", files={f"/{file}": body for file, body in files.items()}) as server:
        a, b = processes(2, work)
        assert a == b and len(a) == 32
        assert sorted(server.paths) == sorted(f"/{file}" for file in files)
    assert not [path for path in tree(tmp_path) if path.endswith((".part", ".tag", ".tmp", ".lock"))]


def test_a_run_that_is_killed_while_it_downloads_is_continued(tmp_path):
    body = facades_archive(tmp_path, 40) + bytes(300_000)  # gzip takes zeros behind the end for padding
    with OddServer(body, "stall") as server:

        def work():
            load("facades", "train", 8, data_dir=tmp_path / "d", data_url=server.url)

        first, part = start(work), tmp_path / "d" / "facades.tar.gz.part"
        wait_for(lambda: part.exists() and part.stat().st_size > 100_000)
        first.kill()  # it holds the lock, too
        first.join(20)
        have = part.stat().st_size
        server.manners = ["well"]
        assert len(load("facades", "train", 8, data_dir=tmp_path / "d", data_url=server.url)) == 40
        assert server.requests[-1] == f"bytes={have}-"
    assert sorted(os.listdir(tmp_path / "d")) == ["cache", "facades"]


@pytest.mark.skipif(datasets.fcntl is None, reason="no locks on this system")
def test_a_killed_owner_of_a_lock_blocks_no_one(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "warn", lambda text: (tmp_path / f"{os.getpid()} waits").write_text(text))

    def hold(name, seconds):
        with datasets.locked(tmp_path / "set"):
            (tmp_path / name).write_text("")
            time.sleep(seconds)

    owner = start(hold, "first", 1000)
    wait_for((tmp_path / "first").exists)
    waiting = [start(hold, name, 0) for name in ("second", "third")]
    wait_for(lambda: all((tmp_path / f"{process.pid} waits").exists() for process in waiting))
    assert not (tmp_path / "second").exists() and not (tmp_path / "third").exists()
    owner.kill()
    for process in waiting:
        process.join(20)
    assert (tmp_path / "second").exists() and (tmp_path / "third").exists()
    hold("fourth", 0)
    assert not (tmp_path / ".set.lock").exists()


@pytest.mark.skipif(datasets.fcntl is None, reason="no locks on this system")
def test_no_two_processes_hold_a_lock_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "warn", lambda text: None)

    def work():
        for _ in range(40):
            with datasets.locked(tmp_path / "set"):
                os.close(os.open(tmp_path / "held", os.O_CREAT | os.O_EXCL))  # fails where it exists
                time.sleep(0.001)
                os.remove(tmp_path / "held")
        return "well"

    assert processes(4, work) == 4 * ["well"]


@pytest.mark.skipif(datasets.fcntl is None, reason="no locks on this system")
def test_four_processes_at_once_decode_each_picture_once(tmp_path, monkeypatch):
    for i in range(40):
        picture(tmp_path / "mine" / "train" / f"{i:02}.png", colour=(i, i, i))
    read_picture, log = datasets.read_picture, tmp_path / "log"

    def logged(paths, *how):
        with open(log, "a") as file:
            file.write(f"{os.path.basename(paths[0])}\n")
        return read_picture(paths, *how)

    monkeypatch.setattr(datasets, "read_picture", logged)
    results = processes(
        4, lambda: load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d").images[:, 0, 0, 0].tolist()
    )
    assert results == [list(range(40))] * 4
    assert sorted(log.read_text().split()) == [f"{i:02}.png" for i in range(40)]
    assert len(os.listdir(tmp_path / "d" / "cache")) == 1


def test_a_run_that_is_killed_while_it_decodes_leaves_nothing_that_counts(tmp_path, monkeypatch):
    for i in range(6):
        picture(tmp_path / "mine" / "train" / f"{i}.png", colour=(i, i, i))
    fill_cache = datasets.fill_cache

    def slow(folder, *how):
        fill_cache(folder, *how)
        (tmp_path / "filled").write_text("")
        time.sleep(1000)

    def work():
        datasets.fill_cache = slow
        load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d")

    first = start(work)
    wait_for((tmp_path / "filled").exists)
    first.kill()
    first.join(20)
    assert any(name.endswith(".tmp") for name in os.listdir(tmp_path / "d" / "cache"))
    data = load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d")
    assert data.images[:, 0, 0, 0].tolist() == list(range(6))
    assert not [name for name in os.listdir(tmp_path / "d" / "cache") if name.endswith((".tmp", ".lock"))]
