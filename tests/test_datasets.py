"""datasets.py: every way in, the order of an epoch, the cache, hostile files, downloads from a misbehaving server."""

import gzip
import hashlib
import http.server
import io
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from datasets import DataError, ImageSet, augment, download, extract_tar, load, make_loader, to_float, to_uint8

SHARED = Path(__file__).parents[2] / "shared" / "data"
torch.set_num_threads(1)


def real(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"needs the real data in {SHARED / name}")
    return SHARED / name


def picture(path: Path, width: int = 20, height: int = 20, colour=(200, 100, 50), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path, **options)
    return path


def pair(path: Path, size: int = 16, left=(255, 0, 0), right=(0, 0, 255)) -> Path:
    """A is `left` with a white top left corner, B is `right` with a white bottom right corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = np.zeros((size, 2 * size, 3), np.uint8)
    sheet[:, :size], sheet[:, size:] = left, right
    sheet[: size // 2, : size // 2] = sheet[size // 2 :, -size // 2 :] = 255
    Image.fromarray(sheet).save(path)
    return path


def pairs(root: Path, train: int = 4, test: int = 0, val: int = 0) -> Path:
    for split, count in (("train", train), ("test", test), ("val", val)):
        for i in range(count):
            pair(root / split / f"{i}.png")
    return root


def number_set(count: int) -> ImageSet:
    """A set whose image i is filled with the number i."""
    return ImageSet("numbers", "train", np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(4, 3).repeat(4, 2))


def epoch(loader, number: int, skip: int = 0) -> list[list[int]]:
    loader.batch_sampler.set_epoch(number, skip)
    return [batch["image"][:, 0, 0, 0].tolist() for batch in loader]


# --- The order of an epoch -------------------------------------------------------------------------------------------


def test_an_epoch_has_every_image_once_in_an_order_of_seed_and_epoch():
    data = number_set(23)
    first = epoch(make_loader(data, 4, seed=1, drop_last=False), 0)
    assert [len(batch) for batch in first] == [4, 4, 4, 4, 4, 3]
    assert sorted(itertools.chain(*first)) == list(range(23))
    assert first == epoch(make_loader(data, 4, seed=1, drop_last=False), 0)
    assert first != epoch(make_loader(data, 4, seed=1, drop_last=False), 1)
    assert first != epoch(make_loader(data, 4, seed=2, drop_last=False), 0)
    assert epoch(make_loader(data, 4, seed=1), 0) == first[:-1]
    assert epoch(make_loader(data, 23, shuffle=False), 7) == [list(range(23))]


def test_the_order_does_not_depend_on_workers():
    data = number_set(30)
    alone, helped = make_loader(data, 4, seed=3), make_loader(data, 4, seed=3, workers=2)
    for number in (0, 1):
        assert epoch(helped, number) == epoch(alone, number)


@pytest.mark.parametrize("skip", [0, 1, 3, 5])
def test_a_resumed_epoch_is_the_rest_of_the_epoch(skip):
    loader = make_loader(number_set(23), 4, seed=5)
    whole = epoch(loader, 2)
    assert epoch(loader, 2, skip) == whole[skip:]
    assert len(loader) == len(whole) == 5  # of the whole epoch, whatever is skipped


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_share_the_global_batches(world, drop_last):
    data = number_set(29)
    whole = epoch(make_loader(data, 4 * world, seed=9, drop_last=drop_last), 1)
    loaders = [make_loader(data, 4, seed=9, rank=r, world=world, drop_last=drop_last) for r in range(world)]
    parts = [epoch(loader, 1) for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(part) for part in parts]
    for k, batch in enumerate(whole):
        for r, part in enumerate(parts):
            assert (part[k] if k < len(part) else []) == batch[r::world]
    seen = sorted(itertools.chain(*itertools.chain(*parts)))
    assert seen == sorted(itertools.chain(*whole))
    assert drop_last or seen == list(range(29))


def test_a_loader_leaves_the_global_random_numbers_alone():
    loader = make_loader(number_set(8), 4)
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    epoch(loader, 0)
    epoch(loader, 1)
    assert torch.equal(torch.rand(3), wanted)


def test_bad_loaders_are_refused():
    with pytest.raises(DataError, match="more than the 5 images"):
        make_loader(number_set(5), 3, world=2)
    with pytest.raises(DataError, match="positive"):
        make_loader(number_set(5), 0)
    with pytest.raises(DataError, match="not negative"):
        make_loader(number_set(5), 2, seed=-1)


def test_items_and_batches_hold_everything_known():
    n = 6
    data = ImageSet(
        "x",
        "train",
        np.zeros((n, 1, 4, 4), np.uint8),
        targets=np.ones((n, 3, 4, 4), np.uint8),
        labels=np.arange(n),
        attributes=np.eye(n, 2, dtype=np.uint8),
    )
    batch = next(iter(make_loader(data, 4, shuffle=False)))
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == {
        "image": (torch.uint8, (4, 1, 4, 4)),
        "target": (torch.uint8, (4, 3, 4, 4)),
        "label": (torch.int64, (4,)),
        "attributes": (torch.uint8, (4, 2)),
    }
    assert len(data) == n and data[1]["label"] == 1 and data[1]["target"].shape == (3, 4, 4)
    assert list(number_set(3)[2]) == ["image"]


# --- Bytes, floats, augmentation -------------------------------------------------------------------------------------


def test_bytes_become_floats_and_back():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = to_float(every, "cpu")
    assert floats.dtype == torch.float32 and floats.min() == -1 and floats.max() == 1
    assert torch.equal(to_uint8(floats), every)
    assert to_uint8(torch.tensor([-7.0, 0.0, 7.0])).tolist() == [0, 128, 255]


def test_flips_and_crops_are_the_same_for_both_sides_of_a_pair():
    a = torch.arange(40 * 1 * 8 * 8).reshape(40, 1, 8, 8).float()  # every pixel has its own number
    b = torch.cat([a, -a, a + 0.5], dim=1)
    cut_a, cut_b = augment(a, b, crop=5, flip=True, generator=torch.Generator().manual_seed(0))
    assert cut_a.shape == (40, 1, 5, 5) and torch.equal(torch.cat([cut_a, -cut_a, cut_a + 0.5], dim=1), cut_b)
    steps = (cut_a[:, 0, 0, 1] - cut_a[:, 0, 0, 0]).tolist()
    assert set(steps) == {1.0, -1.0}  # some flipped, some not
    corners = cut_a.amin(dim=(1, 2, 3)) - a.amin(dim=(1, 2, 3))
    places = {(int(c) // 8, int(c) % 8) for c in corners}
    assert {y for y, _ in places} == {x for _, x in places} == {0, 1, 2, 3}  # the last row and column can be reached
    assert torch.equal(cut_a.amax(dim=(1, 2, 3)) - cut_a.amin(dim=(1, 2, 3)), torch.full((40,), 4.0 * 8 + 4))


def test_augmentation_of_two_processes_is_that_of_one():
    x = torch.randint(256, (12, 3, 6, 6), dtype=torch.uint8)
    whole = augment(x, crop=4, flip=True, generator=torch.Generator().manual_seed(1))
    for r in range(2):
        part = augment(x[r::2], crop=4, flip=True, rank=r, world=2, generator=torch.Generator().manual_seed(1))
        assert part.dtype == torch.uint8 and torch.equal(part, whole[r::2])


def test_floats_pass_unchanged():
    for kind in (torch.float32, torch.float64):
        points = torch.randn(5, 2, dtype=kind)
        assert torch.equal(to_float(points, "cpu"), points) and to_float(points, "cpu").dtype == kind


def test_uniform_numbers_of_two_processes_are_those_of_one():
    def draw(shape, rank=0, world=1):
        return datasets.draw_uniform(shape, torch.Generator().manual_seed(3), "cpu", rank, world)

    whole = draw((6, 1, 1, 1))
    for world in (2, 3):
        assert all(torch.equal(draw((6 // world, 1, 1, 1), r, world), whole[r::world]) for r in range(world))
    many = draw((20000,))
    assert many.dtype == torch.float32 and 0 <= many.min() < 0.001 and 0.999 < many.max() < 1
    assert abs(many.mean() - 0.5) < 0.01 and abs(many.std() - 12**-0.5) < 0.01


def test_no_augmentation_and_impossible_ones():
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(augment(x), x)
    with pytest.raises(DataError, match="cannot cut 5"):
        augment(x, crop=5)
    with pytest.raises(DataError):
        augment(x, torch.rand(2, 3, 5, 5), crop=2)


# --- Paired folders --------------------------------------------------------------------------------------------------


def test_a_is_left_b_is_right_and_direction_swaps(tmp_path):
    root = pairs(tmp_path / "mine", train=3)
    data = load(str(root), "train", 8, data_dir=tmp_path / "d")
    assert data.images.shape == data.targets.shape == (3, 3, 8, 8)
    assert data.names == ["train/0.png", "train/1.png", "train/2.png"] and data.name == "mine"
    a, b = data.images[0], data.targets[0]
    assert a[:, 1, 1].tolist() == [255, 255, 255] and a[:, 6, 6].tolist() == [255, 0, 0]  # white top left, else red
    assert b[:, 6, 6].tolist() == [255, 255, 255] and b[:, 1, 1].tolist() == [0, 0, 255]  # white low right, else blue
    assert a[:, :, -1].tolist() == [[255] * 8, a[1, :, -1].tolist(), a[1, :, -1].tolist()]  # no blue from B's side
    back = load(str(root), "train", 8, data_dir=tmp_path / "d", direction="BtoA")
    assert np.array_equal(back.images, data.targets) and np.array_equal(back.targets, data.images)
    assert len(list((tmp_path / "d" / "cache").iterdir())) == 1  # both directions share it


def test_channels_follow_the_roles_not_the_sides(tmp_path):
    root = str(pairs(tmp_path / "mine"))
    for direction in ("AtoB", "BtoA"):
        data = load(root, image_size=8, data_dir=tmp_path, direction=direction, input_channels=1)
        assert data.images.shape[1] == 1 and data.targets.shape[1] == 3
        data = load(root, image_size=8, data_dir=tmp_path, direction=direction, channels=1)
        assert data.images.shape[1] == 3 and data.targets.shape[1] == 1


def test_splits_and_what_stands_in_for_them(tmp_path):
    both = str(pairs(tmp_path / "both", 2, test=3, val=4))
    assert [len(load(both, split, 4, data_dir=tmp_path)) for split in ("train", "test", "val")] == [2, 3, 4]
    only_val = str(pairs(tmp_path / "only_val", 2, val=4))
    assert [len(load(only_val, split, 4, data_dir=tmp_path)) for split in ("test", "val")] == [4, 4]
    only_train = str(pairs(tmp_path / "only_train", 2))
    with pytest.raises(DataError, match="no folder test/ for the split 'test': it has train"):
        load(only_train, "test", 4, data_dir=tmp_path)


def test_a_without_b_is_said_in_a_sentence(tmp_path):
    for i in range(3):
        picture(tmp_path / "mine" / "train" / f"{i}.jpg", 20, 20)
    with pytest.raises(DataError, match=r"mine is not a set of pairs, A and B side by side in each file"):
        load(str(tmp_path / "mine"), data_dir=tmp_path, paired=True)


def test_odd_widths_are_bad_files(tmp_path, capsys):
    root = pairs(tmp_path / "mine", train=3)
    picture(root / "train" / "odd.png", 33, 16)
    assert len(load(str(root), image_size=8, data_dir=tmp_path)) == 3
    assert "left out 1 of 4 files: train/odd.png (33x16 is not two" in capsys.readouterr().err


def test_unknown_names_and_options(tmp_path):
    with pytest.raises(DataError, match="unknown data set 'nonsense'.*python datasets.py lists"):
        load("nonsense", data_dir=tmp_path)
    for options in ({"split": "dev"}, {"direction": "AB"}, {"image_size": 0}, {"channels": 4}):
        with pytest.raises(DataError):
            load("faces", data_dir=tmp_path, **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        load(str(tmp_path / "empty"), data_dir=tmp_path)
    (tmp_path / "hollow" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no pictures for the split 'train'"):
        load(str(tmp_path / "hollow"), data_dir=tmp_path)
    picture(tmp_path / "single" / "a.png")
    with pytest.raises(DataError):
        load(str(tmp_path / "single"), data_dir=tmp_path)


# --- Other layouts ---------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path):
    for i in range(20):
        picture(tmp_path / "animals" / "cat" / f"{i:02}.png", colour=(255, 0, 0))
        picture(tmp_path / "animals" / "dog" / "deep" / f"{i:02}.png", colour=(0, 255, 0))
    picture(tmp_path / "animals" / "dog" / "._01.png")  # hidden
    train = load(str(tmp_path / "animals"), "train", 8, data_dir=tmp_path)
    test = load(str(tmp_path / "animals"), "test", 8, data_dir=tmp_path)
    assert train.classes == test.classes == ["cat", "dog"] and train.targets is None
    assert train.labels.tolist() == [0] * 18 + [1] * 18 and test.labels.tolist() == [0, 0, 1, 1]
    assert not set(train.names) & set(test.names)
    assert (train.images[:, 1, 0, 0] == 255).astype(int).tolist() == train.labels.tolist()


def test_a_class_keeps_its_number_in_every_split(tmp_path):
    for split, names in (("train", "xyz"), ("test", "xz")):
        for name, i in itertools.product(names, range(2)):
            picture(tmp_path / "set" / split / name / f"{i}.png")
    assert load(str(tmp_path / "set"), "train", 8, data_dir=tmp_path).labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert load(str(tmp_path / "set"), "test", 8, data_dir=tmp_path).labels.tolist() == [0, 0, 2, 2]
    for name, count in (("x", 1), ("y", 12)):  # the only picture of x goes to the test split
        for i in range(count):
            picture(tmp_path / "whole" / name / f"{i:02}.png")
    data = load(str(tmp_path / "whole"), "train", 8, data_dir=tmp_path)
    assert data.classes == ["x", "y"] and set(data.labels.tolist()) == {1}


def test_class_folders_in_splits_unpaired_domains_and_flat_folders(tmp_path):
    for split, domain, i in itertools.product(("train", "validation"), ("x", "y"), range(3)):
        picture(tmp_path / "parted" / split / domain / f"{i}.png")
        picture(tmp_path / "domains" / f"{split.replace('validation', 'test')}{'AB'['xy'.index(domain)]}" / f"{i}.png")
        picture(tmp_path / "flat" / f"{split}{domain}{i}.png")
    for split in ("train", "test"):
        assert load(str(tmp_path / "parted"), split, 8, data_dir=tmp_path).classes == ["x", "y"]
        data = load(str(tmp_path / "domains"), split, 8, data_dir=tmp_path)
        assert data.classes == ["A", "B"] and data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    data = load(str(tmp_path / "flat"), "train", 8, data_dir=tmp_path)
    assert len(data) == 10 and data.labels is None and data.classes == []


def test_splits_inside_the_classes(tmp_path):
    for name, split, i in itertools.product(("cat", "dog"), ("train", "val"), range(3)):
        picture(tmp_path / "set" / name / split / f"{split}{i}.png")
    for split, found in (("train", "train"), ("test", "val"), ("val", "val")):
        data = load(str(tmp_path / "set"), split, 8, data_dir=tmp_path)
        assert data.names == [f"{name}/{found}/{found}{i}.png" for name in ("cat", "dog") for i in range(3)]
        assert data.classes == ["cat", "dog"] and data.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_class_that_is_new_elsewhere_renumbers_the_cached_ones(tmp_path):
    for i in range(2):
        picture(tmp_path / "set" / "train" / "m" / f"{i}.png")
    assert load(str(tmp_path / "set"), "train", 8, data_dir=tmp_path).labels.tolist() == [0, 0]
    picture(tmp_path / "set" / "test" / "a" / "0.png")
    data = load(str(tmp_path / "set"), "train", 8, data_dir=tmp_path)
    assert data.classes == ["a", "m"] and data.labels.tolist() == [1, 1]


def test_pictures_beside_folders_of_pictures_are_not_lost_in_silence(tmp_path, capsys):
    for name in ("0.png", "1.png", "2.png", "deep/3.png", "deep/er/4.png"):
        picture(tmp_path / "set" / name)
    assert load(str(tmp_path / "set"), "train", 8, data_dir=tmp_path).names == ["1.png", "2.png"]
    assert "left out 2 of 4 files: deep/3.png (in a folder beside pictures), deep/er/4.png" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["trainA", "A/train", "A"])
def test_pairs_in_two_folders(tmp_path, capsys, layout):
    root, names = tmp_path / "set", [f"{i:02}" for i in range(11)]
    folder = {"trainA": "{split}{side}", "A/train": "{side}/{split}", "A": "{side}"}[layout]
    for split in ("train", "test"):
        for side, kind in (("A", "jpg"), ("B", "png")):
            for i, name in enumerate(names):
                colour = (20 * i, 0, 0) if side == "A" else (0, 20 * i, 0)
                picture(root / folder.format(split=split, side=side) / f"{name}.{kind}", 16, 16, colour, quality=100)
    picture(root / folder.format(split="train", side="A") / "alone.png")
    train, test = (load(str(root), split, 8, data_dir=tmp_path, paired=True) for split in ("train", "test"))
    assert "left out 1 of" in (message := capsys.readouterr().err) and "alone.png (no partner)" in message
    expected = (names[1:10], [names[0], names[10]]) if layout == "A" else (names, names)
    for data, wanted in zip((train, test), expected, strict=True):
        assert [Path(name).stem for name in data.names] == wanted
        level = [20 * names.index(name) for name in wanted]
        assert np.abs(data.images[:, 0, 4, 4].astype(int) - level).max() <= 2 and data.images[:, 1:].max() <= 2
        assert data.targets[:, 1, 4, 4].tolist() == level and data.targets[:, ::2].max() == 0
    domains = datasets.load_domains(str(root), "train", 8, data_dir=tmp_path)  # without being asked for, no pairs
    assert domains.names == ("A", "B") and (len(domains.A), len(domains.B)) == ((10, 9) if layout == "A" else (12, 11))


def test_pairs_in_two_folders_that_do_not_fit(tmp_path):
    for side in "AB":
        picture(tmp_path / "other" / f"train{side}" / f"{side}.png")
        picture(tmp_path / "shape" / f"train{side}" / "a.png", width=20 if side == "A" else 30)
        picture(tmp_path / "shape" / f"train{side}" / "b.png")
    with pytest.raises(DataError, match="no picture of A is called as one of B; see trainA/A.png, trainB/B.png"):
        load(str(tmp_path / "other"), "train", 8, data_dir=tmp_path, paired=True)
    with pytest.raises(DataError, match="20x20 and 30x20 have not the same shape"):
        load(str(tmp_path / "shape"), "train", 8, data_dir=tmp_path, paired=True)


def test_wide_pictures_in_one_folder_are_pairs_where_pairs_are_asked_for(tmp_path):
    for i in range(12):
        pair(tmp_path / "set" / f"{i:02}.png")
    data = load(str(tmp_path / "set"), "train", 8, data_dir=tmp_path, paired=True)
    assert len(data) == 10 and data.targets[0, :, 1, 1].tolist() == [0, 0, 255]
    assert load(str(tmp_path / "set"), "train", 8, data_dir=tmp_path).targets is None


@pytest.mark.parametrize("layout", ["flat", "classes", "classes in splits"])
def test_labels_stay_with_their_pictures_when_files_are_bad(tmp_path, capsys, layout):
    root, shades = tmp_path / "mine", {"cat": 40, "dog": 120, "eel": 200}
    for split, (name, shade), i in itertools.product(("train", "test"), shades.items(), range(12)):
        folder = {"flat": root, "classes": root / name, "classes in splits": root / split / name}[layout]
        picture(folder / f"{split}-{name}-{i:02}.png", colour=(shade + i,) * 3)
        if i % 3 == 1:
            (folder / f"{split}-{name}-{i:02}.png").write_text("not a picture")
    for split, again in itertools.product(("train", "test"), ("decoded", "cached")):
        data = load(str(root), split, 8, data_dir=tmp_path / "d")
        assert "left out" in capsys.readouterr().err, again
        shades_seen = data.images[:, 0, 0, 0].astype(int)
        assert len(data) == len(data.names) and data.images.shape[1:] == (3, 8, 8)
        for name, shade in zip(data.names, shades_seen, strict=True):
            _, kind, number = Path(name).stem.split("-")
            assert shade == shades[kind] + int(number)
        if layout == "flat":
            assert data.labels is None and data.classes == [] and list(data[0]) == ["image"]
        else:
            assert data.classes == list(shades) and data.labels.dtype == np.int64
            assert data.labels.tolist() == [(shade - 40) // 80 for shade in shades_seen]
            batch = next(iter(make_loader(data, len(data))))
            assert torch.equal((batch["image"][:, 0, 0, 0].long() - 40) // 80, batch["label"])


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def mnist_folder(folder: Path, suffix: str = ".gz") -> Path:
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 30), ("t10k", 12)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(count, dtype=np.uint8) % 10)
    return folder


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx_files_by_name_and_by_path(tmp_path, suffix):
    folder = mnist_folder(tmp_path / "MNIST" / "raw", suffix)
    data = load("mnist", "train", 28, data_dir=tmp_path)
    assert data.images.shape == (30, 1, 28, 28) and data.labels.tolist() == [i % 10 for i in range(30)]
    assert np.array_equal(data.images[:, 0], np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8))
    assert data.classes == list("0123456789") and len(load("mnist", "test", 28, data_dir=tmp_path)) == 12
    assert load(str(folder), "val", 16, data_dir=tmp_path, channels=3).images.shape == (12, 3, 16, 16)
    mnist_folder(tmp_path / "FashionMNIST" / "raw", suffix)
    assert load("fashion-mnist", "test", 32, data_dir=tmp_path).classes[9] == "Ankle-boot"


def test_damaged_idx_files(tmp_path):
    folder = mnist_folder(tmp_path / "a")
    file = folder / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for damaged in (
        whole[:-100],
        b"nonsense",
        b"",
        gzip.compress(gzip.decompress(whole)[:-5]),
        gzip.compress(bytes([0, 0, 8, 3] + 12 * [0])),
        whole[:50] + whole[51:],
    ):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            load(str(folder), data_dir=tmp_path)
    file.write_bytes(whole)
    file.write_bytes(
        gzip.compress(bytes([0, 0, 8, 3]) + np.array([10**7 + 1, 1, 1], ">u4").tobytes() + bytes(10**7 + 1))
    )
    with pytest.raises(DataError, match="damaged"):  # so many pictures would take hours
        load(str(folder), data_dir=tmp_path)
    file.write_bytes(whole)
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(7, np.uint8))
    with pytest.raises(DataError, match="has 30 images, but .* has 7 labels"):
        load(str(folder), data_dir=tmp_path)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="lacks t10k"):
        load(str(folder), "test", data_dir=tmp_path)


def test_mnist_without_a_network_says_what_to_do(tmp_path):
    file = "train-images-idx3-ubyte.gz"
    with pytest.raises(DataError, match=f"http://127.0.0.1:9/{file} .*put it at {tmp_path}/MNIST/raw/{file}"):
        load("mnist", data_dir=tmp_path, data_url="http://127.0.0.1:9")


def torchvision_set(name: str, data_dir: Path, monkeypatch) -> tuple[Path, dict[str, tuple[np.ndarray, list[int]]]]:
    """A small set of random pictures in torchvision's folder, whose md5s it is made to expect."""
    import torchvision

    rng = np.random.default_rng(0)
    side, count = {"cifar10": (32, 10), "stl10": (96, 4)}[name]
    known = datasets.KNOWN[name]
    folder = data_dir / known.folder
    folder.mkdir(parents=True)
    truth, lists, md5 = {}, {}, {}
    for split in ("train", "test"):
        images = rng.integers(0, 256, (count, 3, side, side), np.uint8)
        labels = [(7 * i + (split == "test")) % 10 for i in range(count)]
        truth[split] = images, labels
        if name == "stl10":
            files = {f"{split}_X.bin": images.transpose(0, 1, 3, 2).tobytes()}  # column by column
            files[f"{split}_y.bin"] = bytes(label + 1 for label in labels)
        else:
            parts = [(f"data_batch_{k + 1}", slice(2 * k, 2 * k + 2)) for k in range(5)]
            parts = parts if split == "train" else [("test_batch", slice(None))]
            files = {n: pickle.dumps({"data": images[k].reshape(-1, 3072), "labels": labels[k]}) for n, k in parts}
        lists[split] = list(files)
        for file, content in files.items():
            (folder / file).write_bytes(content)
            md5[file] = hashlib.md5(content).hexdigest()
    reader = {"cifar10": torchvision.datasets.CIFAR10, "stl10": torchvision.datasets.STL10}[name]
    if name == "cifar10":
        meta = pickle.dumps({"label_names": datasets.CLASSES[name]})
        (folder / "batches.meta").write_bytes(meta)
        monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": hashlib.md5(meta).hexdigest()})
    for split, files in lists.items():
        old = getattr(reader, f"{split}_list")
        assert [file for file, _ in old[: len(files)]] == files  # so the names are torchvision's
        monkeypatch.setattr(reader, f"{split}_list", [[file, md5[file]] for file in files] + old[len(files) :])
    ((archive, md5),) = known.files.items()
    assert (f"{known.home}/{archive}", md5, known.folder) == (reader.url, reader.tgz_md5, reader.base_folder)
    known = known._replace(home="http://127.0.0.1:9", files={archive: ""})  # no network
    monkeypatch.setitem(datasets.KNOWN, name, known)
    return folder, truth


