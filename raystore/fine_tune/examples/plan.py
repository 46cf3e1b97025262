"""From paths and column names to a DataSpec: sources found and sliced, columns checked, classes counted. Keeps no row.

Cost: that of `readers.plan`, and one reading of the label columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raystore.data.readers import SOURCES, Reference, SourceFile, find_files
from raystore.data.readers import plan as plan_files
from raystore.data.snapshots.split import DEFAULT_SPLIT, split_problems
from raystore.encoders.passport import Passport
from raystore.errors import InvalidArguments, listed
from raystore.fine_tune.examples import labels
from raystore.fine_tune.examples.spec import Columns, DataSpec

Paths = str | Path | Sequence[str | Path]
BESIDE_TEST_FILES: Mapping[str, float] = {"train": 0.9, "val": 0.1}
_BY_TEXT = ("csv", "tsv", "jsonl")  # their values are typed by a sample, and read as strings


def plan_data(
    data: Paths,
    *,
    text: str | None = None,
    image: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    parent: str | None = None,
    id: str | None = None,
    subject: str | None = None,
    test: Paths | None = None,
    pool: Paths | None = None,
    split: Mapping[str, float] | None = None,
    out_of_scope: str | None = None,
    passport: Passport | None = None,
    base: str = "the base",
    call: str = "fine_tune",
) -> DataSpec:
    """What a fine-tuning is to read, as references.

    Args:
        data: labelled files, folders or patterns, as `collection.embed` takes them.
        text, image, pair: columns of what is embedded. `text` or `image` alone are items; `text` with `pair` (another text) and
            `image` with `text` are pairs, which need no labels. Folders and tars of images need not name `image`.
        label, parent: columns of the class, and of the class above it.
        id: column of ids; None makes them of file names and row numbers (of images their names).
        subject: column of the entity a row belongs to, which stands on one side; None makes each row its own.
        test: files that form the test side whole; val is then split off the data.
        pool: files of unlabelled rows, of which the first view's column is read.
        split: fractions of train, val and test; None is .8, .1, .1, or .9, .1 beside test files.
        out_of_scope: a label that is no class; its rows are not learned from, and stand on test alone.
        passport, base: what the base takes, and how it is called in an error.

    Raises:
        InvalidArguments: every problem at once; first of the arguments and sources, then of the labels they hold.
    """
    columns = Columns(text=text, image=image, pair=pair, label=label, parent=parent, id=id, subject=subject)
    problems: list[str] = []
    roles: dict[str, tuple[list[SourceFile], list[Reference]]] = {}
    for role, paths in (("data", data), ("test", test), ("pool", pool)):
        roles[role] = _planned(role, paths, call, problems) if paths is not None else ([], [])
    known = [source for sources, _ in roles.values() for source in sources]
    columns = _of_images(columns, known)
    fractions = _fractions(split, bool(test), problems)
    problems += _column_problems(columns, passport, base)
    if out_of_scope is not None and not columns.label:
        problems.append("out_of_scope= is one of the labels, and label= names no column of them")
    problems += _twice(roles)
    for role, (sources, _) in roles.items():
        problems += _source_problems(role, sources, columns)
    if problems:
        raise InvalidArguments(call=call, problems=list(dict.fromkeys(problems)))
    spec = DataSpec(
        references=tuple(roles["data"][1]),
        columns=columns,
        split=fractions,
        sources=tuple({source.path: source for source in known}.values()),
        test=tuple(roles["test"][1]),
        pool=tuple(roles["pool"][1]),
        out_of_scope=out_of_scope,
    )
    return _with_classes(spec, call) if columns.label else spec


def _planned(role: str, paths: Paths, call: str, problems: list[str]) -> tuple[list[SourceFile], list[Reference]]:
    try:
        files, references = plan_files(find_files(paths, call, SOURCES), 1, call)
    except InvalidArguments as error:
        problems += [f"{problem} ({role}=)" if role != "data" else problem for problem in error.problems]
        return [], []
    if not references:
        problems.append(f"the {role} files hold no row")
    return files, references


def _of_images(columns: Columns, sources: Sequence[SourceFile]) -> Columns:
    """Folders and tars of images need not name their columns: a file is the image, its name the id."""
    if not sources or any(source.kind not in ("images", "tar") for source in sources):
        return columns
    if columns.image is None and columns.text is None:
        columns = replace(columns, image="image")
    return replace(columns, id="name") if columns.image == "image" and columns.id is None else columns


def _fractions(split: Mapping[str, float] | None, has_test: bool, problems: list[str]) -> dict[str, float]:
    if split is None:
        return dict(BESIDE_TEST_FILES if has_test else DEFAULT_SPLIT)
    problems_of_split = [f"split=: {problem}" for problem in split_problems(split)]
    problems += problems_of_split
    if has_test and split.get("test"):
        problems.append("split= gives a fraction to test, and the test files (test=) are that side already")
    if not has_test and not problems_of_split and not split.get("test"):
        problems.append("split= gives nothing to test, where the proof is measured: give test a fraction, or test= files")
    return {side: float(fraction) for side, fraction in split.items() if isinstance(fraction, (int, float))}


def _column_problems(columns: Columns, passport: Passport | None, base: str) -> list[str]:
    problems = []
    if not columns.text and not columns.image:
        problems.append("which column is to be learned from? Name it with text= or image=")
    if columns.pair and not columns.text:
        problems.append("pair= stands beside text=; pictures with their texts are named image= and text=")
    if columns.pair and columns.text and columns.image:
        problems.append("expected one pair, of text= and pair= or of image= and text=, found three columns")
    is_pairs = len(columns.views) > 1
    if not columns.label and not is_pairs:
        problems.append("label= is missing: the column that holds each row's class (of folders of images, 'folder')")
    if columns.parent and not columns.label:
        problems.append("parent= needs label=: it is the class above a class")
    by_column: dict[str, list[str]] = {}
    for role, column in columns.named.items():
        by_column.setdefault(column, []).append(role)
    contents = {column for column, _ in columns.views}
    problems += [
        f"column '{column}' is named as {' and as '.join(f'{role}=' for role in roles)}"
        for column, roles in by_column.items()
        if len(roles) > 1 and (column in contents or {"label", "parent"} <= {*roles})
    ]
    if passport is not None:
        other = " or ".join(f"{modality}=" for modality in passport.modalities)
        wrong = dict.fromkeys(modality for _, modality in columns.views if modality not in passport.modalities)
        problems += [f"{base} takes no {modality}s ({modality}=): name a column with {other}" for modality in wrong]
    return problems


def _twice(roles: Mapping[str, tuple[list[SourceFile], list[Reference]]]) -> list[str]:
    of: dict[str, list[str]] = {}
    for role, (sources, _) in roles.items():
        for source in sources:
            of.setdefault(source.path, []).append(role)
    return [
        f"'{path}' is given as {' and as '.join(f'{role}=' if role != 'data' else role for role in named)}"
        for path, named in of.items()
        if len(named) > 1 and "test" in named
    ]


def _source_problems(role: str, sources: Sequence[SourceFile], columns: Columns) -> Iterable[str]:
    """Missing columns, and those of a type that cannot be; of a pool only its content counts."""
    wanted = columns.named
    if role == "pool":
        wanted = {name: column for name, column in wanted.items() if column == (columns.image or columns.text)}
    for source in sources:
        if not source.n_rows:
            continue
        has = ", ".join(source.columns) or "none"
        for name, column in wanted.items():
            kind = source.columns.get(column)
            expected = _EXPECTED[name]
            if kind is None:
                yield f"'{source.path}' has no column '{column}' ({name}=); it has: {has}"
            elif kind not in expected[0] and not (source.kind in _BY_TEXT and "string" in expected[0]):
                yield f"'{source.path}': column '{column}' ({name}=) is {kind}, expected {expected[1]}"
    stems = [Path(source.path).stem for source in sources]
    if columns.id is None and len(set(stems)) < len(stems):
        yield f"two {role} files have the same name, and without id= ids are made of file names and row numbers"


_STRINGS = (("string",), "strings")
_NAMES = (labels.TYPES, "strings, integers or truth values")
_EXPECTED: dict[str, tuple[Sequence[str], str]] = {
    "text": _STRINGS, "pair": _STRINGS, "image": (("binary",), "the bytes of image files"), "label": _NAMES, "parent": _NAMES,
    "id": (("string", "int64"), "strings or integers"),
    "subject": (("string", "int64", "bool", "float64", "timestamp", "date"), "plain values"),
}  # fmt: skip


def _with_classes(spec: DataSpec, call: str) -> DataSpec:
    """The spec with the classes that its data holds. Raises InvalidArguments where nothing can be learned from them."""
    label, parent = str(spec.columns.label), spec.columns.parent
    found = labels.count_labels(spec.references, label, parent)
    tested = set(labels.count_labels(spec.test, label).classes)
    stranger = {spec.out_of_scope} if spec.out_of_scope is not None else set()
    classes = sorted({*found.classes} - stranger)
    problems = []
    if not classes:
        problems.append(f"column '{label}' (label=) holds no label in any of {found.rows:,} rows")
    elif len(classes) == 1 and not spec.is_pairs:
        problems.append(
            f"column '{label}' (label=) holds one label in all of {found.classes[classes[0]]:,} rows, and what is one class cannot be "
            "told apart: two classes or more are needed"
        )
    parents = {name: above for name, above in found.parents.items() if name not in stranger} if parent else {}
    torn = sum(len(above) > 1 for above in parents.values())
    without = len(classes) - len(parents) if parent else 0
    if torn:
        problems.append(f"column '{parent}' (parent=): {_classes(torn)} with several parents, expected one of each")
    if without:
        problems.append(f"column '{parent}' (parent=): {_classes(without)} without a parent")
    if classes and spec.test and not tested & set(classes):
        problems.append("no row of the test files (test=) has a label that the data has")
    if classes and stranger - {*found.classes, *tested}:
        problems.append(
            f"out_of_scope= is '{spec.out_of_scope}', which no row has as its label in column '{label}'; there are: {listed(classes)}"
        )
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    # Behind the others: the codes below it are those of the classes that are learned.
    classes += stranger
    return replace(
        spec,
        classes=tuple(classes),
        class_rows=tuple(found.classes[name] if name not in stranger else 0 for name in classes),
        parents=tuple(min(parents.get(name, {""})) for name in classes) if parent else (),
    )


def _classes(n: int) -> str:
    return "there is one class" if n == 1 else f"there are {n:,} classes"
