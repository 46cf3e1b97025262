from __future__ import annotations

from html import escape
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error, r2_score, root_mean_squared_error

from raystore.train.report import words
from raystore.train.report.report import Baselines, Report, measure

BASELINES = Baselines(majority=0.5, knn10=0.7, knn10_train_rows=6, knn10_rows=4)
CLASSES = ("card [lost]", "<b>退款</b>")


def report(split: str = "test", classes: tuple[str, ...] = CLASSES, **more: object) -> Report:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.zeros((4, len(classes)), dtype=np.float32)
    probabilities[:, :2] = [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]]
    n = {"train": 6, "val": 2, "test": 4}
    facts = {"n": n, "temperature": 1.5, "baselines": BASELINES, "seconds": 0.25} | more
    return measure("refunds", split, labels, probabilities, list(classes), **facts)  # type: ignore[arg-type]


def big(n: int = 1000, c: int = 50, entities: np.ndarray | None = None, threshold: float | None = None) -> Report:
    rng = np.random.default_rng(0)
    labels = rng.integers(c, size=n)
    probabilities = rng.dirichlet(np.full(c, 0.02), n).astype(np.float32)
    probabilities[np.arange(n), labels] += rng.random(n, dtype=np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    counts = {"train": 6, "val": 2, "test": n}
    names = [f"class {i}" for i in range(c)]
    return measure(
        "big", "test", labels, probabilities, names,
        n=counts, temperature=1.0, baselines=BASELINES, seconds=1.0, entities=entities, threshold=threshold,
    )  # fmt: skip


def several() -> Report:
    rng = np.random.default_rng(0)
    truth = rng.random((300, 4)) < [0.5, 0.3, 0.1, 0.02]
    probabilities = (truth * 0.4 + rng.random((300, 4)) * 0.6).astype(np.float32)
    return measure(
        "topics", "test", truth.astype(np.float32), probabilities, ["a", "b", "c", "d"],
        task="labels", n={"test": 300}, temperature=1.0, thresholds=[0.5, 0.6, 0.5, 0.5], baselines=BASELINES, seconds=1.0,
    )  # fmt: skip


def numbers(n: int = 2000) -> tuple[Report, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(1e6, 10, n)
    said = truth + rng.normal(1, 5, n)
    baselines = BASELINES.model_copy(update={"mean_rmse": 10.0})
    made = measure(
        "days", "test", truth, said[:, None], [], task="number", n={"test": n}, temperature=1.0, baselines=baselines, seconds=1.0
    )  # fmt: skip
    return made, truth, said


def squeezed(made: Report) -> str:
    """Its text with one space where there are several."""
    return " ".join(str(made).split())


ALL = [report(), big(), big(c=300), several(), numbers()[0]]


def test_it_measures_what_was_predicted() -> None:
    made = report()
    assert made.accuracy == accuracy_score([0, 0, 1, 1], [0, 1, 1, 1])
    assert made.headline == ("accuracy", 0.75)
    assert made.headline_text == "accuracy 75.0%"
    assert made.confusion == ((1, 1), (0, 2))
    assert [(c.support, c.predicted) for c in made.per_class] == [(2, 1), (2, 3)]
    assert made.confusions == (("card [lost]", "<b>退款</b>", 1),)


@pytest.mark.parametrize("made", ALL, ids=lambda r: r.head)
def test_json_out_and_in_is_the_same_report(made: Report) -> None:
    assert Report.from_json(made.to_json()) == made


@pytest.mark.parametrize("made", ALL, ids=lambda r: r.head)
def test_every_interval_holds_its_score(made: Report) -> None:
    assert made.intervals
    for name, (low, high) in made.intervals.items():
        assert low <= made.scores[name] <= high
    for c in made.per_class:
        assert c.f1_interval is None or c.f1_interval[0] <= c.f1 <= c.f1_interval[1]
    for cut in made.cuts:
        assert cut.low <= cut.precision <= cut.high


def test_an_interval_over_entities_is_wider_where_their_rows_are_alike() -> None:
    right = np.repeat(np.random.default_rng(0).random(100) < 0.7, 10)
    probabilities = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9]).astype(np.float32)
    facts = {"n": {"test": 1000}, "temperature": 1.0, "baselines": BASELINES, "seconds": 1.0}
    labels = np.zeros(1000, np.int64)
    rows, entities = (
        measure("h", "test", labels, probabilities, ["a", "b"], entities=e, **facts)  # type: ignore[arg-type]
        for e in (None, np.repeat(np.arange(100), 10))
    )
    assert (rows.entities, entities.entities) == (1000, 100)
    widths = [high - low for low, high in (rows.intervals["accuracy"], entities.intervals["accuracy"])]
    assert widths[1] > 2.5 * widths[0]
    assert "on 1,000 rows of 100 entities of test" in str(entities)
    assert "which are those of 100 entities" in entities.to_html()


