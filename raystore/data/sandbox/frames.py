"""Frames between a service and its SQL process: 8 bytes of length, then the bytes. Every wait has an end.

Nothing is unpickled: a frame is JSON, or the body of an answer that is passed on unread. Knows no SQL.
"""

from __future__ import annotations

import math
import os
import select
import time

_LENGTH = 8
_CHUNK = 2**20


class FrameLostError(Exception):
    """The other side is gone, or sent what is no frame."""


class FrameLateError(Exception):
    """The deadline passed."""


def send(fd: int, data: bytes, deadline: float) -> None:
    """Write one frame by `deadline` (of time.monotonic; infinite waits). The descriptor should not block."""
    left = memoryview(len(data).to_bytes(_LENGTH, "big") + data)
    while left:
        _wait(fd, select.POLLOUT, deadline)
        try:
            left = left[os.write(fd, left[:_CHUNK]) :]
        except BlockingIOError:
            continue
        except OSError:
            raise FrameLostError from None


def receive(fd: int, deadline: float, *, max_bytes: int) -> bytes:
    """Read one frame of at most `max_bytes` by `deadline`."""
    size = int.from_bytes(_read(fd, _LENGTH, deadline), "big")
    if size > max_bytes:
        raise FrameLostError
    return _read(fd, size, deadline)


def _read(fd: int, size: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    while size:
        _wait(fd, select.POLLIN, deadline)
        try:
            part = os.read(fd, min(size, _CHUNK))
        except BlockingIOError:
            continue
        except OSError:
            raise FrameLostError from None
        if not part:
            raise FrameLostError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _wait(fd: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(None if math.isinf(left) else 1e3 * left):
        raise FrameLateError
