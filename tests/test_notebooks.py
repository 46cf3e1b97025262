"""The notebooks under examples/ run from their first cell to their last, and show what they make as tables and plots."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(jupyter_client|nbclient|zmq|tornado|traitlets).*"),
]
EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

# What each noun's HTML says of it, where a notebook shows it.
SHOWN = {
    "protected_text": {
        "Encoder": "Encoder minilm@",
        "EmbedReport": "rows embedded into messages",
        "Collection": "Collection messages",
        "SourceTable": "<b>marks</b> version 1: 3,600 rows",
        "SqlResult": "breathing</th>",
        "SnapshotRecord": "Snapshot topics@1: 1,200 rows",
        "LeakReport": "near-duplicate in train",
        "Report": "<svg",
        "Sweep": "4 settings on val",
        "Comparison": "topics@1 and topics@2",
        "Heads": "2 heads",
        "Lineage": "Lineage of head topics@1",
        "DriftReport": "ALARM: messages since",
        "SnapshotDiff": "600 changes",
        "Store": "Store /",
    },
    "rare_images": {
        "Encoder": "Encoder eye@",
        "Collection": "Collection photos",
        "EmbedReport": "600 rows embedded into photos",
        "IndexManifest": "Index of 600 rows of photos",
        "SqlResult": "alike</th>",
        "SourceTable": "<b>marks</b> version 2",
        "SnapshotRecord": "Snapshot shapes@1",
        "Report": "<svg",
        "Comparison": "shapes@2 and shapes@1",
        "Heads": "2 heads",
        "Lineage": "Lineage of head shapes@1",
        "Store": "Store /",
    },
}


def run(name: str, folder: Path, asked: str) -> tuple[list[Any], Any]:
    """The displayed results of a notebook, cell by cell, and what the expression `asked` is worth at its end."""
    book = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(asked))
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()  # raises where a cell fails
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    *results, answer = [output.data for output in outputs if output.output_type == "execute_result"]
    return results, ast.literal_eval(answer["text/plain"])


def check_shown(name: str, results: list[Any]) -> None:
    html = [data.get("text/html", "") for data in results]
    missing = [noun for noun, says in SHOWN[name].items() if not any(says in part for part in html)]
    assert missing == []
    # Beside the nouns, only pictures and sentences.
    plain = [data["text/plain"] for data in results if "text/html" not in data and "image/png" not in data]
    assert [text for text in plain if not text.startswith("'")] == []


def test_the_notebook_about_protected_text_finds_topics_and_drift_and_keeps_no_text(tmp_path: Path) -> None:
    asked = "(len(found), head.report.accuracy, head.threshold, drift.alarm, len(store.heads.notes('topics@live')))"
    results, (texts_left, accuracy, threshold, alarm, notes) = run("protected_text", tmp_path, asked)
    check_shown("protected_text", results)
    assert texts_left == 0
    assert 0.85 < accuracy < 1
    assert 0.5 < threshold < 1
    assert alarm
    assert notes == 1


def test_the_notebook_about_rare_images_finds_the_stars_with_a_picture_of_one(
    tmp_path: Path, datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSTORE_NOTEBOOK_MODEL", str(datasets / "encoders" / "mobilenet_v2"))
    asked = """(
        [shape_of[row["id"]] for row in found.to_dicts()],
        [shape_of[row["id"]] for row in better.to_dicts()],
        [shape_of[id] for id in more],
        linear.report.accuracy,
    )"""
    results, (by_one_picture, by_a_sum, by_neighbours, accuracy) = run("rare_images", tmp_path, asked)
    check_shown("rare_images", results)
    assert by_one_picture[:2] == ["star", "star"]
    assert by_one_picture.count("star") >= 5  # of the 12 among 600, in 12 places
    assert by_a_sum.count("star") >= 10
    assert by_neighbours.count("star") >= 3
    assert accuracy > 0.9


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.id for cell in cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)] == []


def test_every_notebook_is_run() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(SHOWN)
