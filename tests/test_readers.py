"""datasets.py: every known set, as small as can be but in the layout in which it is handed out, from its archive to a
script's first step; the command's pages, --check and --preview; --resize and --strict.

The colour of a picture tells the truth about it: `codes` reads it back after decoding and resizing.
"""

import hashlib
import importlib
import io
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import log_of
from PIL import Image, ImageDraw, ImageFont
from test_datasets import bad_files, picture, tar_gz, torchvision_set, write_idx
from test_domains import zipped

import datasets
from datasets import KNOWN, load, load_domains

TINY = {  # the smallest networks
    "vae": "--image-size 8 --nz 2",
    "dcgan": "--image-size 16 --nz 2 --ngf 2 --ndf 2",
    "cgan": "--image-size 16 --nz 2 --ngf 2 --ndf 2",
    "wgan": "--image-size 16 --nz 2 --ngf 2 --ndf 2 --n-critic 1",
    "bicyclegan": "--image-size 32 --nz 2 --ngf 2 --ndf 2 --nef 2",
    "cyclegan": "--image-size 32 --ngf 2 --ndf 2 --blocks 1",
    "vaegan": "--image-size 16 --nz 2 --nef 2 --ngf 2 --ndf 2 --fc 4",
    "starGAN": "--image-size 16 --ngf 2 --ndf 2 --blocks 1 --n-critic 1",
}
HANDED_OUT = [name for name, known in KNOWN.items() if known.home]  # all but the built-in ones


@pytest.fixture(autouse=True)
def nothing_from_elsewhere(monkeypatch):
    """No mirror, no folder of the system, and no network: a test that would download fails at once."""
    monkeypatch.delenv("DATASETS_URL", raising=False)
    monkeypatch.setattr(datasets, "DEBIAN", {})
    monkeypatch.setattr(datasets, "download", None)


@pytest.fixture
def d(tmp_path):
    """The data folder."""
    return tmp_path / "d"


@pytest.fixture
def script(request):
    """The module that a test's parameter names, for conftest's `complaint`."""
    return importlib.import_module(request.param)


@pytest.fixture
def one_step(monkeypatch, no_curves, tmp_path, d):
    """one_step("vae", dataset, *flags) -> the set that the script trained on for one step."""

    def one_step(script, dataset, *flags):
        sets, make_loader, out = [], datasets.make_loader, tmp_path / f"run of {script}"
        common = "--max-steps 1 --log-every 1 --batch-size 2 --num-samples 2 --device cpu"
        where = ["--dataset", str(dataset), "--data-dir", str(d), "--out", str(out)]
        with monkeypatch.context() as patch:
            patch.setattr(datasets, "make_loader", lambda *a, **how: sets.append(a[0]) or make_loader(*a, **how))
            importlib.import_module(script).main([*TINY[script].split(), *common.split(), *where, *map(str, flags)])
        (row,) = log_of(out)
        losses = [float(value) for name, value in row.items() if name.startswith("loss") and value]
        assert row["step"] == "1" and losses and np.isfinite(losses).all()
        assert torch.load(out / "last.pt", weights_only=True)["step"] == 1
        return sets[0]

    return one_step


# --- Pictures whose colour is a code, three numbers from 0 to 12, and files of them ----------------------------------


def jpeg(code, width: int = 32, height: int = 32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), tuple(20 * int(c) for c in code)).save(file, "JPEG")
    return file.getvalue()


def jpeg_pair(left, right) -> bytes:
    file, sheet = io.BytesIO(), Image.new("RGB", (64, 32))
    for x, code in ((0, left), (32, right)):
        sheet.paste(tuple(20 * int(c) for c in code), (x, 0, x + 32, 32))
    sheet.save(file, "JPEG")
    return file.getvalue()


def codes(images) -> list:
    """(N, 3, H, W) -> the codes of the pictures, (N, 3); of grey ones (N,)."""
    means = np.asarray(images).mean(axis=(2, 3)) / 20
    assert np.abs(means - np.rint(means)).max() < 0.2  # one colour, the one that was meant
    return np.rint(means).astype(int).squeeze(1 if means.shape[1] == 1 else ()).tolist()


