"""The demo's corpus: the docstrings of the Python packages that are installed beside raystore.

Source files are read with `ast` (Cython's by pattern) and no package is imported: nothing of theirs runs, and the
same installation always gives the same rows. Public modules, classes, functions and methods count; what stands in
a private module counts where a public one re-exports it. Knows nothing of stores, vectors or Ray.

Cost: at most 16 MB of source a package, read in a fixed order spread over its modules; some 10 s on one core, 200 MB.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raystore.demo.prose import NAMES, mask, prose, shorten
from raystore.layout import disk_full_is_said, read_json, staging, write_json

PACKAGES: tuple[str, ...] = tuple(NAMES)
SHORTEST = 40  # characters of a row's text
CAP = 1500
FILES = 4
MAX_SOURCE_BYTES = 16_000_000  # a package; transformers has 52 MB, and a third of them fills its cap
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("id", "subject", "label", "text")])

Progress = Callable[[int, int, str], None]

_SUFFIXES = {".py", ".pyi", ".pyx", ".pxi"}
_SKIPPED = {"tests", "test", "testing", "conftest", "externals", "third_party", "thirdparty_files", "vendored_packages"}


@dataclass
class _Module:
    """What one source file says: its docstrings, and the names it takes from elsewhere."""

    name: str
    is_package: bool
    home: str  # where its names live
    docs: list[tuple[str, str]] = field(default_factory=list)  # (name inside the module, docstring)
    own: set[str] = field(default_factory=set)  # names defined at the top
    all: set[str] = field(default_factory=set)
    taken: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> (module, name there)
    stars: list[str] = field(default_factory=list)

    def exports(self, name: str, source: str) -> bool:
        """Whether taking `name` from `source` publishes it: in an __init__, in __all__, or csv taking from _csv."""
        return self.is_package or name in self.all or source.rpartition(".")[2] == "_" + self.name.rpartition(".")[2]


def _public(dotted: str) -> bool:
    return not any(part.startswith("_") for part in dotted.split("."))


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _files(package: str) -> dict[str, Path]:
    """Module name -> source file of an installed package; empty where it is not installed."""
    spec = importlib.util.find_spec(package)
    found: dict[str, Path] = {}
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(place).rglob("*.*")):
            *folders, stem = path.relative_to(place).with_suffix("").parts
            if (
                path.suffix not in _SUFFIXES
                or _SKIPPED & {*folders, stem}
                or stem.startswith(("test_", "testing_", "testutils"))
            ):
                continue
            inside = ["lib"] if path.suffix == ".pxi" else []  # PyArrow's include files are compiled into pyarrow.lib
            name = ".".join([package, *folders, *inside, *([] if stem == "__init__" else [stem])])
            if path.is_file():
                found.setdefault(name, path)  # x.py sorts before x.pyi
    return found


def _read(name: str, path: Path) -> _Module:
    """The parsed file; an empty module where it is not Python that this interpreter reads."""
    module = _Module(name, path.stem == "__init__", name.rpartition(".")[0] if path.suffix == ".pxi" else name)
    source = path.read_bytes()
    if path.suffix in (".pyx", ".pxi"):
        module.docs = list(_cython_docs(source.decode("utf-8", "replace")))
        module.own = {qualified.split(".")[0] for qualified, _ in module.docs}
        return module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return module
    if text := ast.get_docstring(tree, clean=False):
        module.docs.append(("", text))
    for node in _statements(tree.body):
        _note(module, node)
    return module


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class, those under if, try and with among them."""
    for node in body:
        yield node
        for part in ("body", "handlers", "orelse", "finalbody") if isinstance(node, (ast.If, ast.Try, ast.With)) else ():
            for child in getattr(node, part, ()):
                yield from _statements(child.body if isinstance(child, ast.ExceptHandler) else [child])


