"""What runs inline, and what a failure on Ray becomes. Without Ray: the choice and the sentence are plain functions."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys

import pytest

from raystore.errors import IdConflict, JobFailed, LeaseLost, RaystoreError
from raystore.session import (
    INLINE_BELOW,
    choose_workers,
    interrupt_waits,
    on_a_busy_machine,
    root_cause,
    start_ray,
    thread_count,
)

CORES = os.cpu_count() or 1


@pytest.mark.parametrize(
    "asked, size, below, expected",
    [
        (0, 10**9, INLINE_BELOW.embed_rows, 0),
        (3, 1, INLINE_BELOW.embed_rows, 3),
        (None, 0, INLINE_BELOW.embed_rows, 0),
        (None, 1_999, INLINE_BELOW.embed_rows, 0),
        (None, 2_000, INLINE_BELOW.embed_rows, CORES),
        (None, 199_999, INLINE_BELOW.head_rows, 0),
        (None, 200_000, INLINE_BELOW.head_rows, CORES),
        (None, 999_999, INLINE_BELOW.index_rows, 0),
        (None, 1_000_000, INLINE_BELOW.index_rows, CORES),
    ],
)
def test_small_jobs_run_inline_and_large_ones_on_every_core(
    asked: int | None, size: int, below: int, expected: int
) -> None:
    assert choose_workers(asked, size, below, "a job") == expected


def test_the_choice_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "raystore")
    choose_workers(None, 5, 10, "embed into 'tickets'")
    choose_workers(None, 10, 10, "embed into 'tickets'")
    choose_workers(2, 10, 10, "what was asked for needs no word")
    assert caplog.messages == [
        "embed into 'tickets': 5 items, inline",
        f"embed into 'tickets': 10 items, {CORES} Ray workers",
    ]


class RayTaskError(Exception):
    """As Ray's: the worker's exception hangs in `cause`, its text in the message."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"a worker raised {cause}")
        self.cause = cause


CONFLICT = IdConflict(collection="tickets", ids=["t-1"])


def chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        CONFLICT,
        RayTaskError(CONFLICT),
        RayTaskError(RayTaskError(CONFLICT)),
        chained(RuntimeError("SECRET"), CONFLICT),
        chained(RuntimeError("SECRET"), RayTaskError(chained(ValueError("SECRET"), CONFLICT))),
    ],
)
def test_a_raystore_error_from_a_worker_arrives_as_itself(error: BaseException) -> None:
    assert root_cause(error, "embedding", "Run it again.") is CONFLICT


def test_ray_derives_its_error_from_the_workers_own_and_still_the_own_one_arrives() -> None:
    lost = LeaseLost(folder="/store", token=1, found=2)

    class Both(RayTaskError, LeaseLost):  # what Ray makes of it, so that except LeaseLost works
        def __init__(self) -> None:
            self.cause = lost

    assert root_cause(Both(), "embedding", "Run it again.") is lost


def test_the_text_of_a_foreign_exception_is_never_repeated() -> None:
    found = root_cause(RayTaskError(ValueError("SECRET")), "embedding into 'tickets'", "Run it again.")
    assert isinstance(found, JobFailed)
    assert str(found) == "embedding into 'tickets' failed: a worker ended with RayTaskError. Run it again."
    assert "SECRET" not in repr(found.facts)
    assert isinstance(found, RaystoreError)


def test_threads_fill_the_machine_and_no_more() -> None:
    assert thread_count(0) == thread_count(1) == CORES
    assert thread_count(CORES) == thread_count(10 * CORES) == 1


def test_an_interrupt_waits_until_the_block_is_left_and_then_takes_effect() -> None:
    seen: list[str] = []

    def work() -> None:
        with interrupt_waits():
            signal.raise_signal(signal.SIGINT)
            seen.append("the block went on")
        seen.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["the block went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_was_there_gets_the_interrupt_once_and_stays() -> None:
    numbers: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: numbers.append(number))
    try:
        with interrupt_waits():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert numbers == [signal.SIGINT, signal.SIGINT]


def test_a_ray_that_cannot_be_joined_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    if (ray := sys.modules.get("ray")) is not None and ray.is_initialized():
        pytest.skip("this process is in a Ray already, and joins no other")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        port = taken.getsockname()[1]
        for address, why in ((f"127.0.0.1:{port}", "ConnectionRefusedError"), ("no address", "ValueError")):
            monkeypatch.setenv("RAYSTORE_RAY", address)
            with pytest.raises(JobFailed) as failed:
                start_ray()
            assert str(failed.value) == (
                f"joining the Ray at '{address}' failed: nothing answers there, or it asks for a token ({why}). Look whether it runs "
                f"(ray status --address {address}); where it asks for a token set RAY_AUTH_MODE=token, with the token in the file "
                "that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token."
            )


def test_a_ray_that_was_not_up_in_its_time_is_started_once_more(caplog: pytest.LogCaptureFixture) -> None:
    late = Exception(
        "The current node timed out during startup. This could happen because some of the raylet failed to startup"
    )
    left = [late]

    def start() -> None:
        if left:
            raise left.pop()

    on_a_busy_machine(start)
    assert caplog.messages == ["Ray was not up within 30 s, on a busy machine perhaps; it is started once more"]
    for failures, raised in (([late, late], late), ([late, ValueError("port")], None)):
        left[:] = failures
        with pytest.raises(type(failures[-1])) as caught:
            on_a_busy_machine(start)
        assert raised is None or caught.value is raised
    assert left == [late], "what is no lack of time is raised at once"