def put(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


# --- The sets as they are handed out: {path in the archive or folder: content} ---------------------------------------


def idx_files(folder: Path) -> dict[str, int]:
    """Picture i is filled with 20 times its label, and i more."""
    numbers = {"train": 12, "test": 5}
    for split, count in numbers.items():
        prefix, labels = {"train": "train", "test": "t10k"}[split], 7 * np.arange(count, dtype=np.uint8) % 10
        images = np.tile((20 * labels + np.arange(count, dtype=np.uint8))[:, None, None], (1, 28, 28))
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return numbers


UNLABELED = np.random.default_rng(1).integers(0, 256, (5, 3, 96, 96), np.uint8)  # of STL-10


CELEBA = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair
Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones
Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie
Young""".split()
PARTITION = [0, 2, 0, 0, 1, 2, 0, 1, 2, 0, 0, 2]  # of picture i: 0 train, 1 val, 2 test
ATTRIBUTES = np.random.default_rng(0).integers(0, 2, (12, 40), np.uint8)
ATTRIBUTES[:, CELEBA.index("Eyeglasses")] = [0, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1]  # two at least of each, in each split
FACES = {f"{i + 1:06d}.jpg": jpeg((i, 12 - i, 0), 178, 218) for i in range(12)}
SIGNS = 2 * ATTRIBUTES.astype(int) - 1


def celeba() -> dict[str, bytes | str]:
    """The files of CelebA's own site, to the last blank."""
    faces = {f"img_align_celeba/{name}": content for name, content in FACES.items()}
    rows = [f"{name} {row[0]} " + " ".join(f"{x:2d}" for x in row[1:]) for name, row in zip(FACES, SIGNS, strict=True)]
    parts = [f"{name} {part}" for name, part in zip(FACES, PARTITION, strict=True)]
    boxes = [f"{name}    95  71  226  313" for name in FACES]
    return {
        "img_align_celeba.zip": zipped({"img_align_celeba/": b"", **faces}),
        "list_attr_celeba.txt": "\r\n".join(["12", " ".join(CELEBA) + " ", *rows, ""]),
        "list_eval_partition.txt": "\r\n".join([*parts, ""]),
        "list_bbox_celeba.txt": "\r\n".join(["12", "image_id x_1 y_1 width height ", *boxes, ""]),
    }


def celeba_of_kaggle(first: str, end: str) -> dict[str, bytes | str]:
    rows = [",".join([name, *map(str, row)]) for name, row in zip(FACES, SIGNS, strict=True)]
    parts = [f"{name},{part}" for name, part in zip(FACES, PARTITION, strict=True)]
    return {f"img_align_celeba/img_align_celeba/{name}": content for name, content in FACES.items()} | {
        "list_attr_celeba.csv": end.join([",".join([first, *CELEBA]), *rows, ""]),
        "list_eval_partition.csv": end.join(["image_id,partition", *parts]),  # no line end after the last row
        "list_bbox_celeba.csv": end.join(["image_id,x_1,width", *(f"{name},95,226" for name in FACES)]),
        "list_landmarks_align_celeba.csv": end.join(["image_id,lefteye_x", *(f"{name},69" for name in FACES)]),
    }


PAIRS = {"train": 4, "val": 3, "test": 2}  # how many a tiny copy has of each split


def pix2pix(name: str) -> dict[str, bytes]:
    """Pair i of split k has the code (i, k, 0) on the left and (12, i, k) on the right; of outlines A is grey, i."""
    ending, files = "_AB.jpg" if name.startswith("edges") else ".jpg", {}
    for k, split in enumerate(split for split in PAIRS if split in KNOWN[name].images):
        for i in range(1, 1 + PAIRS[split]):
            left = (i, i, i) if name.startswith("edges") else (i, k, 0)
            files[f"{name}/{split}/{i}{ending}"] = jpeg_pair(left, (12, i, k))
    return files


DOMAINS = {"trainA": 3, "trainB": 5, "testA": 4, "testB": 2}


def cyclegan(name: str) -> dict[str, bytes]:
    """Picture i of domain k has the code (k, i, 0)."""
    dates = ["2011-07-01 00_00_00", "2010-09-07 12:23:20", "n02381460_2", "00007", "2014-08-01 17_41_55(1)"]
    sides = enumerate(DOMAINS.items())
    return {f"{name}/{side}/{dates[i]}.jpg": jpeg((k, i, 0)) for k, (side, count) in sides for i in range(count)}


POSES = "1_front 2_side 3_back 4_full 7_additional".split()
WHITE = jpeg((12, 12, 12))  # a picture that is not of the set
CLOTHES = {  # item: its classes, each with the part of In-shop's partition
    2: [("MEN", "Denim", "train")],
    10: [("MEN", "Denim", "train"), ("WOMEN", "Dresses", "train")],
    4: [("MEN", "Denim", "test")],
    12: [("WOMEN", "Dresses", "test")],
    20: [("WOMEN", "Tees_Tanks", "train")],
    24: [("WOMEN", "Dresses", "train")],
}
CLOTHES_CLASSES = ["MEN_Denim", "WOMEN_Dresses", "WOMEN_Tees_Tanks"]


def clothes(separator: str) -> dict[str, tuple[bytes, str]]:
    """{name of a picture: (the picture, its part)}: its code is (class, half the item's number, pose)."""
    files = {}
    for item, places in CLOTHES.items():
        for gender, kind, part in places:
            for pose, view in enumerate(POSES[: 3 if item > 4 else 5]):
                name = separator.join([gender, kind, f"id_{item:08d}", f"{gender == 'MEN' or 2:02d}_{view}.jpg"])
                code = CLOTHES_CLASSES.index(f"{gender}_{kind}"), item // 2, pose
                files[name] = jpeg(code), part if part == "train" else ("gallery" if pose else "query")
    return files


def in_shop(folder: str = "img") -> dict[str, bytes | str]:
    """In-shop Clothes Retrieval, not packed; beside its pictures others of the same names."""
    rows = {f"img/{name}": (name.split("/")[2], part) for name, (_, part) in clothes("/").items()}
    lines = [f"{name:<70} {item} {part:<10}" for name, (item, part) in rows.items()]
    lines = [str(len(rows)), "image_name item_id evaluation_status", *lines, ""]
    files = {f"Img/{folder}/{name}": content for name, (content, _) in clothes("/").items()}
    files |= {f"Anno/segmentation/{name}": WHITE for name in clothes("/")}
    return files | {"Eval/list_eval_partition.txt": "\n".join(lines), "README.txt": "In-shop Clothes Retrieval\n"}


def multimodal() -> dict[str, bytes | str]:
    files = {f"images/{name}": content for name, (content, _) in clothes("-").items()}
    for folder in ("segm", "densepose"):
        files |= {f"{folder}/{name[:-4]}_{folder}.png": WHITE for name in clothes("-")}
    return files | {"labels/shape/shape_anno_all.txt": "".join(f"{name} 5 0 0\n" for name in clothes("-"))}


PEOPLE = [  # age, gender, race
    *((100, 0, 0), (1, 1, 2), (19, 0, 1), (20, 1, 4), (26, 1, 3), (39, 0, 2), (40, 1, 0), (59, 0, 3), (60, 1, 1)),
    *((9, 0, 4), (116, 1, 0), (35, 0, 1), (75, 1, 2)),
]
NOT_CALLED_SO = ["39_1_20170116174525125", "61_1_20170109142408075", "61_1_20170109150557335"]  # no race
NOT_CALLED_SO += ["53__0_20170116184028385", "61_3_20170109150557335"]  # of the pictures in the wild


def utkface() -> dict[str, bytes]:
    """The code is (tens of the age, gender, race). Of the odd names two tell all, five do not, one is no picture's."""
    names = [f"{age}_{gender}_{race}_20170112213500{i:03d}.jpg" for i, (age, gender, race) in enumerate(PEOPLE)]
    names += ["24_0_1_20170116220224657 .jpg", "55_0_0_20170116232725357jpg"]
    told = [*PEOPLE, (24, 0, 1), (55, 0, 0)]
    files = {f"UTKFace/{n}.chip.jpg": jpeg((p[0] // 10, *p[1:])) for n, p in zip(names, told, strict=True)}
    files |= {f"UTKFace/{name}.jpg.chip.jpg": WHITE for name in NOT_CALLED_SO}
    return files | {"UTKFace/44_1_4_20170116235150272.pg": WHITE}


@pytest.fixture
def hand_out(monkeypatch, d):
    """hand_out(name): lays the set into the data folder as it was fetched, not unpacked -> pictures of each split."""

    def of_archive(name: str, members: dict[str, bytes], pack) -> None:
        ((file, _),) = KNOWN[name].files.items()
        put(d, {f"{KNOWN[name].folder if KNOWN[name].reader == 'by hand' else '.'}/{file}": pack(members)})

    def of_torchvision(name: str) -> dict[str, int]:
        import torchvision

        first = name.removesuffix("-unlabeled")
        folder, truth = torchvision_set(first, d / "made", monkeypatch)
        counts = {split: len(labels) for split, (_, labels) in truth.items()}
        if first == "stl10":
            put(folder, {"class_names.txt": "\n".join(datasets.CLASSES["stl10"]), "fold_indices.txt": "0 1 2\n"})
            raw = UNLABELED.transpose(0, 1, 3, 2).tobytes()  # column by column
            put(folder, {"unlabeled_X.bin": raw})
            reader = torchvision.datasets.STL10
            lists = [*reader.train_list[:2], ["unlabeled_X.bin", hashlib.md5(raw).hexdigest()]]
            monkeypatch.setattr(reader, "train_list", lists)
            counts = counts | {"unlabeled": 5} if name == "stl10" else {"train": 5, "test": counts["test"]}
            monkeypatch.setitem(KNOWN, "stl10-unlabeled", KNOWN["stl10-unlabeled"]._replace(files=KNOWN["stl10"].files))
        monkeypatch.setitem(KNOWN, name, KNOWN[name]._replace(images=counts))
        of_archive(name, {f"{folder.name}/{file.name}": file.read_bytes() for file in folder.iterdir()}, tar_gz)
        shutil.rmtree(d / "made")
        return counts

    def hand_out(name: str) -> dict[str, int]:
        reader = KNOWN[name].reader
        if reader == "idx":
            return idx_files(d / KNOWN[name].folder)
        if reader == "torchvision":
            return of_torchvision(name)
        if reader == "pix2pix":
            of_archive(name, pix2pix(name), tar_gz)
            return {split: count for split, count in PAIRS.items() if split in KNOWN[name].images}
        if reader == "cyclegan":
            of_archive(name, cyclegan(name), zipped)
            return {split: DOMAINS[f"{split}A"] + DOMAINS[f"{split}B"] for split in ("train", "test")}
        if name == "celeba":
            put(d / "celeba", celeba())
            return {"train": 6, "val": 2, "test": 4}
        if name == "utkface":
            of_archive(name, utkface(), tar_gz)
            return {"train": 13, "test": 2}
        parts = [part for _, part in clothes("/").values()]
        if name == "deepfashion-inshop":
            files = in_shop()
            members = {n.removeprefix("Img/"): files.pop(n) for n in list(files) if n.startswith("Img/")}
            put(d / name, {"Img/img.zip": zipped(members), **files})
            return {"train": parts.count("train"), "test": len(parts) - parts.count("train")}
        files = multimodal()
        members = {n: files.pop(n) for n in list(files) if n.startswith("images/")}
        put(d / name, {"images.zip": zipped(members), **files})
        return {"train": len(parts) - 9, "test": 9}  # three pictures each of item 10, twice, and of item 20

    return hand_out


# --- Every reader, from what is handed out to a script's first step --------------------------------------------------


@pytest.mark.parametrize("name, script", [("mnist", "vae"), ("fashion-mnist", "cgan"), ("mnist", "wgan")])
def test_idx_files(one_step, hand_out, d, name, script):
    numbers = hand_out(name)
    assert len(one_step(script, name)) == 12
    for split, side in (("train", 28), ("test", 32), ("val", 28)):
        data = load(name, split, side, data_dir=d)
        i = np.arange(numbers["train" if split == "train" else "test"])
        assert data.images.shape[1:] == (1, side, side) and data.labels.tolist() == (7 * i % 10).tolist()
        assert (data.images == (20 * (7 * i % 10) + i)[:, None, None, None]).all()
        assert data.classes == datasets.CLASSES[name]


def test_fashion_mnist_of_the_systems_own_package(one_step, d, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "DEBIAN", {"fashion-mnist": str(tmp_path / "debian")})
    idx_files(tmp_path / "debian")
    assert one_step("dcgan", "fashion-mnist").labels[:3].tolist() == [0, 7, 4]
    assert [entry.name for entry in d.iterdir()] == ["cache"]  # nothing is copied
    datasets.main(["fashion-mnist", "--data-dir", str(d)])
    assert f"here     {tmp_path / 'debian'}\n" in capsys.readouterr().out


@pytest.mark.parametrize("name, script", [("cifar10", "dcgan"), ("stl10", "cgan")])
def test_archives_that_torchvision_reads(one_step, hand_out, d, name, script):
    counts = hand_out(name)
    assert len(one_step(script, name)) == counts["train"]
    for split in ("train", "test"):
        data = load(name, split, 16, data_dir=d)
        assert len(data) == counts[split]
        assert data.labels.tolist() == [(7 * i + (split == "test")) % 10 for i in range(len(data))]


def test_stl10s_pictures_without_labels(one_step, hand_out, d):
    hand_out("stl10-unlabeled")
    data = one_step("wgan", "stl10-unlabeled", "--image-size", 96 // 6)
    assert len(data) == 5 and data.labels is None and data.classes == []
    for name, split in (("stl10-unlabeled", "train"), ("stl10", "unlabeled")):
        assert np.array_equal(load(name, split, 96, data_dir=d).images, UNLABELED)
    assert load("stl10-unlabeled", "test", 96, data_dir=d).labels.tolist() == [1, 8, 5, 2]  # those of stl10


def attributes_are_right(data, names=CELEBA) -> list[int]:
    """-> the numbers of the faces."""
    found = codes(data.images)
    assert all(green == 12 - number and blue == 0 for number, green, blue in found)
    numbers = [number for number, _, _ in found]
    assert data.attribute_names == list(names)
    assert np.array_equal(data.attributes, ATTRIBUTES[numbers][:, [CELEBA.index(name) for name in names]])
    if data.names:
        assert [Path(name).name for name in data.names] == [f"{number + 1:06d}.jpg" for number in numbers]
    return numbers


@pytest.mark.parametrize("layout", ["official", "image_id, LF", "no name, CRLF"])
def test_celeba_as_it_is_handed_out(one_step, d, layout, capsys):
    kaggle = {"image_id, LF": ("image_id", "\n"), "no name, CRLF": ("", "\r\n")}
    put(d / "celeba", celeba_of_kaggle(*kaggle[layout]) if layout in kaggle else celeba())
    data = one_step("starGAN", "celeba", "--attributes", "Smiling,Male")
    assert attributes_are_right(data, ["Smiling", "Male"]) == [0, 2, 3, 6, 9, 10]
    for split, numbers in (("train", [0, 2, 3, 6, 9, 10]), ("val", [4, 7]), ("test", [1, 5, 8, 11])):
        assert attributes_are_right(load("celeba", split, (16, 8), data_dir=d)) == numbers
    data = one_step("vaegan", "celeba", "--image-size", 24, "--image-width", 16)
    assert data.images.shape[2:] == (24, 16) and attributes_are_right(data) == [0, 2, 3, 6, 9, 10]
    domains = one_step("cyclegan", "celeba")
    assert domains.names == ("no Eyeglasses", "Eyeglasses")
    assert [[code[0] for code in codes(side.images)] for side in (domains.A, domains.B)] == [[0, 3, 9], [2, 6, 10]]
    messages = capsys.readouterr().err
    assert "6 pictures, but celeba as published has 162770" in messages and "left out" not in messages


def test_celebas_pictures_and_partition_without_the_attributes_are_plain_pictures(one_step, d, tmp_path):
    files = celeba()
    put(tmp_path / "mine", {f"faces/{name}": content for name, content in FACES.items()})
    put(tmp_path / "mine", {"list_eval_partition.txt": files["list_eval_partition.txt"]})
    train, test = one_step("dcgan", tmp_path / "mine"), load(str(tmp_path / "mine"), "test", 8, data_dir=d)
    assert sorted(codes(train.images) + codes(test.images)) == [[i, 12 - i, 0] for i in range(12)]


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.reader == "pix2pix"])
def test_pix2pix_archives(one_step, hand_out, d, name):
    counts, outlines = hand_out(name), name.startswith("edges")
    data = one_step("bicyclegan", name, "--direction", "BtoA")
    assert data.targets.shape[1] == KNOWN[name].channels[0] and data.images.shape[1] == KNOWN[name].channels[1] == 3
    assert codes(data.images) == [[12, i, 0] for i in range(1, 5)]
    here, parts = dict(zip(counts, range(3), strict=False)), ("train", "val", "test")
    for split, found in zip(parts, ("train", "val", "test" if "test" in here else "val"), strict=True):
        data, k = load(name, split, 16, data_dir=d), here[found]
        numbers = range(1, 1 + counts[found])
        assert codes(data.images) == [i if outlines else [i, k, 0] for i in numbers]
        assert codes(data.targets) == [[12, i, k] for i in numbers]
        assert data.names == [f"{found}/{i}{'_AB' if outlines else ''}.jpg" for i in numbers]


def test_a_pix2pix_set_as_two_domains(one_step, hand_out):
    hand_out("edges2shoes")
    domains = one_step("cyclegan", "edges2shoes")
    assert [codes(side.images) for side in (domains.A, domains.B)] == [
        [[i, i, i] for i in range(1, 5)],
        [[12, i, 0] for i in range(1, 5)],
    ]


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.reader == "cyclegan"])
def test_cyclegan_archives(one_step, hand_out, d, name):
    hand_out(name)
    domains = one_step("cyclegan", name)
    assert domains.names == ("A", "B")
    for split, data in (("train", domains), ("test", load_domains(name, "val", 8, data_dir=d))):
        for k, side in enumerate((data.A, data.B)):
            assert sorted(codes(side.images)) == [
                [k + 2 * (split == "test"), i, 0] for i in range(DOMAINS[f"{split}{'AB'[k]}"])
            ]
    data = load(name, "train", 8, data_dir=d)
    assert data.classes == ["A", "B"] and data.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert "trainB/2014-08-01 17_41_55(1).jpg" in data.names and "trainA/2010-09-07 12:23:20.jpg" in data.names


def clothes_are_right(data) -> set[int]:
    """-> the items."""
    items, views = set(), set()
    for name, (kind, half, pose), label in zip(data.names, codes(data.images), data.labels, strict=True):
        gender, category, item, view = re.split("[-/]", name)[-4:]
        assert f"{gender}_{category}" == CLOTHES_CLASSES[kind] == data.classes[label]
        assert int(item.removeprefix("id_")) == 2 * half and view[3:-4] == POSES[pose]
        items.add(2 * half)
        views.add((kind, half, pose))
    assert data.classes == CLOTHES_CLASSES and len(views) == len(data)
    return items


def test_in_shop_clothes(one_step, hand_out, d):
    counts = hand_out("deepfashion-inshop")
    put(d / "deepfashion-inshop", {f"Img/img_highres/{name}": WHITE for name in clothes("/")})
    for split, items in (("train", {2, 10, 20, 24}), ("test", {4, 12}), ("val", {4, 12})):
        data = load("deepfashion-inshop", split, 8, data_dir=d)
        assert clothes_are_right(data) == items and len(data) == counts["train" if split == "train" else "test"]
    data = one_step("vaegan", "deepfashion-inshop")
    assert len(data) == counts["train"]
    domains = one_step("cyclegan", "deepfashion-inshop", "--classes", "WOMEN_Dresses,MEN_Denim")
    assert domains.names == ("WOMEN_Dresses", "MEN_Denim")
    assert [{code[0] for code in codes(side.images)} for side in (domains.A, domains.B)] == [{1}, {0}]
    for root in ("Img", "Img/img"):  # a path to the pictures alone: there every tenth item is for the test
        assert clothes_are_right(load(str(d / "deepfashion-inshop" / root), "test", 8, data_dir=d)) == {10, 20}


def test_in_shop_clothes_of_which_only_the_large_pictures_are_there(d):
    put(d / "deepfashion-inshop", in_shop("img_highres"))
    assert clothes_are_right(load("deepfashion-inshop", "test", 8, data_dir=d)) == {4, 12}


def test_in_shop_clothes_beside_many_other_pictures(d):
    others = {f"Anno/segmentation/{i:04d}.png": WHITE for i in range(25)}  # which come first, by name
    put(d / "deepfashion-inshop", in_shop() | others)
    assert clothes_are_right(load("deepfashion-inshop", "test", 8, data_dir=d)) == {4, 12}


def test_in_shop_clothes_in_the_folder_that_they_come_in(d):
    put(d / "deepfashion-inshop" / "In-shop Clothes Retrieval Benchmark", in_shop())
    assert clothes_are_right(load("deepfashion-inshop", "test", 8, data_dir=d)) == {4, 12}


def test_multimodal_clothes(one_step, hand_out, d):
    counts = hand_out("deepfashion-multimodal")
    train, test = (load("deepfashion-multimodal", split, 8, data_dir=d) for split in ("train", "test"))
    assert clothes_are_right(train) == {2, 4, 12, 24} and clothes_are_right(test) == {10, 20}  # all views of an item
    assert [len(train), len(test)] == [counts["train"], counts["test"]]
    data = one_step("starGAN", "deepfashion-multimodal")
    assert data.attribute_names == CLOTHES_CLASSES
    assert data.attributes.tolist() == np.eye(3, dtype=int)[[code[0] for code in codes(data.images)]].tolist()


def test_utkface(one_step, hand_out, d, capsys):
    counts = hand_out("utkface")
    for split in ("train", "test"):
        data = load("utkface", split, 8, data_dir=d)
        for name, (tens, gender, race), row in zip(data.names, codes(data.images), data.attributes, strict=True):
            age = int(Path(name).name.split("_")[0])
            assert Path(name).name.startswith(f"{age}_{gender}_{race}_") and age // 10 == tens
            ages = [age < 20, 20 <= age < 40, 40 <= age < 60, 60 <= age]
            assert row.tolist() == [gender == 0, *ages, *(race == k for k in range(5))]
        assert len(data) == counts[split]
    names = "Male Age_0-19 Age_20-39 Age_40-59 Age_60+ White Black Asian Indian Other"
    assert data.attribute_names == names.split()
    assert "left out 5 of 18 files: UTKFace/39_1_20170116174525125.jpg.chip.jpg (not called" in capsys.readouterr().err
    data = one_step("starGAN", "utkface", "--attributes", "Male,Age_60+")
    assert data.attributes.tolist() == [[1 - gender, tens >= 6] for tens, gender, _ in codes(data.images)]


def test_a_face_that_is_there_twice_is_on_one_side_only(d):
    files = utkface()
    put(d / "utkface", files | {name.replace("UTKFace/", "crop_part1/"): files[name] for name in list(files)[::2]})
    train, test = ({Path(name).name for name in load("utkface", s, 8, data_dir=d).names} for s in ("train", "test"))
    assert not train & test and len(train | test) == 15


# --- A user's own folders --------------------------------------------------------------------------------------------


def test_two_domains_of_utkface_by_an_attribute(d, tmp_path):
    put(tmp_path / "mine", {Path(name).name: content for name, content in utkface().items()})
    domains = load_domains(str(tmp_path / "mine"), "train", 8, attribute="Male", data_dir=d)
    for side, gender in ((domains.A, 1), (domains.B, 0)):
        assert {code[1] for code in codes(side.images)} == {gender}


@pytest.mark.parametrize("sides", ["trainA testA", "A/train A/test", "A A"])
def test_pairs_in_two_folders(one_step, tmp_path, sides):
    numbers = [range(1, 8), range(8, 11)] if sides != "A A" else [[*range(2, 11), 12], [1, 11]]  # there each tenth
    for side, of_split in zip(sides.split(), numbers, strict=True):
        for i in of_split:
            put(tmp_path / "mine" / side, {f"{i:02d}.jpg": jpeg((i, 0, 0))})
            picture(tmp_path / "mine" / side.replace("A", "B") / f"{i:02d}.png", colour=(0, 20 * i, 0))
    data = one_step("bicyclegan", tmp_path / "mine", "--direction", "BtoA")
    assert codes(data.images) == [[0, i, 0] for i in numbers[0]]
    assert codes(data.targets) == [[i, 0, 0] for i in numbers[0]]


def test_class_folders_in_splits_a_flat_folder_and_a_csv(one_step, d, tmp_path):
    kinds = ["cat", "dog", "eel"]
    for k, split in enumerate(("train", "val", "test")):
        for c, kind in enumerate(kinds):
            put(tmp_path / "kinds", {f"{split}/{kind}/{i}.jpg": jpeg((c, k, i)) for i in range(2 + k)})
    data = one_step("cgan", tmp_path / "kinds")
    assert data.classes == kinds and [[label, 0] for label in data.labels] == [code[:2] for code in codes(data.images)]
    for k, split in enumerate(("train", "val", "test")):
        data = load(str(tmp_path / "kinds"), split, 8, data_dir=d)
        assert len(data) == 3 * (2 + k)
        assert [[label, k] for label in data.labels] == [code[:2] for code in codes(data.images)]
    put(tmp_path / "flat", {f"{i:02d}.jpg": jpeg((i, 0, 0)) for i in range(12)})
    data = one_step("dcgan", tmp_path / "flat")
    assert [code[0] for code in codes(data.images)] == [i for i in range(12) if i % 10] and data.labels is None
    rows = [f"{i:02d}.jpg,{i % 2},{int(i > 5)}" for i in range(11, -1, -1)]
    put(tmp_path / "flat", {"truth.csv": "\n".join(["file,Odd,Late", *rows])})
    data = one_step("starGAN", tmp_path / "flat")
    numbers = [code[0] for code in codes(data.images)]
    assert numbers == [i for i in range(12) if i % 10] and data.attribute_names == ["Odd", "Late"]
    assert data.attributes.tolist() == [[i % 2, i > 5] for i in numbers]


# --- python datasets.py NAME -----------------------------------------------------------------------------------------


@pytest.fixture
def command(d, capsys):
    """command(*arguments) -> what `python datasets.py` prints; `status` is the exit status it must have."""

    def command(*arguments, status=0):
        capsys.readouterr()
        try:
            datasets.main([*map(str, arguments), "--data-dir", str(d)])
            found = 0
        except SystemExit as stop:
            found = stop.code
        printed = capsys.readouterr()
        assert found == status and "Traceback" not in printed.err
        return printed.err if status == 2 else printed.out

    return command


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in HANDED_OUT])
def test_the_page_of_a_set_that_is_drawn_here(command, name):
    page = command(name)
    assert all(f"{count} {split}" in page for split, count in KNOWN[name].images.items())
    assert "  licence  MIT\n" in page and "  here     drawn here\n" in page and "get it" not in page


