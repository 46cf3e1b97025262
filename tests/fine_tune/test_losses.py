"""Every loss against its paper's sums by hand, and the laws that all of them keep."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch

from raystore.errors import InvalidArguments
from raystore.fine_tune.losses import LossValue, Objective, make_objective
from raystore.fine_tune.losses.proxy import ClassVectors
from raystore.fine_tune.recipe import LossName, Recipe
from tests.fine_tune import loss_references as by_hand

ALL = get_args(LossName)
PAIRWISE = [name for name in ALL if name not in ("proxy-anchor", "arcface", "softmax")]
LABELS = np.array([0, 1, 0, 2, 1, 0, 3, 2, 1, 4])  # 3 and 4 stand alone
SIDES = np.array([0, 1, 0, 0, 0, 1, 1, 1, 0, 0])


def unit_rows(n: int = 10, d: int = 6, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def objective(name: str, n_classes: int = 5, dim: int = 6, **options: Any) -> Objective:
    return make_objective(Recipe(losses={name: 1.0}, **options), n_classes, dim)


def value_of(name: str, rows: np.ndarray, labels: np.ndarray, **extra: Any) -> LossValue:
    return objective(name, dim=rows.shape[1])(torch.from_numpy(rows), torch.from_numpy(labels), **extra)


def number(total: torch.Tensor) -> float:
    return float(total.detach())


def class_vectors(model: Objective) -> np.ndarray:
    (loss,) = [loss for loss in model.losses if isinstance(loss, ClassVectors)]
    return loss.vectors.detach().numpy()


REFERENCES = {
    "supcon": by_hand.supcon(0.05),
    "supcon-in": by_hand.supcon_in(0.05),
    "triplet-hard": by_hand.batch_hard(0.2),
    "triplet-semi": by_hand.semi_hard(0.2),
    "multi-similarity": by_hand.per_row(by_hand.multi_similarity, True),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PAIRWISE)
def test_a_loss_of_pairs_is_the_papers_sum(name: str, seed: int) -> None:
    rows = unit_rows(seed=seed)
    value = value_of(name, rows, LABELS)
    expected = REFERENCES[name](rows, LABELS)
    np.testing.assert_allclose(value.each.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert number(value.total) == pytest.approx(np.nanmean(expected), rel=1e-4)


def test_softmax_is_the_papers_sum_over_the_other_side() -> None:
    rows = unit_rows()
    value = value_of("softmax", rows, LABELS, sides=torch.from_numpy(SIDES))
    expected = by_hand.pair_softmax(rows, LABELS, SIDES, 0.05)
    np.testing.assert_allclose(value.each.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert number(value.total) == pytest.approx(np.nanmean(expected), rel=1e-4)


def test_softmax_of_as_many_texts_as_images_is_clips_mean_of_both_cross_entropies() -> None:
    rows = unit_rows()
    labels, sides = torch.arange(5).repeat(2), torch.arange(2).repeat_interleave(5)
    logits = torch.from_numpy(rows[:5] @ rows[5:].T) / 0.05
    clip = [torch.nn.functional.cross_entropy(each, torch.arange(5)) for each in (logits, logits.T)]
    assert number(value_of("softmax", rows, labels.numpy(), sides=sides).total) == pytest.approx(
        float(sum(clip)) / 2, rel=1e-5
    )


def test_softmax_without_sides_is_supcon() -> None:
    rows = unit_rows()
    assert torch.equal(value_of("softmax", rows, LABELS).total, value_of("supcon", rows, LABELS).total)


def test_proxy_anchor_is_the_papers_sum_and_each_is_the_loss_of_the_row_alone() -> None:
    rows, labels, model = unit_rows(), LABELS % 4, objective("proxy-anchor", n_classes=6)
    value = model(torch.from_numpy(rows), torch.from_numpy(labels))
    vectors = class_vectors(model)
    assert number(value.total) == pytest.approx(by_hand.proxy_anchor(rows, labels, vectors, 0.2, 20.0), rel=1e-5)
    alone = [by_hand.proxy_anchor(rows[i : i + 1], labels[i : i + 1], vectors, 0.2, 20.0) for i in range(10)]
    np.testing.assert_allclose(value.each.numpy(), alone, rtol=1e-4)


@pytest.mark.parametrize("margin", [0.2, 2.5])
def test_arcface_is_the_papers_sum_and_goes_on_where_angle_and_margin_pass_pi(margin: float) -> None:
    rows, model = unit_rows(), objective("arcface", margin=margin)
    value = model(torch.from_numpy(rows), torch.from_numpy(LABELS))
    expected = by_hand.arcface(rows, LABELS, class_vectors(model), margin, 20.0)
    np.testing.assert_allclose(value.each.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert number(value.total) == pytest.approx(expected.mean(), rel=1e-5)


def test_supcon_in_is_never_larger_than_supcon_out() -> None:
    rows = unit_rows()
    inside, outside = value_of("supcon-in", rows, LABELS).each, value_of("supcon", rows, LABELS).each
    assert bool((inside <= outside + 1e-5)[~outside.isnan()].all())


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_a_batch_changes_nothing(name: str) -> None:
    rows, order = unit_rows(), np.random.default_rng(1).permutation(10)
    sides = torch.from_numpy(SIDES)
    one = value_of(name, rows, LABELS, sides=sides)
    other = value_of(name, rows[order], LABELS[order], sides=sides[order])
    assert number(one.total) == pytest.approx(number(other.total), rel=1e-5)
    np.testing.assert_allclose(one.each.numpy()[order], other.each.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ALL if name != "proxy-anchor"])
def test_each_averages_to_the_total_by_weight(name: str) -> None:
    weights = torch.linspace(0, 1, 10)
    value = value_of(name, unit_rows(), LABELS, weights=weights, sides=torch.from_numpy(SIDES))
    there = ~value.each.isnan()
    assert float((value.each * weights)[there].sum() / weights[there].sum()) == pytest.approx(number(value.total), rel=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "case", ["ordinary", "one point", "one row", "one class", "every class once", "unlabelled", "opposite", "no weight"]
)
def test_totals_and_gradients_are_finite_whatever_stands_in_the_batch(name: str, case: str) -> None:
    rows, labels, weights = unit_rows(), LABELS, torch.ones(10)
    if case == "one point":
        rows = np.tile(rows[:1], (10, 1))
    elif case == "one row":
        rows, labels, weights = rows[:1], labels[:1], weights[:1]
    elif case == "one class":
        labels = np.zeros(10, dtype=np.int64)
    elif case == "every class once":
        labels = np.arange(10)
    elif case == "unlabelled":
        labels = np.full(10, -1)
    elif case == "opposite":
        rows = rows[:1] * np.where(np.arange(10) % 2, 1, -1).astype(np.float32)[:, None]
    elif case == "no weight":
        weights = torch.zeros(10)
    model, given = objective(name, n_classes=10), torch.from_numpy(rows).requires_grad_()
    value = model(given, torch.from_numpy(labels), weights=weights)
    value.total.backward()
    assert given.grad is not None
    gradients = [given.grad, *(p.grad for p in model.parameters() if p.grad is not None)]
    assert all(bool(each.isfinite().all()) for each in [value.total, *gradients])
    assert value.each.shape == (len(rows),)
    assert not value.each.requires_grad


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_row_without_a_class_mate_has_no_term_and_leaves_the_total_a_number(name: str) -> None:
    value = value_of(name, unit_rows(), LABELS)
    assert value.each.isnan().nonzero().flatten().tolist() == [6, 9]
    assert math.isfinite(number(value.total))


@pytest.mark.parametrize("name", ALL)
def test_a_batch_in_which_no_row_has_a_term_costs_nothing(name: str) -> None:
    value = value_of(name, unit_rows(), np.full(10, -1))
    assert bool(value.each.isnan().all())
    # The classes that are not there have no row to push away either.
    assert number(value.total) == 0.0


@pytest.mark.parametrize("name", ALL)
def test_rows_labelled_minus_one_are_as_good_as_not_there(name: str) -> None:
    rows = unit_rows(13)
    labels = np.concatenate([LABELS, np.full(3, -1)])
    with_them, without = value_of(name, rows, labels), value_of(name, rows[:10], LABELS)
    assert number(with_them.total) == pytest.approx(number(without.total), rel=1e-5)
    assert bool(with_them.each[10:].isnan().all())


@pytest.mark.parametrize("name", ["supcon", "supcon-in", "triplet-semi", "multi-similarity"])
def test_a_weight_of_two_is_a_row_that_class_mates_have_twice(name: str) -> None:
    """Row 0's term is what it would be if row 2, its class-mate, stood there twice as a positive."""
    rows = unit_rows()
    weights = torch.ones(10)
    weights[2] = 2.0
    term = float(value_of(name, rows, LABELS, weights=weights).each[0])
    s = rows[0].astype(np.float64) @ rows.T.astype(np.float64)
    near, far = [2, 2, 5], by_hand.strangers(LABELS, 0)
    if name.startswith("supcon"):
        total = sum(math.exp(s[j] / 0.05) for j in [2, 5, *far])
        shares = [math.exp(s[j] / 0.05) / total for j in near]
        expected = -math.log(sum(shares) / 3) if name == "supcon-in" else -sum(math.log(share) for share in shares) / 3
    elif name == "multi-similarity":
        expected = by_hand.multi_similarity(s, near, far)
    else:
        two, five = (by_hand.semi_hard(0.2)(rows[[0, j, *far]], np.array([0, 0, *([9] * len(far))]))[0] for j in (2, 5))
        expected = (2 * two + five) / 3
    assert term == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_row_of_weight_zero_is_nobodys_class_mate(name: str) -> None:
    labels, weights = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 2]), torch.ones(10)
    weights[1] = 0.0
    assert bool(value_of(name, unit_rows(), labels, weights=weights).each[0].isnan())


