"""What Ray Serve starts in place of the HAProxy binary: narrows its configuration, then becomes HAProxy.

Serve's template lets two more listeners stand open to every network, statistics and metrics; they are moved to
sockets in HAProxy's own folder. And the process asks the kernel to end with its parent, so that a Ray that was
killed leaves no proxy holding the port. Runs on the standard library alone, in some 20 ms.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_WIDE = re.compile(r"^(frontend prometheus|listen stats)\n(\s*)bind [*]?:\d+", re.MULTILINE)


def narrowed(config: str, folder: str) -> str:
    """The configuration with the two wide listeners moved to sockets in `folder`."""
    return _WIDE.sub(lambda m: f"{m[1]}\n{m[2]}bind unix@{folder}/{m[1].split()[1]}.sock mode 600", config)


def main(binary: str, arguments: list[str]) -> None:
    path = Path(arguments[arguments.index("-f") + 1])
    path.write_text(narrowed(path.read_text(encoding="utf-8"), str(path.parent)), encoding="utf-8")
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)
    os.execv(binary, [binary, *arguments])  # noqa: S606 - no shell; Serve chose the arguments


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