@pytest.mark.parametrize("name", HANDED_OUT)
def test_the_page_of_a_set_before_and_after_it_is_here(command, hand_out, d, name):
    known = KNOWN[name]
    page = command(name)
    assert page.startswith(f"{name}\n  what     {known.what} (")
    assert all(f"{count} {split}" in page for split, count in known.images.items())
    assert f"  licence  {known.licence}\n" in page and f"  from     {known.home}\n" in page
    assert f"  size     {known.size}\n" in page and all(file in page for file in known.files)
    assert all(f"{script}: {datasets.USES[script]}" in page for script in known.scripts.split(", "))
    assert "  here     no\n" in page
    (how,) = re.findall(r"  get it   (.+)\n", page)
    assert how == datasets.how_to_get(name, d) and str(d) in how
    files = ["{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz"] if known.reader == "idx" else known.files
    assert all(file in how for file in files)
    assert ("terms you have to agree to" in how) == (known.reader == "by hand")
    assert f"{name} is not here, so there is nothing to check" in command(name, "--check", status=2)
    assert not d.exists()  # asking makes nothing

    counts = hand_out(name)
    if not (d / known.folder).exists():
        (archive,) = KNOWN[name].files
        page = command(name)
        assert f"  here     {d / archive}, not unpacked yet\n" in page and "get it" not in page
        assert not re.search(r"^  \w+ +\d+ (pictures|pairs);", page, re.MULTILINE)
        assert not (d / known.folder).exists()  # asking unpacks nothing
    checked = command(name, "--check", status=int(name == "utkface"))  # of which some names are bad
    assert name == "utkface" or checked.endswith(f"\n{sum(counts.values())} pictures, none bad\n")
    page = command(name)
    assert f"  here     {d / known.folder}\n" in page and "get it" not in page
    for split, count in counts.items():
        assert re.search(rf"^  {split:8} {count} (pictures|pairs); ", page, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.reader == "by hand"])
