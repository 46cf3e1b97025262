from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from raystore.encoders.items import Encoded, Item
from raystore.encoders.passport import Passport, TextPart
from raystore.errors import DeadlineMissed, ItemsUnusable
from raystore.serve.answer.batching import BatchingEncoder
from raystore.serve.answer.deadline import present_until, run_within, waited_until
from raystore.serve.answer.timer import Timer
from raystore.serve.spec.app import Batch
from raystore.vectors import Vectors, mark

PASSPORT = Passport(
    weights="0" * 64, architecture="Lengths", config="0" * 64, dim=1,
    text=TextPart(pooling="none", tokenizer="0" * 64, max_length=100),
)  # fmt: skip


class Lengths:
    """Encodes an item as its length, one axis; holds the first call until it is let go. Enough to see who shares a batch."""

    passport = PASSPORT
    fingerprint = "a" * 64
    label = "lengths@aaaaaaaaaaaa"
    dim = 1
    max_chars = 100
    at_once = 1

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.until: list[float | None] = []
        self.go = threading.Event()

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        self.until.append(present_until())
        self.batches.append(len(items))
        if len(self.batches) == 1:
            self.go.wait(10)
        if "fails" in items:
            raise MemoryError
        good = [place for place, item in enumerate(items) if item != b"bad"]
        lengths = np.array([[len(items[place])] for place in good], np.float32).reshape(len(good), 1)
        problems = {place: "is cut off" for place, item in enumerate(items) if item == b"bad"}
        order = good[::-1]  # an encoder sorts by length: the places say whose a vector is, not the order
        return Encoded(mark(lengths[::-1], self.fingerprint), np.array(order, np.int64), problems)

    def count_tokens(self, texts: Sequence[str]) -> int:
        return len(texts)


class Steps(Lengths):
    """Holds every batch until it is let go. Enough to see who is answered before whom."""

    def __init__(self) -> None:
        super().__init__()
        self.go.set()
        self._steps = threading.Semaphore(0)
        self.seconds = 0.0

    def let(self, n: int) -> None:
        self._steps.release(n)

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        began = time.perf_counter()
        encoded = super().encode_each(items)
        assert self._steps.acquire(timeout=60)
        self.seconds += time.perf_counter() - began
        return encoded


class Crowd:
    """Requests that all wait behind one, so that they share the next batch."""

    def __init__(self, encoder: BatchingEncoder, inner: Lengths) -> None:
        self._encoder = encoder
        self._inner = inner
        self._pool = ThreadPoolExecutor(8)
        self.first = self._pool.submit(encoder.encode, ["x"])
        while not inner.batches:
            pass

    def ask(self, requests: Sequence[Sequence[Item]]) -> list[object]:
        """What became of each request: its rows, or the error's sentence."""
        asked = []
        for n, items in enumerate(requests, 1):  # one after the other, so that they stand in this order
            asked.append(self._pool.submit(self._encoder.encode, items))
            while len(self._encoder._waiting) < n:
                pass
        self._inner.go.set()
        return [str(f.exception()) if f.exception() else f.result().tolist() for f in asked]

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture
def inner() -> Lengths:
    return Lengths()


@pytest.fixture
def crowd(inner: Lengths) -> Iterator[Crowd]:
    crowd = Crowd(BatchingEncoder(inner, Batch(max_items=6)), inner)
    yield crowd
    crowd.close()


def test_what_arrives_during_a_batch_makes_the_next_and_each_gets_its_own(crowd: Crowd, inner: Lengths) -> None:
    requests = [["y" * n, "z" * n] for n in range(2, 6)]
    assert crowd.ask(requests) == [[[n], [n]] for n in range(2, 6)]
    assert crowd.first.result().tolist() == [[1]]
    assert crowd.first.result().fingerprint == inner.fingerprint
    assert inner.batches == [1, 6, 2]


