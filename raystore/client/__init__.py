"""A typed client of a raystore service, sync and async. Imports neither Ray nor torch nor a web framework.

flow.py    when to send, wait, give up: pure     calls.py   requests and answers: pure     stream.py   the lines of a stream: pure
sync.py    Client                                 aio.py     AsyncClient, the same over asyncio
"""

from __future__ import annotations

from raystore.client.aio import AsyncClient
from raystore.client.calls import Embeddings
from raystore.client.stream import StreamedLine
from raystore.client.sync import Client

__all__ = ["AsyncClient", "Client", "Embeddings", "StreamedLine"]
