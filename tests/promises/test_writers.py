"""Several processes write one store at once: each id once, all of them succeed, and another payload is a conflict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

import raystore
from raystore.errors import IdConflict
from tests.promises.kills import CHECKOUT, new_store

_WRITER = """
    import json, random, sys, raystore
    from raystore.errors import IdConflict
    root, me = sys.argv[1:]
    tickets = raystore.open(root).collection("tickets")
    tickets.encoder().encode(["hello"])
    print("ready", flush=True)
    sys.stdin.readline()
    rng = random.Random(int(me))
    order = rng.sample(range(120), 120)
    added = known = conflicts = 0
    for start in range(0, 120, 5):
        rows = [{"id": f"t-{n}", "text": f"the card number {n} never arrived", "product": "card"} for n in order[start:start + 5]]
        result = tickets.log(rows)
        added, known = added + result.added, known + result.known
        try:
            tickets.log([{"id": "the only one", "text": f"hello from writer {me}"}])
        except IdConflict:
            conflicts += 1
    tickets.log([{"id": f"mine-{me}", "text": "hello world"}])
    print(json.dumps([added, known, conflicts]), flush=True)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, list[list[int]]]:
    """Four processes, each logging the same 120 ids in an order of its own, and one id with a text of its own."""
    root = tmp_path_factory.mktemp("raced") / "it's a store"
    new_store(root, tiny_model)
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    program = textwrap.dedent(_WRITER)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(root), str(me)], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for me in range(4)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    answers = []
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        out, _ = writer.communicate(timeout=300)
        assert writer.returncode == 0
        answers.append(json.loads(out))
    return root, answers


def test_four_processes_that_log_the_same_ids_add_each_once(written: tuple[Path, list[list[int]]]) -> None:
    root, answers = written
    tickets = raystore.open(root).collection("tickets")
    counts = Counter(tickets.to_arrow(columns=["id"]).column("id").to_pylist())
    assert set(counts.values()) == {1}
    assert counts.keys() == {f"t-{n}" for n in range(120)} | {f"mine-{me}" for me in range(4)} | {"the only one"}
    assert all(added + known == 120 for added, known, _ in answers)
    assert sum(added for added, _, _ in answers) == 120


def test_one_payload_wins_and_every_other_is_a_conflict(written: tuple[Path, list[list[int]]]) -> None:
    root, answers = written
    assert sorted(conflicts for _, _, conflicts in answers) == [0, 24, 24, 24]
    tickets = raystore.open(root).collection("tickets")
    with pytest.raises(IdConflict, match="'the only one'"):
        tickets.log([{"id": "new", "text": "hello"}, {"id": "the only one", "text": "hello from nobody"}])
    with pytest.raises(IdConflict, match="'t-0'"):
        tickets.log([{"id": "t-0", "text": "the card number 0 never arrived", "product": "another"}])
    assert "new" not in tickets.to_arrow(columns=["id"]).column("id").to_pylist()


def test_a_log_and_an_embed_of_the_same_rows_in_two_processes_both_succeed(tmp_path: Path, tiny_model: Path) -> None:
    root = tmp_path / "a store"
    new_store(root, tiny_model)
    source = tmp_path / "rows.jsonl"
    rows = [{"id": f"t-{n}", "text": f"the text {n}"} for n in range(400)]
    source.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    program = (
        "import sys, raystore\nraystore.open(sys.argv[1]).collection('tickets').embed(sys.argv[2], text='text', id='id')"
    )
    embedding = subprocess.Popen(
        [sys.executable, "-c", program, str(root), str(source)], env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
    )
    tickets = raystore.open(root).collection("tickets")
    for start in range(0, 400, 20):
        tickets.log(rows[start : start + 20])
    assert embedding.wait(120) == 0
    counts = Counter(tickets.to_arrow(columns=["id"]).column("id").to_pylist())
    assert (len(counts), set(counts.values())) == (400, {1})
    assert len(tickets.set_aside()) == 0
