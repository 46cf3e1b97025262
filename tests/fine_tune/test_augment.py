from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raystore.encoders.passport import ImagePart
from raystore.encoders.pixels import pixels
from raystore.fine_tune.examples.augment import Change, changed, draw
from raystore.fine_tune.recipe import Augmentation, Recipe
from tests.fine_tune.example_files import IMAGE

NAMES: tuple[Augmentation, ...] = ("crop", "flip", "colour", "grey", "blur")


def photo(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


def test_every_name_of_a_recipe_can_be_drawn() -> None:
    Recipe(augment=NAMES)
    drawn = [draw(NAMES, np.random.default_rng(seed)) for seed in range(50)]
    assert all(change.crop and change.colour for change in drawn)
    assert {change.flip for change in drawn} == {change.grey for change in drawn} == {True, False}
    assert any(change.blur for change in drawn)
    assert not all(change.blur for change in drawn)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_more_leaves_the_other_changes_as_they_were(name: str) -> None:
    others = [other for other in NAMES if other != name]
    for seed in range(20):
        without, whole = (vars(draw(names, np.random.default_rng(seed))) for names in (others, NAMES))
        assert {key: value for key, value in whole.items() if key != name} | {name: without[name]} == without
        assert not without[name]


@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 300), st.lists(st.sampled_from(NAMES), unique=True))
@settings(max_examples=60, deadline=None)
def test_whatever_is_drawn_a_picture_has_the_model_s_size(seed: int, width: int, height: int, names: list[str]) -> None:
    found = changed(photo(width, height), draw(names, np.random.default_rng(seed)), IMAGE)
    assert found.shape == (16, 16, 3)
    assert found.dtype == np.uint8


def test_nothing_drawn_is_what_the_encoder_reads() -> None:
    assert np.array_equal(changed(photo(), Change(), IMAGE), pixels(photo(), IMAGE))


def test_a_flip_mirrors_and_grey_has_one_value_a_pixel() -> None:
    plain = pixels(photo(), IMAGE)
    assert np.array_equal(changed(photo(), Change(flip=True), IMAGE), plain[:, ::-1])
    grey = changed(photo(), Change(grey=True), IMAGE)
    assert np.array_equal(grey[..., 0], grey[..., 1])
    assert np.array_equal(grey[..., 1], grey[..., 2])


def test_a_crop_of_the_whole_picture_is_the_picture_at_the_model_s_size() -> None:
    part = ImagePart(pooling="pooler", resize="exact", size=(16, 16), kernel="bilinear", rescale=1.0)
    square = photo(32, 32)
    assert np.array_equal(changed(square, Change(crop=(1.0, 1.0, 0.3, 0.9)), part), pixels(square, part))


def test_colours_of_factor_one_change_nothing_and_a_blur_smooths() -> None:
    plain = pixels(photo(), IMAGE)
    assert np.array_equal(changed(photo(), Change(colour=(1.0, 1.0, 1.0)), IMAGE), plain)
    assert changed(photo(), Change(blur=1.5), IMAGE).std() < plain.std()
