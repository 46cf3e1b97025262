"""Waits until the application that was handed to Serve is ready, or says what it waits for. Knows Serve by its handle alone.

Costs an answer of Serve's controller and one of /readyz every tenth of a second.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from raystore.serve.spec.records import DeploymentRecord

_LOOK_S = 0.1


class NotRunningError(Exception):
    """The text says why. It holds no content."""


# Of a replica that cannot ask a part that is a deployment of its own (ingress.py): another takes its place.
_COMING = "JobFailed"


def wait_ready(serve: Any, application: str, url: str, records: Mapping[str, DeploymentRecord], ready_s: float) -> None:
    """Return when the application runs, and /readyz answers 200 and names these deployments, or newer ones: a promotion may come
    meanwhile. NotRunningError where it failed, or did neither in time."""
    wanted = {name: record.number for name, record in records.items()}
    deadline = time.monotonic() + ready_s
    # Its certificate is for the name that callers know, which is not this address.
    with httpx.Client(timeout=5, trust_env=False, verify=False) as client:  # noqa: S501 - it is asked for no secret
        while True:
            found = serve.status().applications.get(application)
            if found is not None and found.status == "DEPLOY_FAILED":
                raise NotRunningError(_failure(found) or "a replica could not be started")
            if found is not None and found.status == "RUNNING" and _named(client, url, wanted):
                return
            if time.monotonic() >= deadline:
                why = (_failure(found) or "; ".join(_unplaced(found))) if found is not None else ""
                raise NotRunningError(f"after {ready_s:g} s " + (why or "/readyz does not name the new deployments"))
            time.sleep(_LOOK_S)


def _named(client: httpx.Client, url: str, wanted: Mapping[str, int]) -> bool:
    try:
        answer = client.get(f"{url}/readyz")
        told = answer.json()
        found = {name: facts["number"] for name, facts in told["deployments"].items()}
        failed = {name: (facts["number"], facts["error"]) for name, facts in told.get("failed", {}).items()}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
    for name, (number, error) in failed.items():
        if name in wanted and number >= wanted[name] and error != _COMING:
            raise NotRunningError(f"number {number} of deployment '{name}' cannot be taken up: {error}")
    return answer.status_code == 200 and found.keys() == wanted.keys() and all(found[n] >= wanted[n] for n in wanted)


def _failure(application: Any) -> str | None:
    """The sentence of the raystore error that kept a replica from starting."""
    for deployment in application.deployments.values():
        match = re.search(r"raystore\.errors\.(\w+): (.+)", deployment.message or "")
        if match:
            return f"{match[1]}: {match[2]}"
    return None


def _unplaced(application: Any) -> Iterator[str]:
    for name, deployment in application.deployments.items():
        starting = deployment.replica_states.get("STARTING", 0)
        if starting:
            running = deployment.replica_states.get("RUNNING", 0)
            yield f"'{name}' has {running} replicas that run and {starting} that wait for cores or GPUs, or still start"
