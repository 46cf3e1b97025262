"""The demo's corpus: the docstrings of the Python packages that are installed beside raystore.

Source files are read with `ast` (Cython's by pattern) and no package is imported: nothing of theirs runs, and the
same installation always gives the same rows. Public modules, classes, functions and methods count; what stands in
a private module counts where a public one re-exports it. Knows nothing of stores, vectors or Ray.

Cost: at most 12 MB of source a package, read in a fixed order spread over its modules; some 6 s on one core.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
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

from raystore.layout import disk_full_is_said, read_json, staging, write_json

# Import name -> (names masked wherever they stand, names masked only as a word or a hump of CamelCase).
NAMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "torch": (("pytorch", "torch"), ()),
    "numpy": (("numpy",), ("np",)),
    "pandas": (("pandas",), ("pd",)),
    "scipy": (("scipy",), ("sp",)),
    "sklearn": (("scikit-learn", "scikit learn", "sklearn"), ("scikit",)),
    "transformers": (("transformers", "hugging face", "huggingface"), ("hf",)),
    "ray": (("raylet",), ("ray",)),
    "pyarrow": (("pyarrow",), ("apache arrow", "arrow", "pa")),
    "fastapi": (("fastapi",), ()),
    "duckdb": (("duckdb",), ("duck",)),
    "pydantic": (("pydantic",), ()),
    "lance": (("lancedb", "pylance"), ("lance",)),
    "faiss": (("faiss",), ()),
}
PACKAGES: tuple[str, ...] = tuple(NAMES)
MASK = "___"
SHORTEST, LONGEST = 40, 400  # characters of a row's text
CAP = 1500
FILES = 4
MAX_SOURCE_BYTES = 16_000_000  # a package; transformers has 52 MB, and a third of them fills its cap
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("id", "subject", "label", "text")])

Progress = Callable[[int, int, str], None]

_SKIPPED = {"tests", "test", "testing", "conftest", "externals", "third_party", "thirdparty_files", "vendored_packages"}
_SECTION = re.compile(
    r"(parameters?|other parameters|args|arguments|keyword arguments|kwargs|inputs?|outputs?|shape|attributes?|variables"
    r"|members|fields|methods|properties|returns?|yields?|receives|raises|warns|warnings?|notes?|see also|references?"
    r"|examples?|usage|usage examples?|tips?|todo|\.\.\.)(\s*\([^)]*\))?\s*:*",
    re.IGNORECASE,
)
_INLINE_SECTION = re.compile(
    r"(args|arguments|params?|parameters|returns?|yields?|raises|examples?|usage|see also|note|todo|type|default)\s*:",
    re.IGNORECASE,
)
# Fields (:param x:), epydoc and decorators, doctests, fences, directives, tables, lists, headings, templates.
_NOT_PROSE = re.compile(
    r":[a-z]+[^:`]*:(?!`)|@|>>>|```|~~~|\.\. |\.\.$|\+[-=+]+|\||<|[-*+•] |\(?\d+[.)] |#|\$|%|\{|\[|import |from \S+ import |[-=]{3,} "
)
_DOCUMENTING = re.compile(r"\._(add_newdocs\w*|\w+_docs)$")  # private modules that document compiled objects
_UNDERLINE = re.compile(r"([-=~^*#+\"'`.:])\1{2,}")
_SIGNATURE = re.compile(r"[\w.]+(\[[^\]]*\])?\(.*\)\s*(->.*)?[.:]?", re.DOTALL)
_TEMPLATE = re.compile(r"%\(\w+\)s|\{\w*\}|\$\{?\w+")
_MARKUP: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"\[([^\]]+)\]\([^)\s]*\)"), r"\1"),  # [text](address)
    (re.compile(r"(?::[\w+.-]+)+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :func:`name`, :ref:`title <target>`
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_+"), r"\1"),  # `title <address>`_
    (re.compile(r"\s?\[(?:\d+|[A-Z]\w*\d)\]_"), ""),  # [1]_
    (re.compile(r"`+~?([^`]*)`+_*"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"https?://\S+"), ""),
    (re.compile(r"\s+"), " "),
)


def prose(docstring: str) -> str:
    """The summary and first paragraphs as one line, without markup; '' where there is none.

    It ends at the first section heading, field, doctest, code, list, table, directive or unfilled template. A
    signature or a title before the first sentence is skipped.
    """
    taken: list[str] = []
    for block in re.split(r"\n[ \t]*\n", inspect.cleandoc(docstring)):
        lines = [line.rstrip() for line in block.strip("\n").split("\n")]
        if not taken:  # an overlined or underlined title; a signature
            while lines and _UNDERLINE.fullmatch(lines[0]):
                lines = lines[1:]
            if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1]) and not _SECTION.fullmatch(lines[0]):
                lines = [line for line in lines[2:] if line]
            if lines and _SIGNATURE.fullmatch(lines[0]):
                lines = lines[1:]
            elif _SIGNATURE.fullmatch("\n".join(lines)):
                lines = []
        kept = _prose_lines(lines, first=not taken)
        taken += kept
        if len(kept) < len(lines) or (kept and kept[-1].endswith("::")):
            break
    text = " ".join(line.strip() for line in taken)
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    return text.removesuffix("::").strip()


def _prose_lines(lines: Sequence[str], *, first: bool) -> list[str]:
    kept: list[str] = []
    for i, line in enumerate(lines):
        bare = line.strip()
        underlined = i + 1 < len(lines) and _UNDERLINE.fullmatch(lines[i + 1].strip())
        indented = not kept and not first and line.startswith("   ")
        heading = underlined or _SECTION.fullmatch(bare) or _INLINE_SECTION.match(bare)
        if heading or indented or _NOT_PROSE.match(bare) or _TEMPLATE.search(bare):
            break
        kept.append(line)
    return kept


def mask(text: str, package: str) -> str:
    """The text with every spelling of the package's own name replaced by '___', in dotted and compound names too."""
    anywhere, words = NAMES.get(package, ((package,), ()))
    humps = [word.capitalize() for word in words if len(word) > 2]
    patterns = [f"(?i:{'|'.join(anywhere)})"]
    if words:
        patterns.append(f"(?<![A-Za-z0-9])(?i:{'|'.join(words)})(?![A-Za-z0-9])")
    if humps:
        patterns.append(f"(?:{'|'.join(humps)})(?![a-z])")
    return re.sub("|".join(patterns), MASK, text)


