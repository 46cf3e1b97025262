"""The vote, what descriptions add to it, and how far it is believed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raystore.train.calibration import softmax
from raystore.train.classify.calibrate import FOLDS, LEAST, calibrate, evenly, far_below, folds
from raystore.train.classify.vote import class_votes, log_votes, vote_shares
from raystore.train.classify.zero_shot import Described, pseudo_votes, sentence_of

COSINES = arrays(np.float32, (3, 5), elements=st.floats(-1, 1, width=32))


@given(COSINES, arrays(np.bool_, (3, 5)))
@settings(deadline=None, max_examples=50)
def test_the_shares_of_a_row_sum_to_one_or_to_nothing_without_neighbours(cosines: np.ndarray, real: np.ndarray) -> None:
    shares = vote_shares(cosines, real=real)
    np.testing.assert_allclose(shares.sum(axis=1), real.any(axis=1), atol=1e-12)
    assert (shares[~real] == 0).all()


@given(COSINES, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_the_order_of_the_neighbours_does_not_matter(cosines: np.ndarray, random: object) -> None:
    codes = np.array([[0, 1, 2, 0, 1]] * 3)
    order = list(range(5))
    random.shuffle(order)  # type: ignore[attr-defined]
    one = class_votes(vote_shares(cosines), codes, 3)
    other = class_votes(vote_shares(cosines[:, order]), codes[:, order], 3)
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_a_class_that_nothing_speaks_for_is_impossible_and_one_with_a_spread_vote_is_not() -> None:
    votes = class_votes(vote_shares(np.array([[1.0, 1.0]])), np.array([[0, 0]]), 3)
    probabilities = softmax(log_votes(votes, 2, np.array([0.5, 0.5, 0.0])))
    np.testing.assert_allclose(probabilities, [[2.5 / 3, 0.5 / 3, 0]], atol=1e-6)


def test_a_description_counts_half_as_many_votes_as_neighbours_and_fades_with_labels() -> None:
    np.testing.assert_allclose(pseudo_votes(np.array([0, 4, 36]), 20), [10, 5, 1])


def test_described_classes_are_a_softmax_of_cosines_and_others_get_nothing() -> None:
    described = Described({"a": "", "b": ""}, np.eye(2, 4, dtype=np.float32))
    shares = described.shares(described.cosines(np.eye(1, 4, dtype=np.float32)), 3)
    assert shares[0, 0] > 0.99
    assert (shares[0, 2], shares.sum()) == (0, pytest.approx(1))


@pytest.mark.parametrize(
    ("name", "description", "sentence"),
    [("card_lost", " money  back ", "card lost: money back"), ("re-fund", "", "re fund"), ("退款", "钱", "退款: 钱")],
)
def test_a_class_is_encoded_by_its_name_in_words_and_its_description(name: str, description: str, sentence: str) -> None:
    assert sentence_of(name, description) == sentence


def test_classes_with_one_label_do_not_count_for_the_temperature() -> None:
    n = 2 * LEAST
    logits = np.tile(np.log(np.array([[0.6, 0.4]], np.float32)), (n, 1))
    codes = (np.arange(n) >= LEAST).astype(np.int64)  # half are right, so 60% is too sure
    nearest = np.linspace(0.5, 1, n)
    flat = calibrate(logits, codes, nearest, np.ones(n, np.int64))
    assert flat.temperature > 10
    assert flat.far == pytest.approx(np.quantile(nearest, 0.01))
    only_right = calibrate(logits, codes, nearest, np.where(codes == 0, 1, 0))
    assert only_right.temperature < 1


def test_rows_that_are_all_right_leave_room_for_one_mistake() -> None:
    n = 99
    logits = np.tile(np.log(np.array([[0.97, 0.02, 0.01]], np.float32)), (n, 1))
    found = calibrate(logits, np.zeros(n, np.int64), np.ones(n), np.ones(n, np.int64))
    assert softmax(logits[:1], found.temperature)[0, 0] == pytest.approx(n / (n + 1), abs=0.003)
    alone = calibrate(logits[:, :1], np.zeros(n, np.int64), np.ones(n), np.ones(n, np.int64))
    assert alone.temperature == 1.0


def test_of_few_rows_nothing_is_concluded() -> None:
    few = np.zeros(LEAST - 1, np.int64)
    assert calibrate(np.zeros((LEAST - 1, 2), np.float32), few, few + 0.5, few + 1) == (1.0, None, LEAST - 1)
    assert far_below(np.full(LEAST, -np.inf)) is None


@given(st.lists(st.integers(0, 6), max_size=80))
def test_every_fold_holds_a_tenth_of_each_class(codes: list[int]) -> None:
    of = folds(np.array(codes, dtype=np.int64))
    assert len(of) == len(codes)
    for code in set(codes):
        held = np.bincount(of[np.array(codes) == code], minlength=FOLDS)
        assert held.max() - held.min() <= 1
    alone = of[[codes.count(code) == 1 for code in codes]] if codes else of
    assert len(set(alone.tolist())) == len(alone)  # so that the other classes of one row are still there


@given(st.integers(0, 500), st.integers(1, 50))
def test_a_sample_is_spread_evenly_and_has_no_row_twice(n: int, most: int) -> None:
    places = evenly(n, most)
    assert len(places) == len(set(places.tolist())) == min(n, most)
    assert all(0 <= place < n for place in places)