def _note(module: _Module, node: ast.stmt) -> None:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        module.own.add(node.name)
        module.docs += _docs_of(node, "")
    elif isinstance(node, ast.ImportFrom):
        base = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
        above = base[: len(base) - node.level + 1] if node.level else []
        source = ".".join([*above, *((node.module or "").split(".") if node.module else ())])
        for alias in node.names:
            if alias.name == "*":
                module.stars.append(source)
            else:
                module.taken[alias.asname or alias.name] = (source, alias.name)
    elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets) and node.value:
            module.all |= {
                c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant) and isinstance(c.value, str)
            }


def _docs_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, prefix: str) -> Iterator[tuple[str, str]]:
    if node.name.startswith("_"):
        return
    if text := ast.get_docstring(node, clean=False):
        yield prefix + node.name, text
    for child in _statements(node.body) if isinstance(node, ast.ClassDef) else ():
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docs_of(child, f"{prefix}{node.name}.")


_CYTHON = re.compile(
    r'^( *)(?:cp?def +)?(class|def) +(\w+)([^\n]*?|\([^"]*?):[ \t]*\n(?:\s*r?"""(.*?)""")?', re.MULTILINE | re.DOTALL
)


def _cython_docs(source: str) -> Iterator[tuple[str, str]]:
    above: list[tuple[int, str, str]] = []  # (indent, kind, name)
    for match in _CYTHON.finditer(source):
        indent, kind, name, _, text = match.groups()
        while above and above[-1][0] >= len(indent):
            above.pop()
        inside = [a for _, _, a in above]
        if text and _public(".".join([*inside, name])) and all(k == "class" for _, k, _ in above):
            yield ".".join([*inside, name]), text
        above.append((len(indent), kind, name))


def _read_package(package: str) -> dict[str, _Module]:
    """The public modules and the private ones whose names they publish."""
    files = _files(package)
    modules: dict[str, _Module] = {}
    read = 0
    waiting = sorted(filter(_public, files), key=lambda name: (files[name].stem != "__init__", _order(name)))
    while waiting and read < MAX_SOURCE_BYTES:
        name = waiting.pop(0)
        if name in modules:
            continue
        module = modules[name] = _read(name, files[name])
        read += files[name].stat().st_size
        if module.is_package or _public(name):
            sources = {source for name, (source, _) in module.taken.items() if module.exports(name, source)}
            waiting += sorted({*sources, *module.stars} & files.keys() - modules.keys())
    return modules


def _published(modules: Mapping[str, _Module]) -> dict[tuple[str, str], str]:
    """(private module, name) -> the shortest public name it is re-exported under."""
    seen: dict[str, dict[str, tuple[str, str]]] = {}

    def names_in(name: str) -> dict[str, tuple[str, str]]:
        """Name -> where it is defined."""
        if name not in seen and name in modules:
            module, found = modules[name], seen.setdefault(name, {})  # set first: imports may be circular
            for star in module.stars:
                there = names_in(star)
                found |= {n: there[n] for n in there if n in (modules[star].all or there)}
            for known_as, (source, n) in module.taken.items():
                if module.exports(known_as, source) and n in (there := names_in(source)):
                    found[known_as] = there[n]
            found |= {n: (name, n) for n in module.own}
        return seen.get(name, {})

    published: dict[tuple[str, str], str] = {}
    for module in filter(_public, sorted(modules)):
        for name, place in names_in(module).items():
            public = f"{module}.{name}"
            if not (_public(place[0]) or name.startswith("_")):
                published[place] = min(published.get(place, public), public, key=lambda n: (n.count("."), n))
    return published


def _documented(package: str) -> Iterator[tuple[str, str, str]]:
    """(qualified name, module, docstring) of everything public."""
    modules = _read_package(package)
    published = _published(modules)
    for module in modules.values():
        for name, text in module.docs:
            top, dot, rest = name.partition(".")
            if _public(module.name):
                yield (f"{module.home}.{name}" if name else module.name), module.name, text
            elif (module.name, top) in published:
                yield published[module.name, top] + dot + rest, module.name, text


