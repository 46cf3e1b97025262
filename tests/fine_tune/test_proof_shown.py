"""How a proof is shown: sentences, the terminal's tables, and the page with the two maps."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from raystore.fine_tune.proof import map_plot, words
from raystore.fine_tune.proof.changes import Change
from raystore.fine_tune.proof.proof import Maps, Proof, TrainingPoint
from tests.fine_tune.proofs import CLASSES, proof, spaces

HOSTILE = "</script><script>alert('x')</script><!-- \u2028 \"quoted\""


def changed(value: float, half: float, *, before: float = 0.5, n: int = 100, p: float = 0.002) -> Change:
    return Change(
        before=before, after=before + value, value=value, rows=n, entities=n, low=value - half, high=value + half, p=p
    )  # fmt: skip


def told(**metrics: Change) -> Proof:
    return Proof(
        before="base@b", after="tuned@a", rows=3080, entities=3080, n_classes=77, reference_rows=9000, k=10, classes=("a", "b"),
        stated=tuple(metrics), metrics=metrics,
    )  # fmt: skip


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (
            {"knn_accuracy": changed(0.013, 0.007, before=0.918), "precision": changed(0.04, 0.01)},
            "Better: on 3,080 rows that training did not see, the share of rows named right by their 10 nearest neighbours rose from "
            "91.8% to 93.1% (+1.3 points, 95% interval +0.6 to +2.0 points).",
        ),
        (
            {"knn_accuracy": changed(0.05, 0.01), "head_accuracy": changed(-0.02, 0.01)},
            "Not better: on 3,080 rows that training did not see, the share of rows named right by a linear head fell from 50.0% to "
            "48.0% (-2.0 points, 95% interval -3.0 to -1.0 points).",
        ),
        (
            {"precision": changed(0.01, 0.02)},
            "Cannot tell: on 3,080 rows that training did not see, the share of the 10 nearest neighbours that have the row's own "
            "label went from 50.0% to 51.0% (+1.0 points, 95% interval -1.0 to +3.0 points).",
        ),
        (
            {"precision": changed(0.0, 0.0)},
            "Not better: on 3,080 rows that training did not see, the share of the 10 nearest neighbours that have the row's own "
            "label stayed at 50.0% (+0.0 points, 95% interval +0.0 to +0.0 points). If there is a gain, it is below half a point.",
        ),
        ({}, "Cannot tell: on 3,080 rows that training did not see, none of the figures that decide it was measured."),
    ],
    ids=["better", "fell", "cannot", "none", "unmeasured"],
)
def test_the_headline_says_better_not_better_or_cannot_tell_and_on_how_many_rows(
    metrics: dict[str, Change], sentence: str
) -> None:
    found = told(**metrics)
    assert found.headline == sentence
    assert squeezed(str(found)).startswith(sentence)
    assert found.headline.startswith(words.VERDICTS[found.verdict])


def test_one_lucky_figure_of_four_is_not_enough_to_be_better() -> None:
    lucky = changed(0.01, 0.009, p=0.04)
    assert told(precision=lucky).verdict == "better"
    others = {name: changed(0.0, 0.02) for name in ("knn_accuracy", "head_accuracy", "oos_neighbours")}
    assert told(precision=lucky, **others).verdict == "cannot tell"


def test_it_says_how_many_rows_would_tell_and_what_rose_beside_what_fell() -> None:
    assert words.verdict_notes(told(precision=changed(0.01, 0.02))) == [
        "To tell a difference so small, about 14,000 rows would be needed."
    ]
    assert words.verdict_notes(told(precision=changed(0.05, 0.01), head_accuracy=changed(-0.02, 0.01)))[0] == (
        "Other figures rose: P@10. A change is called better only where none of the stated figures fell."
    )
    grouped = told(precision=changed(0.05, 0.01)).model_copy(update={"entities": 300})
    assert words.verdict_notes(grouped) == [
        "The rows are those of 300 entities, which the intervals draw whole: rows of one entity are alike."
    ]


def test_the_terminal_shows_figures_classes_and_neighbours_within_100_columns() -> None:
    found = proof(spaces(m=400, before=1.0, after=1.1, hurt=2), ids=[f"q{i}" for i in range(400)])
    text = str(found)
    assert max(len(line) for line in text.splitlines()) <= 100
    for said in ("kNN accuracy", "P@10 among unseen rows", "linear head accuracy", "silhouette", "Classes that got worse in P@10",
                 "it's & late", "before", "after", "McNemar"):  # fmt: skip
        assert said in text
    assert found.to_text({found.neighbours[0].id: "What a\nlong   story"}).count("What a long story") == 1


def test_items_stand_in_it_only_where_they_are_handed_in_and_never_in_the_json() -> None:
    found = proof(spaces(before=1.5), maps="pca")
    asked = found.neighbours[0]
    items = {asked.id: "my secret text", asked.before[0].id: "data:image/png;base64,AAAA"}
    assert "my secret text" in found.to_html(items)
    assert "<img alt='' src='data:image/png;base64,AAAA'>" in found.to_html(items)
    assert "secret" not in found.to_html() + found.model_dump_json() + str(found)
    assert "(an image)" in found.to_text(items)


class Checked(HTMLParser):
    """Whether every element is closed in its order, and what loads or runs."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> Checked:
    found = Checked()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


