"""An encoder that is a bridge between two others, and the map it stands on.

    forward   old -> new   its column holds old rows as the map sees them in the new space. What it encodes itself, new items
                           and queries, are the new encoder's own vectors, for that is the space it lives in.
    back      new -> old   encodes with the new encoder and maps what comes out into the old space: queries of old rows, and
                           what old heads go on being asked.

    encoders/<fp12>/bridge/map.safetensors, bridge.json     beside passport.json and golden.safetensors

A bridged vector is never taken for a true one: its passport is its own, with a digest over the map and both encoders as its
weights. Its vectors are those of the space they were mapped into only where somebody says so, through `Bridge.as_target`. Cost
of a load: the new encoder's, and a file of 0.6 to 3 MB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from raystore.encoders.items import Item
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.passport import Card, Modality, Passport, digest_of
from raystore.encoders.records import StoredEncoder, publish_encoder, read_encoder
from raystore.encoders.vector_map import VectorMap, digest_of_map, unpack
from raystore.errors import InvalidArguments, ModelUnusable
from raystore.layout import Layout, staging
from raystore.vectors import Matrix, Vectors, as_unit_rows, check_fingerprint, mark

ARCHITECTURE = "Bridged"  # of the passport, where others have their model's class
Direction = Literal["forward", "back"]

_FOLDER, _MAP, _ABOUT = "bridge", "map.safetensors", "bridge.json"
SAID = ("kind", "pairs", "n", "gallery", "recall", "kept", "cosine")
# A map stretches what a backend's arithmetic moved: by 3 in the worst direction of those that were fitted to MiniLM, which
# makes ten times as much of 1 - cosine.
_SLACK = 10.0


@dataclass(frozen=True, eq=False)
class Bridge:
    """A direction of a bridge: vectors of the encoder `source` become vectors of its own, in the space of the encoder `target`.

    `facts`: kind, pairs, seed and what was measured on pairs held out, as `migrate/bridge` wrote them; JSON.
    """

    fingerprint: str
    label: str
    direction: Direction
    source: str
    target: str
    map: VectorMap
    facts: Mapping[str, Any]

    def cross(self, vectors: object) -> Vectors:
        """(n, m) unit rows in the target's space, marked as this bridge's.

        Args:
            vectors: (n, d) of the source encoder. Unmarked ones pass, of which the caller must know that.

        Raises:
            PassportMismatch, DimensionMismatch, InvalidVectors.
        """
        asker = f"the bridge {self.label}"
        check_fingerprint(vectors, self.source, asker, "Give it vectors of the encoder that it leads from.")
        return mark(self.map.apply(as_unit_rows(vectors, self.map.takes, "bridge")), self.fingerprint)

    def as_target(self, vectors: Vectors) -> Vectors:
        """The same vectors, marked as the target encoder's: to ask what only knows that one. The one place that says so.

        Raises:
            PassportMismatch: they are not this bridge's.
        """
        check_fingerprint(vectors, self.fingerprint, f"the bridge {self.label}", "Encode with the bridge.")
        return mark(np.asarray(vectors), self.target)

    def ask(self, vectors: object) -> Vectors:
        """What to ask the target's rows and heads with: this bridge's vectors, or the source's (and unmarked ones) crossed; the
        target's own as they are.

        Raises:
            PassportMismatch, DimensionMismatch, InvalidVectors.
        """
        made_by = getattr(vectors, "fingerprint", None)
        if made_by == self.target:
            return mark(np.asarray(vectors), self.target)
        return self.as_target(mark(np.asarray(vectors), made_by) if made_by == self.fingerprint else self.cross(vectors))

    @property
    def said(self) -> dict[str, Any]:
        """What an answer carries that was asked through it: {"encoder": label, "fidelity": {kind, pairs, n, gallery, recall, kept,
        cosine}}."""
        fidelity = self.facts.get("fidelity") or {}
        return {"encoder": self.label, "fidelity": {name: fidelity.get(name) for name in SAID}}


class BridgedEncoder(LoadedEncoder):
    """The new encoder under the bridge's passport: its vectors as they are (forward), or mapped into the old space (back)."""

    def __init__(self, passport: Passport, host: LoadedEncoder, bridge: Bridge) -> None:
        self.passport = passport
        self.fingerprint = passport.fingerprint
        self.dim = passport.dim
        self.label = bridge.label
        self.backend = host.backend
        self.device = host.device
        self.bridge = bridge
        self._host = host
        self.at_once = host.at_once

    def share_cores(self) -> int:
        self.at_once = self._host.share_cores()
        return self.at_once

    def count_tokens(self, texts: Sequence[str]) -> int:
        return self._host.count_tokens(texts)

    def _encode(self, items: Sequence[Item]) -> tuple[Matrix, dict[int, str]]:
        found, problems = self._host._encode(items)
        if self.bridge.direction == "forward":
            return found, problems
        good = [place for place in range(len(items)) if place not in problems]
        directionless = self._directionless(found, good)
        whole = [place for place in good if place not in directionless]
        mapped = np.zeros((len(items), self.dim), dtype=np.float32)
        mapped[whole] = self.bridge.map.apply(found[whole])
        mapped[[place for place, said in directionless.items() if said != "is zero"]] = np.nan
        return mapped, problems


