"""Maps fitted on pairs: which is found, what is measured of it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from raystore.errors import InvalidArguments
from raystore.migrate.bridge.fidelity import Fidelity, Measured, halved, look
from raystore.migrate.bridge.fit import Pairs, check_kinds, choose, fit_direction, fit_map
from raystore.migrate.bridge.linear import Ridge, procrustes
from raystore.vectors import Matrix

from .spaces import clustered, pairs_of, turned, unit

LINEAR = ("procrustes", "low-rank")


def test_a_space_that_was_turned_about_is_turned_back() -> None:
    x = clustered(300, 8)
    rng = np.random.default_rng(3)
    y = x @ np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    np.testing.assert_allclose(procrustes(x, y).apply(x), y, atol=1e-4)


def test_rotating_about_the_middles_finds_what_rotating_about_the_origin_does_not() -> None:
    x = clustered(600, 12)
    y = unit((x - x.mean(0)) @ np.linalg.qr(np.random.default_rng(3).normal(size=(12, 12)))[0] + 1.0)
    u, _, vt = np.linalg.svd(x.T @ y)
    own = np.arange(600)
    about_origin = look("forward", unit(x @ (u @ vt)), y, y, own).recalls.mean()
    about_middles = look("forward", procrustes(x, y).apply(x), y, y, own).recalls.mean()
    assert about_middles > about_origin + 0.1


@pytest.mark.parametrize(("d", "m"), [(12, 12), (12, 7), (7, 12)])
@pytest.mark.parametrize("direction", ["forward", "back"])
def test_linear_maps_are_found_whatever_the_dimensions(direction: str, d: int, m: int) -> None:
    fitted = fit_direction(direction, pairs_of(400, d, m), kinds=LINEAR)  # type: ignore[arg-type]
    takes, gives = (d, m) if direction == "forward" else (m, d)
    assert (fitted.map.takes, fitted.map.gives) == (takes, gives)
    assert [each.kind for each in fitted.tried] == list(LINEAR)
    if gives <= takes:  # else a part of what is to be found is not in what is given
        assert fitted.fidelity.recall > 0.8
    assert (fitted.fidelity.n, fitted.fidelity.gallery, fitted.fidelity.pairs) == (400, 400, 400)
    assert fitted.fidelity.low < fitted.fidelity.recall < fitted.fidelity.high
    assert fitted.fidelity.us > 0


def test_a_bent_space_takes_the_mlp() -> None:
    x = clustered(1_500, 8)
    rng = np.random.default_rng(2)
    bent = np.tanh((x - x.mean(0)) @ rng.normal(size=(8, 24)) * 2) @ rng.normal(size=(24, 8))
    pairs = Pairs(x, unit(bent))
    kinds = ("low-rank", "mlp")
    linear, mlp = fit_direction("forward", pairs, kinds=kinds).tried
    assert (linear.kind, mlp.kind) == kinds
    assert mlp.recall > linear.recall + 0.02
    assert fit_map("forward", "mlp", pairs, 0).pack() == fit_map("forward", "mlp", pairs, 0).pack()


def test_of_kinds_that_find_as_much_the_simplest_is_kept() -> None:
    fitted = fit_direction("forward", pairs_of(300), kinds=LINEAR)
    assert fitted.map.kind == "procrustes"


def test_more_than_5000_pairs_hold_4000_out_and_fit_the_last_map_on_all() -> None:
    fitted = fit_direction("back", pairs_of(5_200, 6, 6, noise=0.05), kinds=["procrustes"])
    assert (fitted.fidelity.n, fitted.fidelity.gallery, fitted.fidelity.pairs) == (4_000, 5_200, 5_200)


def test_pairs_that_say_nothing_of_each_other_are_not_found_though_they_were_fitted() -> None:
    """What was fitted is never asked: an affine map of 40 numbers meets 100 random pairs, and finds no others."""
    x, y = clustered(100, 40, seed=1), clustered(100, 40, seed=2)
    seen = look("forward", Ridge(x, y).map(1e-3).apply(x), y, y, np.arange(100)).recalls.mean()
    held_out = fit_direction("forward", Pairs(x, y), kinds=["low-rank"]).fidelity
    assert seen > 0.4
    assert held_out.recall < 0.25
    assert held_out.advice == (
        f"Re-embed: recall@10 {held_out.recall:.1%} among 100 rows (forward, 100 held-out pairs), below 90%. "
        "Where the content is gone, dual-write until enough rows have true vectors."
    )


def test_with_labels_what_a_search_keeps_of_them_is_measured_and_said_too() -> None:
    groups = np.repeat(np.arange(4), 40)
    middles = 3 * np.random.default_rng(0).normal(size=(4, 10))
    rng = np.random.default_rng(1)
    x = unit(middles[groups] + 0.3 * rng.normal(size=(160, 10)))
    y = unit(middles[groups][:, ::-1] + 0.3 * rng.normal(size=(160, 10)))  # the group is shared, the place in it is not
    labels = np.where(np.arange(160) % 5 == 0, -1, groups)
    fidelity = fit_direction("back", Pairs(x, y, labels), kinds=["low-rank"]).fidelity
    assert 1 / 3 < fidelity.recall < 0.6
    assert fidelity.labelled == 128
    assert fidelity.kept is not None
    assert fidelity.kept > 0.95
    assert fidelity.measured.usable
    assert fidelity.advice is not None
    assert fidelity.advice.startswith(f"Re-embed: {fidelity.measured} (back, 160 held-out pairs), the first below 90%. ")
    assert (
        str(fidelity.measured) == f"recall@10 {fidelity.recall:.1%} among 160 rows, label searches keep {fidelity.kept:.1%}"
    )


def test_what_is_found_of_three_neighbours_is_counted() -> None:
    true: Matrix = unit(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]]))
    own = np.arange(4)
    assert look("forward", true, true, true, own).recalls.tolist() == [1.0] * 4  # of 4 rows, 3 are another's neighbours
    found = look("back", true[::-1].copy(), true, true, own, np.array([0, 0, 1, 1]), np.array([0, 0, 1, -1]))
    assert np.isnan(found.true).tolist() == [False, False, False, True]


def test_too_few_pairs_and_unknown_kinds_are_said_together() -> None:
    with pytest.raises(InvalidArguments) as refused:
        check_kinds(["cubic"], 7)
    assert refused.value.problems == [
        "kinds= names 'cubic', expected some of procrustes, low-rank, mlp",
        "7 different rows have a vector of both encoders, and a bridge is fitted on 100 at least: add the new encoder to the "
        "collection, and log or embed some more rows with both",
    ]
    with pytest.raises(InvalidArguments) as empty:
        check_kinds([], 100)
    assert empty.value.problems == ["kinds= is empty, expected some of procrustes, low-rank, mlp"]
    assert check_kinds("mlp", 100) == ["mlp"]
    assert check_kinds(["mlp", "procrustes"], 100) == ["procrustes", "mlp"]


def test_a_fidelity_of_90_percent_gives_no_advice() -> None:
    good = Fidelity("forward", "mlp", 500, 500, 500, recall=0.9, low=0.89, high=0.91, cosine=0.99, cosine_5=0.98)
    assert good.advice is None
    assert turned(clustered(5, 4), 3).shape == (5, 3)


def test_labels_count_for_nothing_where_two_of_three_neighbours_are_others() -> None:
    """Rows bridged into a poorer space go on lying where the better one put them, and find more rows of their label than its own."""
    facts = {"pairs": 500, "n": 500, "gallery": 500, "low": 0.2, "high": 0.4, "cosine": 0.5, "cosine_5": 0.4}
    several = [Measured(*each) for each in ((0.24, 1.5), (0.5, 0.97), (0.5, 0.8), (0.5,), (0.9,), (0.95, 0.5))]
    assert [each.usable for each in several] == [False, True, False, False, True, True]
    assert [each.good for each in several] == [False, False, False, False, True, True]
    end = "Where the content is gone, dual-write until enough rows have true vectors."
    strange = Fidelity("forward", "mlp", recall=0.24, kept=1.5, **facts)  # type: ignore[arg-type]
    assert strange.advice == (
        "Re-embed: recall@10 24.0% among 500 rows, label searches keep 150.0% (forward, 500 held-out pairs), and where two of three "
        f"neighbours are others, labels say nothing. {end}"
    )
    kin = Fidelity("back", "mlp", recall=0.5, kept=0.8, **facts)  # type: ignore[arg-type]
    assert (
        kin.advice
        == f"Re-embed: recall@10 50.0% among 500 rows, label searches keep 80.0% (back, 500 held-out pairs), both below 90%. {end}"
    )
    near = Fidelity("back", "mlp", recall=0.5, kept=0.97, **facts)  # type: ignore[arg-type]
    assert (
        near.advice
        == f"Re-embed: recall@10 50.0% among 500 rows, label searches keep 97.0% (back, 500 held-out pairs), the first below 90%. {end}"
    )


def test_a_recall_is_judged_by_what_is_left_of_it_among_all_the_rows() -> None:
    near = Measured(0.95, None, gallery=1_000, falls=0.02, rows=4_000)
    assert (near.expected, near.good) == (pytest.approx(0.91), True)
    assert str(near) == "recall@10 95.0% among 1,000 rows, about 91% among all 4,000"
    far = Measured(0.95, None, gallery=1_000, falls=0.02, rows=1_000_000)
    assert (round(far.expected, 3), far.good, far.short) == (0.751, False, "below 90%")
    assert str(Measured(0.95, None, gallery=1_000, falls=0.02, rows=1_000)) == "recall@10 95.0% among 1,000 rows"
    assert Measured(0.1, None, gallery=10, falls=0.05, rows=10**6).expected == 0
    assert Measured(0.8, None, gallery=100, falls=-0.01, rows=800).expected == 0.8  # measured among few, by chance


def test_among_more_rows_fewer_neighbours_are_found() -> None:
    x = clustered(600, 12)
    y = unit(x @ np.random.default_rng(3).normal(size=(12, 12)) + 0.3 * np.random.default_rng(4).normal(size=(600, 12)))
    own = np.arange(600)
    whole = look("forward", y, unit(x), unit(x), own).recalls.mean()
    assert halved("forward", y, unit(x), unit(x), own) > whole
    fitted = [fit_direction(each, Pairs(x, y), kinds=["low-rank"], rows=5_000).fidelity for each in ("forward", "back")]
    assert all(each.falls > 0 and each.measured.expected < each.recall for each in fitted)
    # Where every query finds its neighbours among all, it does among half of them.
    assert halved("back", unit(x), unit(x), unit(x), own) == 1


def tried(direction: str, *reached: tuple[str, float, float]) -> list[Fidelity]:
    """Kinds with their recall and microseconds."""
    return [
        Fidelity(direction, kind, 500, 500, 500, recall, recall, recall, 0.9, 0.8, us=us)  # type: ignore[arg-type]
        for kind, recall, us in reached
    ]


def test_of_kinds_that_a_query_has_no_time_for_none_is_chosen_and_the_next_best_is() -> None:
    kinds = (("procrustes", 0.80, 20.0), ("low-rank", 0.85, 20.0), ("mlp", 0.90, 50.1))
    assert choose(tried("back", *kinds)).kind == "low-rank"
    assert choose(tried("forward", *kinds)).kind == "mlp"  # rows are bridged many at once
    assert choose(tried("back", *kinds[:2], ("mlp", 0.90, 50.0))).kind == "mlp"
    assert choose(tried("back", *kinds[:2], ("mlp", 0.8515, 30.0))).kind == "low-rank"  # as good, and simpler


def test_where_every_kind_takes_too_long_the_quickest_is_chosen() -> None:
    slow = tried("back", ("procrustes", 0.80, 61.0), ("low-rank", 0.85, 60.0), ("mlp", 0.90, 90.0))
    assert choose(slow).kind == "low-rank"
