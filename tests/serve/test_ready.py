"""When a deployment counts as ready, and what is said of one that is not. A real /readyz; Serve's status is as Serve gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from raystore.serve.run.ready import NotRunningError, wait_ready
from tests.serve.serving import running


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    async def ready(_: object) -> JSONResponse:
        return JSONResponse({"deployments": {"triage": {"number": 3}}})

    with running(Starlette(routes=[Route("/readyz", ready)])) as found:
        yield found


def waited(
    url: str, wanted: Mapping[str, int], status: str = "RUNNING", **deployments: tuple[str, dict[str, int]]
) -> str | None:
    """What is said where it does not become ready."""
    found = {
        name: SimpleNamespace(message=message, replica_states=states) for name, (message, states) in deployments.items()
    }
    application = SimpleNamespace(status=status, deployments=found)
    serve = SimpleNamespace(status=lambda: SimpleNamespace(applications={"raystore": application}))
    records: Any = {name: SimpleNamespace(number=number) for name, number in wanted.items()}
    try:
        wait_ready(serve, "raystore", url, records, ready_s=0)
    except NotRunningError as error:
        return str(error)
    return None


def test_it_is_ready_when_it_names_the_numbers_or_what_a_promotion_made_of_them_meanwhile(url: str) -> None:
    assert waited(url, {"triage": 3}) is None
    assert waited(url, {"triage": 2}) is None


def test_it_is_not_ready_before_it_names_them(url: str) -> None:
    late = "after 0 s /readyz does not name the new deployments"
    assert waited(url, {"triage": 4}) == late
    assert waited(url, {"triage": 3, "loans": 1}) == late
    assert waited("http://127.0.0.1:1", {"triage": 3}) == late


def test_replicas_that_wait_for_room_are_named(url: str) -> None:
    said = waited(
        url, {"triage": 3}, "DEPLOYING", orchestrator=("", {"RUNNING": 1}), head=("", {"RUNNING": 1, "STARTING": 2})
    )
    assert said == "after 0 s 'head' has 1 replicas that run and 2 that wait for cores or GPUs, or still start"


def test_a_replica_that_cannot_start_is_said_in_its_own_words_or_in_none(url: str) -> None:
    message = "The deployment failed to start 3 times in a row.\nraystore.errors.PassportMismatch: another one encodes.\n"
    assert waited(url, {"triage": 3}, "DEPLOY_FAILED", head=(message, {})) == "PassportMismatch: another one encodes."
    assert (
        waited(url, {"triage": 3}, "DEPLOY_FAILED", head=("ValueError: a secret", {})) == "a replica could not be started"
    )