def test_of_one_entity_no_interval_is_given() -> None:
    made = report(entities=np.zeros(4, np.int64))
    assert made.intervals == {}
    assert "No interval can be given: all rows belong to one entity." in made.to_html()


def test_ten_right_of_ten_is_not_called_certain() -> None:
    made = measure(
        "h", "test", np.zeros(10, np.int64), np.tile(np.float32([0.9, 0.1]), (10, 1)), ["a", "b"],
        n={"test": 10}, temperature=1.0, baselines=BASELINES, seconds=1.0,
    )  # fmt: skip
    assert made.intervals["accuracy"] == (pytest.approx(0.025 ** (1 / 10)), 1.0)  # Clopper and Pearson


def test_the_threshold_in_force_is_reported_with_what_it_keeps() -> None:
    made = report(threshold=0.75)
    assert made.threshold is not None
    assert (made.threshold.coverage, made.threshold.precision, made.threshold.rows) == (0.5, 0.5, 2)
    assert "in force 0.750 50.0% 50.0%" in squeezed(made)
    assert "In force: from confidence 0.750 on. It answers 50.0% of the rows" in made.to_html()
    assert "No threshold is in force" in report().to_html()


def test_the_threshold_in_force_is_said_with_what_it_was_chosen_for() -> None:
    made = report(threshold=0.75, precision=0.95)
    assert made.threshold is not None
    assert (made.threshold.wanted, made.threshold.precision) == (0.95, 0.5)
    assert [cut.wanted for cut in made.cuts] == [0.90, 0.95, 0.99]
    assert made.cuts == report().cuts
    assert "In force: from confidence 0.750 on it answers 50.0% of the rows, and 50.0% of them right." in words.headline(
        made
    )
    assert Report.from_json(made.to_json()).threshold == made.threshold
    assert "in force, chosen for 95% on val 0.750 50.0% 50.0%" in squeezed(made)
    said = "In force: from confidence 0.750 on, chosen for 95% on val; here 50.0% of what it answers is right ("
    assert said in made.to_html()


def test_each_wanted_precision_has_its_threshold_or_says_that_none_reaches_it() -> None:
    made = graded()
    for cut in made.cuts:
        assert cut.threshold is not None
        assert cut.precision >= (cut.wanted or 1)
        assert cut.rows >= 20
    wrong = measure(
        "h", "test", np.array([0, 0]), np.float32([[0.1, 0.9], [0.9, 0.1]]), ["a", "b"],
        n={"test": 2}, temperature=1.0, baselines=BASELINES, seconds=1.0,
    )  # fmt: skip
    assert [cut.threshold for cut in wrong.cuts] == [None] * 3
    assert "90% no better than the majority class" in squeezed(wrong)


def graded() -> Report:
    """1,000 rows of two equal classes, right as often as it says."""
    rng = np.random.default_rng(0)
    labels, sure = np.arange(1000) % 2, rng.uniform(0.5, 1, 1000).astype(np.float32)
    said = np.where(rng.random(1000) < sure, labels, 1 - labels)
    probabilities = np.where(said[:, None] == [0, 1], sure[:, None], 1 - sure[:, None])
    return measure(
        "graded", "test", labels, probabilities, ["a", "b"],
        n={"test": 1000}, temperature=1.0, baselines=BASELINES, seconds=1.0,
    )  # fmt: skip


