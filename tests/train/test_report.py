from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from raystore.train.report import Baselines, Report, measure

BASELINES = Baselines(majority=0.5, knn10=0.7, knn10_train_rows=6, knn10_rows=4)


def report(split: str = "test", classes: tuple[str, ...] = ("card [lost]", "<b>退款</b>")) -> Report:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.zeros((4, len(classes)), dtype=np.float32)
    probabilities[:, :2] = [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]]
    n = {"train": 6, "val": 2, "test": 4}
    return measure(
        "refunds",
        split,
        labels,
        probabilities,
        list(classes),
        n=n,
        temperature=1.5,
        baselines=BASELINES,
        seconds=0.25,
    )


def test_it_measures_what_was_predicted() -> None:
    made = report()
    assert made.accuracy == accuracy_score([0, 0, 1, 1], [0, 1, 1, 1])
    assert made.confusion == ((1, 1), (0, 2))
    assert [c.support for c in made.per_class] == [2, 2]
    assert made.confusions == [("card [lost]", "<b>退款</b>", 1)]


def test_json_out_and_in_is_the_same_report() -> None:
    assert Report.from_json(report().to_json()) == report()


def test_it_reads_as_a_table_with_its_baselines() -> None:
    text = str(report())
    for part in (
        "Head refunds, on 4 rows of test",
        "accuracy",
        "75.0%",
        "majority class",
        "10 nearest neighbours",
        "card [lost]",
        "1 x card [lost] taken for <b>退款</b>",
        "at temperature 1.50",
    ):
        assert part in text
    assert "\x1b" not in text


def test_of_many_classes_it_shows_the_ten_with_the_lowest_f1() -> None:
    classes = tuple(f"class {i}" for i in range(40))
    assert "The 2 of 40 classes with the lowest F1" in str(report(classes=classes))


@pytest.mark.parametrize(
    ("split", "caveat"),
    [("val", "there is no test split"), ("train", "there is no test and no val split"), ("test", "")],
)
def test_it_says_where_the_rows_were_not_unseen(split: str, caveat: str) -> None:
    assert caveat in str(report(split))
    assert ("there is no test" in str(report(split))) == bool(caveat)


def test_a_baseline_on_fewer_rows_says_so() -> None:
    made = report().model_copy(update={"baselines": BASELINES.model_copy(update={"knn10_train_rows": 3})})
    assert "70.0% (4 rows among 3 of train)" in str(made)
    assert "among" not in str(report())


def test_html_escapes_what_users_named() -> None:
    made = report().model_copy(update={"head": "<script>"})
    assert "<script>" not in made._repr_html_()
    assert "75.0%" in made._repr_html_()