def test_a_page_unpacks_no_archive_that_was_fetched_by_hand(command, hand_out, d, name):
    hand_out(name)
    before = sorted(d.rglob("*"))
    page = command(name)
    archive = next(file for file in KNOWN[name].files if file.endswith((".zip", ".tar.gz")))
    assert f"  here     {d / name / archive}, not unpacked yet\n" in page and sorted(d.rglob("*")) == before


@pytest.mark.parametrize(
    "name, file",
    [
        ("celeba", "celeba/list_attr_celeba.txt"),
        ("celeba", "list_attr_celeba.txt"),
        ("mnist", "train-images-idx3-ubyte.gz"),
    ],
)
def test_a_file_without_the_others_or_in_another_place_is_not_the_set(command, d, name, file):
    put(d, {file: "something"})
    page = command(name)
    assert "  here     no\n" in page and f"get it   {datasets.how_to_get(name, d)}\n" in page


# --- --check ---------------------------------------------------------------------------------------------------------


def faults(printed: str) -> list[str]:
    """The bad files that --check names, without the reasons."""
    return [line[4:].rpartition(": ")[0] for line in printed.splitlines() if line.startswith("    ")]


def seven_bad(folder: Path) -> list[str]:
    folder.mkdir()
    bad_files(folder)
    (folder / "g_photo.heic").write_bytes(b"a telephone's picture")
    return ["a_text.jpg", "b_cut.jpg", "c_empty.png", "d_link.png", "e_folder.png", "f_bomb.png", "g_photo.heic"]