@pytest.mark.parametrize("name, side", [("cifar10", 32), ("stl10", 96)])
def test_torchvisions_sets(tmp_path, monkeypatch, name, side):
    folder, truth = torchvision_set(name, tmp_path, monkeypatch)
    for split in ("train", "test", "val"):
        data = load(name, split, side, data_dir=tmp_path)
        images, labels = truth["train" if split == "train" else "test"]
        assert np.array_equal(data.images, images) and data.labels.tolist() == labels
        assert data.classes == datasets.CLASSES[name] and len(data.classes) == 10
        assert data.labels.dtype == np.int64 and data.split == ("train" if split == "train" else "test")
    assert load(name, image_size=64, data_dir=tmp_path, channels=1).images.shape == (len(images), 1, 64, 64)
    file = folder / {"cifar10": "test_batch", "stl10": "test_X.bin"}[name]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=f"is not {name} as published .*remove it, and fetch http.*gz again"):
        load(name, "test", side, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_torchvisions_archives(tmp_path, monkeypatch, name):
    folder, truth = torchvision_set(name, tmp_path / "made", monkeypatch)
    known = datasets.KNOWN[name]
    (archive,), inner = known.files, known.folder
    d = tmp_path / "d"
    with pytest.raises(DataError, match=f"{known.home}/{archive} .*network and put it at {d}/{archive}"):
        load(name, data_dir=d)
    body = tar_gz({f"{inner}/{file.name}": file.read_bytes() for file in folder.iterdir()})
    (d / archive).write_bytes(body)
    assert load(name, data_dir=d).labels.tolist() == truth["train"][1] and (d / archive).exists()
    shutil.rmtree(d)
    with Server(body, "cut", "well") as server:
        assert load(name, "test", data_dir=d, data_url=server.url).labels.tolist() == truth["test"][1]
    assert sorted(os.listdir(d)) == sorted(["cache", inner])


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_of_another_md5_is_never_opened(tmp_path, monkeypatch):
    folder, _ = torchvision_set("cifar10", tmp_path, monkeypatch)
    for file in folder.iterdir():
        whole = file.read_bytes()
        file.write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
        for split in ("train", "test"):
            with pytest.raises(DataError, match="as published"):
                load("cifar10", split, data_dir=tmp_path)
        file.write_bytes(whole)
    assert not (tmp_path / "ran").exists() and len(load("cifar10", data_dir=tmp_path)) == 10


# --- Points ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", datasets.TOYS)
def test_toys(name, tmp_path):
    data = load(name, data_dir=tmp_path / "d", points=True)
    test = load(name, "val", image_size=1, channels=3, points=True)
    assert (data.split, len(data), test.split, len(test)) == ("train", 10000, "test", 2000)
    assert data.points.dtype == np.float32 and data.points.shape == (10000, 2) and np.abs(data.points).max() < 2.1
    assert not (tmp_path / "d").exists() and np.array_equal(load(name, points=True).points, data.points)
    assert not np.array_equal(data.points[:2000], test.points)
    assert 0.6 < data.points.std() < 1.1 and abs(test.points.std() / data.points.std() - 1) < 0.05
    batch = next(iter(make_loader(data, 64)))["image"]
    assert batch.dtype == torch.float32 and batch.shape == (64, 2) and torch.equal(to_float(batch, "cpu"), batch)
    assert torch.equal(data[5]["image"], torch.from_numpy(data.points[5]))
    assert datasets.fixed_batch(data, 7, "cpu")["image"].shape == (7, 2)
    with pytest.raises(DataError, match="not a set of pairs"):
        load(name, paired=True)
    with pytest.raises(DataError, match="a set of points, not of images"):
        load(name)


def test_toys_have_the_shape_of_their_names():
    ring = datasets.toy("8gaussians", "train", 8000).points * 2**0.5
    angles, counts = np.unique(np.rint(np.arctan2(ring[:, 1], ring[:, 0]) / (np.pi / 4)) % 8, return_counts=True)
    assert angles.tolist() == list(range(8)) and counts.tolist() == 8 * [1000]
    radii = np.hypot(*ring.T)
    assert abs(radii.mean() - 2) < 0.001 and abs(radii.std() - 0.02) < 0.001
    grid = datasets.toy("25gaussians", "train", 10000).points * 8**0.5
    cells, counts = np.unique(np.rint(grid / 2), axis=0, return_counts=True)
    assert cells.tolist() == [[x, y] for x in range(-2, 3) for y in range(-2, 3)] and counts.tolist() == 25 * [400]
    assert abs((grid - 2 * np.rint(grid / 2)).std() - 0.05) < 0.001
    roll = datasets.toy("swissroll", "train", 10000).points * 7.5
    radii, turned = np.hypot(*roll.T), np.arctan2(roll[:, 1], roll[:, 0])
    off = (radii - turned + np.pi) % (2 * np.pi) - np.pi  # on the spiral, the radius is the angle
    assert abs(off.mean()) < 0.01 and 0.24 < off.std() < 0.28
    assert np.abs(np.quantile(radii, (0.01, 0.5, 0.99)) / np.pi - (1.53, 3, 4.47)).max() < 0.1


# --- Built-in sets ---------------------------------------------------------------------------------------------------


def test_built_in_sets(tmp_path, monkeypatch, capsys):
    for name in ("faces", "edges2faces", "digits"):
        monkeypatch.setitem(datasets.KNOWN, name, datasets.KNOWN[name]._replace(images={"train": 12, "test": 6}))
    faces = load("faces", "train", 32, data_dir=tmp_path)
    assert faces.images.shape == (12, 3, 32, 32) and faces.attributes.shape == (12, len(faces.attribute_names))
    assert faces.labels is None and faces.targets is None
    edges = load("edges2faces", "test", 32, data_dir=tmp_path)
    assert edges.images.shape == (6, 1, 32, 32) and edges.targets.shape == (6, 3, 32, 32)
    assert edges.images.mean() > 128  # dark lines on white
    digits = load("digits", "train", 28, data_dir=tmp_path)
    assert digits.images.shape == (12, 1, 28, 28) and digits.labels.dtype == np.int64 and len(digits.classes) == 10
    assert "drawing" in capsys.readouterr().err
    again = load("faces", "train", 32, data_dir=tmp_path)
    assert "drawing" not in capsys.readouterr().err and np.array_equal(again.images, faces.images)
    grey = load("faces", "train", 32, data_dir=tmp_path, channels=1)
    luma = np.tensordot(faces.images, np.array([0.299, 0.587, 0.114]), axes=(1, 0))
    assert np.abs(grey.images[:, 0] - luma).max() <= 1
    swapped = load("edges2faces", "test", 32, data_dir=tmp_path, direction="BtoA", channels=3)
    assert np.array_equal(swapped.images, edges.targets) and np.array_equal(swapped.targets[:, 2], edges.images[:, 0])


# --- Files of every kind ---------------------------------------------------------------------------------------------


def one(path: Path, size: int = 8, channels: int = 3) -> np.ndarray:
    return datasets.read_images(path, size, channels)[0][0].numpy()


def test_every_mode_of_pillow_becomes_8_bit_colour_or_grey(tmp_path):
    rgb = Image.new("RGB", (20, 20), (200, 100, 50))
    made = {
        "cmyk.jpg": (rgb.convert("CMYK"), (200, 100, 50)),
        "palette.png": (rgb.quantize(4), (200, 100, 50)),
        "clear.png": (Image.new("RGBA", (20, 20), (200, 100, 50, 0)), (255, 255, 255)),
        "half.png": (Image.new("RGBA", (20, 20), (0, 0, 0, 128)), (127, 127, 127)),
        "grey.png": (Image.new("L", (20, 20), 77), (77, 77, 77)),
        "grey_alpha.png": (Image.new("LA", (20, 20), (0, 0)), (255, 255, 255)),
        "bits.png": (Image.new("1", (20, 20), 1), (255, 255, 255)),
        "deep.png": (Image.fromarray(np.full((20, 20), 257 * 99, np.uint16)), (99, 99, 99)),
        "deep.tif": (Image.fromarray(np.full((20, 20), 257 * 99, np.int32)), (99, 99, 99)),
        "web.webp": (rgb, (200, 100, 50)),
        "bitmap.bmp": (rgb, (200, 100, 50)),
        "имя 名.png": (rgb, (200, 100, 50)),
        "png_inside.jpg": (rgb, (200, 100, 50)),
    }
    for name, (image, wanted) in made.items():
        image.save(tmp_path / name, format="PNG" if name == "png_inside.jpg" else None)
        pixel = one(tmp_path / name)[:, 4, 4].astype(int)
        assert np.abs(pixel - wanted).max() <= 4, name
        grey = one(tmp_path / name, channels=1)
        assert grey.shape == (1, 8, 8) and abs(int(grey[0, 4, 4]) - np.dot(wanted, (0.299, 0.587, 0.114))) <= 4, name
    transparent_palette = rgb.quantize(4)
    transparent_palette.save(tmp_path / "hole.gif", transparency=transparent_palette.getpixel((0, 0)))
    assert one(tmp_path / "hole.gif")[:, 4, 4].tolist() == [255, 255, 255]


def test_exif_rotation_and_the_middle_square(tmp_path):
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[:, :24] = 255  # white left half
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: the left half comes up
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    turned = one(tmp_path / "turned.jpg", 24)
    assert turned[0, 2, 12] > 250 and turned[0, 21, 12] < 5
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    wide = one(tmp_path / "wide.png", 24)
    assert wide[0, 12, 2] == 255 and wide[0, 12, 21] == 0  # the middle square has both halves
    pair_exif = Image.fromarray(np.rot90(pixels, 1).copy())
    pair_exif.save(tmp_path / "pair.jpg", exif=exif, quality=100)
    a, b = datasets.read_picture([str(tmp_path / "pair.jpg")], (8, 8), (1, 1), "crop")
    assert a.min() > 250 and b.max() < 5


def test_large_jpegs_are_decoded_small_and_still_right(tmp_path):
    y, x = np.mgrid[:512, :1024]
    sheet = np.stack([x % 512 // 2, y // 2, 255 * (x >= 512)], axis=-1).astype(np.uint8)
    Image.fromarray(sheet).save(tmp_path / "big.jpg", quality=95)
    a, b = datasets.read_picture([str(tmp_path / "big.jpg")], (32, 32), (3, 3), "crop")
    ramp = np.linspace(3.5, 251.5, 32)
    for side, blue in ((a, 0), (b, 255)):
        assert np.abs(side[0] - ramp).max() < 6 and np.abs(side[1] - ramp[:, None]).max() < 6
        assert np.abs(side[2].astype(int) - blue).max() < 12


def bad_files(folder: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)).save(whole, "JPEG")
    (folder / "a_text.jpg").write_text("I am a text")
    (folder / "b_cut.jpg").write_bytes(whole.getvalue()[:3000])
    (folder / "c_empty.png").write_bytes(b"")
    (folder / "d_link.png").symlink_to(folder / "nowhere.png")
    (folder / "e_folder.png").mkdir()
    Image.new("1", (16000, 8000)).save(folder / "f_bomb.png")
    (folder / "notes.txt").write_text("not looked at")


def test_bad_files_are_left_out_and_named_in_one_line(tmp_path, capsys):
    root = pairs(tmp_path / "mine", train=5)
    bad_files(root / "train")
    for _ in range(2):  # decoded, then from the cache
        data = load(str(root), image_size=8, data_dir=tmp_path / "d")
        assert data.names == [f"train/{i}.png" for i in range(5)] and len(data.images) == len(data.targets) == 5
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and "left out 6 of 11 files: train/a_text.jpg (not a picture)" in message
        assert "b_cut.jpg" in message and message.rstrip().endswith("...")
    images, names = datasets.read_images(root / "train", 8)
    assert len(images) == len(names) == 5 and "left out 6" in capsys.readouterr().err


def test_too_few_good_files(tmp_path):
    root = pairs(tmp_path / "mine", train=1)
    bad_files(root / "train")
    with pytest.raises(DataError, match="1 usable pictures of 7, at least 2 are needed: .*a_text.jpg"):
        load(str(root), image_size=8, data_dir=tmp_path / "d")
    assert list((tmp_path / "d" / "cache").iterdir()) == []  # nothing half-made is left


def test_damaged_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
    for kind in ("png", "jpg", "bmp", "gif", "webp", "tif"):
        image.save(tmp_path / f"a.{kind}")
        whole = (tmp_path / f"a.{kind}").read_bytes()
        for _ in range(25):
            damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for place in rng.integers(0, len(damaged), 3):
                damaged[place] = rng.integers(256)
            (tmp_path / f"b.{kind}").write_bytes(damaged)
            try:
                assert one(tmp_path / f"b.{kind}").shape == (3, 8, 8)
            except DataError as error:
                assert "holds no picture that can be read" in str(error)


def test_read_images_of_a_user(tmp_path):
    picture(tmp_path / "b.png", colour=(255, 0, 0))
    picture(tmp_path / "a" / "c.png", colour=(0, 255, 0))
    images, names = datasets.read_images(tmp_path, 8)
    assert images.dtype == torch.uint8 and images.shape == (2, 3, 8, 8) and names == ["a/c.png", "b.png"]
    assert datasets.read_images(tmp_path, 8, limit=1)[1] == ["a/c.png"]
    assert datasets.read_images(str(tmp_path / "b.png"), 8, channels=1)[1] == ["b.png"]
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(DataError, match="not a picture"):
        datasets.read_images(tmp_path / "text.png", 8)
    with pytest.raises(DataError, match="no file or folder"):
        datasets.read_images(tmp_path / "absent.png", 8)


def test_a_process_that_dies_while_it_decodes_is_said_in_a_sentence(tmp_path, monkeypatch):
    for i in range(600):  # so many that processes decode them, where there are two cores
        picture(tmp_path / "mine" / "train" / f"{i:03}.png", 2, 2)
    if datasets.sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("decodes in this process")
    monkeypatch.setattr(datasets, "read_picture", lambda *_: os._exit(9))
    with pytest.raises(DataError, match="has died .*enough memory"):
        load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path / "d")
    assert list((tmp_path / "d" / "cache").iterdir()) == []


# --- The cache -------------------------------------------------------------------------------------------------------


def caches(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "cache").iterdir())


