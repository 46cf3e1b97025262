"""docs/http.md: what it sends to predict is sent, by curl to a real server; only port and encoder's name are others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec
from tests.pictures import png
from tests.serve.conftest import Served, recorded
from tests.serve.serving import running

pytestmark = pytest.mark.model
PAGE = Path(__file__).parents[2] / "docs" / "http.md"


@pytest.fixture(scope="module")
def answers(house: Served, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """Of each command of the page, the lines that came back."""
    found = re.search(r"<!-- run: curl -->\n```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    here = tmp_path_factory.mktemp("page")
    (here / "photo.png").write_bytes(png((220, 30, 30)))
    rooms = house.rooms
    orchestrator = rooms.orchestrator(AppSpec(), threads=1)
    records = {"triage": recorded(rooms, "triage", "refunds@2"), "photos": recorded(rooms, "photos", "colours@1")}
    orchestrator.update(rooms.live(records))
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with running(make_app(lambda: orchestrator, AppSpec())) as url:
        commands = found[1].replace("http://127.0.0.1:8000", url).replace('"minilm"', '"tiny"').strip().split("\n\n")
        said = [
            subprocess.run(["bash", "-euo", "pipefail", "-c", each], cwd=here, env=env, capture_output=True, check=True)
            for each in commands
        ]
    orchestrator.close()
    return [[json.loads(line) for line in each.stdout.splitlines()] for each in said]


def test_a_text_an_image_and_a_vector_are_answered_as_the_page_sends_them(answers: list[list[dict[str, Any]]]) -> None:
    [[text], [image], [url], [vector], *_] = answers
    assert [each["id"] for each in text["predictions"]] == ["t-900"]
    assert len(text["predictions"][0]["probabilities"]) == 3
    assert image["predictions"][0]["label"] == "red"
    assert url["predictions"][0]["probabilities"] == image["predictions"][0]["probabilities"]
    assert vector["predictions"][0]["label"] == text["predictions"][0]["label"]
    assert vector["predictions"][0]["confidence"] == pytest.approx(text["predictions"][0]["confidence"])


def test_a_batch_and_a_stream_are_answered_as_the_page_sends_them(answers: list[list[dict[str, Any]]]) -> None:
    [*_, [batch], stream] = answers
    assert [each["id"] for each in batch["predictions"]] == [f"{batch['request_id']}-0", "t-901"]
    assert [next(iter({"prediction", "error", "done"} & set(line))) for line in stream] == [
        "prediction", "error", "prediction", "done",
    ]  # fmt: skip
    assert (stream[-1]["done"], stream[-1]["failed"]) == (3, 1)
