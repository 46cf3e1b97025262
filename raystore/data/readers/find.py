"""Which sources paths, folders and patterns name."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from raystore.data.readers.files import (
    TABLES,
    Entry,
    NotOpened,
    as_local,
    holds_password,
    is_url,
    join,
    list_folder,
    look,
    suffix,
)
from raystore.data.readers.images import is_hidden, walk
from raystore.errors import InvalidArguments

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


def find_files(paths: str | Path | Sequence[str | Path], call: str, kinds: Mapping[str, str] = TABLES) -> list[str]:
    """The sources that `paths` name, sorted within each: absolute paths and URLs.

    Args:
        paths: files, folders, patterns ('shards/*.tar'), or URLs of them ('s3://bucket/photos'). A folder means the files of
            known kinds directly in it, without hidden ones; if there are none and images lie in it, at any depth, it means
            the folder itself. Patterns know *, ? and [..] (a '?' begins the options of a URL) and no '**'.
        kinds: suffix -> kind of what is taken: TABLES, or SOURCES for all that can be embedded.

    Raises:
        InvalidArguments: a pattern that names nothing, sources of an unknown kind, images beside other sources, compressed
            tars, image files by themselves, URLs that cannot be opened or hold a password; all are listed.
    """
    patterns = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found: list[str] = []
    problems = [] if patterns else ["the list is empty, it names no file"]
    for pattern in patterns:
        if isinstance(pattern, str) and holds_password(pattern):
            problems.append("a URL holds a password, which the job's records would keep: put it into the environment")
            continue
        try:
            matches, wrong = _sources(pattern, kinds)
        except NotOpened as error:
            problems.append(f"'{pattern}' cannot be opened: {error}")
            continue
        except (OSError, ValueError, pa.ArrowException) as error:
            problems.append(f"'{pattern}' cannot be opened ({type(error).__name__})")
            continue
        if not matches and not wrong:
            problems.append(f"no file matches '{pattern}'")
        problems += wrong
        found += [match if is_url(match) else str(Path(match).absolute()) for match in matches]
    if problems:
        raise InvalidArguments(call=call, problems=list(dict.fromkeys(problems)))
    return list(dict.fromkeys(found))


def _sources(pattern: str | Path, kinds: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The sources that a path, folder or pattern names, and what is wrong with those that are none."""
    text = as_local(pattern) if isinstance(pattern, str) else str(pattern)
    if not is_url(text):
        text = str(Path(text).expanduser())
    if look(text) is not None:
        matched = [text]
    else:
        matched = _expand(text) if is_url(text) else sorted(glob.glob(text))  # noqa: PTH207  patterns may be absolute
    sources: list[str] = []
    problems: list[str] = []
    for match in matched:
        inside, mixed = _inside(match, kinds) if _is_plain_folder(match, kinds) else ([match], None)
        wrong = [mixed] if mixed else [problem for path in inside if (problem := _wrong(path, pattern, kinds))]
        problems += wrong
        sources += inside
    return sources, problems


def _is_plain_folder(path: str, kinds: Mapping[str, str]) -> bool:
    entry = look(path)
    return entry is not None and entry.is_folder and kinds.get(suffix(path)) != "lance"


def _inside(folder: str, kinds: Mapping[str, str]) -> tuple[list[str], str | None]:
    """The sources that a folder means: the files in it, or itself where it holds images; a problem where it could be both."""
    names = [entry.name for entry in list_folder(folder) if _is_source(entry, kinds)]
    if "images" not in kinds.values() or not _has_images(folder, nearby=bool(names)):
        return [join(folder, name) for name in names], None
    if not names:
        return [folder], None
    return [], (
        f"'{folder}' holds images and other sources ('{names[0]}'): "
        "name the others by a pattern, or name folders that hold nothing but images"
    )


def _is_source(entry: Entry, kinds: Mapping[str, str]) -> bool:
    if is_hidden(entry.name):
        return False
    kind = kinds.get(suffix(entry.name))
    return _is_packed(entry.name, kinds) or (kind not in (None, "images") and (kind != "lance" or entry.is_folder))


def _is_packed(name: str, kinds: Mapping[str, str]) -> bool:
    return "tar" in kinds.values() and name.lower().endswith(_PACKED)


def _has_images(folder: str, *, nearby: bool) -> bool:
    """True when images lie in the folder at any depth, or `nearby`: in it or in the folders directly below."""
    return any(not nearby or name.count("/") <= 1 for name, _ in walk(folder))


def _wrong(path: str, pattern: str | Path, kinds: Mapping[str, str]) -> str | None:
    """Why the path, which a pattern led to, is no source; None if it is one."""
    # A row that is set aside is listed with its file's name, which Arrow keeps as UTF-8.
    if path.encode("utf-8", "replace").decode() != path:
        return f"the name of {path!a} is not valid UTF-8"
    if _is_packed(path, kinds):
        return f"'{path}' is compressed, so no part of it can be read alone: unpack it to a folder or a plain .tar"
    kind = kinds.get(suffix(path))
    if kind == "images" and not _is_plain_folder(path, kinds):
        return f"'{pattern}' names image files: name the folder they lie in"
    if kind is None and not _is_plain_folder(path, kinds):
        also = " or a folder of images" if "images" in kinds.values() else ""
        return f"'{path}' is none of {', '.join(s for s, k in kinds.items() if k != 'images')}{also}"
    return None


def _expand(url: str) -> list[str]:
    """The URLs that a pattern matches, component by component, as `glob` does for local paths."""
    base, mark, options = url.partition("?")
    scheme, _, tail = base.partition("://")
    host, *parts = tail.split("/")
    found = [f"{scheme}://{host}{mark}{options}"]
    for place, part in enumerate(parts):
        if not glob.has_magic(part):
            found = [_child(folder, part) for folder in found]
            continue
        found = [join(folder, name) for folder in found for name in _names(folder, part, folders=place < len(parts) - 1)]
    return sorted(url for url in found if look(url) is not None) if glob.has_magic(tail) else []


def _child(folder: str, part: str) -> str:
    """As `join`, for a part that a user wrote, which is quoted already where it has to be."""
    base, mark, options = folder.partition("?")
    return f"{base}/{part}{mark}{options}"


def _names(folder: str, pattern: str, *, folders: bool) -> list[str]:
    entry = look(folder)
    if entry is None or not entry.is_folder:
        return []
    shown = [e.name for e in list_folder(folder) if (e.is_folder or not folders) and not is_hidden(e.name)]
    return [name for name in shown if fnmatch.fnmatchcase(name, pattern)]
