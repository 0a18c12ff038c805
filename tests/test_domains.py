"""datasets.py: two domains without pairs, lists of attributes (CelebA), shapes other than a square, zips."""

import io
import stat
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from test_datasets import number_set, pair, picture

import datasets
from datasets import DataError, ImageSet, load, load_domains, make_loader

NAMES = ["Bald", "Smiling", "Male"]


def domains(a: int, b: int) -> datasets.Unpaired:
    """Pictures 0 ... a - 1 in A, 100 ... in B."""
    A, B = number_set(a), number_set(b)
    B.images = B.images + 100
    return datasets.Unpaired(A, B, ("A", "B"))


def epoch(loader, number, skip=0):
    loader.batch_sampler.set_epoch(number, skip)
    return [(b["image"][:, 0, 0, 0].tolist(), b["target"][:, 0, 0, 0].tolist()) for b in loader]


def sides(batches):
    return [sum((list(batch[side]) for batch in batches), []) for side in (0, 1)]


# --- Unpaired --------------------------------------------------------------------------------------------------------


def test_an_epoch_shows_the_larger_side_once_and_the_shorter_one_evenly():
    for data in (domains(10, 4), domains(4, 10)):
        A, B = sides(epoch(make_loader(data, 1, seed=3), 0))
        large, small = (A, B) if len(data.A) == 10 else (B, A)
        assert len(data) == 10 and len(set(large)) == 10
        assert sorted(small.count(x) for x in set(small)) == [2, 2, 3, 3]
        assert len(set(small[:4])) == 4 and small[:4] != small[4:8]  # each round in an order of its own


def test_the_sides_are_not_paired_and_an_epoch_depends_on_seed_and_epoch_alone():
    data = domains(50, 50)
    A, B = sides(epoch(make_loader(data, 5, seed=1), 0))
    assert sum(b - a == 100 for a, b in zip(A, B, strict=True)) < 10
    first = epoch(make_loader(data, 5, seed=1), 0)
    assert first == epoch(make_loader(data, 5, seed=1), 0) == epoch(make_loader(data, 5, seed=1, workers=1), 0)
    assert first != epoch(make_loader(data, 5, seed=1), 1) and first != epoch(make_loader(data, 5, seed=2), 0)
    assert epoch(make_loader(data, 5, seed=1), 0, skip=3) == first[3:]
    in_order = epoch(make_loader(data, 4, shuffle=False, drop_last=False), 0)
    assert in_order[0] == ([0, 1, 2, 3], [100, 101, 102, 103]) and len(in_order[-1][0]) == 2


def test_processes_share_an_epoch_of_two_domains():
    data = domains(12, 7)
    whole = epoch(make_loader(data, 4, seed=1), 0)
    parts = [epoch(make_loader(data, 2, seed=1, rank=rank, world=2), 0) for rank in (0, 1)]
    for batch, *of_rank in zip(whole, *parts, strict=True):
        for side in (0, 1):
            assert [batch[side][rank::2] for rank in (0, 1)] == [part[side] for part in of_rank]


def test_both_domains_as_one_set_of_two_classes():
    both = domains(3, 5).both()
    assert both.labels.tolist() == [0] * 3 + [1] * 5 and both.classes == ["A", "B"]
    assert both.images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102, 103, 104]


def test_domains_of_folders_pairs_classes_and_attributes(tmp_path, data_dir):
    for name, colour in (("trainA", (255, 0, 0)), ("trainB", (0, 0, 255)), ("testA", (9, 0, 0)), ("testB", (0, 0, 9))):
        for i in range(3):
            picture(tmp_path / "two" / name / f"{i}.png", colour=colour)
    data = load_domains(str(tmp_path / "two"), "train", 8, data_dir=tmp_path)
    assert data.names == ("A", "B") and (data.A.images[:, 0] == 255).all() and (data.B.images[:, 2] == 255).all()
    for i in range(3):
        pair(tmp_path / "pairs" / "train" / f"{i}.png")
    data = load_domains(str(tmp_path / "pairs"), "train", 8, data_dir=tmp_path)
    assert data.A.images[0, :, 0, -1].tolist() == [255, 0, 0] and data.B.images[0, :, 0, 0].tolist() == [0, 0, 255]
    for i in range(3):
        for k, name in enumerate(("coat", "dress", "hat")):
            picture(tmp_path / "kinds" / "train" / name / f"{i}.png", colour=(50 * k, 0, 0))
    data = load_domains(str(tmp_path / "kinds"), "train", 8, classes="hat, coat", data_dir=tmp_path)
    assert data.names == ("hat", "coat") and (data.A.images[:, 0] == 100).all() and (data.B.images[:, 0] == 0).all()
    data = load_domains("faces", "test", 8, attribute="Eyeglasses", data_dir=data_dir)
    known = load("faces", "test", 8, data_dir=data_dir)
    has = known.attributes[:, known.attribute_names.index("Eyeglasses")] == 1
    assert data.names == ("no Eyeglasses", "Eyeglasses") and np.array_equal(data.B.images, known.images[has])
    assert len(data.A) + len(data.B) == len(known) and data.A.images.shape[1:] == (3, 8, 8)