def test_a_cache_is_used_and_every_change_makes_another(tmp_path, monkeypatch):
    root, d = pairs(tmp_path / "mine", train=3), tmp_path / "d"
    data = load(str(root), image_size=8, data_dir=d)
    (cache,) = caches(d)
    assert cache.name.startswith("mine-train-8px-")
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "read_picture", None)  # decoding again would fail
        again = load(str(root), image_size=8, data_dir=d)
    assert np.array_equal(again.images, data.images) and np.array_equal(again.targets, data.targets)
    load(str(root), image_size=9, data_dir=d)
    load(str(root), image_size=8, data_dir=d, input_channels=1)
    assert len(caches(d)) == 3
    pair(root / "train" / "1.png", left=(0, 255, 0))
    os.utime(root / "train" / "1.png", ns=(1, 1))
    changed = load(str(root), image_size=8, data_dir=d)
    assert len(caches(d)) == 4 and changed.images[1, :, 6, 6].tolist() == [0, 255, 0]
    pair(root / "train" / "new.png")
    assert len(load(str(root), image_size=8, data_dir=d)) == 4


@pytest.mark.parametrize("damage", ["images.npy", "targets.npy", "meta.json", "gone"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    root, d = str(pairs(tmp_path / "mine", train=3)), tmp_path / "d"
    data = load(root, image_size=8, data_dir=d)
    (cache,) = caches(d)
    if damage == "gone":
        (cache / "targets.npy").unlink()
    else:
        (cache / damage).write_bytes((cache / damage).read_bytes()[:-7])
    assert np.array_equal(load(root, image_size=8, data_dir=d).targets, data.targets)
    assert caches(d) == [cache] and datasets.open_cache(cache) is not None


def test_leftovers_of_a_killed_run_do_no_harm(tmp_path):
    root, d = str(pairs(tmp_path / "mine", train=3)), tmp_path / "d"
    load(root, image_size=8, data_dir=d)
    (cache,) = caches(d)
    cache.rename(cache.with_name(cache.name + ".0123abcd.tmp"))
    assert len(load(root, image_size=8, data_dir=d)) == 3 and cache in caches(d)


def test_another_process_may_be_first(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "images.npy", np.full((2, 1, 2, 2), len(name), np.uint8))
        text = json.dumps({"files": {"images.npy": datasets.seal(tmp_path / name / "images.npy")}})
        (tmp_path / name / "meta.json").write_text(f"{text}\n{zlib.crc32(text.encode())}")
    arrays, _ = datasets.publish_cache(tmp_path / "second", tmp_path / "first")
    assert arrays["images"].max() == len("first")


def load_in_process(root, data_dir, barrier, queue):
    barrier.wait()
    queue.put(hashlib.sha256(load(root, image_size=16, data_dir=data_dir).images.tobytes()).hexdigest())


def test_two_processes_at_once_make_one_cache(tmp_path):
    root = str(pairs(tmp_path / "mine", train=40))
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.Queue()
    both = [context.Process(target=load_in_process, args=(root, tmp_path / "d", barrier, queue)) for _ in range(2)]
    for process in both:
        process.start()
    assert queue.get(timeout=20) == queue.get(timeout=20)
    for process in both:
        process.join()
    assert len(caches(tmp_path / "d")) == 1


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path, capsys):
    root = str(pairs(tmp_path / "mine", train=3))
    (tmp_path / "file").write_text("a file where a folder should be")  # fails for root too, unlike a read-only folder
    assert len(load(root, image_size=8, data_dir=tmp_path / "file")) == 3
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "cannot write" in message and "for this run only" in message


def test_a_disk_that_is_full_is_no_obstacle(tmp_path, monkeypatch, capsys):
    root, saved = str(pairs(tmp_path / "mine", train=3)), datasets.fill_cache

    def full(folder, source, image_size):
        saved(folder, source, image_size)
        if (tmp_path / "d") in folder.parents:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets, "fill_cache", full)
    assert len(load(root, image_size=8, data_dir=tmp_path / "d")) == 3
    assert "No space left" in capsys.readouterr().err and caches(tmp_path / "d") == []