@pytest.mark.parametrize("layout", ["pairs", "domains", "classes", "flat"])
def test_check_names_every_bad_file_of_every_split(command, tmp_path, layout):
    root, splits = tmp_path / "mine", ("train", "val", "test")
    folders = {
        "pairs": splits,
        "domains": [split + side for split in splits for side in "AB"],
        "classes": [f"{split}/{kind}" for split in splits for kind in "xy"],
        "flat": ["."],
    }[layout]
    content = jpeg_pair((1, 2, 3), (3, 2, 1)) if layout == "pairs" else jpeg((1, 2, 3))
    for folder in folders:
        put(root / folder, {f"{i}.jpg": content for i in range(3)})
    good = 3 * len(folders)
    assert command(root, "--check").endswith(f"\n{good} pictures, none bad\n")
    names = seven_bad(tmp_path / "bad")
    for folder in folders:
        shutil.copytree(tmp_path / "bad", root / folder, symlinks=True, dirs_exist_ok=True)
    page = command(root, "--check", status=1)
    wanted = [f"{folder}/{name}".removeprefix("./") for folder in folders for name in names]
    assert sorted(faults(page)) == sorted(wanted)
    assert page.endswith(f"\n{good + len(wanted)} pictures, {len(wanted)} bad\n")
    for reason in ("a_text.jpg: not a picture", "c_empty.png: empty", "d_link.png: a link to nowhere"):
        assert reason in page
    for reason in ("e_folder.png: not a file", "f_bomb.png: 16000x8000 is too large", "convert it to PNG or JPEG"):
        assert reason in page


