"""The demo's corpus. Small packages written here stand for the edge cases; the last tests read the installed ones."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raystore.demo import docstrings
from raystore.demo.docstrings import PACKAGES, collect, write_corpus
from raystore.demo.prose import mask, prose, shorten


@pytest.fixture(scope="module")
def installed() -> pa.Table:
    """All of them: 10 s and more."""
    return collect()


@pytest.fixture(scope="module")
def few() -> pa.Table:
    """Three that are read in a second."""
    return collect(["duckdb", "lance", "pydantic"])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable package 'smallpkg' whose import would raise."""
    files = {
        "__init__.py": '''
"""Tools of smallpkg for folding very large paper sheets."""
from ._core import fold
raise RuntimeError
''',
        "_core.py": '''
def fold(sheet):
    """Fold the sheet along its longer side until it fits the given box.

    Parameters
    ----------
    sheet : Sheet
    """

def helper():
    """Nobody takes this helper out of its private module, so it is no row."""
''',
        "paper.py": '''
"""Kinds of paper, their weights and the ways in which they age."""
if True:
    class Sheet:
        """One sheet of paper, as smallpkg.paper sees it; Smallpkg never copies it."""

        def cut(self):
            """Cut the sheet in two halves of exactly the same area."""

        def _secret(self):
            """A private method that is long enough to be a row, but is none."""

        def same(self):
            """CUT the sheet, in two halves of exactly the same area!"""

        def short(self):
            """Too short."""
def wrong():
    """A lone surrogate \\ud800 is a legal docstring of a legal function."""
''',
        "tests/test_paper.py": '"""Tests are no part of what a package offers to its users."""',
        "broken.py": '"""A file that no interpreter can read is left out of the rows."""\ndef (',
        "quick.pyx": '''
cdef class Press(Base):
    """
    A press that flattens sheets faster than a hand ever could.
    """
    def press(self, sheet not None,
              int times=2):
        """Press the sheet as many times as the paper can stand it."""
        def inner():
            """A function inside a function is nobody's public function."""

    cdef int _squeeze(self):
        """A private method in Cython that is long enough to be a row."""
''',
    }
    for name, text in files.items():
        path = tmp_path / "site" / "smallpkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return "smallpkg"


@pytest.mark.parametrize(
    "label, text, expected",
    [
        ("torch", "PyTorch: see torch.nn and TORCH_LOGS, or torchvision.", "___: see ___.nn and ____LOGS, or ___vision."),
        (
            "numpy",
            "NumPy's np.add adds like numpy.add; an input stays.",
            "___'s ___.add adds like ___.add; an input stays.",
        ),
        ("pandas", "A pd.Series of pandas expands.", "A ___.Series of ___ expands."),
        ("sklearn", "Scikit-learn, sklearn.svm, scikit learn.", "___, ___.svm, ___."),
        ("transformers", "HuggingFace Transformers, the HF Transformer.", "___ ___, the ___ Transformer."),
        (
            "ray",
            "Ray's RayActorError and RAY_ADDRESS; an array, ray.get.",
            "___'s ___ActorError and ____ADDRESS; an array, ___.get.",
        ),
        ("pyarrow", "Apache Arrow, ArrowInvalid, pa.array; a narrow spa.", "___, ___Invalid, ___.array; a narrow spa."),
        ("lance", "LanceDB and LanceDataset balance lance.write.", "___ and ___Dataset balance ___.write."),
        ("duckdb", "DuckDBPyConnection of duckdb.", "___PyConnection of ___."),
        ("scipy", "numpy stays where scipy goes.", "numpy stays where ___ goes."),
    ],
)
def test_mask_hides_the_packages_own_name_in_every_spelling(label: str, text: str, expected: str) -> None:
    assert mask(text, label) == expected


NUMPY_STYLE = """
    mean(a, axis=None)

    Compute the arithmetic mean
    along the given axis [1]_.

    Returns the average of :class:`~numpy.ndarray` elements, as ``float64``.

    Parameters
    ----------
    a : array_like
"""
GOOGLE_STYLE = """Gets the [objects](https://example.org/x) of a list of refs.

    Ordering follows `refs`.

    Args:
        refs: what to get.
"""
RST_STYLE = """Opens a file.  See `the guide <guide.html>`_ and :ref:`modes <file-modes>`.

:param path: where it is.
:returns: the file.
"""


