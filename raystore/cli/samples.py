"""What a verb is measured on: items of the user's own files, and prices as they are written on the command line.

The items stay in this process; nothing of them is printed, stored or sent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from raystore.data.readers import SOURCES, find_files, plan, read
from raystore.encoders.items import Item
from raystore.errors import InvalidArguments

_READ_ALL_ROWS = 50_000  # of larger files, the beginnings of slices that lie evenly in them
_SLICES = 20
_LEAST_OF_A_CLASS = 5  # rows; a head is measured in five folds


@dataclass(frozen=True)
class Sample:
    """`items` of one kind and, where a label column was named, a label for each; both None where no files were named.

    `left_out` rows were read and have no content, or none that could be read.
    """

    items: list[Item] | None = None
    labels: list[str] | None = None
    left_out: int = 0


def read_sample(paths: Sequence[str], *, content: str, label: str | None, limit: int, call: str) -> Sample:
    """Up to `limit` items from all over the files. Rows without content or label are left out, and small classes.

    Args:
        content: the column of texts, or of images' bytes; folders and tars of images have it as 'image'.
        label: the column a head is to learn; classes with fewer than 5 rows in the sample are left out.

    Raises:
        InvalidArguments: files or columns that are not there, or nothing to use in them.
    """
    sources, references = plan(find_files(list(paths), call, SOURCES), 1, call)
    wanted = [c for c in (content, label) if c is not None]
    problems = [
        f"'{source.path}' has no column '{column}'; it has: {', '.join(source.columns) or 'none'}"
        for source in sources
        for column in wanted
        if column not in source.columns and source.n_rows
    ]
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    total = sum(reference.n_rows for reference in references)
    chosen, share = references, total
    if total > _READ_ALL_ROWS:
        chosen = references[:: max(1, len(references) // _SLICES)]
        share = -(-limit // len(chosen))
    rows: list[tuple[Item, str]] = []
    left_out = 0
    for reference in chosen:
        taken = 0
        for block in read(reference, wanted, min(1_024, share)):
            values = zip(block.columns[content], block.columns[label or content], strict=True)
            for item, of in values:
                if not isinstance(item, (str, bytes)) or not item:
                    left_out += 1
                elif of is not None:
                    rows.append((item, str(of)))
            taken += block.n_rows
            if taken >= share:
                break
    step = max(1.0, len(rows) / limit)
    rows = [rows[int(i * step)] for i in range(min(limit, len(rows)))]
    if label is not None:
        sizes = Counter(of for _, of in rows)
        rows = [row for row in rows if sizes[row[1]] >= _LEAST_OF_A_CLASS]
    if len(rows) < 2:
        problem = f"the sample holds {len(rows)} usable rows, expected at least 2"
        if label is not None:
            problem = f"no class has {_LEAST_OF_A_CLASS} rows or more in the sample: take more rows, or leave the label out"
        raise InvalidArguments(call=call, problems=[problem])
    return Sample([item for item, _ in rows], [of for _, of in rows] if label is not None else None, left_out)


def parse_prices(options: Sequence[str], call: str) -> dict[str, float]:
    """{'cpu': 0.2} from 'cpu=0.20/h'; every option that is not one is named."""
    found: dict[str, float] = {}
    problems = []
    for option in options:
        device, _, amount = option.partition("=")
        try:
            price = float(amount.removesuffix("/h"))
        except ValueError:
            price = math.nan
        if device not in ("cpu", "gpu") or not (math.isfinite(price) and price >= 0):
            problems.append(f"'{option}' is no price, expected one like cpu=0.20/h or gpu=3/h")
        found[device] = price
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return found