def test_a_threshold_that_keeps_one_row_is_no_advice() -> None:
    made = report()  # its surest row is right, the next one is not
    assert [cut.threshold for cut in made.cuts] == [None] * 3
    assert "90% none reaches it on enough rows" in squeezed(made)
    assert words.threshold_advice(made) == "For 95% right: no threshold reaches it on enough rows."


def rare(threshold: float | None = None) -> Report:
    """1,200 rows of which 4% are a failure, never surely so."""
    rng = np.random.default_rng(1)
    labels = (rng.random(1200) < 0.04).astype(np.int64)
    noise = 0.12 * rng.random(1200) + 0.35 * (rng.random(1200) < 0.03)
    failure = np.clip(0.04 + 0.25 * labels * rng.random(1200) + noise, 0, 0.7).astype(np.float32)
    baselines = BASELINES.model_copy(update={"majority": float((labels == 0).mean())})
    return measure(
        "failures", "test", labels, np.stack([1 - failure, failure], axis=1), ["fine", "failure"],
        n={"test": 1200}, temperature=1.0, baselines=baselines, seconds=1.0, threshold=threshold,
    )  # fmt: skip


def test_a_threshold_that_silences_a_class_is_said_with_how_many_predictions_it_cost() -> None:
    made = rare(threshold=0.9)
    silenced = f"Of {made.per_class[1].predicted} predictions of 'failure' none is kept at this threshold."
    for said in (words.headline(made), str(made), made.to_html().replace("&#x27;", "'")):
        assert silenced in said
    assert [c.kept for c in made.per_class][1] == 0
    assert sum(c.answered or 0 for c in made.per_class) == made.threshold.rows  # type: ignore[union-attr]
    assert f"0 of {made.per_class[1].predicted}" in str(made)
    assert [c.kept for c in rare().per_class] == [None, None]


def test_of_two_classes_each_has_a_curve_over_its_own_probability_and_the_rarer_a_table() -> None:
    made = rare()
    rarer, other = made.alarms
    assert (rarer.label, other.label) == ("failure", "fine")
    half = rarer.cuts[0]
    assert half.wanted == 0.5
    assert half.precision >= 0.5
    assert half.low < half.precision < half.high
    assert rarer.cuts[1].threshold is None
    assert f"Alarms on 'failure' ({rarer.support} rows, average precision {rarer.average_precision:.1%})" in str(made)
    assert "P(failure) from" in made.to_html()
    assert big().alarms == ()


def test_a_head_no_better_than_the_majority_says_so_in_its_headline() -> None:
    assert "no better than always answering 'fine'." in words.headline(rare())
    assert "no better" not in words.headline(graded())
    surely_right = (
        "For 95% right: no threshold is surely better than always answering the most frequent class, which reaches it."
    )
    assert words.threshold_advice(rare()) == surely_right


def test_of_labels_a_threshold_that_finds_them_all_is_still_one() -> None:
    truth = np.zeros((100, 2), np.float32)
    truth[:30, 0] = truth[20:60, 1] = 1
    probabilities = np.where(truth > 0, 0.00039, 0.00001).astype(np.float32)
    made = measure(
        "h", "test", truth, probabilities, ["a", "b"],
        task="labels", n={"test": 100}, temperature=1.0, thresholds=[0.5, 0.5], baselines=BASELINES, seconds=1.0,
    )  # fmt: skip
    assert "none needed" not in str(made)
    assert "95% 0.00039 100.0% 100.0%" in squeezed(made)
    assert "For 95% right: from confidence 0.00039 on. It finds 100.0% of the true labels" in made.to_html()


