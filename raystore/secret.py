"""The store's own key, and what is keyed with it: payload digests and the digests of API keys.

The key is 32 random bytes in a file only its owner may read. It stands in `<root>/keys` unless
RAYSTORE_KEY_DIR names another folder; who holds it can test guesses about erased or low-entropy content,
so for protected data keep it off the disk that holds the store. Knows nothing of rows or routes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from raystore.errors import StoreUnusable
from raystore.layout import Layout
from raystore.settings import setting

KEY_BYTES = 32


def _folder(layout: Layout) -> Path:
    chosen = setting("RAYSTORE_KEY_DIR")
    return Path(chosen).expanduser() if chosen else layout.keys


def make_store_key(layout: Layout) -> str:
    """The id of a new store key, written with mode 600."""
    folder = _folder(layout)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_id = secrets.token_hex(8)
    fd = os.open(folder / f"{key_id}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return key_id


def load_store_key(layout: Layout, key_id: str) -> bytes:
    path = _folder(layout) / f"{key_id}.key"
    try:
        return bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (FileNotFoundError, ValueError):
        raise StoreUnusable(
            root=str(layout.root),
            found=f"no readable store key at '{path}'",
            advice="Restore that file from a backup, or set RAYSTORE_KEY_DIR to the folder that holds it.",
        ) from None


def keyed_digest(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 over the parts, each behind its length, so no two lists of parts read alike."""
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(8, "big"))
        mac.update(part)
    return mac.digest()
