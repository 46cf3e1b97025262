"""How much a key, or a token's holder, may send: token buckets for requests and for bytes, in this process's memory.

A bucket fills at the rate up to two seconds' worth, or `burst`. A request takes one from the first and needs nothing
but the absence of debt in the second; its bytes are taken as they are read, however many they are. So in any t
seconds at most burst + rate * t requests are let in. Each replica counts for itself: `share` is its part of the limits.
Costs about 2 us a request. Knows principals and clocks, no HTTP.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from raystore.access import Principal, Rates
from raystore.errors import RateExceeded

WORTH_S = 2.0  # of rate, which a bucket holds where no burst is named
MAX_ACCOUNTS = 10_000
_NEARLY = 1e-9  # who waits as long as was said is let in, though sums of floats fall short


@dataclass
class Bucket:
    """`level` at the moment `at`; below zero it is in debt."""

    rate: float
    capacity: float
    level: float
    at: float

    def fill(self, now: float) -> float:
        self.level = min(self.capacity, self.level + max(0.0, now - self.at) * self.rate)
        self.at = max(self.at, now)
        return self.level

    def wait_s(self, wanted: float) -> float:
        """How long until `wanted` is in it; 0 where it is."""
        return (wanted - self.level) / self.rate if self.level < wanted - _NEARLY else 0.0


@dataclass
class _Account:
    requests: Bucket | None
    body: Bucket | None

    def fill(self, now: float) -> bool:
        """True where nothing has been taken that is not back: then it is as good as new."""
        return all(bucket is None or bucket.fill(now) >= bucket.capacity for bucket in (self.requests, self.body))


class Buckets:
    """The accounts of everyone who was here lately.

    Args:
        rates: for those who have none of their own.
        share: this process's part of every limit, 1 / replicas.
    """

    def __init__(
        self, rates: Rates | None = None, *, share: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rates = rates or Rates()
        self._share = share
        self._clock = clock
        self._accounts: OrderedDict[tuple[str, str, Rates], _Account] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._accounts)

    def change(self, rates: Rates, share: float) -> None:
        """Other limits from now on. What was counted under limits that stay is kept; a new share begins with full buckets."""
        with self._lock:
            self._rates = rates
            if share != self._share:
                self._share = share
                self._accounts.clear()

    def take(self, principal: Principal) -> None:
        """Count one request. Raises RateExceeded, and counts nothing, where it is one too many or bytes are owed."""
        rates = principal.rates or self._rates
        if _unlimited(rates):
            return
        with self._lock:
            account = self._account(principal, rates)
            if account.body is not None and (wait_s := account.body.wait_s(0.0)) > 0:
                assert rates.bytes_per_s is not None
                raise RateExceeded(limit=rates.bytes_per_s, unit="bytes", retry_after_s=wait_s)
            if account.requests is not None:
                if (wait_s := account.requests.wait_s(1.0)) > 0:
                    assert rates.requests_per_s is not None
                    raise RateExceeded(limit=rates.requests_per_s, unit="requests", retry_after_s=wait_s)
                account.requests.level -= 1.0

    def debit(self, principal: Principal, n_bytes: int) -> None:
        """Count bytes of a body that was let in."""
        rates = principal.rates or self._rates
        if _unlimited(rates):
            return
        with self._lock:
            account = self._account(principal, rates)
            if account.body is not None:
                account.body.level -= n_bytes

    def _account(self, principal: Principal, rates: Rates) -> _Account:
        """Whose limits are counted, filled up to now. The lock is held."""
        key, now = (principal.kind, principal.name, rates), self._clock()
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(*self._buckets(rates, now))
        else:
            self._accounts.move_to_end(key)
            account.fill(now)
        self._forget(now)
        return account

    def _buckets(self, rates: Rates, now: float) -> tuple[Bucket | None, Bucket | None]:
        requests = body = None
        if rates.requests_per_s is not None:
            rate = rates.requests_per_s * self._share
            # At least one, else none would ever be let in.
            burst = max(1.0, rates.burst * self._share if rates.burst is not None else WORTH_S * rate)
            requests = Bucket(rate, burst, burst, now)
        if rates.bytes_per_s is not None:
            rate = rates.bytes_per_s * self._share
            body = Bucket(rate, WORTH_S * rate, WORTH_S * rate, now)
        return requests, body

    def _forget(self, now: float) -> None:
        """Drop those longest unseen: up to two that are as good as new, and whoever is beyond the most that are kept."""
        for _ in range(2):
            key, account = next(iter(self._accounts.items()))
            if len(self._accounts) == 1 or not account.fill(now):
                break
            del self._accounts[key]
        while len(self._accounts) > MAX_ACCOUNTS:
            self._accounts.popitem(last=False)


def _unlimited(rates: Rates) -> bool:
    return rates.requests_per_s is None and rates.bytes_per_s is None
