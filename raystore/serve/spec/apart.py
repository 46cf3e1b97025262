"""Which encoders a store's service runs as deployments of their own, where it runs all of them so: told when it is deployed.

A promotion asks before it brings a head of another encoder: an encoder that is nowhere would be loaded inside the ingress, where the
deployment file wants none. Files alone.
"""

from __future__ import annotations

from collections.abc import Collection

from raystore.catalog import Catalog
from raystore.errors import InvalidArguments
from raystore.serve.spec.records import DeploymentRecord

_KIND, _NAME = "serving", "encoders"


def tell_apart(catalog: Catalog, fingerprints: Collection[str] | None) -> None:
    """Record that the service runs these apart, and none inside the ingress; None where the ingress takes any."""
    told = {"apart": None if fingerprints is None else sorted(fingerprints)}
    known = catalog.alias(_KIND, _NAME) or {"apart": None}
    if known["apart"] != told["apart"]:
        catalog.set_alias(_KIND, _NAME, told)


def check_apart(catalog: Catalog, record: DeploymentRecord, call: str) -> None:
    """InvalidArguments where the service has no place for the encoder that the record reads with."""
    known = catalog.alias(_KIND, _NAME)
    apart = known["apart"] if known is not None else None
    if apart is None or record.reads in apart:
        return
    reads = record.through.encoder if record.through else record.encoder
    problem = (
        f"{record.head} reads with {reads}, and the service, which runs its encoders as deployments of their own, has none for it: "
        f"name {reads.partition('@')[0]} under encoders: in the deployment file, deploy that, and repeat this"
    )
    raise InvalidArguments(call=call, problems=[problem])
