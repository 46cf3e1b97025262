"""Index numbers: what is published, repaired and published again. Files are linked, and older numbers stay as they were."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from raystore.errors import IndexNotFound, ShardCorrupt, StoreUnusable
from raystore.index.build.run import build_index, open_shard, rebuild_shard, repair
from raystore.index.manifest import IndexManifest, index_folder, latest, list_indexes, publish_again, read_manifest
from raystore.layout import numbers

from .conftest import FINGERPRINT, World, clustered


def build(world: World, **options: object) -> tuple[int, IndexManifest]:
    return build_index(world.table, world.layout, "tickets", FINGERPRINT, **options)


def folder(world: World, number: int) -> Path:
    return index_folder(world.layout, "tickets", FINGERPRINT, number)


def inodes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in path.iterdir() if file.name != "manifest.json"}


@pytest.mark.parametrize(
    "name", ["shard-0001.rows.arrow", "shard-0001.faiss", "shard-0001.vectors", "shard-0001.vectors.blocks"]
)
@pytest.mark.parametrize("harm", ["missing", "cut short"])
def test_a_bad_shard_is_written_again_and_published_with_the_good_ones_linked(world: World, name: str, harm: str) -> None:
    number, manifest = build(world, shards=3, kind="ivf_sq8")
    file = folder(world, number) / name
    if harm == "missing":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2)
    shard, problem = open_shard(world.table, world.layout, number, manifest, 1)
    assert isinstance(problem, ShardCorrupt)
    assert name in str(problem)
    assert shard.rows == 200
    assert latest(world.layout, "tickets", FINGERPRINT) == (1, manifest)  # opened, not published
    fresh, whole = repair(world.table, world.layout, number, manifest, [1])
    assert (fresh, whole.made_by, whole.made_from) == (2, "repair", 1)
    assert [whole.shards[0], whole.shards[2]] == [manifest.shards[0], manifest.shards[2]]
    old, new = inodes(folder(world, 1)), inodes(folder(world, 2))
    assert all(new[file] == old[file] for file in old if not file.startswith("shard-0001"))
    for place in range(3):
        _, problem = open_shard(world.table, world.layout, fresh, whole, place)
        assert problem is None
    assert not list(world.layout.tmp.iterdir())
    assert shard.vectors_at(np.arange(200)).shape == (200, 16)  # its folder under tmp/ is gone, its map is not


def test_whoever_finds_the_same_shard_bad_finds_it_rebuilt(world: World) -> None:
    number, manifest = build(world, shards=2)
    (folder(world, number) / "shard-0000.vectors").unlink()
    open_shard(world.table, world.layout, number, manifest, 0)
    (made,) = world.layout.tmp.glob("rebuilt-*")
    before = (made / "shard-0000.vectors").stat().st_ino
    open_shard(world.table, world.layout, number, manifest, 0)
    assert (made / "shard-0000.vectors").stat().st_ino == before
    (made / "shard-0000.vectors").write_bytes(b"harmed as well")
    assert rebuild_shard(world.table, world.layout, manifest, 0).rows == 300


def test_what_was_rebuilt_and_never_published_goes_after_a_day(world: World) -> None:
    _, manifest = build(world, shards=2)
    rebuild_shard(world.table, world.layout, manifest, 0)
    (made,) = world.layout.tmp.glob("rebuilt-*")
    os.utime(made, (0, 0))
    rebuild_shard(world.table, world.layout, manifest, 1)
    assert not made.exists()
    assert len(list(world.layout.tmp.glob("rebuilt-*"))) == 1


def test_a_repair_that_comes_second_takes_what_is_there(world: World) -> None:
    number, manifest = build(world, shards=2)
    first = repair(world.table, world.layout, number, manifest, [0])
    assert repair(world.table, world.layout, number, manifest, [0]) == first
    assert repair(world.table, world.layout, *first, []) == first
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == [1, 2]


def test_a_repaired_shard_holds_nothing_that_was_erased_since(world: World) -> None:
    number, manifest = build(world, shards=2)
    world.delete(world.ids[7])
    _, whole = repair(world.table, world.layout, number, manifest, [0])
    assert [record.rows for record in whole.shards] == [299, 300]


def test_an_older_index_is_published_again(world: World) -> None:
    _, first = build(world, shards=2)
    build(world, shards=1)
    number, again = publish_again(world.layout, "tickets", FINGERPRINT, 1)
    assert (number, again.made_by, again.made_from, again.shards) == (3, "rollback", 1, first.shards)
    assert inodes(folder(world, 3)) == inodes(folder(world, 1))
    assert read_manifest(world.layout, "tickets", FINGERPRINT, 1) == first
    with pytest.raises(IndexNotFound):
        publish_again(world.layout, "tickets", FINGERPRINT, 9)


def test_all_numbers_are_listed_with_their_facts_the_newest_first(world: World) -> None:
    assert list_indexes(world.layout, "tickets", FINGERPRINT) == []
    build(world, shards=2)
    version = world.table.version
    world.add(clustered(10, 5))
    build(world, kind="ivf", fold_rows=7)
    newest, oldest = list_indexes(world.layout, "tickets", FINGERPRINT)
    assert (newest.number, newest.live, newest.kind, newest.shards, newest.rows) == (2, True, "ivf", 1, 610)
    assert (oldest.number, oldest.live, oldest.version, oldest.made_by) == (1, False, version, "build")
    assert oldest.disk_bytes > 600 * 16 * 4
    assert set(newest.to_dict()) == {
        "number", "live", "kind", "metric", "version", "rows", "shards", "served", "replicas", "recall", "memory_bytes",
        "disk_bytes", "made_by", "made_from", "build_s",
    }  # fmt: skip


def test_a_manifest_that_cannot_be_read_is_said(world: World) -> None:
    number, _ = build(world)
    (folder(world, number) / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreUnusable, match=r"manifest\.json' cannot be read"):
        latest(world.layout, "tickets", FINGERPRINT)