@pytest.mark.parametrize("c", [2, 5, 14])
def test_the_page_is_whole_asks_no_network_and_survives_hostile_labels_and_ids(c: int) -> None:
    made = spaces(c=c, before=1.5, hurt=0)
    classes = [HOSTILE, *(f"class {i}" for i in range(1, c))]
    ids = [f"{HOSTILE} {i}" for i in range(200)]
    curve = [TrainingPoint(step=i * 10, loss=1 / (i + 1), val_accuracy=0.5 + i / 10) for i in range(4)]
    found = proof(made, classes=classes, ids=ids, maps="pca", curve=curve, data=HOSTILE)
    page = found.to_html({ids[0]: HOSTILE})
    assert "alert('x')</script>" not in page
    tags = checked(page).seen
    assert [a.get("type") for t, a in tags if t == "script"] == ["application/json", None]
    assert not [
        a for _, a in tags if any(name.startswith("on") for name in a) or "http" in str(a.get("src", a.get("href", "")))
    ]
    policy = next(a["content"] for t, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == map_plot.policy()
    data = json.loads(re.findall(r"id='map-data'>(.*?)</script>", page)[0])
    assert (data["ids"], data["classes"][0]) == (ids, HOSTILE)
    assert sum(t == "svg" and a.get("class") == "map" for t, a in tags) == 2
    assert "How did the training go?" in page


def test_every_row_of_a_map_is_drawn_once_in_the_path_of_its_class() -> None:
    found = proof(spaces(), maps="pca")
    assert found.maps is not None
    drawn = map_plot.two_maps(found, found.maps)
    paths = re.findall(r"<path class='\w+' data-code='(\d+)' stroke='[^']+' d='([^']+)'/>", drawn)
    assert len(paths) == 10
    for code, d in paths:
        assert d.count("M") == found.maps.codes.count(int(code))


def test_of_many_classes_those_that_changed_most_surely_have_colours() -> None:
    found = proof(spaces(c=14, m=900, n=900, before=0.8, after=0.8, hurt=9))
    codes = tuple(np.arange(14).tolist())
    maps = Maps(method="pca", ids=tuple(map(str, codes)), codes=codes, before=((0, 0),) * 14, after=((0, 0),) * 14)
    coloured = map_plot.coloured_classes(found, maps)
    assert (len(coloured), next(iter(coloured))) == (10, 9)


def test_the_notebooks_summary_has_the_verdict_and_the_figures() -> None:
    found = proof(spaces(before=1.5))
    shown = found._repr_html_()
    checked(shown)
    assert found.headline.split(":")[0] in shown
    assert "linear head accuracy" in shown
    assert CLASSES[0] not in shown