def test_of_labels_it_says_which_are_missed_and_which_are_wrongly_given() -> None:
    truth = np.float32([[1, 0], [1, 0], [0, 1], [0, 0]])
    made = measure(
        "h", "test", truth, np.float32([[0, 0], [0, 0], [0, 1], [0, 1]]), ["a", "b"],
        task="labels", n={"test": 4}, temperature=1.0, thresholds=[0.5, 0.5], baselines=BASELINES, seconds=1.0,
    )  # fmt: skip
    assert made.confusions == ()
    said = ["a is missed on 2 of the 2 rows that have it", "b is given wrongly to 1 of the 2 rows it is given to"]
    assert words.confusion_sentences(made, 5) == said
    for each in said:
        assert each in made.to_html()
        assert each in str(made)


def test_a_class_name_is_not_broken_within_a_word_and_wide_tables_scroll() -> None:
    html = big().to_html()
    assert "overflow-wrap: anywhere" not in html
    assert html.count("<table") == html.count("<div class='wide'")


def test_of_several_labels_it_scores_each_with_its_own_threshold() -> None:
    made = several()
    assert made.headline[0] == "micro_f1"
    assert [c.threshold for c in made.per_class] == [pytest.approx(t) for t in (0.5, 0.6, 0.5, 0.5)]
    assert made.confusion == ()
    assert sum(b.rows for b in made.reliability) == 4 * 300
    assert made.coverage[0].coverage == 1.0
    text = str(made)
    for part in ("micro-F1", "rows with all labels right", "mean average precision", "labels found"):
        assert part in text


def test_of_numbers_it_gives_errors_their_quantiles_and_a_bounded_scatter() -> None:
    made, truth, said = numbers()
    wanted = [f(truth, said) for f in (mean_absolute_error, root_mean_squared_error, r2_score)]
    assert list(made.scores) == ["mae", "rmse", "r2"]
    assert list(made.scores.values()) == pytest.approx(wanted)
    assert made.number is not None
    assert made.number.errors["50%"] == pytest.approx(np.quantile(np.abs(said - truth), 0.5))
    assert len(made.number.scatter) == 500
    assert made.number.scatter[0][0] == truth.min()
    text = str(made)
    for part in (
        "mean absolute error",
        "error of the training median",
        "R²",
        "predicted less true",
        "error of the training mean",
    ):
        assert part in text


def test_numbers_that_do_not_vary_have_an_r2_as_scikit_learn_says() -> None:
    for off in (0.0, 1.0):
        truth = np.full(5, 0.1)
        made = measure(
            "h", "test", truth, truth + off, [], task="number", n={"test": 5}, temperature=1.0, baselines=BASELINES, seconds=1.0
        )  # fmt: skip
        assert made.scores["r2"] == r2_score(truth, truth + off)


def test_of_thousands_of_classes_json_and_html_stay_small() -> None:
    made = big(n=3000, c=3000)
    assert made.confusion == ()
    assert len(made.confusions) <= 500
    assert len(made.to_json()) < 1_000_000
    assert len(made.to_html()) < 200_000
    assert "The 300 lowest of 3,000; the others stand in the JSON." in made.to_html()


