"""The built-in data sets: their pictures are what their labels say, and the same on every machine."""

import hashlib
import random

import numpy as np
import pytest

from datasets import (
    DIGITS,
    FACE_ATTRIBUTES,
    HAIR_COLOURS,
    curve_weights,
    disc,
    draw_builtin,
    draw_digit,
    draw_face,
    turn,
)

FACES = range(24)  # the faces that the tests of single attributes look at


def face(i: int, size: int = 64, colours: int | None = None, **forced: int):
    """Face i with some attributes forced: photo int (H, W, 3), lines int (H, W), attributes."""
    colour_rng = random.Random(f"colours {i if colours is None else colours}")
    photo, lines, attributes = draw_face(random.Random(f"shapes {i}"), colour_rng, size, forced)
    return np.asarray(photo).astype(int), np.asarray(lines).astype(int), attributes


def sha(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def changed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two photos differ: bool (H, W)."""
    return (a != b).any(axis=-1)


# --- Arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [28, 32, 48, 64, 96, 128])
def test_shapes_and_types_at_every_size(size):
    lines, photos, attributes = draw_builtin("edges2faces", "train", 3, size)
    digits, labels = draw_builtin("digits", "train", 3, size)
    assert lines.shape == digits.shape == (3, 1, size, size) and photos.shape == (3, 3, size, size)
    assert attributes.shape == (3, len(FACE_ATTRIBUTES)) and labels.shape == (3,)
    assert {a.dtype for a in (lines, photos, attributes, digits)} == {np.dtype(np.uint8)} and labels.dtype == np.int64
    assert lines.max() == 255 and lines.min() < 80 and lines.mean() > 150  # dark lines on white
    assert digits.max() == 255 and digits.min() == 0 and digits.mean() < 80  # white strokes on black
    assert photos.std(axis=(0, 2, 3)).min() > 20  # coloured


def test_faces_are_the_photos_of_edges2faces():
    lines, photos, attributes = draw_builtin("edges2faces", "test", 4, 32)
    same_photos, same_attributes = draw_builtin("faces", "test", 4, 32)
    assert np.array_equal(photos, same_photos) and np.array_equal(attributes, same_attributes)


@pytest.mark.parametrize("name", ["faces", "edges2faces", "digits"])
def test_a_small_set_is_the_beginning_of_a_larger_one(name):
    few, many = draw_builtin(name, "train", 5, 28), draw_builtin(name, "train", 9, 28)
    assert all(np.array_equal(a, b[:5]) for a, b in zip(few, many, strict=True))


@pytest.mark.parametrize("name", ["faces", "digits"])
def test_pictures_differ_within_and_between_train_test_and_seeds(name):
    sets = [draw_builtin(name, "train", 150, 28)[0], draw_builtin(name, "test", 150, 28)[0]]
    sets.append(draw_builtin(name, "train", 150, 28, seed=1)[0])
    assert len({image.tobytes() for images in sets for image in images}) == 450


def test_pictures_are_the_same_on_every_machine():
    # Pillow 10.0, 11.3, 12.0 and 13.0 give these bytes. If they change, every measured result changes with them.
    random.seed(5)
    state = random.getstate()
    lines, photos, attributes = draw_builtin("edges2faces", "train", 8, 64)
    digits, labels = draw_builtin("digits", "train", 32, 28)
    assert random.getstate() == state  # no global random numbers are used
    assert [sha(a) for a in (lines, photos, attributes, digits, labels)] == PINNED


PINNED = [
    "92ce5de8e4216605",  # lines
    "5a0368207418136f",  # photos
    "c51cd21bf07b4d94",  # attributes
    "73f812b052303dd8",  # digits
    "cf4de6dcd5587435",  # labels
]

# --- Faces -----------------------------------------------------------------------------------------------------------


def test_hair_colours_exclude_each_other_and_attributes_are_balanced_and_independent():
    attributes = draw_builtin("faces", "train", 800, 8)[1]
    assert set(np.unique(attributes)) == {0, 1}
    assert (attributes[:, : len(HAIR_COLOURS)].sum(axis=1) == 1).all()
    share = dict(zip(FACE_ATTRIBUTES, attributes.mean(axis=0), strict=True))
    wanted = {"Black_Hair": 0.3, "Blond_Hair": 0.3, "Brown_Hair": 0.3, "Gray_Hair": 0.1}
    wanted |= {"Eyeglasses": 0.35, "Smiling": 0.5, "Bangs": 0.5, "Male": 0.5}
    for name, p in wanted.items():
        assert abs(share[name] - p) < 4 * (p * (1 - p) / 800) ** 0.5, name
    others = np.corrcoef(attributes.T)[len(HAIR_COLOURS) :]
    others[:, len(HAIR_COLOURS) :] -= np.eye(len(others))
    assert abs(others).max() < 4 / 800**0.5


def test_attributes_do_not_depend_on_the_size():
    assert np.array_equal(draw_builtin("faces", "train", 20, 16)[1], draw_builtin("faces", "train", 20, 64)[1])


@pytest.mark.parametrize("name", FACE_ATTRIBUTES)
def test_a_forced_attribute_is_had_and_leaves_the_others_alone(name):
    for i in FACES:
        free = face(i, size=8)[2]
        assert list(free) == list(FACE_ATTRIBUTES)
        for value in (1,) if name in HAIR_COLOURS else (0, 1):
            forced = face(i, size=8, **{name: value})[2]
            assert forced[name] == value and sum(forced[hair] for hair in HAIR_COLOURS) == 1
            kept = [k for k in FACE_ATTRIBUTES if k != name and not (name in HAIR_COLOURS and k in HAIR_COLOURS)]
            assert all(forced[k] == free[k] for k in kept)


def test_forcing_what_is_true_already_changes_nothing():
    photo, lines, attributes = face(3)
    again = face(3, **attributes)
    assert np.array_equal(photo, again[0]) and np.array_equal(lines, again[1]) and attributes == again[2]


@pytest.mark.parametrize("name, top, bottom", [("Eyeglasses", 0.3, 0.65), ("Smiling", 0.55, 0.8), ("Bangs", 0.1, 0.52)])
@pytest.mark.parametrize("size", [32, 64])
def test_an_attribute_changes_its_region_of_the_face_only(name, top, bottom, size):
    for i in FACES:
        (without, lines_without, _), (with_it, lines_with, _) = face(i, size, **{name: 0}), face(i, size, **{name: 1})
        y, x = changed(without, with_it).nonzero()
        assert len(y) > 0.012 * size * size, "too small to be seen"
        assert top * size <= y.min() and y.max() < bottom * size
        assert 0.1 * size < x.min() and x.max() < 0.9 * size
        assert not np.array_equal(lines_without, lines_with)


def test_glasses_are_dark_a_smile_shows_teeth_and_bangs_are_hair():
    for i in FACES:
        eyes, mouth = np.s_[24:36], np.s_[36:50, 20:44]
        dark = [(face(i, Eyeglasses=value)[0][eyes].max(axis=-1) < 60).sum() for value in (0, 1)]
        assert dark[1] > dark[0] + 20
        white = [(face(i, Smiling=value)[0][mouth].min(axis=-1) > 235).sum() for value in (0, 1)]
        assert white[0] == 0 and white[1] >= 5
        (bare, _, attributes), (covered, _, _) = face(i, Bangs=0, Eyeglasses=0), face(i, Bangs=1, Eyeglasses=0)
        hair = next(name for name in HAIR_COLOURS if attributes[name])
        forehead = covered[changed(bare, covered)]
        assert is_hair(forehead, hair).mean() > 0.5  # the rest is the edge, where hair and skin mix


def is_hair(colours: np.ndarray, name: str) -> np.ndarray:
    """Which colours (N, 3) lie between the two shades of the class (a tenth darker and a fifth towards white, too)."""
    low, high = np.array(HAIR_COLOURS[name])
    return ((colours >= 0.9 * low - 2) & (colours <= high + 0.2 * (255 - high) + 2)).all(axis=-1)


@pytest.mark.parametrize("name", HAIR_COLOURS)
def test_hair_colour_is_seen_in_the_photo_and_not_in_the_lines(name):
    for i in FACES:
        photo, lines, _ = face(i, **{name: 1})
        other, other_lines, _ = face(i, **{"Blond_Hair" if name == "Black_Hair" else "Black_Hair": 1})
        assert np.array_equal(lines, other_lines)
        hair = changed(photo, other)
        hair[32:] = False  # the upper half: no beard, no hair behind the shoulders
        assert is_hair(photo[hair], name).mean() > 0.5
        assert not any(is_hair(photo[hair], wrong).mean() > 0.2 for wrong in HAIR_COLOURS if wrong != name)


def test_lines_depend_on_the_shapes_and_not_on_the_colours():
    for i in FACES:
        photo, lines, attributes = face(i)
        repainted, same_lines, same_face = face(i, colours=i + 1000)
        assert np.array_equal(lines, same_lines)
        assert changed(photo, repainted).mean() > 0.9  # skin, hair, clothes and background all change
        assert {k: v for k, v in attributes.items() if k not in HAIR_COLOURS} == {
            k: v for k, v in same_face.items() if k not in HAIR_COLOURS
        }
    assert len({face(i)[1].tobytes() for i in FACES}) == len(FACES)


# --- Digits ----------------------------------------------------------------------------------------------------------


def test_digits_lie_in_the_frame_as_those_of_mnist():
    digits, labels = draw_builtin("digits", "train", 600, 28)
    assert abs(np.bincount(labels, minlength=10) - 60).max() < 4 * (600 * 0.1 * 0.9) ** 0.5
    ink = digits[:, 0].astype(float)
    assert (ink[:, 0].max(), ink[:, -1].max(), ink[:, :, 0].max(), ink[:, :, -1].max()) == (0, 0, 0, 0)
    middle = [(ink.sum(axis=axis) * (np.arange(28) + 0.5)).sum(axis=1) / ink.sum(axis=(1, 2)) for axis in (1, 2)]
    offset = abs(np.array(middle) - 14)  # of the centre of mass, in pixels
    assert np.quantile(offset, 0.95) < 0.5 and offset.max() < 2
    height = (ink.max(axis=2) > 0).sum(axis=1)
    assert height.max() <= 22 and np.median(height) >= 18


def test_digits_look_like_their_labels():
    # The nearest of ten mean images (of blurred, thus less fussy, pictures) is the right one; by chance: 10%.
    def blurred(digits):
        return digits.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(digits), -1)

    digits, labels = draw_builtin("digits", "train", 1000, 28)
    means = np.stack([blurred(digits[labels == k]).mean(axis=0) for k in range(10)])
    digits, labels = draw_builtin("digits", "test", 300, 28)
    guess = ((blurred(digits)[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    assert (guess == labels).mean() > 0.8


def test_a_digit_is_written_in_many_ways():
    for label in DIGITS:
        images = {draw_digit(random.Random(i), label).tobytes() for i in range(20)}
        assert len(images) >= 19


# --- Geometry --------------------------------------------------------------------------------------------------------


def test_curves():
    for closed in (True, False):
        weights = curve_weights(5, closed)
        assert np.allclose(weights.sum(axis=1), 1) and weights.min() >= 0  # stays inside the control polygon
    assert np.array_equal(curve_weights(4, False)[[0, -1]], np.eye(4)[[0, -1]])  # an open stroke keeps its ends
    radius = np.hypot(*((disc(3, 4, 2, 6) - (3, 4)) / (2, 6)).T)
    assert 0.98 < radius.min() and radius.max() < 1.01


def test_turn_is_a_rotation_and_a_scale():
    matrix = turn(0.1, 3)
    assert np.allclose(matrix @ matrix.T, 9 * np.eye(2)) and np.linalg.det(matrix) > 0
    assert np.isclose(np.arctan2(matrix[0, 1], matrix[0, 0]), 2 * np.arctan(0.1))