def test_domains_that_are_not_there_are_named(tmp_path, data_dir):
    for flags, sentence in (
        (dict(attribute="Beard"), "no attribute 'Beard': it has Black_Hair"),
        (dict(), "no two domains; choose one of its attributes: Black_Hair"),
    ):
        with pytest.raises(DataError, match=sentence):
            load_domains("faces", "test", 8, data_dir=data_dir, **flags)
    for name in ("coat", "dress", "hat"):
        picture(tmp_path / "kinds" / "train" / name / "0.png")
    for classes, sentence in (("", "choose two of its classes: coat, dress"), ("hat,cap", "no two domains hat,cap")):
        with pytest.raises(DataError, match=sentence):
            load_domains(str(tmp_path / "kinds"), "train", 8, classes=classes, data_dir=tmp_path)
    with pytest.raises(DataError, match="1 pictures of 'hat', at least 2"):
        load_domains(str(tmp_path / "kinds"), "train", 8, classes="hat,coat", data_dir=tmp_path)
    for i in range(3):
        picture(tmp_path / "flat" / f"{i}.png")
    with pytest.raises(DataError, match="choose folders trainA/ and trainB/"):
        load_domains(str(tmp_path / "flat"), "train", 8, data_dir=tmp_path)
    for side in ("trainA", "testA", "testB"):
        for i in range(3):
            picture(tmp_path / "half" / side / f"{i}.png")
    with pytest.raises(DataError, match="half"):
        load_domains(str(tmp_path / "half"), "train", 8, data_dir=tmp_path)


def test_settings():
    assert datasets.read_settings("Smiling=+1.5, Male=-1", NAMES) == {"Smiling": 1.5, "Male": -1.0}
    for text, sentence in (
        ("Beard=1", "unknown name 'Beard' .*Bald, Smiling, Male"),
        ("Male", "'Male' is not NAME=NUMBER"),
        ("Male=yes", "'Male=yes' is not NAME=NUMBER"),
        ("Male=nan", "not a finite number"),
        ("", "unknown name ''"),
    ):
        with pytest.raises(DataError, match=sentence):
            datasets.read_settings(text, NAMES)


def known(**facts):
    return ImageSet("set", "test", np.zeros((4, 1, 2, 2), np.uint8), **facts)


def test_what_a_set_knows_of_its_pictures():
    bits = np.array([[0, 1], [1, 0], [1, 1], [0, 0]], np.uint8)
    names, table = datasets.attributes_of(known(attributes=bits, attribute_names=["X", "Y"]))
    assert names == ["X", "Y"] and np.array_equal(table, bits)
    names, table = datasets.attributes_of(known(labels=np.array([2, 0, 1, 2]), classes=["a", "b", "c"]))
    assert names == ["a", "b", "c"] and table.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    names, table = datasets.attributes_of(known())
    assert names == [] and table.shape == (4, 0)


def test_attributes_are_chosen_by_name_in_the_order_asked_for():
    bits = np.array([[0, 1], [1, 0], [1, 1], [0, 0]], np.uint8)
    data = datasets.choose_attributes(known(attributes=bits, attribute_names=["X", "Y"]), ["Y", "X", "Y"])
    assert data.attribute_names == ["Y", "X"] and np.array_equal(data.attributes, bits[:, ::-1])
    data = datasets.choose_attributes(known(attributes=bits, attribute_names=["X", "Y"]), [])
    assert data.attribute_names == ["X", "Y"]
    classes = dict(labels=np.array([1, 0, 1, 0]), classes=["a", "b"])
    assert datasets.choose_attributes(known(**classes), []).attributes.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    for facts, names, sentence in (
        (dict(attributes=bits, attribute_names=["X", "Y"]), ["Z"], "set has X, Y; asked for: Z"),
        (classes, ["a"], "set has the classes, a, b; asked for: a"),
        ({}, [], "set has no attributes or classes; asked for: either"),
    ):
        with pytest.raises(DataError, match=sentence):
            datasets.choose_attributes(known(**facts), names)


