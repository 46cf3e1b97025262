from __future__ import annotations

import numpy as np
import pytest
import torch

from raystore.errors import TrainingCollapsed, TrainingDiverged
from raystore.fine_tune.loop.watch import Spread, Watch, spread

LABELS = np.repeat(np.arange(10), 2)
WELL = Spread(0.6, 7.0)


def watched(*steps: tuple[float, Spread], trivial: float = 3.0, labels: np.ndarray = LABELS) -> Watch:
    watch = Watch(0.05)
    for number, (loss, around) in enumerate(steps, start=1):
        watch.look(number, loss, around, trivial, labels, kept=4)
    return watch


def test_spread_is_one_for_rows_all_over_and_zero_for_one_point() -> None:
    rows = torch.eye(4).repeat(2, 1)
    everywhere = spread(torch.cat([rows, -rows]))
    assert everywhere.variance == pytest.approx(1.0)
    assert everywhere.rank == pytest.approx(4.0)
    point = spread(torch.eye(4)[:1].repeat(8, 1))
    assert point.variance == pytest.approx(0.0, abs=1e-12)
    line = spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]] * 4))
    assert (line.variance, line.rank) == pytest.approx((1.0, 1.0))
    assert spread(rows, ranked=False).rank is None


def test_of_many_rows_in_many_dimensions_the_rank_is_that_of_a_sample() -> None:
    chance = torch.Generator().manual_seed(0)
    flat = torch.randn(1500, 3, generator=chance) @ torch.randn(3, 600, generator=chance)
    rank = spread(torch.nn.functional.normalize(flat, dim=1)).rank
    assert rank is not None
    assert 2 < rank < 3.01


def test_a_training_that_learns_is_left_alone() -> None:
    watch = watched(*[(2.5 - 0.02 * i, Spread(0.4 + 0.005 * i, 6.0)) for i in range(60)])
    assert watch.is_well


def test_rows_in_one_point_stop_it_after_a_few_steps_in_a_row() -> None:
    steps = [(2.0, WELL)] * 3 + [(2.9, Spread(0.01, 3.0))] * 4
    assert not watched(*steps).is_well
    with pytest.raises(TrainingCollapsed) as stopped:
        watched(*steps, (2.9, Spread(0.01, 2.04)))
    assert str(stopped.value) == (
        "fine-tuning stopped at step 8: all rows have become nearly one point (variance 0.01, effective rank 2.0). Try a "
        "lower learning_rate, a higher temperature, or larger batches: that begins anew. The same call would go on from the weights of "
        "step 4 and most likely stop again; they stay for a week under the store's tmp/fine_tune, as last-4/weights.safetensors."
    )
    assert watched(*steps, (2.0, WELL)).is_well  # one that comes back is well


def test_a_base_whose_rows_are_close_together_from_the_start_is_not_taken_for_collapsed() -> None:
    assert watched(*[(2.9, Spread(0.01, 3.0))] * 30).is_well


def test_a_loss_at_its_trivial_value_with_rows_drawn_together_is_a_collapse() -> None:
    with pytest.raises(TrainingCollapsed, match="its loss is that of a model that tells nothing apart"):
        watched((2.0, WELL), *[(3.01, Spread(0.2, 3.0))] * 5)
    watched((2.0, WELL), *[(3.01, WELL)] * 9)  # at the trivial value, but spread as ever: it has not learned yet


def test_many_classes_on_one_line_are_a_collapse_and_two_are_none() -> None:
    line = [(2.0, WELL)] + [(2.0, Spread(0.5, 1.1))] * 9
    with pytest.raises(TrainingCollapsed, match="the rows of 10 classes have come to lie on one line"):
        watched(*line)
    assert watched(*line, labels=np.arange(20) % 2).is_well


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_it_at_once(loss: float) -> None:
    with pytest.raises(TrainingDiverged) as stopped:
        watched((2.0, WELL), (loss, WELL))
    assert str(stopped.value) == (
        "fine-tuning stopped at step 2: its loss is not a number. Try learning_rate=0.01 (it was 0.05), or a longer warmup: that "
        "begins anew. The same call would go on from the weights of step 4 and most likely stop again; they stay for a week under the "
        "store's tmp/fine_tune, as last-4/weights.safetensors."
    )


def test_a_loss_that_rises_above_start_and_trivial_stops_it() -> None:
    with pytest.raises(TrainingDiverged) as stopped:
        watched(*[(2.0, WELL)] * 5, *[(4.5, WELL)] * 20)
    assert "its loss rose from 2 to" in str(stopped.value)
    assert "and 3 is that of a model that tells nothing apart" in str(stopped.value)
    with pytest.raises(TrainingDiverged, match=r"its loss rose from 2 to 6\.2"):
        watched(*[(2.0, WELL)] * 5, *[(9.0, WELL)] * 9, trivial=float("nan"))
    watched(*[(2.0, WELL)] * 5, *[(3.2, WELL)] * 20)  # worse than at the start, not worse than nothing


def test_one_point_is_judged_against_the_start_and_what_is_no_number_is_one() -> None:
    watch = watched((2.0, WELL))
    assert [watch.is_one_point(variance) for variance in (0.019, 0.021, float("nan"))] == [True, False, True]
    assert not watched((2.0, Spread(0.01, 3.0))).is_one_point(0.0011)


def test_what_it_knows_goes_into_a_checkpoint() -> None:
    watch = watched(*[(2.0, WELL)] * 7, (2.9, Spread(0.01, 1.2)))
    again = Watch(0.05)
    again.load(watch.facts())
    assert again == watch
    assert not again.is_well
