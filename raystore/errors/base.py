"""What all errors have, and those that may arise anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar


def _revive(cls: type[RaystoreError], facts: Mapping[str, Any]) -> RaystoreError:
    return cls(**facts)


class RaystoreError(Exception):
    """Base of the tree. `status` is the HTTP status an ingress answers with."""

    __module__ = "raystore.errors"  # where all of them stand for whoever catches, pickles or reads one
    status: ClassVar[int] = 500

    def __init_subclass__(cls) -> None:
        if cls.__module__.startswith(f"{RaystoreError.__module__}."):
            cls.__module__ = RaystoreError.__module__

    @property
    def facts(self) -> dict[str, Any]:
        """The facts by name, JSON-ready where the facts are."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.facts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


def listed(names: Sequence[str], limit: int = 8) -> str:
    """'a', 'b' and 3 more; or 'none'."""
    if not names:
        return "none"
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def first_five(problems: Sequence[str]) -> str:
    """'a; b', and behind the fifth '; and 3 more'."""
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more


@dataclass(eq=False, kw_only=True, repr=False)
class NotFound(RaystoreError, LookupError):
    status = 404
    noun = "thing"
    name: str
    where: str
    existing: Sequence[str] = ()

    def __str__(self) -> str:
        has = f"It has: {listed(self.existing)}." if self.existing else f"It has no {self.noun}."
        return f"no {self.noun} '{self.name}' in {self.where}. {has}"


@dataclass(eq=False, kw_only=True, repr=False)
class AlreadyExists(RaystoreError, FileExistsError):
    status = 409
    noun: str
    name: str
    advice: str

    def __str__(self) -> str:
        return f"{self.noun} '{self.name}' exists already. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class StoreUnusable(RaystoreError, OSError):
    root: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"cannot open a store at '{self.root}': {self.found}. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class InvalidName(RaystoreError, ValueError):
    status = 422
    noun: str
    name: str
    expected: str

    def __str__(self) -> str:
        return f"'{self.name}' is no name for {self.noun}: expected {self.expected}."


class Quoting(str):
    """A problem's sentence that quotes what was given. `unquoted` says the same without, for who is told over a network."""

    unquoted: str

    def __new__(cls, sentence: str, unquoted: str) -> Quoting:
        made = super().__new__(cls, sentence)
        made.unquoted = unquoted
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Quoting, (str(self), self.unquoted)


@dataclass(eq=False, kw_only=True, repr=False)
class InvalidArguments(RaystoreError, ValueError):
    """`problems` are whole sentences without raw content, all found in one look; one that repeats a text that was given is a
    `Quoting`."""

    status = 422
    call: str
    problems: Sequence[str]

    def __str__(self) -> str:
        said = "; ".join(self.problems)
        return f"{self.call}: {said}" + ("" if said.endswith("?") else ".")


@dataclass(eq=False, kw_only=True, repr=False)
class DiskFull(RaystoreError, OSError):
    status = 507
    folder: str
    doing: str

    def __str__(self) -> str:
        return (
            f"no space left on the disk of '{self.folder}' while {self.doing}. What was acknowledged before is safe, "
            "the rest was not written. Free space and repeat the call; it goes on where it stopped."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class JobFailed(RaystoreError, RuntimeError):
    job: str
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.job} failed: {self.reason}. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class ExtraNotInstalled(RaystoreError, ImportError):
    status = 501
    what: str
    package: str
    extra: str = ""  # of raystore; without one the package is installed by itself

    def __str__(self) -> str:
        source = f"'raystore[{self.extra}]'" if self.extra else self.package
        return f"{self.what} need {self.package}. Install it: pip install {source}"
