"""Recipes: what they may hold, and that the page tells of every setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from raystore.errors import InvalidArguments
from raystore.fine_tune.recipe import LOSSES, RECIPES, Recipe, named

PAGE = Path(__file__).parent.parent.parent / "docs" / "fine-tuning.md"


def settings_table() -> str:
    """The page's table: every setting with its default and what it is."""
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field in Recipe.model_fields.items():
        default = field.get_default(call_default_factory=True)  # type: ignore[call-arg]
        shown = (
            ", ".join(default) if name == "losses" else "-" if default is None or default == () else str(default).lower()
        )
        rows.append(f"| `{name}` | {shown} | {field.description} |")
    return "\n".join(rows)


def test_every_setting_says_what_it_is_and_stands_in_the_page() -> None:
    assert not [name for name, field in Recipe.model_fields.items() if not field.description]
    assert settings_table() in PAGE.read_text(encoding="utf-8")


def test_every_loss_and_recipe_stands_in_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not [name for name in (*LOSSES, *RECIPES) if f"`{name}`" not in page]


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_is_whole_and_takes_settings_on_top(name: str) -> None:
    assert named(name).model_dump() == {**named(name, {"seed": 7}).model_dump(), "seed": 0}
    assert named(name, {"learning_rate": 1e-5}).learning_rate == 1e-5


def test_a_loss_may_be_given_by_its_name_alone() -> None:
    assert named(None, {"losses": "arcface"}).losses == {"arcface": 1.0}


def test_one_dimension_and_one_augmentation_may_stand_alone() -> None:
    recipe = named(None, {"matryoshka": 512, "augment": "crop"})
    assert (recipe.matryoshka, recipe.augment) == ((512,), ("crop",))
    with pytest.raises(
        InvalidArguments, match=r"matryoshka: Input should be a valid tuple; augment\.0: Input should be 'crop', "
    ):
        named(None, {"matryoshka": True, "augment": "zoom"})


def test_what_a_recipe_changes_is_said_in_words() -> None:
    assert Recipe().changed == {"losses": "supcon"}
    recipe = named("image", {"losses": {"supcon": 1, "arcface": 0.5}, "matryoshka": [64, 128]})
    assert recipe.changed == {
        "losses": "supcon + 0.5 arcface",
        "matryoshka": "64, 128",
        "steps": "150",
        "learning_rate": "0.0002",
        "augment": "crop, flip, colour",
    }


def test_every_bad_setting_is_named_at_once() -> None:
    with pytest.raises(InvalidArguments) as caught:
        named("fast", {"temprature": 0.1, "warmup": 2, "losses": {}})
    assert str(caught.value) == (
        "fine_tune: recipe= is one of few-shot, many-classes, domain, image, not 'fast'; "
        "losses: expected one loss or more, each with a weight above 0; warmup: Input should be less than 1; "
        "there is no setting 'temprature' (did you mean 'temperature'?)."
    )


def test_a_batch_without_a_second_row_of_a_class_is_refused_where_the_loss_needs_one() -> None:
    with pytest.raises(InvalidArguments, match="per_class times views is 1"):
        named(None, {"per_class": 1})
    assert named(None, {"per_class": 1, "losses": "arcface"}).batch_rows == 32


def test_a_pace_of_looks_for_hard_classes_is_refused_where_there_are_none() -> None:
    with pytest.raises(
        InvalidArguments, match="mine_every is how often hard_classes are looked for, and hard_classes is 0"
    ):
        named(None, {"mine_every": 20})
    assert named(None, {"mine_every": 20, "hard_classes": 0.25}).mine_every == 20