@pytest.mark.parametrize(
    "docstring, expected",
    [
        (
            NUMPY_STYLE,
            "Compute the arithmetic mean along the given axis. Returns the average of numpy.ndarray elements, as float64.",
        ),
        (GOOGLE_STYLE, "Gets the objects of a list of refs. Ordering follows refs."),
        (RST_STYLE, "Opens a file. See the guide and modes."),
        ("Summary.\n\n>>> f(1)\n2\n\nMore.", "Summary."),
        ("Summary.\n\n```python\nf(1)\n```", "Summary."),
        ("Summary as follows::\n\n    code()\n\nMore.", "Summary as follows"),
        ("Summary.\n\n.. versionadded:: 1.2\n\nMore.", "Summary."),
        ("Summary.\n\n=====  =====\na      b\n=====  =====\n", "Summary."),
        ("Summary.\n\n    indented code\n\nMore.", "Summary."),
        ("Summary.\n\n%(shared)s\n", "Summary."),
        ("=====\nTitle\n=====\n\nWhat the module does.", "What the module does."),
        ("abs(input, *,\n    out=None) -> Tensor\n\nThe absolute value.", "The absolute value."),
        ("size (int, *optional*, defaults to 1): Number of rows.", ""),
        ("Args:\n    x: nothing else is said.", ""),
        ("", ""),
    ],
)
def test_prose_is_the_summary_and_first_paragraphs_alone(docstring: str, expected: str) -> None:
    assert prose(docstring) == expected


def test_shorten_cuts_after_a_word() -> None:
    assert shorten("one two three", 9) == "one two"
    assert shorten("one two three", 7) == "one two"
    assert shorten("one two", 7) == "one two"
    assert shorten("x" * 500) == "x" * 400


def test_public_names_are_collected_without_importing_the_package(package: str) -> None:
    assert sorted(collect([package]).to_pylist(), key=lambda row: row["id"]) == [
        {"id": i, "subject": s, "label": "smallpkg", "text": t}
        for i, s, t in [
            ("smallpkg", "smallpkg", "Tools of ___ for folding very large paper sheets."),
            ("smallpkg.fold", "smallpkg._core", "Fold the sheet along its longer side until it fits the given box."),
            ("smallpkg.paper", "smallpkg.paper", "Kinds of paper, their weights and the ways in which they age."),
            ("smallpkg.paper.Sheet", "smallpkg.paper", "One sheet of paper, as ___.paper sees it; ___ never copies it."),
            # .cut says the same but for case and punctuation, and its name has the higher hash.
            ("smallpkg.paper.Sheet.same", "smallpkg.paper", "CUT the sheet, in two halves of exactly the same area!"),
            ("smallpkg.paper.wrong", "smallpkg.paper", "A lone surrogate ? is a legal docstring of a legal function."),
            ("smallpkg.quick.Press", "smallpkg.quick", "A press that flattens sheets faster than a hand ever could."),
            ("smallpkg.quick.Press.press", "smallpkg.quick", "Press the sheet as many times as the paper can stand it."),
        ]
    ]


def test_a_package_that_is_not_installed_gives_no_rows() -> None:
    table = collect(["no_such_package_anywhere"])
    assert table.num_rows == 0
    assert table.schema == docstrings.SCHEMA


