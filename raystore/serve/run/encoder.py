"""What runs in the replicas of an encoder that is a Serve deployment of its own. A thin shell, which listens for the ingress alone.

It imports what encoding needs and no more: while a replica that died is replaced, the others answer alone. With the imports of the
other replicas a start took 4.5 s of a core, of which they were 1.8 s; these here take 0.24 s.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.catalog import Catalog, open_root
from raystore.encoders import Encoders, open_encoder
from raystore.secret import load_store_key
from raystore.serve.answer.batching import BatchingEncoder
from raystore.serve.answer.deadline import waited_until
from raystore.serve.recording.seal import Seal
from raystore.serve.run.process import keep_calls_on_loopback, take_turns_quickly
from raystore.serve.run.watched import WatchedEncoders
from raystore.serve.spec.app import Batch
from raystore.serve.spec.watch import Watch
from raystore.serve.watch.json_logs import write_json_logs
from raystore.serve.watch.metrics import Metrics, Snapshot, count_batch
from raystore.session import no_core_files
from raystore.vectors import Matrix

log = logging.getLogger("raystore.serve")

_LOOK_S = 2.0


class EncoderReplica:
    """One encoder. Batches of several ingress replicas are encoded together."""

    def __init__(self, root: str, fingerprint: str, threads: int, batch: Mapping[str, Any]) -> None:
        no_core_files()
        keep_calls_on_loopback()
        take_turns_quickly()
        layout, about = open_root(root, create=False)
        self._seal = Seal(load_store_key(layout, about["key_id"]))
        self._metrics = Metrics("encoder")
        name = Encoders(Catalog(layout)).get(fingerprint).name
        loaded = open_encoder(layout, fingerprint, threads=threads, name=name)
        seen = partial(count_batch, self._metrics, loaded.label)
        self._encoder = BatchingEncoder(loaded, Batch(**batch), turns=loaded.share_cores(), seen=seen)
        self._golden_every_s = Watch().golden_every_s
        self._watched = WatchedEncoders(layout, self._metrics)
        threading.Thread(target=self._watch, name="raystore-watch", daemon=True).start()

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        write_json_logs(config["json_logs"])
        self._golden_every_s = config["golden_every_s"]

    async def encode(self, message: bytes, left_s: float) -> tuple[Matrix, npt.NDArray[np.int64], dict[int, str]]:
        """Vectors, places and problems, as `Encoded` has them, of sealed items that are waited for so long."""
        with waited_until(time.monotonic() + left_s):
            encoded = await self._encoder.each_soon(self._seal.open(message))
        return np.asarray(encoded.vectors), encoded.places, dict(encoded.problems)

    def count_tokens(self, message: bytes) -> int:
        return self._encoder.count_tokens([str(item) for item in self._seal.open(message)])

    def snapshot(self) -> Snapshot:
        """Its metrics: the ingress asks every replica for them."""
        self._watched.look([self._encoder])
        return self._metrics.snapshot()

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            try:
                self._watched.try_golden([self._encoder], self._golden_every_s)
            except Exception as error:  # noqa: BLE001 - tried again, whatever it ran into
                log.warning("the golden inputs were not tried: %s", type(error).__name__)
