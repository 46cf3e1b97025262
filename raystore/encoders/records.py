"""What a store keeps of an encoder: its folder (passport and golden vectors) and the records that name it.

    encoders/<fp12>/passport.json, golden.safetensors, exports/ (a cache), graph/ (of an int8 encoder: its weights)
    encoders/<fp12>/bridge/              of a bridge: its map
    encoders/<fp12>/sources/<n>.json     where the weights of a fine-tuned one lie in this store
    aliases/encoder/<name>/<n>.json      fingerprint, and the source its weights came from

The source stands outside the fingerprint: the same encoder may come from a folder here and a hub name there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raystore.catalog import Catalog, Record
from raystore.encoders import golden
from raystore.encoders.model import Options
from raystore.encoders.passport import Card, Passport, digest_of
from raystore.encoders.source import Source, file_digest, find_source
from raystore.errors import EncoderNotFound, InvalidArguments, ModelUnusable
from raystore.layout import FP12, Layout, check_name, disk_full_is_said, names, numbers, read_json, staging, write_json

KIND = "encoder"
_HEX = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True)
class StoredEncoder:
    """A passport, what is known beside it, its golden vectors' digest and where they lie."""

    passport: Passport
    card: Card
    golden_sha256: str
    folder: Path

    def golden(self, label: str) -> golden.Golden:
        return golden.read(self.folder / "golden.safetensors", self.golden_sha256, self.passport, label)


def publish_encoder(
    layout: Layout,
    passport: Passport,
    vectors: golden.Golden,
    card: Card,
    graph: Path | None = None,
    beside: Mapping[str, Path] = MappingProxyType({}),
) -> bool:
    """Put the encoder's folder in place, whole; False where it stands there already, which is left as it is.

    `graph`: a folder whose files become graph/, for an encoder whose weights come from nowhere else. `beside`: more such folders,
    by what they become.
    """
    folder = layout.encoder(passport.fingerprint)
    if (folder / "passport.json").is_file():
        return False
    data = golden.pack(vectors, passport.fingerprint)
    with disk_full_is_said(folder, "registering an encoder"), staging(layout.tmp) as stage:
        with (stage / "golden.safetensors").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        about = {
            "fingerprint": passport.fingerprint,
            "golden_sha256": hashlib.sha256(data).hexdigest(),
            "passport": passport.model_dump(mode="json"),
            "card": card.model_dump(mode="json"),
        }
        for name, files in {**({"graph": graph} if graph is not None else {}), **beside}.items():
            shutil.copytree(files, stage / name)
        write_json(stage / "passport.json", about, layout.tmp)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            stage.rename(folder)
        except OSError:
            if not (folder / "passport.json").is_file():
                raise
            return False  # another process registered the same encoder first
    return True


def graph_digest(folder: Path) -> str:
    """The digest of a graph's files by name and bytes, without its tokenizer, which a passport states apart."""
    files = sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    return digest_of({path.name: file_digest(path) for path in files if path.name != "tokenizer.json"})


def read_encoder(layout: Layout, fingerprint: str) -> StoredEncoder:
    """The stored encoder of a full fingerprint.

    Raises:
        EncoderNotFound: the store has none.
        ModelUnusable: its passport.json is damaged, or is the passport of another fingerprint.
    """
    folder = layout.encoder(fingerprint)
    about, passport = _read_passport(layout, fingerprint)
    if passport.fingerprint != fingerprint:
        raise _damaged(folder)
    try:
        card = Card.model_validate(about.get("card", {}))
    except ValueError:
        raise _damaged(folder) from None
    return StoredEncoder(passport=passport, card=card, golden_sha256=str(about.get("golden_sha256")), folder=folder)


def _read_passport(layout: Layout, fingerprint: str) -> tuple[Record, Passport]:
    """The passport in the folder of this fingerprint or prefix, sound in itself."""
    folder = layout.encoder(fingerprint)
    try:
        about = read_json(folder / "passport.json")
        passport = Passport.model_validate(about["passport"])
    except (FileNotFoundError, NotADirectoryError):
        raise not_found(layout, fingerprint) from None
    except (ValueError, KeyError, TypeError):
        raise _damaged(folder) from None
    if passport.fingerprint != about.get("fingerprint"):
        raise _damaged(folder)
    return about, passport