def test_texts_and_images_of_several_requests_share_a_batch(crowd: Crowd, inner: Lengths) -> None:
    assert crowd.ask([["yy", b"\x89PN"], [b"GIF8"]]) == [[[2], [3]], [[4]]]
    assert inner.batches == [1, 3]


def test_an_item_that_cannot_be_read_fails_its_own_request_only_and_is_named_by_its_place_there(
    crowd: Crowd, inner: Lengths
) -> None:
    assert crowd.ask([["yy"], ["zzz", b"bad"], [b"GIF8", "yy"]]) == [
        [[2]],
        "encode with lengths@aaaaaaaaaaaa: 1 of 2 items are unusable: item 1 is cut off.",
        [[4], [2]],
    ]
    assert inner.batches == [1, 5], "nothing was encoded twice"


def test_one_requests_failure_is_not_anothers(crowd: Crowd, inner: Lengths) -> None:
    rows = crowd.ask([["fails"], ["fine"]])
    assert rows[1] == [[4]]
    assert inner.batches == [1, 2, 1, 1]


def test_each_item_without_a_vector_says_why() -> None:
    inner = Lengths()
    inner.go.set()
    encoder = BatchingEncoder(inner)
    encoded = encoder.encode_each(["y", b"bad", "zz"])
    assert dict(zip(encoded.places.tolist(), encoded.vectors.tolist(), strict=True)) == {0: [1], 2: [2]}
    assert encoded.problems == {1: "is cut off"}
    assert encoded.vectors.fingerprint == inner.fingerprint
    with pytest.raises(ItemsUnusable) as raised:
        encoder.encode([b"bad"])
    assert (raised.value.n_items, list(raised.value.problems)) == (1, [(0, "is cut off")])
    assert encoder.encode([]).shape == (0, 1)


def test_a_caller_whose_time_is_up_does_not_wait_for_a_busy_encoder_and_its_items_are_not_encoded(
    crowd: Crowd, inner: Lengths
) -> None:
    busy = crowd._encoder
    with pytest.raises(DeadlineMissed) as missed, waited_until(time.monotonic() + 0.01):
        busy.encode(["late"])
    assert str(missed.value).endswith(" s, and they ran out before it was encoded. Nothing was answered.")
    with pytest.raises(DeadlineMissed), waited_until(time.monotonic() + 0.01):
        asyncio.run(busy.encode_soon(["later"]))
    assert crowd.ask([]) == []
    with waited_until(time.monotonic() + 60):
        assert busy.encode(["yy"]).tolist() == [[2]]
        assert asyncio.run(busy.encode_soon(["zzz"])).tolist() == [[3]]
    assert inner.batches == [1, 1, 1]


def test_a_batch_is_given_as_long_as_the_most_patient_of_its_callers_waits(inner: Lengths) -> None:
    encoder = BatchingEncoder(inner)
    soon, late = time.monotonic() + 60, time.monotonic() + 600

    def encode(text: str, until: float) -> Vectors:
        with waited_until(until):
            return encoder.encode([text])

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(encode, "x", soon)
        while not inner.batches:
            pass
        asked = [pool.submit(encode, "yy", until) for until in (late, soon)]
        while len(encoder) < 2:
            pass
        inner.go.set()
        assert [each.result().tolist() for each in (first, *asked)] == [[[1]], [[2]], [[2]]]
    assert inner.until == [soon, late]
    assert encoder.encode(["zzz"]).tolist() == [[3]]
    with waited_until(late):
        assert encoder.encode(["zzz"]).tolist() == [[3]]
    assert inner.until[2:] == [None, late], "a deadline is that of what its caller works at"


def test_what_waits_for_a_thread_waits_no_longer_than_its_deadline() -> None:
    begun, go, ran = threading.Event(), threading.Event(), []

    async def ask(pool: ThreadPoolExecutor) -> float | None:
        with pytest.raises(DeadlineMissed, match=r"they ran out before a thread was free for it\. Nothing was answered\.$"):
            await run_within(pool, lambda: ran.append(1), time.monotonic() + 0.02)
        go.set()
        return await run_within(pool, present_until, None)

    def hold() -> None:
        begun.set()
        go.wait(60)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        assert begun.wait(60)
        assert asyncio.run(ask(pool)) is None
        until = time.monotonic() + 60
        assert asyncio.run(run_within(pool, present_until, until)) == until
    assert ran == []


