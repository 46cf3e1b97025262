"""What a process gives up before it reads somebody else's SQL: files, network, programs, memory, time.

Two steps, both for good. `enter` comes first of all, while the process has one thread: no core files, no file of any
size, no network where the kernel lets a user have that (a network namespace of its own), no new privileges. `confine`
comes when the libraries are loaded, before a byte of the query is read: an address space, CPU and wall-clock seconds,
and no file beyond the folders named (Landlock, Linux 5.13 and later). Where the kernel has no Landlock or refuses the
namespace, that part is missing, and the query's own checks stand alone. Knows no SQL and no store.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_NO_NEW_PRIVS = 38
_NEWUSER, _NEWNET = 0x10000000, 0x40000000
# Landlock's system calls have one number on every architecture; its structs are in linux/landlock.h.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# Rights over files that exist from this version on; each version knows those of the ones before.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_TCP, _SCOPES = 0b11, 0b11  # bind and connect (from 4); abstract sockets and signals to others (from 6)


def enter() -> None:
    """Give up what nothing after this needs. One thread only."""
    # pyarrow loads pandas where it is: 0.5 s and 80 MB for nothing.
    sys.meta_path.insert(0, _Without(frozenset({"pandas"})))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    if hasattr(libc, "unshare"):  # root keeps its user namespace: in one of its own it could not read other users' files
        libc.unshare(_NEWNET if os.geteuid() == 0 else _NEWUSER | _NEWNET)


class _Without:
    """Stands first in sys.meta_path, so that these are as if they were not installed."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(self, name: str, *_: object) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def confine(*, memory_bytes: int, seconds: float, readable: Sequence[Path]) -> None:
    """Leave the process this much more address space and time, and these folders to read.

    Only threads that are started later are bound by Landlock; memory and time bind them all. Time is kept by the
    kernel: the process is ended though nobody watches it any more.
    """
    _limit(resource.RLIMIT_AS, _address_space() + memory_bytes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + 2 * seconds) + 2)  # two threads' worth
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _see_only(readable)


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def _address_space() -> int:
    """Bytes mapped now: the libraries alone are some 700 MB of it."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return 2**30


def landlock_version() -> int:
    """The version of Landlock this kernel has; below 1 where it has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not sys.platform.startswith("linux") or not hasattr(libc, "syscall"):
        return 0
    return int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_GET_VERSION)))


def _see_only(folders: Sequence[Path]) -> bool:
    """Whether Landlock now keeps this thread from every file outside the folders, and from programs and connections."""
    version = landlock_version()
    if version < 1:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    files = sum(rights for since, rights in _FILE_RIGHTS.items() if since <= version)
    attributes = struct.pack("QQQ", files, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    try:
        for folder in folders:
            with suppress(OSError):  # a folder that is gone needs no rule
                fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
                rule = struct.pack("=Qi", _READ_FILE | _READ_DIR, fd)
                libc.syscall(_ADD_RULE, ruleset, ctypes.c_uint32(_PATH_BENEATH), rule, ctypes.c_uint32(0))
                os.close(fd)
        return bool(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0)
    finally:
        os.close(ruleset)
