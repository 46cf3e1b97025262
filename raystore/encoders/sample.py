"""English texts that lie on every machine: the docstrings of Python's standard library.

What two backends or precisions are compared on, and what a speed is measured with, where the user gives nothing of
their own. Short summaries and first paragraphs are mixed. Reads installed modules; touches no network and no model.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from functools import cache
from itertools import count
from types import ModuleType

from raystore.errors import InvalidArguments

# Plain library modules: importing them starts nothing, opens no window and takes some 0.2 s in all.
_MODULES = (
    *("abc", "argparse", "array", "ast", "asyncio", "base64", "bisect", "builtins", "calendar", "cmath", "codecs"),
    *("collections", "concurrent.futures", "configparser", "contextlib", "copy", "csv", "dataclasses", "datetime"),
    *("decimal", "difflib", "email.message", "enum", "fractions", "functools", "gettext", "glob", "gzip", "hashlib"),
    *("heapq", "html", "http.client", "inspect", "io", "ipaddress", "itertools", "json", "locale", "logging", "math"),
    *("mimetypes", "numbers", "operator", "os", "pathlib", "pprint", "queue", "random", "re", "sched", "secrets"),
    *("shutil", "socket", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "time"),
    *("traceback", "types", "typing", "unicodedata", "urllib.parse", "uuid", "weakref", "xml.etree.ElementTree"),
    "zipfile",
)
_SHORTEST, _LONGEST = 20, 2_000  # characters


def sample_texts(n: int = 1000) -> list[str]:
    """`n` different English texts of 20 to 2,000 characters, in an order that is the same at every call.

    Half are one sentence, half a paragraph, as far as there are both. A newer Python has other docstrings and so other
    texts. Where `n` is more than there are (some 3,900), they come again with a number before them.

    Raises:
        InvalidArguments: `n` is negative.

    Cost: about half a second at the first call, nothing after.
    """
    if n < 0:
        raise InvalidArguments(call="sample_texts", problems=[f"n is {n}, expected 0 or more"])
    known = _docstrings()
    texts = list(known[:n])
    for again in count(2):
        if len(texts) == n:
            return texts
        texts += [f"{again}. {text}" for text in known[: n - len(texts)]]
    raise AssertionError  # count() does not end


@cache
def _docstrings() -> tuple[str, ...]:
    summaries: set[str] = set()
    paragraphs: set[str] = set()
    for name in _MODULES:
        for doc in _docs_of(importlib.import_module(name)):
            blocks = [" ".join(block.split()) for block in doc.split("\n\n")]
            summaries.add(blocks[0])
            paragraphs.add(" ".join(blocks[:3]))
    if not summaries:  # python -OO leaves docstrings out
        summaries = {f"There is one text here, and it is number {i} of a hundred of them." for i in range(100)}
    short = _shuffled(summaries)
    long = _shuffled(paragraphs - summaries)
    mixed = [text for pair in zip(short, long, strict=False) for text in pair]
    rest = max(short, long, key=len)[len(mixed) // 2 :]
    return tuple(mixed + rest)


def _shuffled(texts: set[str]) -> list[str]:
    """In the order of their digests, which no module's name decides."""
    usable = [text[:_LONGEST] for text in texts if len(text) >= _SHORTEST]
    return sorted(set(usable), key=lambda text: hashlib.sha256(text.encode("utf-8", "replace")).digest())


def _docs_of(module: ModuleType) -> list[str]:
    """Docstrings of the module, of its public members, and of its classes' public methods."""
    things: list[object] = [module]
    for name, member in sorted(vars(module).items()):
        if name.startswith("_") or not (inspect.isclass(member) or inspect.isroutine(member)):
            continue
        things.append(member)
        if inspect.isclass(member):
            things += [m for key, m in sorted(vars(member).items()) if not key.startswith("_") and inspect.isroutine(m)]
    docs = (getattr(thing, "__doc__", None) for thing in things)
    return [inspect.cleandoc(doc) for doc in docs if isinstance(doc, str) and doc.strip()]