def test_check_names_pictures_that_do_not_fit_the_layout(command, tmp_path):
    root = tmp_path / "pairs"
    put(root, {f"train/{i}.jpg": jpeg_pair((1, 2, 3), (3, 2, 1)) for i in range(3)})
    picture(root / "train" / "alone.png", 31, 31)
    assert faults(command(root, "--check", status=1)) == ["train/alone.png"]


@pytest.mark.parametrize("layout", ["csv", "utkface"])
def test_check_names_and_counts_each_fault_of_all_splits_once(command, tmp_path, layout):
    root = tmp_path / "mine"
    if layout == "csv":
        put(root, {f"{i:02d}.jpg": jpeg((i, 0, 0)) for i in range(12)} | {"not listed.jpg": WHITE})
        put(root, {"a.csv": "file,Odd\n" + "".join(f"{i:02d}.jpg,{i % 2}\n" for i in range(12)) + "gone.jpg,1\n"})
        wanted, total = ["gone.jpg", "not listed.jpg"], 14
    else:
        put(root, utkface())
        wanted, total = [f"UTKFace/{name}.jpg.chip.jpg" for name in sorted(NOT_CALLED_SO)], 20
    page = command(root, "--check", status=1)
    assert sorted(faults(page)) == wanted and page.endswith(f"\n{total} pictures, {len(wanted)} bad\n")


