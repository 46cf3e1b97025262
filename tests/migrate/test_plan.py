"""What a plan says of a bridge that is built: both figures where labels were given, and to re-embed where neither is enough."""

from __future__ import annotations

import pytest

from raystore.encoders.bridged import Bridge
from raystore.encoders.vector_map import VectorMap
from raystore.migrate.bridge.fidelity import Measured
from raystore.migrate.plan import Way, _advice, _said, measured_of

from .spaces import clustered

NO_WAY = tuple(Way(name, False, 0, None, 0, "") for name in ("kept", "files", "dual"))  # type: ignore[arg-type]


def bridge_of(recall: float, kept: float | None) -> Bridge:
    map_ = VectorMap("procrustes", clustered(4, 4), clustered(1, 4)[0])
    facts = {"pairs": 1_200, "fidelity": {"recall": recall, "kept": kept}}
    return Bridge("f" * 64, "bridged", "forward", "a" * 64, "b" * 64, map_, facts)


@pytest.mark.parametrize(
    ("recall", "kept", "said"),
    [
        (0.93, None, "was measured: recall@10 93.0% (1,200 pairs)"),
        (
            0.4,
            0.95,
            "was measured: recall@10 40.0%, label searches keep 95.0% (1,200 pairs), the first below 90%: re-embed where you can",
        ),
        (0.4, None, "was measured: recall@10 40.0% (1,200 pairs), below 90%: re-embed where you can"),
        (
            0.4,
            0.8,
            "was measured: recall@10 40.0%, label searches keep 80.0% (1,200 pairs), both below 90%: re-embed where you can",
        ),
    ],
)
def test_the_measure_is_named_and_what_is_too_little_of_it(recall: float, kept: float | None, said: str) -> None:
    bridge = bridge_of(recall, kept)
    assert measured_of(bridge, 900) == Measured(recall, kept, rows=900)
    assert _said(bridge, 900) == said


def test_a_bridge_that_finds_too_little_is_not_recommended_and_one_that_is_good_by_label_is() -> None:
    def advice(measured: Measured) -> str:
        return _advice((*NO_WAY, Way("bridge", True, 900, 1.0, 0, "", measured)), 900, 200)

    assert advice(Measured(0.4)) == "Write both from now on: the bridge was measured at recall@10 40.0%, below 90%."
    assert advice(Measured(0.4, 0.95)) == "Bridge the rows whose content is gone, and write both from now on."
