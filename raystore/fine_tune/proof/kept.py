"""What the rows of a proof hold, from a collection whose owner chose to keep its content; from nowhere else."""

from __future__ import annotations

import base64
from io import BytesIO

from raystore.data.collection import CollectionTable
from raystore.data.kept_source import open_source
from raystore.encoders.images import BadImage, read_image
from raystore.errors import InvalidArguments, listed
from raystore.fine_tune.proof.proof import Proof
from raystore.layout import Layout

_PIXELS = 192  # of a picture's longer side, twice as many as the page shows


def kept_items(layout: Layout, collection: str, proof: Proof) -> dict[str, str]:
    """By id, the texts and small pictures (data:image) of the rows whose neighbours the proof holds, and of those neighbours.

    Rows that the collection lacks are left out.

    Raises:
        CollectionNotFound; InvalidArguments: it keeps no content, or has none of these rows.
    """
    table = CollectionTable.open(layout, collection)
    source = open_source(table)
    if source is None:
        problem = f"collection '{collection}' keeps no content; only one made with keep_source=True does"
        raise InvalidArguments(call="show the items", problems=[problem])
    near = [near.id for asked in proof.neighbours for near in (*asked.before, *asked.after)]
    ids = list(dict.fromkeys([*(asked.id for asked in proof.neighbours), *near]))
    if not ids:
        return {}
    known = table.rows.known(ids)
    if not known:
        problem = (
            f"collection '{collection}' has none of the rows ({listed(ids, 3)}): embed them with the same column of ids"
        )
        raise InvalidArguments(call="show the items", problems=[problem])
    there, payloads = list(known), [row.payload for row in known.values()]
    texts = source.contents(there, payloads, "text").to_pylist()
    pictures = source.contents(there, payloads, "image").to_pylist()
    found = {row["id"]: row["text"] for row in texts}
    return found | {row["id"]: _small(row["image"]) for row in pictures}


def _small(data: bytes) -> str:
    """A picture as an address that holds it."""
    try:
        picture = read_image(data)
    except BadImage as error:
        return f"(a picture that {error.reason})"
    picture.thumbnail((_PIXELS, _PIXELS))
    file = BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
