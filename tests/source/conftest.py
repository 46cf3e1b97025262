"""A store, its encoder packed, and a service over it whose every byte is recorded."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from raystore.data.collection import CollectionTable
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec
from raystore.source import Packed, pack
from tests.client.service import running
from tests.serve.conftest import Served, make_store, recorded


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Served:
    """Tests add collections and ids of their own."""
    return make_store(tmp_path_factory.mktemp("source") / "a store", tiny_model)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, served: Served) -> Packed:
    return pack(served.rooms.catalog, "tiny", tmp_path_factory.mktemp("packed") / "tiny ä.pack")


@pytest.fixture(scope="session")
def orchestrator(served: Served) -> Orchestrator:
    rooms = served.rooms
    orchestrator = rooms.orchestrator(AppSpec(), threads=1)
    orchestrator.update(rooms.live({"triage": recorded(rooms, "triage", "refunds@2")}))
    return orchestrator


@pytest.fixture
def collection(served: Served) -> CollectionTable:
    """An empty one, with a column `product`."""
    name = f"c_{uuid.uuid4().hex}"
    return CollectionTable.create(served.rooms.layout, name, {served.fingerprint: 32}, {"product": "string"})


@dataclass
class Wire:
    """A proxy between a source and its service: what went over it, and a switch that cuts it."""

    url: str = ""
    port: int = 0
    sent: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    cut: bool = False

    @property
    def bytes(self) -> bytes:
        return b"".join(self.sent) + b"".join(self.received)


@pytest.fixture
def wire(orchestrator: Orchestrator) -> Iterator[Wire]:
    with running(make_app(lambda: orchestrator, AppSpec())) as url, proxied(int(url.rpartition(":")[2])) as found:
        yield found


class proxied:
    """A recording TCP proxy in front of a port of this machine."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._wire = Wire()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []

    def __enter__(self) -> Wire:
        self._wire.port = self._listener.getsockname()[1]
        self._wire.url = f"http://127.0.0.1:{self._wire.port}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self._wire

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for each in self._open:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._wire.cut:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            self._open += [near, far]
            for source, sink, kept in ((near, far, self._wire.sent), (far, near, self._wire.received)):
                threading.Thread(target=self._carry, args=(source, sink, kept.append), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, keep: Callable[[bytes], None]) -> None:
        try:
            while data := source.recv(65_536):
                if self._wire.cut:
                    break
                keep(data)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for each in (source, sink):
                each.close()
