"""What was asked for and is not there: each names what there is."""

from __future__ import annotations

from raystore.errors.base import NotFound, listed


class StoreNotFound(NotFound):
    noun = "store"

    def __str__(self) -> str:
        return (
            f"no store at '{self.name}': {self.where}. Make one with raystore.open(root) "
            "on a folder that is empty or does not exist."
        )


class EncoderNotFound(NotFound):
    noun = "encoder"


class CollectionNotFound(NotFound):
    noun = "collection"


class TableNotFound(NotFound):
    noun = "table"


class SnapshotNotFound(NotFound):
    noun = "snapshot"


class HeadNotFound(NotFound):
    noun = "head"


class IndexNotFound(NotFound):
    noun = "index"

    def __str__(self) -> str:
        if self.existing:
            return f"no index '{self.name}' over {self.where}. It has: {listed(self.existing)}."
        return f"no index over {self.where}. Build one: collection.build_index() or `raystore index build`."


class PairsNotFound(NotFound):
    noun = "table of pairs"


class DeploymentNotFound(NotFound):
    noun = "deployment"


class KeyNotFound(NotFound):
    noun = "key"


class RunNotFound(NotFound):
    noun = "run"


class ItemNotFound(NotFound):
    noun = "item"

    def __str__(self) -> str:
        return f"no item '{self.name}' in {self.where}."


class ColumnNotFound(NotFound):
    noun = "column"
