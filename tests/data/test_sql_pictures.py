"""Something star-shaped is found with a picture of a star: the block of docs/sql.md, on real photographs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.model
PAGE = Path(__file__).parent.parent.parent / "docs" / "sql.md"


@pytest.fixture(scope="module")
def names(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the block's names stand for after it has run."""
    block = re.search(
        r"^<!-- run: caltech101 -->\n```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert block
    held: dict[str, Any] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYSTORE_DATASETS", str(datasets.resolve()))
        patch.chdir(tmp_path_factory.mktemp("pictures"))
        exec(compile(block[1], "<docs/sql.md>", "exec"), held)
        yield held
        held["store"].sql_engine.close()


def test_the_nearest_to_a_photograph_of_a_star_are_star_shaped(names: Any) -> None:
    labels = [row["label"] for row in names["found"].to_dicts()]
    assert labels[0] == "starfish"
    assert labels.count("starfish") >= 5  # a tenth of the photographs are
    assert labels[:2] == ["starfish", "starfish"]


def test_photographs_of_other_classes_find_their_own(names: Any, datasets: Path) -> None:
    others = pq.read_table(datasets / "caltech101" / "test.parquet", columns=["image", "label"])
    right = asked = 0
    for label in ("starfish", "sunflower", "stop_sign", "umbrella", "butterfly"):
        for image in others.filter(pc.equal(others["label"].cast("string"), label))["image"][:4].to_pylist():
            sql = "SELECT label FROM nearest(photos, mobilenet, $picture, 5)"
            found = [row["label"] for row in names["store"].sql(sql, {"picture": image}).to_dicts()]
            right, asked = right + found.count(label), asked + len(found)
    assert asked == 100
    assert right / asked > 0.7


def test_what_two_pictures_have_in_common_can_be_asked(names: Any) -> None:
    images = [i.as_py() for i in names["stars"]["image"][:3]]
    sql = """SELECT label FROM photos
             ORDER BY similarity(mobilenet, vector_of($a) + vector_of($b) + vector_of($c)) DESC LIMIT 10"""
    found = [row["label"] for row in names["store"].sql(sql, dict(zip("abc", images, strict=True))).to_dicts()]
    assert found.count("starfish") >= 8