def test_pictures_that_are_so():
    bits = np.array([[0, 1], [1, 0], [1, 1], [0, 0]], np.uint8)
    data = known(attributes=bits, attribute_names=["X", "Y"])
    data.images[:] = np.arange(4)[:, None, None, None]
    some = datasets.those_with(data, {0: 1, 1: 0})
    assert some.images[:, 0, 0, 0].tolist() == [1] and some.attributes.tolist() == [[1, 0]]
    assert len(datasets.those_with(data, {0: 1})) == 2 and len(datasets.those_with(data, {})) == 4
    with pytest.raises(DataError, match="set, test: no picture has X=0, Y=2"):
        datasets.those_with(data, {0: 0, 1: 2})


# --- Attributes ------------------------------------------------------------------------------------------------------


def celeba(root, count=7, partition=(0, 0, 0, 1, 1, 2, 2), folder="img_align_celeba"):
    """CelebA in torchvision's layout: picture i is grey 40 i, has attribute Smiling where i is odd, Male from 3 on."""
    lines = [f"{i + 1:06d}.jpg  -1 {2 * (i % 2) - 1:2d} {1 if i >= 3 else -1:2d}" for i in range(count)]
    for i in range(count):
        picture(root / folder / f"{i + 1:06d}.jpg", 178, 218, (40 * i,) * 3)
    (root / "list_attr_celeba.txt").write_text("\n".join([str(count), " ".join(NAMES), *lines]) + "\n")
    if partition:
        rows = [f"{i + 1:06d}.jpg {part}" for i, part in enumerate(partition)]
        (root / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    return root


def grey(data):
    return [round(x / 40) for x in data.images.mean(axis=(1, 2, 3)).tolist()]


def test_celeba_by_name(tmp_path):
    celeba(tmp_path / "celeba")
    data = load("celeba", "train", 8, data_dir=tmp_path)
    assert data.attribute_names == NAMES and data.name == "celeba" and grey(data) == [0, 1, 2]
    assert data.attributes.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]] and data.attributes.dtype == np.uint8
    test = load("celeba", "test", 8, data_dir=tmp_path)
    assert grey(test) == [5, 6] and test.attributes.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert grey(load("celeba", "val", 8, data_dir=tmp_path)) == [3, 4]


def test_celeba_is_cut_to_its_middle_square_and_its_zip_is_unpacked(tmp_path):
    root = celeba(tmp_path / "celeba")
    first = root / "img_align_celeba" / "000001.jpg"
    sheet = np.zeros((218, 178, 3), np.uint8)
    sheet[20:198] = 255  # the middle 178 rows
    Image.fromarray(sheet).save(first.with_suffix(".png"))
    first.with_suffix(".png").rename(first)  # Pillow looks at the content
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
        for file in sorted((root / "img_align_celeba").iterdir()):
            archive.write(file, f"img_align_celeba/{file.name}")
    for file in (root / "img_align_celeba").iterdir():
        file.unlink()
    (root / "img_align_celeba").rmdir()
    data = load("celeba", "train", 8, data_dir=tmp_path)
    assert (data.images[0] == 255).all() and grey(data)[1:] == [1, 2]


def test_celeba_beside_its_pictures_as_they_were_before_they_were_cut_out(tmp_path):
    root = celeba(tmp_path / "celeba")
    for file in (root / "img_align_celeba").iterdir():
        picture(root / "img_celeba" / file.name, colour=(255, 0, 255))
    data = load("celeba", "train", 8, data_dir=tmp_path)
    assert len(data) and all(name.startswith("img_align_celeba/") for name in data.names)


def test_celeba_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="celeba is not in .*: fetch it from https://mmlab.*put img_align"):
        load("celeba", "train", 8, data_dir=tmp_path)


def test_a_folder_with_a_csv_of_attributes(tmp_path, capsys):
    root = tmp_path / "mine"
    for i in range(12):
        picture(root / f"{i:02d}.png", colour=(20 * i,) * 3)
    rows = "\n".join(f'"{i:02d}.png",{i % 2},{-1 if i < 6 else 1}' for i in range(12))
    (root / "list.csv").write_text(f"\ufefffile,Odd,Late\n{rows}\n")
    data = load(str(root), "train", 8, data_dir=tmp_path)
    assert data.attribute_names == ["Odd", "Late"] and data.names == [f"{i:02d}.png" for i in range(12) if i % 10]
    assert data.attributes[:, 0].tolist() == [i % 2 for i in range(12) if i % 10]
    assert load(str(root), "test", 8, data_dir=tmp_path).names == ["00.png", "10.png"]
    assert "left out" not in capsys.readouterr().err


