"""Prefixes that stand alone, and staying near a teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from raystore.fine_tune.losses import make_objective
from raystore.fine_tune.losses.distill import distill, distill_trivial
from raystore.fine_tune.recipe import Recipe
from tests.fine_tune.test_losses import LABELS, number, unit_rows

LABELS_T = torch.from_numpy(LABELS)


@pytest.mark.parametrize("name", ["supcon", "triplet-semi", "proxy-anchor", "arcface"])
def test_matryoshka_is_the_mean_of_the_loss_over_prefixes_made_unit_again(name: str) -> None:
    rows = torch.from_numpy(unit_rows(d=8))
    model = make_objective(Recipe(losses={name: 1.0}, matryoshka=(2, 4)), 5, 8)
    value = model(rows, LABELS_T)
    singles = []
    for m in (2, 4, 8):
        single = make_objective(Recipe(losses={name: 1.0}), 5, m)
        single.load_state_dict({key: kept[:, :m] for key, kept in model.state_dict().items()})
        singles.append(single(functional.normalize(rows[:, :m], dim=1), LABELS_T))
    assert number(value.total) == pytest.approx(np.mean([number(each.total) for each in singles]), rel=1e-5)
    np.testing.assert_allclose(value.each, np.mean([each.each.numpy() for each in singles], axis=0), rtol=1e-4, atol=1e-6)


def test_the_whole_vector_is_trained_too_and_once() -> None:
    assert make_objective(Recipe(matryoshka=(4, 2)), 5, 8).dims == (2, 4, 8)
    assert make_objective(Recipe(matryoshka=(8,)), 5, 8).dims == (8,)


def test_matryoshka_does_not_move_the_trivial_value() -> None:
    plain, nested = make_objective(Recipe(), 5, 8), make_objective(Recipe(matryoshka=(2, 4)), 5, 8)
    assert plain.trivial(LABELS_T) == nested.trivial(LABELS_T)


def test_a_prefix_of_zeros_leaves_finite_gradients() -> None:
    rows = torch.from_numpy(unit_rows(d=8))
    rows[:3, :4] = 0.0
    rows.requires_grad_()
    make_objective(Recipe(matryoshka=(4,)), 5, 8)(rows, LABELS_T).total.backward()
    assert rows.grad is not None
    assert bool(rows.grad.isfinite().all())


def test_with_a_teacher_of_the_same_dimensions_the_vectors_are_compared() -> None:
    rows, teacher = unit_rows(seed=0), unit_rows(seed=1)
    expected = np.mean([1 - float(a @ b) for a, b in zip(rows, teacher, strict=True)])
    assert float(distill(torch.from_numpy(rows), torch.from_numpy(teacher))) == pytest.approx(expected, rel=1e-5)
    assert float(distill(torch.from_numpy(rows), torch.from_numpy(rows))) == pytest.approx(0, abs=1e-6)


def test_with_a_teacher_of_other_dimensions_the_similarities_are_compared() -> None:
    rows, teacher = unit_rows(d=6), unit_rows(d=9, seed=1)
    pairs = [(i, j) for i in range(10) for j in range(10) if i != j]
    expected = np.mean([float(rows[i] @ rows[j] - teacher[i] @ teacher[j]) ** 2 for i, j in pairs])
    assert float(distill(torch.from_numpy(rows), torch.from_numpy(teacher))) == pytest.approx(expected, rel=1e-5)
    wider = np.concatenate([rows, np.zeros((10, 3), np.float32)], axis=1)  # the same similarities in 9 dimensions
    assert float(distill(torch.from_numpy(rows), torch.from_numpy(wider))) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dim", [6, 9])
def test_the_distance_to_a_teacher_is_added_by_its_weight_and_teaches_the_student_alone(dim: int) -> None:
    rows = torch.from_numpy(unit_rows()).requires_grad_()
    teacher = torch.from_numpy(unit_rows(d=dim, seed=1)).requires_grad_()
    model = make_objective(Recipe(distill=0.5), 5, 6)
    with_it, without = model(rows, LABELS_T, teacher=teacher), model(rows, LABELS_T)
    assert number(with_it.total - without.total) == pytest.approx(0.5 * number(distill(rows, teacher)), rel=1e-4)
    assert torch.equal(with_it.each.isnan(), without.each.isnan())
    with_it.total.backward()
    assert rows.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("dim", [6, 9])
def test_one_point_is_no_nearer_to_the_teacher_than_the_trivial_value_says(dim: int) -> None:
    teacher = torch.from_numpy(unit_rows(d=dim, seed=1))
    least = distill_trivial(teacher, 6)
    points = functional.normalize(torch.randn(200, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    values = [float(distill(point.repeat(10, 1), teacher)) for point in points]
    assert min(values) >= least - 1e-6
    model = make_objective(Recipe(distill=2.0), 5, 6)
    assert model.trivial(LABELS_T, teacher=teacher) == pytest.approx(model.trivial(LABELS_T) + 2 * least)


def test_a_teacher_alone_is_no_reason_to_distill() -> None:
    rows, teacher = torch.from_numpy(unit_rows()), torch.from_numpy(unit_rows(seed=1))
    model = make_objective(Recipe(), 5, 6)
    assert torch.equal(model(rows, LABELS_T, teacher=teacher).total, model(rows, LABELS_T).total)
