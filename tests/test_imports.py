"""The room map, held: who may import whom, which files know Ray, and what `import raystore` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raystore

PACKAGE = Path(raystore.__file__).parent
# From left to right: a file imports from its own place and from places to its left.
ORDER = [
    "errors settings layout secret vectors session markup progress",
    "catalog", "access", "encoders", "data", "index", "train", "fine_tune", "migrate", "serve", "client", "source",
    "lineage impact opened indexed searching migrating collection tuning improve snapshots deploying store", "doctor", "demo", "cli",
]  # fmt: skip
# The demo draws through the command line's output, and the command line starts the demo; both are outermost.
ALLOWED = {("demo", "cli")}
KNOW_RAY = {
    "session.py", "data/pool.py", "data/snapshots/to_ray.py", "data/query/to_ray.py", "index/build/run.py",
    "index/live/actors.py", "train/fit.py", "train/sweep.py", "train/ray_train.py", "fine_tune/fit.py",
    "fine_tune/sweep.py", "serve/run/deploy.py", "serve/run/present.py", "serve/run/foreground.py", "serve/run/graph.py",
    "serve/run/build.py", "serve/run/away.py", "serve/run/process.py", "doctor.py",
}  # fmt: skip


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _place(module: str) -> int | None:
    room = module.split(".")[1] if "." in module else "__init__"
    return next((i for i, rooms in enumerate(ORDER) if room in rooms.split()), None)


def _knows_ray(path: Path) -> bool:
    """It imports ray, or takes it from the session's door."""
    modules = {module for module, typing_only in _imports(path) if not typing_only}
    return any(m == "ray" or m.startswith("ray.") for m in modules) or "start_ray(" in path.read_text(encoding="utf-8")


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each imported module and whether it is for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node) for branch in ast.walk(tree) if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, id(node) in typing_only


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_own_room_or_from_rooms_to_the_left(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    room = relative.parts[0].removesuffix(".py")
    place = _place(f"raystore.{room}")
    if room == "__init__":
        return
    assert place is not None, f"{relative} stands in no room of the map"
    wrong = [
        module
        for module, typing_only in _imports(path)
        if module.startswith("raystore.") and not typing_only and (there := _place(module)) is not None and there > place
        and (room, module.split(".")[1]) not in ALLOWED
    ]  # fmt: skip
    assert wrong == []


def test_ray_is_imported_only_by_the_files_that_are_its_shells() -> None:
    assert {str(path.relative_to(PACKAGE)) for path in _files() if _knows_ray(path)} == KNOW_RAY


def test_import_raystore_imports_neither_ray_nor_torch() -> None:
    code = "import raystore, sys; print(sorted({m.partition('.')[0] for m in sys.modules} & {'ray', 'torch', 'lance', 'duckdb'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_opening_a_store_imports_neither_ray_nor_torch(tmp_path: Path) -> None:
    code = "import raystore, sys; raystore.open(sys.argv[1]); print(sorted({'ray', 'torch'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_the_exports_of_the_package_are_these() -> None:
    assert sorted(raystore.__all__) == ["Store", "__version__", "errors", "open"]
    assert all(getattr(raystore, name) is not None for name in raystore.__all__)