def test_check_of_a_known_set(command, hand_out, d):
    hand_out("horse2zebra")
    page = command("horse2zebra", "--check")
    assert "train    8 pictures; classes; A 3  B 5\n" in page and page.endswith("14 pictures, none bad\n")
    put(d / "horse2zebra", {"testB/broken.jpg": b"nothing", "trainA/broken.jpg": WHITE[:200]})
    assert faults(command("horse2zebra", "--check", status=1)) == ["trainA/broken.jpg", "testB/broken.jpg"]
    put(d / "celeba", celeba())
    assert command("celeba", "--check").endswith("12 pictures, none bad\n")
    (d / "celeba" / "img_align_celeba" / "000003.jpg").write_bytes(b"")
    assert faults(command("celeba", "--check", status=1)) == ["img_align_celeba/000003.jpg"]


# --- --preview -------------------------------------------------------------------------------------------------------


FONT = ImageFont.load_default(11)


def written(text: str, width: int) -> np.ndarray:
    sheet = Image.new("RGB", (width, 14), "white")
    ImageDraw.Draw(sheet).text((0, 0), text, fill="black", font=FONT)
    return np.asarray(sheet)


def cells(path: Path, count: int, width: int, height: int, lines: int = 0, words: tuple = ()) -> list:
    """A contact sheet -> of each cell the picture (height, width, 3), and the lines below it."""
    sheet, found = np.asarray(Image.open(path)), []
    across = 6 + max([width, *(int(FONT.getlength(word)) + 1 for word in words)])
    step = height + 14 * lines + 6
    (rows, rest), columns = divmod(len(sheet) - 6, step), (sheet.shape[1] - 6) // across
    assert rest == 0 and (sheet.shape[1] - 6) % across == 0 and (rows - 1) * columns < count <= rows * columns
    assert sheet.shape[1] <= 1006
    for i in range(count):
        x, y = 6 + i % columns * across, 6 + i // columns * step
        below = [sheet[y + height + 1 + 14 * k :][:14, x : x + across - 6] for k in range(lines)]
        found.append((sheet[y : y + height, x : x + width], below))
    return found


