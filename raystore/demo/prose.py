"""From a docstring to a line of prose: where it ends, how its markup goes, and how a package's own name is masked.

Pure text to text; knows no files.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence

MASK = "___"
LONGEST = 400  # characters of a row's text

# Import name -> (names masked wherever they stand, names masked only as a word or a hump of CamelCase).
NAMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "torch": (("pytorch", "torch"), ()),
    "numpy": (("numpy",), ("np",)),
    "pandas": (("pandas",), ("pd",)),
    "scipy": (("scipy",), ("sp",)),
    "sklearn": (("scikit-learn", "scikit learn", "sklearn"), ("scikit",)),
    "transformers": (("transformers", "hugging face", "huggingface"), ("hf",)),
    "ray": (("raylet",), ("ray",)),
    "pyarrow": (("pyarrow",), ("apache arrow", "arrow", "pa")),
    "fastapi": (("fastapi",), ()),
    "duckdb": (("duckdb",), ()),
    "pydantic": (("pydantic",), ()),
    "lance": (("lancedb", "pylance"), ("lance",)),
}

_SECTION = re.compile(
    r"(parameters?|other parameters|args|arguments|keyword arguments|kwargs|inputs?|outputs?|shape|attributes?|variables"
    r"|members|fields|methods|properties|returns?|yields?|receives|raises|warns|warnings?|notes?|see also|references?"
    r"|examples?|usage|usage examples?|tips?|todo|\.\.\.)(\s*\([^)]*\))?\s*:*",
    re.IGNORECASE,
)
_INLINE_SECTION = re.compile(
    r"(args|arguments|params?|parameters|returns?|yields?|raises|examples?|usage|see also|note|todo|type|default)\s*:",
    re.IGNORECASE,
)
_NOT_PROSE = re.compile(
    r":[a-z]+[^:`]*:(?!`)|@|\w+ ?\([^:]*\)\s*:|\w+ : "  # fields, epydoc, parameters without a heading
    r"|>>>|```|~~~|\$|%|\{|\[(?!`)|import |from \S+ import "  # code
    r"|\.\. |\.\.$|!!!|</?[a-zA-Z]+[ >]|#|\+[-=+]+|\||[-=]{3,} |[-*+•] |\(?\d+[.)] "  # directives, headings, tables, lists
)
_UNDERLINE = re.compile(r"([-=~^*#+\"'`.:])\1+")
_SIGNATURE = re.compile(r"[\w.]+(\[[^\]]*\])?\(.*\)\s*(->.*)?[.:]?", re.DOTALL)
_TEMPLATE = re.compile(r"%\(\w+\)s|\{\w*\}|\$\{?\w+")
_MARKUP: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"\[([^\]]+)\](?:\([^)\s]*\)|\[[A-Za-z_.]*\])"), r"\1"),  # [text](address), [text][target]
    (re.compile(r"(?::[\w+.-]+)+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :func:`name`, :ref:`title <target>`
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_+"), r"\1"),  # `title <address>`_
    (re.compile(r"\s?\[[\w*]+\]_"), ""),  # [1]_
    (re.compile(r"\[?`+(?:~(?=\w))?([^`]*)`+(?:_+|\])?"), r"\1"),  # ``code``, `~name`, [`name`]
    (re.compile(r":[\w:]+:`|`"), ""),  # what an early end left open
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"https?://\S+"), ""),
    (re.compile(r"\s+"), " "),
)


def prose(docstring: str) -> str:
    """The summary and first paragraphs as one line, without markup; '' where there is none.

    It ends at the first section heading, field, doctest, code, list, table, directive or unfilled template. A
    signature or a title before the first sentence is skipped.
    """
    taken: list[str] = []
    for block in re.split(r"\n[ \t]*\n", inspect.cleandoc(docstring)):
        lines = [line.rstrip() for line in block.strip("\n").split("\n")]
        if not taken:  # an overlined or underlined title; a signature
            while lines and _UNDERLINE.fullmatch(lines[0]):
                lines = lines[1:]
            if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1]) and not _SECTION.fullmatch(lines[0]):
                lines = [line for line in lines[2:] if line]
            if lines and _SIGNATURE.fullmatch(lines[0]):
                lines = lines[1:]
            elif _SIGNATURE.fullmatch("\n".join(lines)):
                lines = []
        kept = _prose_lines(lines, first=not taken)
        taken += kept
        if len(kept) < len(lines) or (kept and kept[-1].endswith("::")):
            break
    text = " ".join(line.strip() for line in taken)
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    return text.encode(errors="replace").decode().removesuffix("::").strip()  # "\\ud800" is a legal docstring


def _prose_lines(lines: Sequence[str], *, first: bool) -> list[str]:
    kept: list[str] = []
    for i, line in enumerate(lines):
        bare = line.strip()
        underlined = i + 1 < len(lines) and _UNDERLINE.fullmatch(lines[i + 1].strip())
        indented = not kept and not first and line.startswith("   ")
        heading = underlined or _SECTION.fullmatch(bare) or _INLINE_SECTION.match(bare)
        if heading or indented or _NOT_PROSE.match(bare) or _TEMPLATE.search(bare):
            break
        kept.append(line)
    return kept


def mask(text: str, package: str) -> str:
    """The text with every spelling of the package's own name replaced by '___', in dotted and compound names too."""
    anywhere, words = NAMES.get(package, ((package,), ()))
    humps = [word.capitalize() for word in words if len(word) > 2]
    patterns = [f"(?i:{'|'.join(anywhere)})"]
    if words:
        patterns.append(f"(?<![A-Za-z0-9])(?i:{'|'.join(words)})(?![A-Za-z0-9])")
    if humps:
        patterns.append(f"(?:{'|'.join(humps)})(?![a-z])")
    return re.sub("|".join(patterns), MASK, text)


def shorten(text: str, longest: int = LONGEST) -> str:
    """At most `longest` characters, cut after a word."""
    if len(text) <= longest:
        return text
    head, space, _ = text[: longest + 1].rpartition(" ")
    return head if space else text[:longest]
