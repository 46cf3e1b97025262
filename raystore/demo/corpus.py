"""What the demo runs on: the docstring corpus, or anybody's own files. Says which files, columns, queries and texts.

Knows no steps and prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from raystore.data.job_rows import row_ids_of
from raystore.data.readers import find_files, plan, read
from raystore.demo.docstrings import write_corpus
from raystore.errors import InvalidArguments

_FEWEST_ROWS_A_CLASS = 10  # fewer could all fall outside train, and a snapshot refuses such a class


@dataclass(frozen=True)
class Corpus:
    """Files to embed (with the prefix of their ids), their columns, and what to ask."""

    about: str
    files: Sequence[tuple[list[str], str]]
    text: str
    id: str | None
    subject: str | None
    label: str | None
    queries: Sequence[str]
    training_sql: str
    split: Mapping[str, float]
    searches: Sequence[str]
    question: str

    def labels(self) -> pa.Table:
        """(item, label) of every row that has both, by the ids the collection gives them."""
        rows = list(_labelled(self.files, self.id, self.label or ""))
        return pa.table({"item": [item for item, _ in rows], "label": [label for _, label in rows]})


def _labelled(files: Sequence[tuple[list[str], str]], id_column: str | None, label: str) -> Iterator[tuple[str, str]]:
    for paths, prefix in files:
        for reference in plan(paths, 1, "demo")[1]:
            for block in read(reference, [c for c in (id_column, label) if c], 8_192):
                ids = row_ids_of(block, reference.path, id_column, prefix)
                for id_, value in zip(ids, block.columns[label], strict=True):
                    if isinstance(id_, str) and value is not None and str(value) != "":
                        yield id_, str(value)


def docstrings(folder: Path, progress: Callable[[int, int], None]) -> Corpus:
    """The docstrings of the installed packages, written once to `<folder>/raw`: which package does a text come from?"""
    info = write_corpus(folder, progress=lambda done, total, _: progress(done, total))
    packages = ", ".join(f"{name} {n:,}" for name, n in info.packages.items())
    return Corpus(
        about=f"{info.rows:,} docstrings in {info.path}: {packages}",
        files=[(sorted(str(p) for p in info.path.glob("*.parquet")), "")],
        text="text",
        id="id",
        subject="subject",
        label="label",
        queries=(
            "SELECT l.label AS package, count(*) AS n, count(DISTINCT i.subject) AS modules\n"
            "FROM items i JOIN labels l ON l.item = i.id GROUP BY 1 ORDER BY 2 DESC",
            "SELECT subject AS module, count(*) AS n FROM items GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5",
            "SELECT l.label AS package, i.id, similarity(i.minilm, 'shuffle the rows of a table at random') AS s\n"
            "FROM items i JOIN labels l ON l.item = i.id ORDER BY s DESC LIMIT 5",
        ),
        training_sql="SELECT i.id, l.label, i.subject AS entity FROM items i JOIN labels l ON l.item = i.id",
        split={"train": 0.8, "val": 0.1, "test": 0.1},
        searches=(
            "compute the eigenvalues of a symmetric matrix",
            "read a file of comma separated values",
            "stop training when the loss no longer improves",
        ),
        question="Compute the singular value decomposition of a batch of matrices.",
    )


def own_files(data: str, test: str | None, text: str | None, label: str | None, id: str | None) -> Corpus:
    """Anybody's files. With `test`, `data` is train and validation, and the report is on `test`.

    Raises:
        InvalidArguments: files or columns that are not there; all are named.
    """
    call = "demo"
    if text is None:
        raise InvalidArguments(call=call, problems=["--data needs --text, the column to embed"])
    groups = [(find_files(data, call), "train-" if test else "")]
    if test:
        groups.append((find_files(test, call), "test-"))
    sources = [source for paths, _ in groups for source in plan(paths, 1, call)[0]]
    problems = [
        f"'{s.path}' has no column '{column}' (--{role}); it has: {', '.join(s.columns)}"
        for s in sources
        for role, column in (("text", text), ("label", label), ("id", id))
        if column is not None and column not in s.columns
    ]
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    counts = Counter(value for _, value in _labelled(groups, id, label)) if label else Counter[str]()
    top = [name.replace("_", " ").replace("-", " ") for name, _ in counts.most_common(3)] or ["something unusual"]
    n_rows = sum(s.n_rows for s in sources)
    return Corpus(
        about=f"{n_rows:,} rows in {len(sources)} files"
        + (f", {len(counts)} labels" if label else ", no labels (--label)"),
        files=groups,
        text=text,
        id=id,
        subject=None,
        label=label,
        queries=(
            "SELECT count(*) AS n FROM items",
            "SELECT l.label, count(*) AS n FROM items i JOIN labels l ON l.item = i.id GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8",
            f"SELECT l.label, i.id, similarity(i.minilm, '{_quoted(top[0])}') AS s\n"
            "FROM items i JOIN labels l ON l.item = i.id ORDER BY s DESC LIMIT 5",
        ),
        training_sql=_training_sql(bool(test)),
        split={"train": 0.9, "val": 0.1} if test else {"train": 0.8, "val": 0.1, "test": 0.1},
        searches=top,
        question=top[0],
    )


def _training_sql(has_test: bool) -> str:
    given = "CASE WHEN starts_with(i.id, 'test-') THEN 'test' END" if has_test else "NULL"
    return (
        f"SELECT i.id, min(l.label) AS label, {given} AS split\n"  # noqa: S608  our own words
        "FROM items i JOIN labels l ON l.item = i.id\n"
        f"WHERE l.label IN (SELECT label FROM labels GROUP BY 1 HAVING count(*) >= {_FEWEST_ROWS_A_CLASS})\n"
        "GROUP BY i.id"
    )


def _quoted(text: str) -> str:
    return text.replace("'", "''")
