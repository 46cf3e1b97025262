"""Files that a verb writes where the user says: whole or not at all, in the place of what was there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from raystore.errors import InvalidArguments
from raystore.layout import disk_full_is_said


@contextmanager
def new_file(target: str, call: str) -> Iterator[BinaryIO]:
    """A file beside `target` to write into; it takes its place when the block ends, and is gone if it fails.

    Raises:
        InvalidArguments: nothing can be written there. DiskFull.
    """
    path = Path(target).expanduser()
    if path.is_dir():
        raise InvalidArguments(call=call, problems=[f"'{target}' is a folder, expected the name of a file"])
    part = path.with_name(f".{path.name[:100]}-{uuid.uuid4().hex}")
    with disk_full_is_said(path.parent, f"writing {path.name}"):
        try:
            file = part.open("xb")
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise InvalidArguments(call=call, problems=[f"'{target}' cannot be written ({error.strerror})"]) from None
        try:
            with file:
                yield file
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def write_text(target: str, text: str, call: str) -> None:
    with new_file(target, call) as file:
        file.write(text.encode("utf-8"))