def test_what_an_encoder_is_given_of_a_text_counts_no_more_tokens_than_its_model_reads(inner: Lengths) -> None:
    inner.go.set()
    told: list[int] = []
    encoder = BatchingEncoder(inner, seen=lambda _items, tokens, _seconds: told.append(tokens))
    encoder.encode(["y" * 100_000, "y"])
    encoder.encode(["y" * 40])
    assert told == [2 * 100, 12]


def test_the_time_in_the_queue_is_a_stage_of_its_own(inner: Lengths) -> None:
    inner.go.set()
    timer = Timer()
    with timer.stage("encode"):
        BatchingEncoder(inner).encode(["y"], timer=timer)
    queue, encode = timer.stages
    assert (queue.name, encode.name) == ("queue", "encode")
    assert encode.start_s == pytest.approx(queue.start_s + queue.seconds)
    assert set(timer.done()) == {"queue", "encode", "total"}


def test_an_encoder_that_was_closed_still_encodes_what_comes_late(inner: Lengths) -> None:
    inner.go.set()
    encoder = BatchingEncoder(inner)
    assert encoder.encode(["y"]).tolist() == [[1]]
    encoder.close()
    for _ in range(3):
        assert encoder.encode(["zz"]).tolist() == [[2]]


def test_a_small_request_that_comes_after_a_large_one_is_answered_before_the_large_one_ends() -> None:
    inner = Steps()
    encoder = BatchingEncoder(inner, Batch(max_items=4))
    with ThreadPoolExecutor(3) as pool:
        large = pool.submit(encoder.encode, ["y" * n for n in range(1, 13)])
        while not inner.batches:
            pass
        small = [pool.submit(encoder.encode, ["small"])]
        while len(encoder) < 1:
            pass
        small.append(pool.submit(asyncio.run, encoder.encode_soon(["smaller", "still"])))
        while len(encoder) < 2:
            pass
        inner.let(2)
        assert [each.result(60).tolist() for each in small] == [[[5]], [[7], [5]]]
        assert not large.done()
        inner.let(2)
        assert large.result(60).tolist() == [[n] for n in range(1, 13)]
    assert inner.batches == [4, 3, 4, 4]


def test_two_large_requests_take_turns() -> None:
    inner = Steps()
    encoder = BatchingEncoder(inner, Batch(max_items=4))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(encoder.encode, ["y"] * 12)
        while not inner.batches:
            pass
        second = pool.submit(encoder.encode, ["zz"] * 6)
        while len(encoder) < 1:
            pass
        inner.let(4)
        assert second.result(60).tolist() == [[2]] * 6
        assert not first.done()
        inner.let(1)
        assert first.result(60).tolist() == [[1]] * 12
    assert inner.batches == [4, 4, 4, 2, 4]


@pytest.mark.parametrize("limits", [Batch(max_items=2), Batch(max_tokens=64), Batch(max_items=1), Batch(max_items=6)])
def test_what_became_of_a_large_request_is_what_the_encoder_says_of_it_whole(inner: Lengths, limits: Batch) -> None:
    inner.go.set()
    items: list[Item] = ["y" * n for n in (90, 3, 0, 500, 17, 44, 3)]
    encoder = BatchingEncoder(inner, limits)
    assert encoder.encode(items).tolist() == asyncio.run(encoder.encode_soon(items)).tolist()
    assert encoder.encode(items).tolist() == [[len(item)] for item in items]
    assert encoder.encode(items).fingerprint == inner.fingerprint
    items[2:2] = [b"bad", b"GIF8", b"bad"]
    whole, encoded = inner.encode_each(items), encoder.encode_each(items)
    assert encoded.problems == whole.problems == {2: "is cut off", 4: "is cut off"}
    order, order_whole = np.argsort(encoded.places), np.argsort(whole.places)
    assert encoded.places[order].tolist() == whole.places[order_whole].tolist()
    assert encoded.vectors[order].tolist() == whole.vectors[order_whole].tolist()
    assert encoded.vectors.fingerprint == inner.fingerprint
    only_bad = encoder.encode_each([b"bad"] * 7)
    assert (len(only_bad.vectors), len(only_bad.places), len(only_bad.problems)) == (0, 0, 7)