def _damaged(folder: Path) -> ModelUnusable:
    return ModelUnusable(
        model=folder.name,
        found=f"'{folder / 'passport.json'}' is not the passport that was registered",
        advice="Restore that folder from a backup, or remove it and register the model again.",
    )


def not_found(layout: Layout, name: str) -> EncoderNotFound:
    return EncoderNotFound(name=name[:80], where=f"store '{layout.root}'", existing=names(layout.aliases(KIND)))


def check_encoder_name(name: str) -> None:
    """Raise InvalidName, or InvalidArguments for a name that would be read as a fingerprint."""
    check_name("an encoder", name, dashes=True)
    if _HEX.fullmatch(name):
        problem = (
            f"the name '{name}' is {len(name)} hexadecimal digits, which would be read as a fingerprint: choose another"
        )
        raise InvalidArguments(call="register", problems=[problem])


def find_fingerprint(catalog: Catalog, name_or_fingerprint: str) -> str:
    """The full fingerprint of a name, a label 'name@fp12', a fingerprint or its first 12 or more hex digits.

    Raises:
        EncoderNotFound: with the names there are.
    """
    layout = catalog.layout
    asked = str(name_or_fingerprint)
    if asked in catalog.alias_names(KIND):
        record = catalog.alias(KIND, asked)
        if record is not None:
            return str(record["fingerprint"])
    prefix = asked.rpartition("@")[2]
    if _HEX.fullmatch(prefix) and (layout.encoder(prefix) / "passport.json").is_file():
        full = _read_passport(layout, prefix)[1].fingerprint
        if full.startswith(prefix):
            return full
    raise not_found(layout, asked)


def name_of(catalog: Catalog, fingerprint: str) -> str:
    """The first name that means this encoder now, or the fingerprint's first digits."""
    for name in catalog.alias_names(KIND):
        record = catalog.alias(KIND, name)
        if record is not None and record.get("fingerprint") == fingerprint:
            return name
    return fingerprint[:FP12]


def source_record(source: Source, options: Options) -> Record:
    return {
        "model": source.model,
        "revision": source.revision,
        "content": source.content_digest(),
        "options": options.model_dump(),
    }


def sources_of(catalog: Catalog, fingerprint: str, name: str | None = None) -> list[dict[str, Any]]:
    """Every source this encoder was registered from, newest record first, those under `name` before others.

    Last come those that stand under no name (`add_source`).
    """
    found: list[dict[str, Any]] = []
    known = catalog.alias_names(KIND)
    for each in ([name] if name in known else []) + [n for n in known if n != name]:
        latest = catalog.latest(catalog.layout.aliases(KIND, str(each)))
        for number in range(latest[0] if latest else 0, 0, -1):
            record = catalog.record(catalog.layout.aliases(KIND, str(each)), number)
            if record is not None and record.get("fingerprint") == fingerprint and "source" in record:
                found.append(record["source"])
    folder = catalog.layout.encoder_sources(fingerprint)
    records = [catalog.record(folder, number) for number in reversed(numbers(folder))]
    return found + [record["source"] for record in records if record is not None]


def add_source(catalog: Catalog, fingerprint: str, about: Record) -> None:
    """Keep a source with the encoder itself, where no name means it yet."""
    catalog.put(catalog.layout.encoder_sources(fingerprint), {"source": about})


def open_source(catalog: Catalog, fingerprint: str, label: str, name: str | None = None) -> tuple[Source, Options]:
    """The first of the encoder's sources that can be had here.

    Raises:
        ModelUnusable: none can; the first one's reason is given.
    """
    first: ModelUnusable | None = None
    for about in sources_of(catalog, fingerprint, name):
        try:
            source = find_source(about["model"], about.get("revision"), root=catalog.layout.root)
            return source, Options.model_validate(about["options"])
        except ModelUnusable as error:
            first = first or error
    if first is not None:
        raise first
    raise ModelUnusable(model=label, found="no record says where its weights came from", advice="Register the model again.")