TRIVIAL = {
    "supcon": math.log(9),
    "supcon-in": math.log(9),
    "softmax": math.log(9),
    "triplet-hard": 0.2,
    "triplet-semi": 0.2,
    "multi-similarity": None,
    "proxy-anchor": None,
    "arcface": math.log(1 + 4 * math.exp(20 * (1 - math.cos(0.2)))),
}


@pytest.mark.parametrize("name", ALL)
def test_the_trivial_value_is_the_loss_of_one_point(name: str) -> None:
    model, point = objective(name), unit_rows(1)
    model.start(torch.from_numpy(np.tile(point, (5, 1))))
    labels = torch.from_numpy(LABELS)
    total = number(model(torch.from_numpy(np.tile(point, (10, 1))), labels).total)
    assert model.trivial(labels) == pytest.approx(
        total, abs=2e-3
    )  # arcface's slope at angle 0 is steep: a cosine of 1 - 6e-8
    if TRIVIAL[name] is not None:
        assert model.trivial(labels) == pytest.approx(TRIVIAL[name], abs=2e-3)


def test_the_trivial_value_of_pairs_is_the_log_of_the_other_side() -> None:
    labels, sides = torch.arange(5).repeat(2), torch.arange(2).repeat_interleave(5)
    assert objective("softmax").trivial(labels, sides) == pytest.approx(math.log(5))