def shorten(text: str, longest: int = LONGEST) -> str:
    """At most `longest` characters, cut after a word."""
    if len(text) <= longest:
        return text
    head, space, _ = text[: longest + 1].rpartition(" ")
    return head if space else text[:longest]


@dataclass
class _Module:
    """What one source file says: its docstrings, and the names it takes from elsewhere."""

    name: str
    is_package: bool
    home: str  # where its names live
    docs: list[tuple[str, str]] = field(default_factory=list)  # (name inside the module, docstring)
    outside: list[tuple[str, str]] = field(default_factory=list)  # (qualified name, docstring) said for another module
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
            parts = path.relative_to(place).with_suffix("").parts
            if path.suffix not in (".py", ".pyi", ".pyx", ".pxi") or _SKIPPED & set(parts) or parts[-1].startswith("test_"):
                continue
            found.setdefault(".".join((package, *(p for p in parts if p != "__init__"))), path)  # .py sorts before .pyi
    return found


def _read(name: str, path: Path) -> _Module:
    """The parsed file; an empty module where it is not Python that this interpreter reads."""
    included = path.suffix == ".pxi"  # PyArrow's are compiled into pyarrow.lib
    module = _Module(name, path.stem == "__init__", name.rpartition(".")[0] + ".lib" if included else name)
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
        elif isinstance(node.value, ast.Call):
            module.outside += _added_docs(module, node.value)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        module.outside += _added_docs(module, node.value)


def _docs_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, prefix: str) -> Iterator[tuple[str, str]]:
    if node.name.startswith("_"):
        return
    if text := ast.get_docstring(node, clean=False):
        yield prefix + node.name, text
    for child in _statements(node.body) if isinstance(node, ast.ClassDef) else ():
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docs_of(child, f"{prefix}{node.name}.")


def _added_docs(module: _Module, call: ast.Call) -> Iterator[tuple[str, str]]:
    """What `add_newdoc(place, name, text)` of NumPy and `add_docstr(object, text)` of torch say of compiled objects."""
    function = ast.unparse(call.func).rpartition(".")[2].lstrip("_")
    if function not in ("add_newdoc", "add_docstr", "add_docstr_all") or len(call.args) < 2:
        return
    *where, last = call.args
    names = [n.value if isinstance(n, ast.Constant) and isinstance(n.value, str) else ast.unparse(n) for n in where]
    if function == "add_docstr_all":
        names.insert(0, "torch.Tensor")
    elif len(names) == 1 and "." not in names[0]:
        names.insert(0, module.name.rpartition(".")[0])
    place = ".".join(part for part in ".".join(names[:-1]).split(".") if not part.startswith("_")) if names[1:] else ""
    for item in last.elts if isinstance(last, ast.List) else [last]:
        member, text = (item.elts[0], item.elts[1]) if isinstance(item, ast.Tuple) and len(item.elts) == 2 else (None, item)
        if isinstance(text, ast.Call) and isinstance(text.func, ast.Attribute):  # r"""...""".format(...)
            text = text.func.value
        parts = [place, names[-1], member.value if isinstance(member, ast.Constant) else ""]
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            yield ".".join(str(part) for part in parts if part), text.value


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
    """The public modules, the private ones whose names they publish, and those that document compiled objects."""
    files = _files(package)
    modules: dict[str, _Module] = {}
    read = 0
    public = [name for name in files if _public(name) or _DOCUMENTING.search(name)]
    waiting = sorted(public, key=lambda name: (files[name].stem != "__init__", _order(name)))
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

    def origin(module: str, name: str, depth: int = 8) -> tuple[str, str] | None:
        source = modules.get(module)
        if source is None or not depth:
            return None
        if name in source.own:
            return module, name
        if name in source.taken:
            return origin(*source.taken[name], depth - 1)
        return next((found for star in source.stars if (found := origin(star, name, depth - 1))), None)

    published: dict[tuple[str, str], str] = {}
    for module in modules.values():
        taken = {name: pair for name, pair in module.taken.items() if module.exports(name, pair[0])}
        for star in module.stars:
            if module.is_package and star in modules:
                taken |= {name: (star, name) for name in modules[star].all or modules[star].own}
        for name, (source, known_as) in taken.items():
            found = origin(source, known_as)
            public = f"{module.name}.{name}"
            if found and _public(public) and not _public(found[0]):
                published[found] = min(published.get(found, public), public, key=lambda n: (n.count("."), n))
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
        for name, text in module.outside:
            if _public(name) and name.startswith(package + "."):
                yield name, module.name, text


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

    Cost: reads and parses the source, about 6 s for the default packages on one core.
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
