"""Embedding at the source: inside the process where content arises, without Ray. Vectors and kept columns leave it, content never.

packed.py   an encoder in a folder of its own      source.py   Source: embed, predict, log     rows.py   what is given, checked
spool.py    rows on disk while the service is away  sender.py   sending them, in order          record.py a line of the spool
"""

from __future__ import annotations

from raystore.source.packed import Packed, open_packed, pack
from raystore.source.source import Logged, Source, SourceState

__all__ = ["Logged", "Packed", "Source", "SourceState", "open_packed", "pack"]