def test_large_sets_stay_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "MMAP_BYTES", 100)
    data = load(str(pairs(tmp_path / "mine", train=5)), image_size=8, data_dir=tmp_path)
    assert isinstance(data.images, datasets.Rows) and isinstance(data.targets, datasets.Rows)
    for workers in (0, 1):
        batch = next(iter(make_loader(data, 4, workers=workers, shuffle=False)))
        assert torch.equal(batch["target"], torch.from_numpy(np.array(data.targets[:4])))
        batch["image"].zero_()  # a copy: writable, and the file stays as it is
    assert np.asarray(data.images).max() == 255


def test_rows_are_an_array_on_the_disk(tmp_path):
    truth = np.random.default_rng(0).integers(0, 256, (9, 3, 4, 4), np.uint8)
    np.save(tmp_path / "a.npy", truth)
    chosen = np.array([7, 1, 1, 4])
    whole = datasets.Rows(tmp_path / "a.npy")
    for rows, array in ((whole, truth), (datasets.choose(whole, chosen), truth[chosen])):
        assert (rows.shape, rows.ndim, rows.size, rows.dtype, len(rows)) == (
            array.shape,
            4,
            array.size,
            "u1",
            len(array),
        )
        for key in (
            1,
            -1,
            slice(1, 3),
            [2, 0, 2],
            array[:, 0, 0, 0] > 90,
            (slice(None), 1),
            (2, 0),
            (slice(0, 3), 0, 1),
        ):
            assert np.array_equal(rows[key], array[key]), key
        assert np.array_equal(rows, array) and np.array_equal(pickle.loads(pickle.dumps(rows)), array)
        assert len(pickle.dumps(rows)) < 500  # its name, not its bytes
        again, odd = datasets.choose(rows, np.arange(len(rows)) % 2 == 1), array[1::2]
        assert isinstance(again, datasets.Rows) and np.array_equal(again, odd)
        joined = datasets.both(rows, again)
        assert isinstance(joined, datasets.Rows) and np.array_equal(joined, np.concatenate([array, odd]))
        assert np.array_equal(datasets.both(rows, odd), np.concatenate([array, odd]))


