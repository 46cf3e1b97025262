from __future__ import annotations

from pathlib import Path

import pytest

from raystore.errors import InvalidArguments, JobFailed
from raystore.fine_tune import sweep as module
from raystore.fine_tune.sweep import Sweep, Tried, sweep

from .small_work import work

SETTINGS = [{"learning_rate": 1e-9}, {"learning_rate": 2e-3, "temperature": 0.2}, {"learning_rate": 1e-9}]


def test_settings_are_tried_once_each_and_the_best_on_val_comes_first(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model)
    heard: list[tuple[int, int, str]] = []
    found = sweep(asked, SETTINGS, minutes=None, progress=lambda *told: heard.append(told))
    assert [t.place for t in found.tried] == [1, 0]
    assert found.best == SETTINGS[1]
    best, worst = found.tried
    assert best.accuracy is not None
    assert worst.accuracy == found.before
    assert best.accuracy > worst.accuracy
    assert best.steps == 12
    assert [told[:2] for told in heard] == [(0, 2), (1, 2), (2, 2)]
    assert heard[-1][2] == f"best {best.accuracy:.1%}"
    assert not list((tmp_path / "store" / "tmp").glob("*"))


def test_all_that_is_wrong_with_the_settings_is_said_at_once(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model)
    with pytest.raises(InvalidArguments) as refused:
        sweep(asked, [{"learning_rat": 1.0}, {"learning_rate": -1}, {"temperature": 0.1}])
    assert str(refused.value) == (
        "sweep: setting 1: there is no setting 'learning_rat' (did you mean 'learning_rate'?); "
        "setting 2: learning_rate: Input should be greater than 0."
    )
    with pytest.raises(InvalidArguments, match="there are no settings to try"):
        sweep(asked, [])


def test_a_setting_that_fails_is_listed_and_the_others_go_on(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model)
    found = sweep(asked, [{"matryoshka": (500,)}, {"steps": 2}], minutes=1.0)
    assert [t.place for t in found.tried] == [1, 0]
    assert found.tried[1].reason == "fine_tune: matryoshka= names 500, and the vectors have 32 dimensions."
    with pytest.raises(JobFailed) as refused:
        sweep(asked, [{"matryoshka": (500,)}])
    assert str(refused.value) == (
        "sweep failed: no setting could be tried (setting 1: fine_tune: matryoshka= names 500, and the vectors have 32 "
        "dimensions.). Change the settings."
    )


def test_the_table_shows_what_was_tried_best_first() -> None:
    tried = (
        Tried(1, {"losses": "supcon", "learning_rate": 5e-05}, 0.91234, 0.8, 1.25, 40, 12.34),
        Tried(0, {"losses": {"arcface": 1.0, "supcon": 0.5}}, 0.9, 0.7, 2.0, 40, 13.0),
        Tried(2, {"matryoshka": (64, 128)}, reason="it ended with MemoryError"),
    )
    found = Sweep(tried, before=0.85)
    assert str(found) == "\n".join([
        "3 settings in short runs, by the kNN accuracy of val; the base has 85.0%; 1 failed",
        "losses                learning_rate  matryoshka  val accuracy  val P@10  loss  steps  seconds  failed",
        "supcon                        5e-05                     91.2%     80.0%  1.25     40     12.3",
        "arcface + 0.5 supcon                                    90.0%     70.0%     2     40       13",
        "                                     64, 128                                                0  it ended with MemoryError",
    ])  # fmt: skip
    assert "<td style='text-align:right'>91.2%</td>" in found._repr_html_()
    assert found.to_html().startswith("<!doctype html>")
    assert len(found) == 3


@pytest.mark.ray
@pytest.mark.slow
def test_ray_tune_finds_what_one_process_finds(tmp_path: Path, tiny_model: Path, ray_session: object) -> None:
    asked = work(tmp_path, tiny_model)
    inline = sweep(asked, SETTINGS, minutes=None)
    spread = sweep(asked, SETTINGS, minutes=None, workers=2)
    assert [(t.place, t.accuracy, t.steps) for t in spread.tried] == [(t.place, t.accuracy, t.steps) for t in inline.tried]
    assert spread.before == inline.before
    assert not list((tmp_path / "store" / "tmp").iterdir())


def test_what_is_not_ours_is_named_by_its_kind(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = work(tmp_path, tiny_model)

    # torch itself cannot be made to fail here at will.
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("a text that quotes the rows")

    monkeypatch.setattr(module, "run_training", fail)
    with pytest.raises(JobFailed, match=r"no setting could be tried \(setting 1: it ended with RuntimeError\)"):
        sweep(asked, [{"steps": 2}])