def collect(packages: Sequence[str] = PACKAGES, cap: int = CAP, progress: Progress | None = None) -> pa.Table:
    """The docstrings of those packages that are installed, in an order that is random but always the same.

    Args:
        packages: import names; each is a label.
        cap: most rows of a package. The rows kept are those whose qualified name hashes lowest (SHA-256), which
            spreads them over its modules.
        progress: called with packages read, packages in all, and the name of the one just read.

    Returns:
        Strings `id` (qualified name, unique), `subject` (the module of the source file), `label` (package) and
        `text` (at most 400 characters, the package's own name masked; no two equal but for case and punctuation).

    Cost: reads and parses the source, some 10 s for the default packages on one core.
    """
    rows: list[tuple[str, str, str, str]] = []
    for done, package in enumerate(packages, start=1):
        for name, module, docstring in _documented(package):
            text = shorten(mask(prose(docstring), package))
            if len(text) >= SHORTEST:
                rows.append((name, module, package, text))
        if progress:
            progress(done, len(packages), package)
    rows.sort(key=lambda row: (_order(row[0]), row))
    kept: list[tuple[str, str, str, str]] = []
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    for row in rows:
        name, _, label, text = row
        said = "".join(c for c in text.lower() if c.isalnum())
        if counts[label] < cap and not {"id " + name, said} & seen:
            seen |= {"id " + name, said}
            counts[label] += 1
            kept.append(row)
    kept.sort(key=lambda row: _order("row " + row[0]))  # anew: where the caps cut, only small packages were left
    return pa.table(
        [pa.array(column, pa.string()) for column in zip(*kept, strict=True)] if kept else [[]] * 4, schema=SCHEMA
    )


@dataclass(frozen=True)
class CorpusInfo:
    """A written corpus: `path` is the folder of its Parquet files, `seconds` what collecting it cost when it was."""

    path: Path
    rows: int
    packages: Mapping[str, int]
    seconds: float


def write_corpus(
    folder: Path, *, packages: Sequence[str] = PACKAGES, cap: int = CAP, progress: Progress | None = None
) -> CorpusInfo:
    """The corpus in `folder/raw/docstrings-{0..3}.parquet`, collected once and found again by later calls.

    The manifest is written last: without it, or where a file is not as long as it says, the corpus is collected and
    written anew. A finished one stays as it is when packages are upgraded; delete it to collect again.

    Raises:
        DiskFull: nothing is left but temporary files, which the next call removes.
    """
    raw = folder / "raw"
    manifest, tmp = raw / "docstrings.json", raw / ".tmp"
    asked = {"packages": list(packages), "cap": cap}
    if manifest.is_file():
        facts = read_json(manifest)
        sizes: Mapping[str, int] = facts["files"]
        if facts["asked"] == asked and all(_size(raw / name) == size for name, size in sizes.items()):
            return CorpusInfo(raw, facts["rows"], facts["labels"], facts["seconds"])
    manifest.unlink(missing_ok=True)
    shutil.rmtree(tmp, ignore_errors=True)
    started = time.perf_counter()
    table = collect(packages, cap, progress)
    seconds = round(time.perf_counter() - started, 2)
    names = [f"docstrings-{i}.parquet" for i in range(FILES)]
    each = -(-table.num_rows // FILES)
    with disk_full_is_said(raw, "writing the docstrings"), staging(tmp) as stage:
        for i, name in enumerate(names):
            pq.write_table(table.slice(i * each, each), stage / name, row_group_size=1000, compression="zstd")
        for name in names:
            os.replace(stage / name, raw / name)
    labels = dict(sorted(Counter(table["label"].to_pylist()).items()))
    sizes = {name: _size(raw / name) for name in names}
    write_json(
        manifest, {"asked": asked, "files": sizes, "rows": table.num_rows, "labels": labels, "seconds": seconds}, tmp
    )
    shutil.rmtree(tmp, ignore_errors=True)
    return CorpusInfo(raw, table.num_rows, labels, seconds)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