def test_a_batch_is_within_its_limits_unless_one_item_is_beyond_them(inner: Lengths) -> None:
    told: list[tuple[int, int]] = []
    encoder = BatchingEncoder(
        inner, Batch(max_items=5, max_tokens=64), seen=lambda items, tokens, _seconds: told.append((items, tokens))
    )
    crowd = Crowd(encoder, inner)
    requests: list[list[Item]] = [
        ["y" * n for n in (400, 10, 90, 200, 10, 10)],
        ["y"],
        [b"GIF8", "y" * 80, "y" * 80, b"GIF89", "y" * 80],
        ["y"] * 11,
        ["y" * 400],
    ]
    assert crowd.ask(requests) == [[[len(item)] for item in items] for items in requests]
    crowd.close()
    assert [n for n, tokens in told if tokens > 64] == [1, 1, 1, 1]
    assert max(n for n, _ in told) == 5
    assert sum(n for n, _ in told) == 1 + sum(map(len, requests))


def test_a_large_request_past_its_deadline_is_not_encoded_to_its_end() -> None:
    inner = Steps()
    encoder = BatchingEncoder(inner, Batch(max_items=4))
    with pytest.raises(DeadlineMissed) as missed, waited_until(time.monotonic() + 0.2):
        encoder.encode(["y"] * 12)
    assert missed.value.deadline_s == pytest.approx(0.2, abs=0.2)
    inner.let(4)
    assert encoder.encode(["small"]).tolist() == [[5]]
    assert sum(inner.batches) <= 4 + 1


def test_what_a_caller_who_is_gone_asked_for_is_not_encoded_to_its_end() -> None:
    inner = Steps()
    encoder = BatchingEncoder(inner, Batch(max_items=4))

    async def leave() -> None:
        large = asyncio.ensure_future(encoder.encode_soon(["y"] * 12))
        while not inner.batches:
            await asyncio.sleep(0)
        small = asyncio.ensure_future(encoder.encode_soon(["never", "begun"]))
        while len(encoder) < 1:
            await asyncio.sleep(0)
        for each in (large, small):
            each.cancel()
            with pytest.raises(asyncio.CancelledError):
                await each

    asyncio.run(leave())
    inner.let(5)
    assert encoder.encode(["small"]).tolist() == [[5]]
    assert inner.batches == [4, 1]


def test_a_large_request_that_fails_in_a_slice_is_not_encoded_to_its_end_and_fails_no_other(inner: Lengths) -> None:
    crowd = Crowd(BatchingEncoder(inner, Batch(max_items=6)), inner)
    rows = crowd.ask([["fails", *["y" * 12] * 5, *["y" * 16] * 6], ["fine"]])
    crowd.close()
    assert rows == ["", [[4]]]
    assert inner.batches == [1, 6, 1]


def test_the_time_of_a_large_request_in_the_queue_is_the_sum_of_its_waits_and_holds_no_encoding() -> None:
    inner, timer = Steps(), Timer()
    inner.let(3)
    with timer.stage("encode"):
        BatchingEncoder(inner, Batch(max_items=4)).encode(["y"] * 12, timer=timer)
    queue, encode = timer.stages
    assert (queue.name, encode.name) == ("queue", "encode")
    assert queue.seconds > 0
    assert encode.seconds >= inner.seconds
