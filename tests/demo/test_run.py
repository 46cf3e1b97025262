"""`raystore demo` as a newcomer runs it: a process of its own, Ray and Serve started and stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import raystore
from raystore.demo.corpus import own_files
from raystore.errors import InvalidArguments
from raystore.serve.run.proxy import free_port

TOPICS = {
    "card": ["my card never arrived", "the card was swallowed", "when will my new card come"],
    "money": ["send money abroad", "my transfer is pending", "how do I top up with cash"],
    "it's": ["the app crashes at start", "I cannot log in", "the page stays white"],
}
STEPS = ["Look at", "Register the encoder", "Embed", "Ask in SQL", "Freeze a training set", "Train a linear head"]
STEPS += ["Index and search", "Deploy and ask over HTTP"]
FACTS = {
    "folder",
    "seconds",
    "corpus",
    "embedded",
    "accuracy",
    "macro_f1",
    "majority",
    "knn10",
    "answer",
    "total_s",
    "keep",
}


@pytest.fixture
def sessions() -> Iterator[str]:
    """A short folder for Ray's sockets; when the test is over, no process of it may be left."""
    folder = tempfile.mkdtemp(prefix="rst", dir="/tmp")
    yield folder
    deadline = time.monotonic() + 30
    while (left := _left(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)
    assert left == []


def _left(sessions: str) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if sessions in command:
            found.append(command[:200])
    return found


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    """120 rows, three labels one of which needs quoting, one empty text."""
    file = tmp_path / "tickets 'raw'.csv"
    rows = [(f"{text} {i}", label) for i in range(14) for label, texts in TOPICS.items() for text in texts]
    file.write_text("words,topic\n" + "".join(f'"{text}","{label}"\n' for text, label in [*rows[:119], ("", "card")]))
    return file


def demo(folder: Path, sessions: str, *arguments: str, timeout_s: float = 300) -> dict[str, Any]:
    """The facts of one run; the whole of standard output is one JSON document."""
    run = subprocess.run(
        _command(folder, "--json", *arguments), capture_output=True, text=True, env=_env(sessions), timeout=timeout_s
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def kept_until_sigterm(folder: Path, sessions: str, *arguments: str) -> dict[str, Any]:
    """The facts of a run that goes on serving, and is then told to end."""
    process = subprocess.Popen(
        _command(folder, "--json", "--keep", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_env(sessions)
    )  # fmt: skip
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if line == "}\n":
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert json.loads(err.splitlines()[-1])["error"]["type"] == "Interrupted"
    found: dict[str, Any] = json.loads(told)
    return found


def _command(folder: Path, *arguments: str) -> list[str]:
    port = str(free_port())
    return [str(Path(sys.executable).with_name("raystore")), "demo", "--folder", str(folder), "--port", port, *arguments]


def _env(sessions: str) -> dict[str, str]:
    return {**os.environ, "RAYSTORE_RAY_TMP": sessions}


def _steps(facts: dict[str, Any]) -> Sequence[str]:
    return [name.partition(" at ")[0] if name.startswith("Look at") else name for name in facts["seconds"]]


@pytest.mark.ray
def test_own_files_go_from_csv_to_a_served_answer_and_a_second_run_embeds_nothing(
    tickets: Path, tmp_path: Path, sessions: str
) -> None:
    own = ("--data", str(tickets), "--text", "words", "--label", "topic", "--workers", "0")
    first = demo(tmp_path / "a demo", sessions, *own)
    assert set(first) == FACTS
    assert (first["embedded"], first["corpus"]) == (119, "120 rows in 1 files, 3 labels")
    assert len(first["seconds"]) == len(STEPS)
    assert list(first["seconds"])[1:] == STEPS[1:]
    predicted = first["answer"]["predictions"][0]
    assert predicted["label"] in TOPICS
    assert first["answer"]["lineage"]["head"] == "labels@1"
    assert first["accuracy"] > first["majority"]
    again = kept_until_sigterm(tmp_path / "a demo", sessions, *own)
    assert again["embedded"] == 0
    assert again["answer"]["lineage"] == first["answer"]["lineage"]  # the very head, snapshot and deployment
    assert [again[key] for key in ("accuracy", "macro_f1")] == [first[key] for key in ("accuracy", "macro_f1")]
    store = raystore.open(tmp_path / "a demo" / "store", create=False)
    assert [len(store.collection("items")), store.snapshots.names(), store.heads.numbers("labels")] == [
        119,
        ["labels"],
        [1],
    ]


@pytest.mark.slow
@pytest.mark.ray
def test_ctrl_c_leaves_a_store_that_the_next_run_completes(tickets: Path, tmp_path: Path, sessions: str) -> None:
    step, delay_s = STEPS.index("Index and search") + 1, 0.5  # Ray runs then; tests/cli/test_interrupt.py has other moments
    own = ("--data", str(tickets), "--text", "words", "--label", "topic", "--workers", "1")
    command = _command(tmp_path / "demo", *own)
    port = int(command[command.index("--port") + 1])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_env(sessions), start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{step}. "):
            break
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted; what was committed is safe, and the same command goes on from there"
    assert "Traceback" not in err
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    facts = demo(tmp_path / "demo", sessions, *own)
    assert set(facts) == FACTS
    store = raystore.open(tmp_path / "demo" / "store", create=False)
    assert len(store.collection("items")) == 119
    assert facts["answer"]["lineage"]["head"] == "labels@1"


@pytest.mark.slow
@pytest.mark.ray
def test_the_head_on_banking77_reaches_92_percent_of_its_test_file(datasets: Path, tmp_path: Path, sessions: str) -> None:
    train, test = (str(datasets / "banking77" / f"{part}.parquet") for part in ("train", "test"))
    facts = demo(tmp_path / "demo", sessions, "--data", train, "--test", test, "--text", "text", "--label", "label")
    assert facts["embedded"] == 13_083
    assert facts["accuracy"] >= 0.92
    assert facts["knn10"] > 0.9


@pytest.mark.slow
@pytest.mark.ray
def test_the_docstring_demo_whole_and_a_second_run_that_embeds_nothing(tmp_path: Path, sessions: str) -> None:
    first = demo(tmp_path / "demo", sessions, timeout_s=600)
    assert set(first) == FACTS
    assert first["embedded"] >= 8_000
    assert first["accuracy"] > 3 * first["majority"]
    assert next(iter(first["seconds"])) == "Collect real text"
    assert list(first["seconds"])[1:] == STEPS[1:]
    words = subprocess.run(
        _command(tmp_path / "demo"), capture_output=True, text=True, env=_env(sessions), timeout=300, check=True
    ).stdout
    assert f"0 rows embedded, {first['embedded']:,} known already" in words
    assert re.search(r"^search: compute the eigenvalues of a symmetric matrix$", words, re.MULTILINE)
    assert "deployment demo@1\n└─ head labels@1\n" in words
    assert "Where to look:" in words


# --- what is asked of own files, without Ray -----------------------------------------------------------------------------


def test_the_corpus_of_own_files_names_labels_that_need_quoting(tickets: Path) -> None:
    corpus = own_files(str(tickets), None, "words", "topic", None)
    assert corpus.labels().num_rows == 120
    assert "it''s" in corpus.queries[2] or "'card'" in corpus.queries[2] or "'money'" in corpus.queries[2]
    assert corpus.question in [label.replace("_", " ") for label in TOPICS]


@pytest.mark.parametrize(
    "text, label, id, sentence",
    [
        (None, "topic", None, "demo: --data needs --text, the column to embed."),
        (
            "body",
            "kind",
            None,
            r"has no column 'body' \(--text\); it has: words, topic; .*has no column 'kind' \(--label\)",
        ),
        ("words", "topic", "number", r"has no column 'number' \(--id\); it has: words, topic\.$"),
    ],
)
def test_columns_that_are_not_there_are_all_named(
    tickets: Path, text: str | None, label: str, id: str | None, sentence: str
) -> None:
    with pytest.raises(InvalidArguments, match=sentence):
        own_files(str(tickets), None, text, label, id)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments, match="no file matches"):
        own_files(str(tmp_path / "nothing.csv"), None, "words", None, None)