def test_a_set_on_the_disk_gives_the_batches_of_one_in_memory(tmp_path, monkeypatch):
    for i in range(12):
        picture(tmp_path / "mine" / "train" / "xy"[i % 2] / f"{i:02}.png", colour=(20 * i, 0, 255 - 20 * i))

    def batches(workers):
        domains = datasets.load_domains(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path)
        loader, seen = make_loader(domains, 3, seed=5, workers=workers), []
        for number in (0, 1):
            loader.batch_sampler.set_epoch(number)
            seen += [torch.cat([batch["image"], batch["target"]]) for batch in loader]
        return domains, torch.stack(seen)

    _, in_memory = batches(0)
    monkeypatch.setattr(datasets, "MMAP_BYTES", 0)
    for workers in (0, 2):
        domains, on_disk = batches(workers)
        assert all(isinstance(side.images, datasets.Rows) for side in (domains.A, domains.B, domains.both()))
        assert torch.equal(on_disk, in_memory) and len(on_disk) == 4


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_set_from_files_is_split_over_processes_without_overlap_or_loss(tmp_path, world):
    for i in range(13):
        picture(tmp_path / "mine" / "train" / f"{i:02}.png", colour=(10 * i,) * 3)
    data = load(str(tmp_path / "mine"), "train", 8, data_dir=tmp_path)
    whole = epoch(make_loader(data, 6, seed=3, drop_last=False), 4)
    each = [
        epoch(make_loader(data, 6 // world, seed=3, rank=rank, world=world, workers=rank % 2, drop_last=False), 4)
        for rank in range(world)
    ]
    assert sorted(sum(whole, [])) == [10 * i for i in range(13)]
    assert sorted(sum(sum(each, []), [])) == sorted(sum(whole, []))
    for k in range(2):  # step k of all processes holds the batch k of one
        assert sorted(sum((batches[k] for batches in each), [])) == sorted(whole[k])


# --- Grids -----------------------------------------------------------------------------------------------------------


def test_a_grid_has_a_fixed_range(tmp_path):
    datasets.save_grid(torch.zeros(3, 1, 8, 8), tmp_path / "a" / "grey.png", 2)
    sheet = np.asarray(Image.open(tmp_path / "a" / "grey.png"))
    assert sheet.shape == (2 + 2 * 10, 2 + 2 * 10) and sheet[2, 2] in (127, 128)
    assert sheet[0, 0] == 255 and sheet[15, 15] == 255  # padding, and the empty fourth cell
    assert os.listdir(tmp_path / "a") == ["grey.png"]
    colours = torch.tensor([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).float()[:, :, None, None].expand(3, 3, 4, 4)
    datasets.save_grid(colours, tmp_path / "rgb.png", 3, padding=0)
    assert np.asarray(Image.open(tmp_path / "rgb.png"))[0, ::4].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    first = (tmp_path / "rgb.png").read_bytes()
    datasets.save_grid(colours, tmp_path / "rgb.png", 3, padding=0)
    assert (tmp_path / "rgb.png").read_bytes() == first


def test_titles_stand_above_their_columns(tmp_path):
    datasets.save_grid(-torch.ones(4, 3, 32, 32), tmp_path / "a.png", 2, titles=["a", "a much too long title"])
    sheet = np.asarray(Image.open(tmp_path / "a.png"))[:, :, 0]
    top = sheet.shape[0] - (2 + 2 * 34)
    assert top > 8 and (sheet[:top, 2:34] < 128).any() and (sheet[:top, 36:68] < 128).any()
    assert (sheet[:top, [0, 1, 34, 35]] == 255).all() and sheet[top + 2, 2] == 0


def test_grids_that_cannot_be_saved(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.png", tmp_path / "a.nonsense"):
        with pytest.raises(DataError, match="cannot save"):
            datasets.save_grid(torch.zeros(1, 3, 4, 4), path, 1)
    for shape in ((0, 3, 4, 4), (2, 2, 4, 4), (3, 4, 4)):
        with pytest.raises(DataError, match="a grid needs"):
            datasets.save_grid(torch.zeros(shape), tmp_path / "a.png", 1)
    assert os.listdir(tmp_path) == ["file"]


# --- Downloads -------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`, one entry of `manners` a request (the last one for ever); `requests` lists what was asked."""

    daemon_threads = True

    def __init__(self, body: bytes, *manners: str, tag: str = '"v1"'):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.manners, self.tag, self.requests = body, list(manners), tag, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.stop = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __exit__(self, *error):
        self.stop.set()
        self.shutdown()
        super().__exit__(*error)


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        manners = server.manners[0]
        server.manners = server.manners[1:] or server.manners
        asked = self.headers.get("Range")
        server.requests.append(asked)
        body, start = server.body, 0
        if manners == "absent":
            return self.send_error(404)
        if asked and manners != "no ranges" and self.headers.get("If-Range") == server.tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {start + 3 * (manners == 'wrong part')}-{len(body) - 1}/{len(body)}"
            )
        else:
            self.send_response(200)
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Type", "text/html" if manners == "web page" else "application/x-gzip")
        rest = body[start:]
        if manners != "no length":
            self.send_header("Content-Length", str(len(rest) + {"says more": 100, "says less": -100}.get(manners, 0)))
        self.end_headers()
        if manners in ("cut", "stall"):
            rest = rest[: max(len(rest) // 2, 1)]
        self.wfile.write(rest)
        self.wfile.flush()
        if manners == "stall":
            server.stop.wait(5)


BODY = np.random.default_rng(0).bytes(300_000)
QUICK = {"timeout": 0.3, "pause": 0.01}


def test_a_download_is_whole_or_not_there(tmp_path):
    with Server(BODY, "well") as server:
        download(server.url, tmp_path / "a.tar.gz", **QUICK)
    assert os.listdir(tmp_path) == ["a.tar.gz"] and (tmp_path / "a.tar.gz").read_bytes() == BODY


@pytest.mark.parametrize("manners", ["cut", "stall"])
def test_a_cut_or_stalled_download_continues_where_it_stopped(tmp_path, manners):
    with Server(BODY, manners, manners, "well") as server:
        download(server.url, tmp_path / "a", **QUICK)
        assert server.requests == [None, "bytes=150000-", "bytes=225000-"]
    assert (tmp_path / "a").read_bytes() == BODY and os.listdir(tmp_path) == ["a"]


def test_the_next_run_continues(tmp_path):
    with Server(BODY, "cut") as server:
        with pytest.raises(DataError, match=r"cut at 225000 of 300000 bytes.*put it at .*a"):
            download(server.url, tmp_path / "a", tries=2, **QUICK)
        assert not (tmp_path / "a").exists()
        server.manners = ["well"]
        download(server.url, tmp_path / "a", **QUICK)
        assert server.requests[-1] == "bytes=225000-"
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize("manners", ["no ranges", "wrong part", "well"])
def test_it_starts_over_where_it_cannot_continue(tmp_path, manners):
    with Server(BODY, "cut") as server:
        with pytest.raises(DataError):
            download(server.url, tmp_path / "a", tries=1, **QUICK)
        server.manners = [manners, "well"]
        if manners == "well":  # the file has changed meanwhile
            server.body, server.tag = BODY[::-1], '"v2"'
        download(server.url, tmp_path / "a", **QUICK)
        assert (tmp_path / "a").read_bytes() == server.body


def test_a_part_longer_than_the_file_starts_over(tmp_path):
    (tmp_path / "a.part").write_bytes(b"x" * 400_000)
    (tmp_path / "a.part.tag").write_text('"v1"')
    with Server(BODY, "well") as server:
        download(server.url, tmp_path / "a", **QUICK)
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_part_of_unknown_origin_is_not_continued(tmp_path):
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    with Server(BODY, "cut", "well", tag="") as server:
        download(server.url, tmp_path / "a", **QUICK)
        assert server.requests == [None, None]
    assert (tmp_path / "a").read_bytes() == BODY


def test_servers_that_lie_or_have_nothing(tmp_path):
    with Server(BODY, "says more") as server, pytest.raises(DataError, match="cut at"):
        download(server.url, tmp_path / "a", tries=3, **QUICK)
    with Server(b"<html>sign in</html>", "web page") as server, pytest.raises(DataError, match="is a web page"):
        download(server.url, tmp_path / "b", **QUICK)
    with Server(b"", "absent") as server:
        with pytest.raises(DataError, match="404|Not Found"):
            download(server.url, tmp_path / "c", **QUICK)
        assert len(server.requests) == 1
    with Server(BODY, "no length") as server:
        download(server.url, tmp_path / "d", **QUICK)
    assert [(tmp_path / name).exists() for name in "abcd"] == [False, False, False, True]


def tar_gz(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def facades_archive(tmp_path: Path, count: int = 3) -> bytes:
    content = pair(tmp_path / "made" / "a.png").read_bytes()
    return tar_gz({f"facades/{split}/{i}.png": content for split in ("train", "val", "test") for i in range(count)})


def test_a_pix2pix_set_by_name_is_downloaded_unpacked_and_read(tmp_path, capsys, monkeypatch):
    with Server(facades_archive(tmp_path), "cut", "well") as server:
        monkeypatch.setenv("DATASETS_URL", server.url + "/")
        data = load("facades", "test", 8, data_dir=tmp_path / "d", direction="BtoA")
        assert data.images.shape == (3, 3, 8, 8) and data.images[0, :, 1, 1].tolist() == [0, 0, 255]
        assert "3 pictures, but facades as published has 106" in capsys.readouterr().err
        assert sorted(os.listdir(tmp_path / "d")) == ["cache", "facades"]
        load("facades", "train", 8, data_dir=tmp_path / "d")
        assert len(server.requests) == 2  # the cut one and its rest: nothing is downloaded twice


def test_an_archive_put_there_by_hand_is_used_and_kept(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "facades.tar.gz").write_bytes(facades_archive(tmp_path))
    data = load("facades", "train", 8, data_dir=tmp_path / "d", data_url="http://127.0.0.1:9")
    assert len(data) == 3 and (tmp_path / "d" / "facades.tar.gz").exists()


def test_what_is_called_as_an_archive_and_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "facades.tar.gz")
    with pytest.raises(DataError, match="facades.tar.gz is not a file"):
        load("facades", data_dir=tmp_path)


def test_without_a_network_the_message_says_what_to_put_where(tmp_path):
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/maps.tar.gz .*put it at .*d/maps.tar.gz"):
        load("maps", data_dir=tmp_path / "d", data_url="http://127.0.0.1:9")
    assert time.perf_counter() - start < 2
    with pytest.raises(DataError, match="not a web address"):
        load("maps", data_dir=tmp_path / "d", data_url="nonsense")
    with pytest.raises(DataError, match="cannot write"):
        (tmp_path / "file").write_text("")
        load("maps", data_dir=tmp_path / "file", data_url="http://127.0.0.1:9")


@pytest.mark.parametrize("manners", ["garbage", "says less", "flipped"])
def test_a_damaged_archive_is_never_half_used(tmp_path, manners):
    body = facades_archive(tmp_path)
    if manners == "garbage":
        body = b"no archive" * 1000
    if manners == "flipped":
        body = body[:-8] + bytes([body[-8] ^ 1]) + body[-7:]  # gzip's checksum
    with Server(body, manners) as server:
        with pytest.raises(DataError, match=r"not a .tar.gz archive, or is damaged.*fetch it again from http"):
            load("facades", data_dir=tmp_path / "d", data_url=server.url)
        assert os.listdir(tmp_path / "d") == []
        server.body, server.manners = facades_archive(tmp_path), ["well"]
        assert len(load("facades", data_dir=tmp_path / "d", data_url=server.url)) == 3


def fetch_in_process(data_dir, url, barrier, queue):
    barrier.wait()
    queue.put(len(load("facades", image_size=8, data_dir=data_dir, data_url=url)))


def test_two_processes_at_once_download_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.Queue()
    with Server(facades_archive(tmp_path), "well") as server:
        arguments = (tmp_path / "d", server.url, barrier, queue)
        both = [context.Process(target=fetch_in_process, args=arguments) for _ in range(2)]
        for process in both:
            process.start()
        assert [queue.get(timeout=20) for _ in both] == [3, 3]
        for process in both:
            process.join()
        assert len(server.requests) == 1


def special(kind: bytes, name: str, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "members",
    [
        {"../outside.txt": b"x"},
        {"/tmp/outside.txt": b"x"},
        {"set/../../outside.txt": b"x"},
        {"..\\outside.txt": b"x"},
        {"C:outside.txt": b"x"},
        {"link": special(tarfile.SYMTYPE, "set/link", "/etc"), "set/link/outside.txt": b"x"},
        {"link": special(tarfile.LNKTYPE, "set/link", "/etc/passwd")},
        {"pipe": special(tarfile.FIFOTYPE, "set/pipe")},
        {"device": special(tarfile.CHRTYPE, "set/device")},
    ],
)
def test_hostile_archives_are_refused(tmp_path, members):
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    (inside / "set.tar.gz").write_bytes(tar_gz({"set/train/a.png": b"fine", **members}))
    with pytest.raises(DataError, match="is refused"):
        extract_tar(inside / "set.tar.gz", inside / "set")
    assert [file.name for file in tmp_path.rglob("*")] == ["deep", "er", "set.tar.gz"]


def test_archives_that_swell_are_refused(tmp_path):
    (tmp_path / "set.tar.gz").write_bytes(tar_gz({"set/zeros": bytes(2_000_000)}))
    with pytest.raises(DataError, match="more than 1000000 bytes"):
        extract_tar(tmp_path / "set.tar.gz", tmp_path / "set", max_bytes=1_000_000)
    (tmp_path / "set.tar.gz").write_bytes(tar_gz({f"set/{i}": b"" for i in range(3000)}))
    with pytest.raises(DataError, match="more than 1000000 bytes"):
        extract_tar(tmp_path / "set.tar.gz", tmp_path / "set", max_bytes=1_000_000)
    assert os.listdir(tmp_path) == ["set.tar.gz"]


def test_archives_with_and_without_a_top_folder(tmp_path):
    for top in ("set/", ""):
        (tmp_path / "set.tar.gz").write_bytes(tar_gz({f"{top}train/a.txt": b"a", f"./{top}val/b.txt": b"b"}))
        folder = tmp_path / f"in{len(top)}" / "set"
        extract_tar(tmp_path / "set.tar.gz", folder)
        assert (folder / "train" / "a.txt").read_bytes() == b"a" and (folder / "val" / "b.txt").read_bytes() == b"b"
        assert os.listdir(folder.parent) == ["set"]


def test_damaged_archives_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    plain = gzip.decompress(tar_gz({f"set/{i}": rng.bytes(300) for i in range(4)}))
    for i in range(150):
        damaged = bytearray(plain)
        for place in rng.integers(0, 512 * 9, 4):
            damaged[place] = rng.integers(256)
        body = gzip.compress(bytes(damaged[: rng.integers(1, len(damaged))] if i % 2 else bytes(damaged)), 1)
        (tmp_path / "set.tar.gz").write_bytes(body)
        try:
            extract_tar(tmp_path / "set.tar.gz", tmp_path / f"out{i}")
        except DataError:
            assert not (tmp_path / f"out{i}").exists()
    assert not list(tmp_path.glob("*.tmp"))


# --- The command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    datasets.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(datasets.KNOWN)
    root = str(pairs(tmp_path / "mine", train=7))
    datasets.main([root, "--image-size", "8", "--data-dir", str(tmp_path), "--preview", str(tmp_path / "a.png")])
    assert "train    7 pairs; pairs side by side" in capsys.readouterr().out
    sheet = np.asarray(Image.open(tmp_path / "a.png"))  # A beside B, cells of 16 + 6 by 8 + 6
    assert sheet.shape == (6 + 14, 6 + 7 * 22, 3) and sheet[6 + 6, 6 + 6].tolist() == [255, 0, 0]
    for flag in ("--check", "--preview=" + str(tmp_path / "b.png")):
        with pytest.raises(SystemExit):
            datasets.main([root, "--image-size", "0", "--data-dir", str(tmp_path), flag])
        assert "the image size must be a positive" in capsys.readouterr().err
    with pytest.raises(DataError, match="image size"):
        datasets.read_images(root, -1)
    datasets.main(["swissroll"])
    assert "10000 train / 2000 test" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        datasets.main(["swissroll", "--preview", str(tmp_path / "b.png")])
    assert "swissroll has points, no pictures" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        datasets.main(["nonsense", "--data-dir", str(tmp_path)])
    assert "unknown data set 'nonsense'" in capsys.readouterr().err


# --- Real data, where it is ------------------------------------------------------------------------------------------


def test_real_facades(tmp_path):
    data = load(str(real("facades")), "val", 32, data_dir=tmp_path)
    assert data.images.shape == data.targets.shape == (100, 3, 32, 32)
    blue = data.targets[:, 2].mean() - data.targets[:, 0].mean()
    assert blue > 50 and abs(data.images[:, 2].mean() - data.images[:, 0].mean()) < 30  # labels are right, mostly blue


def test_real_edges2shoes(tmp_path):
    data = load("edges2shoes", "test", 64, data_dir=make_link(tmp_path, real("edges2shoes")))
    assert data.images.shape == (73, 1, 64, 64) and data.targets.shape == (73, 3, 64, 64)
    assert data.images.mean() > 200


def make_link(data_dir: Path, folder: Path) -> Path:
    (data_dir / folder.name).symlink_to(folder)
    return data_dir


def test_real_mnist(tmp_path):
    data = load("mnist", "test", 28, data_dir=make_link(tmp_path, real("MNIST")))
    assert data.images.shape == (10000, 1, 28, 28)
    assert np.bincount(data.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_real_horse2zebra(tmp_path):
    data = load(str(real("horse2zebra")), "test", 32, data_dir=tmp_path)
    assert np.bincount(data.labels).tolist() == [120, 140] and data.classes == ["A", "B"]


def test_plain_pictures_in_split_folders_are_no_pairs(tmp_path):
    for split, count in (("train", 5), ("test", 3)):
        (tmp_path / "mine" / split).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (40, 36), (10 * i, 0, 0)).save(tmp_path / "mine" / split / f"{i}.png")
        (tmp_path / "mine" / split / "9.png").write_text("damaged")
    data = [datasets.load(str(tmp_path / "mine"), split, 16, data_dir=tmp_path / "data") for split in ("train", "test")]
    assert [len(part) for part in data] == [5, 3]
    assert all(part.targets is None and part.labels is None for part in data)
    assert data[0].images[:, 0].max(axis=(1, 2)).tolist() == [0, 10, 20, 30, 40]