def is_bridged(passport: Passport) -> bool:
    return passport.architecture == ARCHITECTURE


def bridged_passport(
    host: Passport, target: Passport, map_sha256: str, direction: Direction, source: str, kind: str
) -> Passport:
    """The passport of one direction.

    Args:
        host: of the new encoder, which reads the content: its text and image part are taken.
        target: of the encoder in whose space the vectors lie.
        source: fingerprint of the encoder whose vectors the map takes.
    """
    return Passport(
        weights=digest_of({"map": map_sha256, "direction": direction, "from": source, "to": target.fingerprint}),
        architecture=ARCHITECTURE,
        config=digest_of({"direction": direction, "kind": kind}),
        text=host.text,
        image=host.image,
        dim=target.dim,
        equivalence=host.equivalence,
        tolerance=1 - _SLACK * (1 - host.tolerance),
    )


def publish_bridge(
    layout: Layout,
    old: Passport,
    new: Passport,
    map_: VectorMap,
    direction: Direction,
    facts: Mapping[str, Any],
    card: Card,
) -> Passport:
    """The passport of this direction, whose folder stands in the store from now on; the same map again changes nothing.

    Its golden vectors are made from the new encoder's: nothing is loaded.

    Args:
        map_: from the old space into the new one (forward), or from the new into the old (back).
        facts: kind, pairs, seed, fidelity: kept in bridge.json and in the card, outside the fingerprint.
        card: the new encoder's; its licence and the like are the bridge's too.
    """
    source, target = (old, new) if direction == "forward" else (new, old)
    data = map_.pack()
    passport = bridged_passport(new, target, digest_of_map(data), direction, source.fingerprint, map_.kind)
    held = read_encoder(layout, new.fingerprint).golden(new.fingerprint[:12])
    vectors: dict[Modality, Matrix] = {m: rows if direction == "forward" else map_.apply(rows) for m, rows in held.items()}
    about = {**facts, "direction": direction, "from": source.fingerprint, "to": target.fingerprint, "kind": map_.kind}
    with staging(layout.tmp) as stage:
        folder = stage / _FOLDER
        folder.mkdir()
        (folder / _MAP).write_bytes(data)
        (folder / _ABOUT).write_text(json.dumps(about, indent=1, sort_keys=True), encoding="utf-8")
        publish_encoder(layout, passport, vectors, card.model_copy(update={"bridge": about}), beside={_FOLDER: folder})
    return passport


def read_bridge(layout: Layout, fingerprint: str, label: str | None = None) -> Bridge:
    """The bridge of a full fingerprint.

    Raises:
        EncoderNotFound: the store has none of this fingerprint.
        InvalidArguments: that encoder is no bridge.
        ModelUnusable: its map is gone, or is not the one that was registered.
    """
    return _read(read_encoder(layout, fingerprint), label or fingerprint[:12])


def open_bridged(stored: StoredEncoder, label: str, open_host: Callable[[str], LoadedEncoder]) -> BridgedEncoder:
    """The encoder over its host, which `open_host` opens by its full fingerprint; golden-checked.

    Raises:
        ModelUnusable: its map is not the one that was registered. And what `open_host` raises.
    """
    bridge = _read(stored, label)
    encoder = BridgedEncoder(stored.passport, open_host(host_of(bridge)), bridge)
    encoder.check_golden(stored.golden(label))
    return encoder


def host_of(bridge: Bridge) -> str:
    """The fingerprint of the encoder that reads the content: the new one, in both directions."""
    return bridge.target if bridge.direction == "forward" else bridge.source


def _read(stored: StoredEncoder, label: str) -> Bridge:
    passport, folder = stored.passport, stored.folder / _FOLDER
    if not is_bridged(passport):
        problem = f"encoder {label} is no bridge between two encoders; build one with build_bridge"
        raise InvalidArguments(call="open a bridge", problems=[problem])
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        data = (folder / _MAP).read_bytes()
        direction, source, target, kind = (str(about[key]) for key in ("direction", "from", "to", "kind"))
        found = digest_of({"map": digest_of_map(data), "direction": direction, "from": source, "to": target})
        if found != passport.weights or direction not in get_args(Direction):
            raise ValueError(direction)
        map_ = unpack(data, kind)
        if map_.gives != passport.dim:
            raise ValueError(kind)
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged(label, folder) from None
    facts = {key: value for key, value in about.items() if key not in ("direction", "from", "to")}
    return Bridge(passport.fingerprint, label, direction, source, target, map_, facts)  # type: ignore[arg-type]


def _damaged(label: str, folder: Path) -> ModelUnusable:
    return ModelUnusable(
        model=label,
        found=f"its map in '{folder}' is not the one that was registered",
        advice="Restore that folder from a backup, or build the bridge again under a name of its own.",
    )
