"""From one encoder's space into another's where the raw data is gone: fitted on pairs, measured on pairs held out."""

from __future__ import annotations

from raystore.migrate.bridge.build import Bridged, build_bridge
from raystore.migrate.bridge.fidelity import Fidelity
from raystore.migrate.bridge.rows import BridgeReport, bridge_rows, bridged_ids, mark_bridged

__all__ = [
    "BridgeReport",
    "Bridged",
    "Fidelity",
    "bridge_rows",
    "bridged_ids",
    "build_bridge",
    "mark_bridged",
]
