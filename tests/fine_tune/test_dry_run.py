from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from raystore.fine_tune.dry_run import DryRun, dry_run

from .small_work import work


def test_five_steps_say_what_all_would_take_and_write_nothing(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model, steps=400, budget_minutes=2.0)
    before = sorted(tmp_path.rglob("*"))
    found = dry_run(asked)
    assert sorted(tmp_path.rglob("*")) == before
    assert (found.steps, found.batch_rows, found.precision) == (400, 16, "fp32")
    assert found.rows["train"] > found.rows["val"] > 0
    assert found.step_s > 0
    assert found.look_s > 0
    assert found.memory_bytes > 0
    words = re.sub(r"[\d,.]+", "#", str(found))
    assert words.startswith(
        "data:     # rows to train on# # to watch it# # to prove it; # set aside# # removed as leaks\nsteps:    # of # rows each\n"
    )
    assert "MiB more than the base itself# in fp# on " in words
    assert found.to_dict()["steps"] == 400


def test_what_the_data_did_not_allow_is_said(tmp_path: Path, tiny_model: Path) -> None:
    found = dry_run(work(tmp_path, tiny_model, classes_per_batch=16, per_class=2))
    said = "there are 4 classes, so a batch holds 8 rows of each"
    assert found.notes == (said,)
    assert str(found).splitlines()[-1] == f"note:     {said}"
    assert found.to_dict()["notes"] == [said]
    assert said in found._repr_html_()


def test_what_does_not_fit_into_the_budget_is_said() -> None:
    rows = {"train": 1000, "val": 100, "test": 100}
    found = DryRun(rows, 1000, 64, step_s=1.0, look_s=2.0, opening_s=8.0, memory_bytes=2**30, device="cpu", precision="bf16",
                   budget_s=330.0, set_aside=3, leaks=4)  # fmt: skip
    assert (found.fitting_steps, found.seconds) == (300, 330.0)
    assert str(found) == (
        "data:     1,000 rows to train on, 100 to watch it, 100 to prove it; 3 set aside, 4 removed as leaks\n"
        "steps:    1,000, of 64 rows each; 300 of them fit into 6 minutes\n"
        "time:     about 6 minutes: 1.00 s a step, 2.0 s a look at val, 8.0 s to open base and data; "
        "not counted: the proof by 100 rows\n"
        "memory:   1,024 MiB more than the base itself, in bf16 on cpu"
    )
    assert "1,024 MiB" in found._repr_html_()
    assert found.to_dict()["notes"] == []
    free = DryRun(rows, 10, 64, step_s=1.0, look_s=0.0, opening_s=8.0, memory_bytes=0, device="cpu", precision="bf16",
                  pretrain_steps=150, distils=True)  # fmt: skip
    assert "not counted: 150 steps of pre-training, the teacher's vectors of 1,000 rows, the proof by 100 rows" in str(free)
    often = replace(found, evaluate_every=10)
    assert (often.fitting_steps, often.seconds) == (266, 330.0)  # 320 s for steps of 1 s, and a tenth of a look of 2 s each
    assert replace(often, budget_s=None).seconds == pytest.approx(8 + 1000 + 101 * 2)
    assert (free.fitting_steps, free.seconds) == (10, pytest.approx(18.0))
