from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raystore.errors import InvalidArguments
from raystore.train.heads import logits
from raystore.train.linear import fit_linear
from raystore.train.recipe import Recipe, fit_arrays, make_recipe, val_loss
from raystore.train.source import ArraySource, Task

from .examples import MAKERS, NAMED, ThreadGroup, clusters, slice_of, source_of


def recipe(task: Task, kind: Any, **options: Any) -> Recipe:
    return make_recipe(kind, NAMED[task], source_of(task), task, 0, options)


def rows(of: Recipe) -> tuple[Any, Any]:
    return of.source.load("train", 0, 1), of.source.load("val", 0, 1)


@pytest.mark.parametrize("task", ["classes", "labels", "number"])
@pytest.mark.parametrize("options", [{}, {"l2": [0.1, 1.0, 10.0]}])
def test_three_workers_fit_the_linear_head_of_one(task: Task, options: dict[str, Any]) -> None:
    made = recipe(task, "linear", **options)
    train, val = rows(made)
    inline = fit_arrays(made, train, val)
    spread = ThreadGroup(3).run(
        lambda rank, reduce: fit_arrays(made, slice_of(train, rank, 3), slice_of(val, rank, 3), rank=rank, reduce=reduce)
    )
    for fitted in spread:
        assert fitted.found.get("l2") == inline.found.get("l2")
        for name, array in inline.arrays.items():
            np.testing.assert_array_equal(fitted.arrays[name], spread[0].arrays[name])
            np.testing.assert_allclose(fitted.arrays[name], array, atol=5e-3)


def test_three_workers_fit_one_against_the_rest_with_balanced_classes_as_one_does() -> None:
    made = recipe("classes", "linear", loss="ovr", class_weight="balanced")
    train, val = rows(made)
    inline = fit_arrays(made, train, val).arrays
    spread = ThreadGroup(3).run(
        lambda rank, reduce: fit_arrays(made, slice_of(train, rank, 3), slice_of(val, rank, 3), rank=rank, reduce=reduce)
    )
    for fitted in spread:
        np.testing.assert_allclose(fitted.arrays["W"], inline["W"], atol=2e-3)


@pytest.mark.parametrize("task", ["classes", "labels", "number"])
def test_three_workers_train_an_mlp_that_scores_as_that_of_one(task: Task) -> None:
    made = recipe(task, "mlp", hidden=16, max_epochs=12, seeds=2)
    train, val = rows(made)
    inline = fit_arrays(made, train, val)
    spread = ThreadGroup(3).run(
        lambda rank, reduce: fit_arrays(made, slice_of(train, rank, 3), slice_of(val, rank, 3), rank=rank, reduce=reduce)
    )
    for fitted in spread:
        for name, array in spread[0].arrays.items():
            np.testing.assert_array_equal(fitted.arrays[name], array)
    of_one, of_three = (val_loss(made, fitted.arrays, val) for fitted in (inline, spread[0]))
    assert of_three == pytest.approx(of_one, rel=0.25)


@pytest.mark.parametrize("task", ["classes", "labels", "number"])
def test_of_a_list_of_l2_the_best_on_val_is_taken_and_all_are_told(task: Task) -> None:
    made = recipe(task, "linear", l2=[100.0, 1e-4, 1.0])
    train, val = rows(made)
    arrays, found = fit_arrays(made, train, val)
    losses = dict(found["l2_tried"])
    assert list(losses) == [1e-4, 1.0, 100.0]
    assert losses[found["l2"]] == min(losses.values()) == pytest.approx(val_loss(made, arrays, val))
    assert found["l2"] != 1e-4


def test_the_path_of_l2_ends_where_a_fit_from_nothing_ends() -> None:
    made = recipe("classes", "linear", l2=[0.5, 2.0])
    train, val = rows(made)
    alone = recipe("classes", "linear", l2=2.0)
    assert dict(fit_arrays(made, train, val).found["l2_tried"])[2.0] == pytest.approx(
        val_loss(alone, fit_arrays(alone, train, val).arrays, val), rel=1e-3
    )


def test_of_several_seeds_the_best_on_val_is_taken_and_their_spread_is_told() -> None:
    made = recipe("classes", "mlp", hidden=8, max_epochs=3, seeds=[5, 1, 9])
    train, val = rows(made)
    arrays, found = fit_arrays(made, train, val)
    losses = dict(found["seeds_tried"])
    assert list(losses) == [5, 1, 9]
    assert found["seed"] == min(losses, key=losses.__getitem__)
    assert found["val_loss_spread"] == pytest.approx(np.std(list(losses.values())))
    single = recipe("classes", "mlp", hidden=8, max_epochs=3, seeds=[found["seed"]])
    np.testing.assert_array_equal(fit_arrays(single, train, val).arrays["W1"], arrays["W1"])


def test_a_class_weight_is_a_weight_of_its_rows() -> None:
    made = recipe("classes", "linear", class_weight={NAMED["classes"][1]: 3.0})
    train, val = rows(made)
    W, b = fit_linear(train.vectors, train.labels, 3, weights=np.where(train.labels == 1, 3, 1).astype(np.float32))
    arrays = fit_arrays(made, train, val).arrays
    np.testing.assert_array_equal(arrays["W"], W)
    np.testing.assert_array_equal(arrays["b"], b)


def test_balanced_classes_weigh_the_same_and_an_absent_one_is_no_fault() -> None:
    train = clusters(100)
    few = train._replace(labels=np.where(np.arange(100) < 90, 0, 2))
    made = make_recipe("linear", NAMED["classes"], ArraySource({"train": few}), "classes", 0, {"class_weight": "balanced"})
    assert made.class_weights == pytest.approx((100 / 180, 1.0, 5.0))


def test_rows_that_all_weigh_nothing_are_refused() -> None:
    made = recipe("classes", "linear")
    train, val = rows(made)
    with pytest.raises(InvalidArguments) as refused:
        fit_arrays(made, train._replace(weights=np.zeros(600, np.float32)), val)
    assert str(refused.value) == "train_head: the rows of train all weigh 0."


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_progress_begins_at_nothing_only_rises_and_ends_at_all(kind: Any) -> None:
    options = {"l2": [1.0, 2.0]} if kind == "linear" else {"hidden": 8, "max_epochs": 9, "patience": 1, "seeds": 2}
    made = recipe("classes", kind, **options)
    told: list[tuple[int, int]] = []
    fit_arrays(made, *rows(made), progress=lambda done, most: told.append((done, most)))
    done = [d for d, _ in told]
    assert done[0] == 0
    assert done == sorted(set(done))
    assert told[-1] == ((1_000, 1_000) if kind == "linear" else (18, 18))


@pytest.mark.parametrize("task", ["classes", "labels", "number"])
def test_a_row_without_weight_changes_nothing(task: Task) -> None:
    made = recipe(task, "linear")
    train, val = rows(made)
    more = MAKERS[task](300, seed=7)
    with_more = type(train)(
        np.concatenate([train.vectors, more.vectors]),
        np.concatenate([train.labels, more.labels]),
        np.concatenate([train.weights, np.zeros(300, np.float32)]),
    )
    a, b = (fit_arrays(made, t, val).arrays for t in (train, with_more))
    np.testing.assert_allclose(logits("linear", a, val.vectors), logits("linear", b, val.vectors), rtol=2e-3, atol=0.02)