@pytest.mark.parametrize("name", ALL)
def test_a_step_down_the_gradient_lowers_the_loss(name: str) -> None:
    model, raw = objective(name), torch.from_numpy(unit_rows()).requires_grad_()
    labels = torch.from_numpy(LABELS % 4)

    def total() -> torch.Tensor:
        return model(torch.nn.functional.normalize(raw, dim=1), labels).total

    before = total()
    before.backward()
    with torch.no_grad():
        raw -= 1e-3 * raw.grad / raw.grad.norm()
    assert number(total()) < number(before)


@pytest.mark.parametrize("name", ALL)
def test_under_autocast_the_loss_is_computed_in_float32(name: str) -> None:
    rows, labels = torch.from_numpy(unit_rows()), torch.from_numpy(LABELS)
    model = objective(name)
    plain = model(rows, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model(rows, labels)
    assert torch.equal(plain.total, cast.total)
    assert cast.total.dtype == cast.each.dtype == torch.float32
    assert model(rows.bfloat16(), labels).total.dtype == torch.float32


def test_losses_are_summed_by_weight() -> None:
    rows, labels = torch.from_numpy(unit_rows()), torch.from_numpy(LABELS)
    both = make_objective(Recipe(losses={"supcon": 0.5, "triplet-hard": 2.0}), 5, 6)(rows, labels)
    one, other = objective("supcon")(rows, labels), objective("triplet-hard")(rows, labels)
    assert number(both.total) == pytest.approx(0.5 * number(one.total) + 2 * number(other.total), rel=1e-6)
    np.testing.assert_allclose(both.each.numpy(), (0.5 * one.each + 2 * other.each).numpy(), rtol=1e-6)


def test_class_vectors_start_at_the_means_and_those_without_a_mean_keep_their_own() -> None:
    model, means = objective("arcface", n_classes=4), torch.tensor(unit_rows(4)) * 3
    own = class_vectors(model).copy()
    means[1], means[2, 0] = 0.0, torch.nan
    model.start(means)
    np.testing.assert_allclose(class_vectors(model)[[0, 3]], means[[0, 3]] / 3, rtol=1e-5)
    np.testing.assert_array_equal(class_vectors(model)[1:3], own[1:3])


def test_class_vectors_are_the_same_for_the_same_seed() -> None:
    assert np.array_equal(class_vectors(objective("arcface", seed=3)), class_vectors(objective("arcface", seed=3)))
    assert not np.array_equal(class_vectors(objective("arcface", seed=3)), class_vectors(objective("arcface", seed=4)))


def test_more_dimensions_than_there_are_is_said() -> None:
    with pytest.raises(InvalidArguments) as error:
        make_objective(Recipe(matryoshka=(4, 8, 16)), 5, 6)
    assert str(error.value) == "fine_tune: matryoshka= names 8, 16, and the vectors have 6 dimensions."