def test_cap_keeps_the_rows_whose_names_hash_lowest(package: str) -> None:
    by_hash = sorted(collect([package])["id"].to_pylist(), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert sorted(collect([package], cap=3)["id"].to_pylist()) == sorted(by_hash[:3])


def test_progress_names_each_package_as_it_is_read(package: str) -> None:
    calls: list[tuple[int, int, str]] = []
    collect([package, "no_such_package_anywhere"], progress=lambda *call: calls.append(call))
    assert calls == [(1, 2, "smallpkg"), (2, 2, "no_such_package_anywhere")]


@pytest.mark.slow
def test_installed_packages_give_at_least_8000_rows_and_at_most_the_cap_each(installed: pa.Table) -> None:
    counts = Counter(installed["label"].to_pylist())
    assert installed.num_rows >= 8000
    assert set(counts) <= set(PACKAGES)
    assert len(counts) >= 10
    assert max(counts.values()) == docstrings.CAP


@pytest.mark.parametrize("which", ["few", pytest.param("installed", marks=pytest.mark.slow)])
def test_installed_rows_are_unique_in_bounds_and_do_not_name_their_package(
    which: str, request: pytest.FixtureRequest
) -> None:
    rows = request.getfixturevalue(which).to_pylist()
    assert len(rows) > 500
    assert len({row["id"] for row in rows}) == len({row["text"].lower() for row in rows}) == len(rows)
    assert all(40 <= len(row["text"]) <= 400 for row in rows)
    assert all(row["id"].startswith(row["label"]) and row["subject"].startswith(row["label"]) for row in rows)
    assert [row["id"] for row in rows if mask(row["text"], row["label"]) != row["text"]] == []


@pytest.mark.slow
def test_installed_packages_are_mixed_evenly_over_the_order(installed: pa.Table) -> None:
    quarter = installed.num_rows // 4
    last = Counter(installed["label"].slice(3 * quarter).to_pylist())
    assert all(last[label] > n / 8 for label, n in Counter(installed["label"].to_pylist()).items() if n > 300)


def test_two_processes_with_other_hash_seeds_give_equal_rows() -> None:
    labels = ("duckdb", "lance")
    code = f"import hashlib; from raystore.demo.docstrings import collect; t = collect({labels}); "
    code += "print(t.num_rows, hashlib.sha256(str(t.to_pylist()).encode()).hexdigest())"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert int(runs[0].split()[0]) > 500


def test_a_written_corpus_is_the_collected_rows_and_is_reused(package: str, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "demo" für alle'
    info = write_corpus(folder, packages=[package])
    assert (info.path, info.rows, info.packages) == (folder / "raw", 8, {"smallpkg": 8})
    files = sorted(info.path.glob("*.parquet"))
    assert [file.name for file in files] == [f"docstrings-{i}.parquet" for i in range(4)]
    assert pa.concat_tables([pq.read_table(file) for file in files]).equals(collect([package]))
    before = [file.stat().st_mtime_ns for file in files]
    assert write_corpus(folder, packages=[package]) == info
    assert [file.stat().st_mtime_ns for file in files] == before
    assert {p.name for p in info.path.iterdir()} == {file.name for file in files} | {"docstrings.json"}


@pytest.mark.parametrize("breaks_at", range(6))
def test_an_interrupted_write_starts_over(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks_at: int
) -> None:
    calls = 0
    replace = os.replace

    def stop(source: Path, target: Path) -> None:  # Ctrl-C at each of the renames: four files, then the manifest
        nonlocal calls
        calls += 1
        if calls == breaks_at:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stop)
        if breaks_at:
            with pytest.raises(KeyboardInterrupt):
                write_corpus(tmp_path, packages=[package])
            assert not (tmp_path / "raw" / "docstrings.json").exists()
        else:  # killed outright: the temporary files stay behind
            (tmp_path / "raw" / ".tmp" / "abandoned").mkdir(parents=True)
    info = write_corpus(tmp_path, packages=[package])
    assert pq.read_table(sorted(info.path.glob("*.parquet"))).equals(collect([package]))
    assert not (tmp_path / "raw" / ".tmp").exists()


def test_a_file_cut_short_or_another_request_is_written_anew(package: str, tmp_path: Path) -> None:
    info = write_corpus(tmp_path, packages=[package])
    (info.path / "docstrings-2.parquet").write_bytes(b"")
    assert write_corpus(tmp_path, packages=[package]).rows == 8
    assert pq.read_table(info.path / "docstrings-2.parquet").num_rows == 2
    assert write_corpus(tmp_path, packages=[package], cap=5).rows == 5