def test_it_reads_as_a_table_with_its_baselines() -> None:
    text = str(report(cost_us=31.2, encoder="m@1", snapshot="s@3", settings={"l2": 0.1, "none": None}))
    for part in (
        "Head refunds, on 4 rows of test",
        "accuracy",
        "75.0%  (25.0% to 100.0%)",
        "In brackets: 95% intervals, by bootstrap over entities",
        "majority class",
        "10 nearest neighbours",
        "card [lost]",
        "1 x card [lost] taken for <b>退款</b>",
        "at temperature 1.50",
        "Confidence and truth: 60-80%: 100% right",
        "per prediction",
        "31.2 µs, encoding not included",
        "m@1",
        "s@3",
        "l2 0.1\n",
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
    for said in (str(report(split)), report(split).to_html(), report(split)._repr_html_()):
        assert caveat in said
        assert ("there is no test" in said) == bool(caveat)


def test_a_baseline_on_fewer_rows_says_so() -> None:
    made = report().model_copy(update={"baselines": BASELINES.model_copy(update={"knn10_train_rows": 3})})
    assert "70.0% (4 rows among 3 of train)" in str(made)
    assert "among" not in str(report())


def test_html_escapes_what_users_named() -> None:
    made = report().model_copy(update={"head": "<script>"})
    for html in (made._repr_html_(), made.to_html()):
        assert "<script>" not in html
        assert "<b>退款" not in html
        assert "75.0%" in html


@pytest.mark.parametrize("made", [*ALL, several(), big(threshold=0.5), report("val")], ids=lambda r: r.head)
def test_the_page_is_well_formed_and_asks_nobody_for_anything(made: Report) -> None:
    html = made.to_html()
    body = html[html.index("<body>") : html.index("</body>") + 7]
    tree = ElementTree.fromstring(body)
    for outside in ("<script", "http://", "https://", "url(", "@import", " src=", " href="):
        assert outside not in html.replace("xmlns='http://www.w3.org/2000/svg'", "")
    for svg in tree.iter("{http://www.w3.org/2000/svg}svg"):
        assert svg.attrib.get("aria-label") or svg.attrib.get("aria-hidden")
    assert "nan" not in body.lower().replace("finance", "")


def test_the_page_answers_its_three_questions_in_words() -> None:
    html = big(threshold=0.4).to_html()
    for part in (
        "How good is it?",
        "How sure may one be of it?",
        "Where to set the threshold?",
        "What does it confuse?",
        "Every class",
        "Where does it come from?",
        "Most frequent mistake: ",
        "with 95% confidence",
        "In force: from confidence 0.400 on.",
        "For 95% right: no threshold reaches it on enough rows.",
        "Drawn are the 20 of 50 classes that take part in most mistakes.",
        " are taken for ",
    ):
        assert part in html


def test_a_head_without_mistakes_says_so() -> None:
    made = measure(
        "h", "test", np.arange(40) % 2, np.tile(np.float32([[0.9, 0.1], [0.1, 0.9]]), (20, 1)), ["a", "b"],
        n={"test": 40}, temperature=1.0, baselines=BASELINES, seconds=1.0,
    )  # fmt: skip
    assert "Nothing on these rows." in made.to_html()
    assert "Most frequent mistake" not in made.to_html()
    assert "For 95% right: no threshold is needed, 100.0% of all rows are right" in made.to_html()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"l2": 10, "class_weight": "balanced", "seed": 0, "workers": 0, "l2_tried": [[0.1, 0.53], [1, 0.4], [10, 0.3]]},
            "l2 10, the best of 0.1, 1, 10 on val; class weight balanced; seed 0",
        ),
        (
            {"seeds": 3, "seed": 2, "seeds_tried": [[0, 0.4], [1, 0.5], [2, 0.3]], "val_loss_spread": 0.08, "workers": 2},
            "seed 2, the best of 0, 1, 2 on val; on 2 Ray workers",
        ),
        (
            {"precision": 0.9, "coverage_on_val": 0.7772277227722773, "sweep_of": 5, "class_weight": {"a": 2.0}},
            "precision 0.9, at which it answers 78% of val; the best of 5 settings on val; class weight by class",
        ),
        (
            {"precision": 0.9, "not_reached": "not reached on val: best 0.83"},
            "precision 0.9, not reached on val: best 0.83",
        ),
        (
            {"precision": 0.9, "not_reached": {"a": "not reached on val: best 0.83"}, "erased": 3, "workers": 1},
            "precision 0.9, not reached on val for 1 label; without 3 of the snapshot's rows, erased since; on 1 Ray worker",
        ),
        ({"learning_rate": 0.00123456, "hidden": None, "max_epochs": 15}, "learning rate 0.001235; max epochs 15"),
    ],
)
def test_settings_are_said_in_words(settings: dict[str, object], said: str) -> None:
    made = report(settings=settings)
    assert dict(words.origin(made)).get("settings") == said
    assert escape(said) in made.to_html()


def test_settings_that_are_no_json_are_kept_as_text() -> None:
    made = report(settings={"l2": (0.1, 1), "seed": np.int64(3)})
    assert made.settings == {"l2": [0.1, 1], "seed": "3"}
    assert Report.from_json(made.to_json()) == made