def test_a_preview_of_classes_says_the_class_below_each_picture(command, d, tmp_path):
    root, kinds = tmp_path / "mine", ["cat", "dog", "a long name"]
    for c, kind in enumerate(kinds):
        put(root, {f"{split}/{kind}/{i}.jpg": jpeg((c, i // 2, 7)) for split in ("train", "test") for i in range(15)})
    printed = command(root, "--preview", tmp_path / "a.png", "--image-size", 20, "--split", "test")
    assert f"{tmp_path / 'a.png'}: test\n" in printed and "a long name 15  cat 15  dog 15" in printed
    order = codes(load(str(root), "test", 20, data_dir=d).images)
    spread = [order[int(i)] for i in np.linspace(0, 44, 40)]  # 40 of 45
    for (shown, (below,)), (c, half, _) in zip(cells(tmp_path / "a.png", 40, 20, 20, 1, kinds), spread, strict=True):
        assert np.abs(shown.astype(int) - [20 * c, 20 * half, 20 * 7]).max() < 4
        assert np.array_equal(below, written(kinds[c], below.shape[1])) and (below < 128).any()


def test_a_preview_is_resized_as_asked_for(command, tmp_path):
    put(tmp_path / "mine", {f"{i}.jpg": jpeg((0, 0, i), 64, 32) for i in range(4)})
    for resize, white in (("crop", 0), ("stretch", 0), ("pad", 10)):
        command(tmp_path / "mine", "--preview", tmp_path / "a.png", "--image-size", 20, "--resize", resize)
        for shown, _ in cells(tmp_path / "a.png", 3, 20, 20):
            assert (shown[:, :, 0] == 255).all(axis=1).sum() == white


def test_a_preview_of_attributes_lists_those_that_are_true(command, tmp_path):
    names, root = ["Odd", "Late", "Third"], tmp_path / "mine"
    truth = [[i % 2, int(i > 5), int(i % 3 == 0)] for i in range(12)]
    put(root, {f"train/{i:02d}.jpg": jpeg((i, 0, 0)) for i in range(12)})
    rows = [f"{i:02d}.jpg,{','.join(map(str, row))}" for i, row in enumerate(truth)]
    put(root, {"a.csv": "\n".join([",".join(["file", *names]), *rows])})
    command(root, "--preview", tmp_path / "a.png", "--image-size", 20)
    for i, (shown, below) in enumerate(cells(tmp_path / "a.png", 12, 20, 20, 3, names)):
        assert np.abs(shown.astype(int) - [20 * i, 0, 0]).max() < 4
        lines = [name for name, value in zip(names, truth[i], strict=True) if value] or ["none"]
        for text, line in zip([*lines, "", ""], below, strict=False):
            assert np.array_equal(line, written(text, line.shape[1]))


def test_a_preview_of_pairs_shows_a_beside_b(command, hand_out, tmp_path):
    for name, k in (("edges2shoes", 1), ("maps", 1)):
        hand_out(name)
        command(name, "--preview", tmp_path / "a.png", "--image-size", 20, "--split", "val")
        for i, (shown, _) in enumerate(cells(tmp_path / "a.png", 3, 40, 20), 1):
            left = (i, i, i) if name == "edges2shoes" else (i, k, 0)
            assert codes(shown[None, :, :20].transpose(0, 3, 1, 2)) == [list(left)]
            assert codes(shown[None, :, 20:].transpose(0, 3, 1, 2)) == [[12, i, k]]


# --- --resize and --strict -------------------------------------------------------------------------------------------

BOXES = {  # (width, height) of a picture, (height, width) of the result: the part that is cut, its place when padded
    ((24, 8), (8, 8)): ((8, 0, 16, 8), (0, 2, 8, 5)),
    ((24, 8), (8, 16)): ((4, 0, 20, 8), (0, 1, 16, 6)),
    ((24, 8), (16, 8)): ((10, 0, 14, 8), (0, 6, 8, 9)),
    ((24, 8), (8, 24)): ((0, 0, 24, 8), (0, 0, 24, 8)),
    ((8, 24), (8, 8)): ((0, 8, 8, 16), (2, 0, 5, 8)),
    ((8, 24), (8, 16)): ((0, 10, 8, 14), (6, 0, 9, 8)),
    ((8, 24), (16, 8)): ((0, 4, 8, 20), (1, 0, 6, 16)),
    ((8, 24), (24, 8)): ((0, 0, 8, 24), (0, 0, 8, 24)),
    ((16, 8), (16, 16)): ((4, 0, 12, 8), (0, 4, 16, 12)),
    ((8, 16), (16, 16)): ((0, 4, 8, 12), (4, 0, 12, 16)),
    ((8, 8), (16, 8)): ((2, 0, 6, 8), (0, 4, 8, 12)),
}


def resized(picture: Image.Image, size: tuple[int, int], resize: str) -> np.ndarray:
    cut, place = BOXES[picture.size, size]
    height, width = size
    sheet = np.full((height, width, 3), 255, np.uint8)
    left, top, right, bottom = place if resize == "pad" else (0, 0, width, height)
    part = picture.crop(cut) if resize == "crop" else picture
    sheet[top:bottom, left:right] = part.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    return sheet.transpose(2, 0, 1)


def test_resizing_pixel_by_pixel(d, tmp_path):
    rng = np.random.default_rng(0)
    for ((width, height), size), resize in itertools.product(BOXES, datasets.RESIZES):  # all in one data folder
        pictures = [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(4)]
        where, beside = tmp_path / f"{width}x{height}", tmp_path / f"twice {width}x{height}"
        for folder in (where / "trainA", where / "trainB", beside / "train"):
            folder.mkdir(parents=True, exist_ok=True)
        for i, one in enumerate(pictures):
            one.save(where / f"train{'AB'[i // 2]}" / f"{i % 2}.png")
        how = {"data_dir": d, "resize": resize}
        wanted = np.stack([resized(one, size, resize) for one in pictures])
        assert np.array_equal(load(str(where), "train", size, **how).images, wanted)
        sets = [load(str(where), "train", size, paired=True, **how)]
        if 2 * width >= 1.5 * height:  # as one file, A beside B
            for i in range(2):
                sheet = np.concatenate([np.asarray(pictures[i]), np.asarray(pictures[2 + i])], axis=1)
                Image.fromarray(sheet).save(beside / "train" / f"{i}.png")
            sets.append(load(str(beside), "train", size, paired=True, **how))
        for data in sets:
            assert np.array_equal(data.images, wanted[:2]) and np.array_equal(data.targets, wanted[2:])
        assert np.array_equal(datasets.read_images(where / "trainB", size, resize=resize)[0], wanted[2:])


def test_each_way_to_resize_has_a_cache_of_its_own(d, tmp_path):
    put(tmp_path / "mine", {f"{i}.jpg": jpeg((i, 0, 0), 64, 32) for i in range(3)})
    white = [
        (load(str(tmp_path / "mine"), "train", 8, data_dir=d, resize=r).images > 250).sum() for r in datasets.RESIZES
    ]
    assert white == [0, 0, 2 * 3 * 8 * 4] and len(list((d / "cache").iterdir())) == 3


def test_a_resize_that_needs_no_resampling_keeps_every_pixel(d, tmp_path):
    for k, (width, height) in enumerate(((12, 8), (8, 12))):
        pixels = np.random.default_rng(k).integers(0, 256, (height, width, 3), np.uint8)
        for i in range(2):
            (tmp_path / f"{k}").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / f"{k}" / f"{i}.png")
        truth, white = pixels.transpose(2, 0, 1), np.full((3, 12, 12), 255, np.uint8)
        white[:, (12 - height) // 2 :, (12 - width) // 2 :][:, :height, :width] = truth
        cut = truth[:, :, 2:10] if width > height else truth[:, 2:10]
        whole = {"crop": ((8, 8), cut), "pad": ((12, 12), white), "stretch": ((height, width), truth)}
        for resize, (size, wanted) in whole.items():
            images, _ = datasets.read_images(tmp_path / f"{k}", size, resize=resize)
            assert all(np.array_equal(image, wanted) for image in images)


def test_grey_pictures_are_padded_with_white_too(d, tmp_path):
    for i in range(3):
        picture(tmp_path / "mine" / f"{i}.png", 16, 8, (0, 0, 0))
    for channels in (1, 3):
        data = load(str(tmp_path / "mine"), "train", 16, data_dir=d, channels=channels, resize="pad")
        assert (data.images[:, :, 4:12] == 0).all()
        assert (data.images[:, :, :4] == 255).all() and (data.images[:, :, 12:] == 255).all()


@pytest.fixture
def wide(tmp_path):
    """Wide pictures that serve every script, as pairs or as two classes; one of the files is bad."""
    for kind in "xy":
        files = {f"{split}/{kind}/{i}.jpg": jpeg((i, 0, 0), 32, 16) for split in ("train", "test") for i in range(4)}
        put(tmp_path / "classes", files)
    pairs = {f"{split}/{i}.jpg": jpeg((i, 0, 0), 64, 16) for split in ("train", "test") for i in range(4)}
    put(tmp_path / "pairs", pairs)
    put(tmp_path, {"classes/train/x/bad.jpg": b"no picture", "pairs/train/bad.jpg": b"no picture"})
    return tmp_path


@pytest.mark.parametrize("script", TINY, indirect=True)
def test_scripts_resize_and_are_strict_when_asked(one_step, complaint, wide, d, script):
    name = script.__name__
    root = wide / ("pairs" if name == "bicyclegan" else "classes")
    last = wide / f"run of {name}" / "last.pt"
    flags = [*TINY[name].split(), "--dataset", root, "--data-dir", d, "--out", last.parent, "--batch-size", 2]
    for _ in range(2):  # before there is a cache, and after
        text = complaint(*flags, "--max-steps", 1, "--resize", "pad", "--device", "cpu", "--strict")
        assert f"{root.name}, train: 1 of " in text and "bad.jpg (not a picture)" in text and text.count("\n") == 1
        assert not last.exists()
    data = one_step(name, root, "--resize", "pad")
    sides = (data.A, data.B) if name == "cyclegan" else (data,)
    for side in sides:
        size = side.images.shape[-1]
        white = (np.asarray(side.images) > 250).all(axis=(0, 1, 3))  # rows
        assert white.tolist() == [not size / 4 <= row < 3 * size / 4 for row in range(size)]
    assert len(side.images) == 4 or len(sides) == 1 and len(side.images) == 8
    text = complaint("--resume", last, "--max-steps", 2, "--resize", "crop")
    assert "was trained with --resize pad; leave these flags out" in text
    assert "was trained with --resize pad" in complaint("--sample", last, "--resize", "stretch")
    assert "bad.jpg (not a picture)" in complaint("--resume", last, "--max-steps", 2, "--strict")
    script.main(["--resume", str(last), "--max-steps", "2", "--resize", "pad"])
    assert torch.load(last, weights_only=True)["step"] == 2