def test_splits_of_a_csv_set_by_folder_and_by_partition(tmp_path):
    root = tmp_path / "mine"
    for split in ("train", "test"):
        for i in range(3):
            picture(root / split / f"{split}{i}.png")
    names = [f"{split}{i}.png" for split in ("train", "test") for i in range(3)]
    (root / "a.csv").write_text("file,X\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(names)))
    assert load(str(root), "train", 8, data_dir=tmp_path).names == [f"train/train{i}.png" for i in range(3)]
    assert load(str(root), "test", 8, data_dir=tmp_path).attributes.ravel().tolist() == [1, 0, 1]
    parts = "".join(f"{name},{part}\n" for name, part in zip(names, (2, 2, 0, 0, 1, 7), strict=True))
    (root / "list_eval_partition.csv").write_text("image_id,partition\n" + parts)
    assert load(str(root), "train", 8, data_dir=tmp_path).names == ["test/test0.png", "train/train2.png"]
    assert load(str(root), "test", 8, data_dir=tmp_path).names == ["train/train0.png", "train/train1.png"]


def test_rows_and_pictures_without_each_other_are_counted(tmp_path, capsys):
    root = celeba(tmp_path / "mine", partition=())
    (root / "img_align_celeba" / "000002.jpg").unlink()
    picture(root / "img_align_celeba" / "stranger.jpg")
    picture(root / "img_align_celeba" / "other.jpg")
    load(str(root), "train", 8, data_dir=tmp_path)
    assert "left out 3 of 8 files: 000002.jpg (there is no such picture), " in (message := capsys.readouterr().err)
    assert "img_align_celeba/other.jpg (not in list_attr_celeba.txt)" in message


def test_a_change_of_an_attribute_makes_another_cache(tmp_path):
    root = celeba(tmp_path / "mine")
    load(str(root), "train", 8, data_dir=tmp_path)
    text = (root / "list_attr_celeba.txt").read_text()
    (root / "list_attr_celeba.txt").write_text(text.replace("000001.jpg  -1 -1", "000001.jpg  -1  1"))
    assert load(str(root), "train", 8, data_dir=tmp_path).attributes[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("file,X\n0.png\n", "line 2: 0 values for the 1 columns"),
        ("file,X\n0.png,maybe\n", "line 2: a value is not a whole number"),
        ("file,X\n0.png,3\n", "0.png: an attribute is 1, or 0 or -1, not"),
        ("file\n0.png\n", "needs a header with a different name for each attribute"),
        ("file,X,X\n0.png,1,0\n", "needs a header with a different name"),
        ("file,X\n", "has no rows"),
        ("", "has no rows"),
        ("file,X\nelsewhere.png,1\n", "names no picture that is in"),
        ("file,X\nsame.png,1\n", "2 pictures are called so; name them with their folder"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_a_broken_list_is_named(tmp_path, text, sentence):
    root = tmp_path / "mine"
    for name in ("0.png", "1.png", "a/same.png", "b/same.png"):
        picture(root / name)
    (root / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=sentence):
        load(str(root), "train", 8, data_dir=tmp_path)


def test_two_lists_are_one_too_many(tmp_path):
    root = celeba(tmp_path / "mine")
    (root / "list_bbox.csv").write_text("file,x\n")
    load(str(root), "train", 8, data_dir=tmp_path)  # CelebA's own name wins
    (root / "list_attr_celeba.txt").unlink()
    (root / "other.csv").write_text("file,x\n")
    with pytest.raises(DataError, match="holds 2 .csv files"):
        load(str(root), "train", 8, data_dir=tmp_path)


# --- Shapes ----------------------------------------------------------------------------------------------------------


def test_the_middle_is_cut_out_in_the_shape_that_was_asked_for(tmp_path, data_dir):
    sheet = np.zeros((40, 40, 3), np.uint8)
    sheet[:, 10:30] = 255  # the middle half
    for i in range(3):
        (tmp_path / "tall").mkdir(exist_ok=True)
        Image.fromarray(sheet).save(tmp_path / "tall" / f"{i}.png")
    data = load(str(tmp_path / "tall"), "train", (16, 8), data_dir=tmp_path)
    assert data.images.shape == (2, 3, 16, 8) and (data.images == 255).all()
    wide = load(str(tmp_path / "tall"), "train", (8, 16), data_dir=tmp_path)  # not from the same cache
    assert wide.images.shape == (2, 3, 8, 16) and (wide.images[..., :3] == 0).all()
    images, _ = datasets.read_images(tmp_path / "tall", (16, 8))
    assert images.shape == (3, 3, 16, 8) and (images == 255).all()
    faces, square = (load("faces", "test", size, data_dir=data_dir) for size in ((16, 8), 16))
    assert np.array_equal(faces.images, square.images[..., 4:12])
    for wrong in ((8,), (8, 0), (8, 8, 8), "8", (8.0, 8)):
        with pytest.raises(DataError, match="image size"):
            load("faces", "test", wrong, data_dir=data_dir)


# --- Zips ------------------------------------------------------------------------------------------------------------


def zipped(members: dict, **attributes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes.get(name.split("/")[-1], stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return file.getvalue()


def png(colour=(9, 9, 9)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def test_a_cyclegan_archive_that_lies_in_the_data_folder(tmp_path):
    sides = ("trainA", "trainB", "testA", "testB")
    members = {f"horse2zebra/{side}/{i}.png": png() for side in sides for i in range(2)}
    (tmp_path / "horse2zebra.zip").write_bytes(zipped(members))
    data = load_domains("horse2zebra", "train", 8, data_dir=tmp_path)
    assert len(data.A) == len(data.B) == 2 and (tmp_path / "horse2zebra.zip").exists()
    assert sorted(file.name for file in (tmp_path / "horse2zebra").iterdir()) == ["testA", "testB", "trainA", "trainB"]


def test_a_cyclegan_set_without_network_says_where_to_put_it(tmp_path, monkeypatch):
    def no_network(url, path, **how):
        raise DataError(f"{url} -> {path}")

    monkeypatch.setattr(datasets, "download", no_network)
    with pytest.raises(DataError, match=r"datasets/horse2zebra.zip -> .*horse2zebra.zip"):
        load("horse2zebra", "train", 8, data_dir=tmp_path)
    (tmp_path / "monet2photo" / "train").mkdir(parents=True)
    for i in range(3):
        picture(tmp_path / "monet2photo" / "train" / f"{i}.png")
    with pytest.raises(DataError, match="does not have the layout monet2photo/trainA"):
        load("monet2photo", "train", 8, data_dir=tmp_path)


@pytest.mark.parametrize(
    "members, attributes",
    [
        ({"../outside.txt": b"x"}, {}),
        ({"/tmp/outside.txt": b"x"}, {}),
        ({"set/../../outside.txt": b"x"}, {}),
        ({"C:outside.txt": b"x"}, {}),
        ({"set/link": b"/etc/passwd"}, {"link": stat.S_IFLNK | 0o777}),
        ({"set/pipe": b""}, {"pipe": stat.S_IFIFO | 0o644}),
    ],
)
def test_hostile_zips_are_refused(tmp_path, members, attributes):
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    (inside / "set.zip").write_bytes(zipped({"set/a.png": b"fine", **members}, **attributes))
    with pytest.raises(DataError, match="is refused"):
        datasets.extract_zip(inside / "set.zip", inside / "set")
    assert [file.name for file in tmp_path.rglob("*")] == ["deep", "er", "set.zip"]


def test_zips_that_swell_or_are_damaged(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/zeros", bytes(3_000_000))
    with pytest.raises(DataError, match="more than 1000000 bytes"):
        datasets.extract_zip(path, tmp_path / "set", max_bytes=1_000_000)
    rng = np.random.default_rng(0)
    plain = zipped({f"set/{i}": rng.bytes(300) for i in range(4)})
    refused = 0
    for i in range(100):
        damaged = bytearray(plain)
        for place in rng.integers(0, len(plain), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged[: rng.integers(1, len(plain))] if i % 2 else bytes(damaged)))
        try:
            datasets.extract_zip(path, tmp_path / f"out{i}")
        except DataError:
            refused += 1
            assert not (tmp_path / f"out{i}").exists()
    assert refused > 50 and not list(tmp_path.glob("*.tmp"))


def test_rivals_are_attributes_that_never_meet():
    """Black or blond, never both; glasses with either."""
    known = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]], np.uint8)
    images = np.zeros((6, 3, 8, 8), np.uint8)
    data = datasets.ImageSet("set", "train", images, attributes=known, attribute_names=["Black", "Blond", "Glasses"])
    rivals = datasets.rivals_of(data)
    assert rivals == [[1], [0], []]
    truth = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 0]])
    assert datasets.change(truth, {0: None}, rivals).tolist() == [[1, 0, 1], [1, 0, 0], [1, 0, 0]]  # only ever on
    assert datasets.change(truth, {2: None}, rivals).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]  # on and off
    assert truth.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
