"""Every environment variable raystore reads: one list, read here and nowhere else.

A test holds that each stands in the README. Everything else is a keyword argument with a real default.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    name: str
    default: str
    help: str


SETTINGS: tuple[Setting, ...] = (
    Setting("RAYSTORE_ROOT", "./store", "The store the command line works on when --store is not given."),
    Setting("RAYSTORE_RAY", "", "Address of the Ray cluster to join; empty starts Ray on this machine when a job needs it."),
    Setting("RAYSTORE_RAY_TMP", "", "Folder for Ray's session files; empty takes the system's."),
    Setting("RAYSTORE_KEY_DIR", "", "Folder of the store's key file; empty keeps it in the store's own keys folder."),
    Setting("RAYSTORE_BACKEND", "", "Backend that encodes: torch or openvino; empty takes openvino where it is installed."),
    Setting("RAYSTORE_SQL_MEMORY", "", "What DuckDB may hold before it spills, like 4GB; empty takes half of the memory."),
    Setting("RAYSTORE_MAX_REQUESTS", "", "On a cluster: limits.max_requests of the deployment file, for HAProxy (docs/operate.md)."),
    Setting("RAYSTORE_SQL_CACHE", "", "Columns and scores kept between queries, like 1GB; empty takes an eighth of the memory."),
)  # fmt: skip

_BY_NAME = {s.name: s for s in SETTINGS}


def setting(name: str) -> str:
    """The variable's value, or its default where it is unset or empty."""
    known = _BY_NAME[name]
    return os.environ.get(name) or known.default
