"""Content between two processes of the service, sealed: AES-256-GCM under a key derived from the store's, which both read.

Of content, Ray carries ciphertext alone, wherever it keeps it on the way. Only texts and images are sealed: vectors, predictions and
the columns that a deployment keeps, or that its rules in shadow look at, travel beside them as they are. Knows no Ray.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from raystore.encoders.items import Item
from raystore.errors import SealBroken
from raystore.secret import keyed_digest

_NONCE = 12
_HEAD = struct.Struct("<?I")  # whether it is a text, and its bytes


class Seal:
    def __init__(self, store_key: bytes) -> None:
        self._cipher = AESGCM(keyed_digest(store_key, b"seal-content"))

    def seal(self, items: Sequence[Item]) -> bytes:
        """The items as one sealed message; twice the same items are two different messages."""
        parts: list[bytes] = []
        for item in items:
            data = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else bytes(item)
            parts += [_HEAD.pack(isinstance(item, str), len(data)), data]
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, b"".join(parts), None)

    def open(self, message: bytes) -> list[Item]:
        """The items. SealBroken where the message is not of this store, or was changed."""
        try:
            data = self._cipher.decrypt(message[:_NONCE], message[_NONCE:], None)
        except (InvalidTag, ValueError):
            raise SealBroken from None
        items: list[Item] = []
        at = 0
        while at < len(data):
            is_text, size = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            part = data[at : at + size]
            items.append(part.decode("utf-8", "surrogatepass") if is_text else part)
            at += size
        return items
