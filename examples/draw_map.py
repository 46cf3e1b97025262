"""Draw a collection as a map: t-SNE of a sample of its vectors, coloured by a label table, written as SVG.

    python examples/draw_map.py raystore-demo/store map.svg

Reads vectors and labels only; there is no text in a store to read. Cost: 30 s for 4,000 points.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import raystore

COLOURS = [
    *("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948"),
    *("#b07aa1", "#ff9da7", "#9c755f", "#1b9e77", "#d62790", "#666666"),
]
WIDTH, HEIGHT, MARGIN = 900, 560, 12


def place(vectors: np.ndarray) -> np.ndarray:
    """(n, 2) positions in [0, 1]: t-SNE (van der Maaten and Hinton 2008) of the first 50 principal components, seeded."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    reduced = PCA(min(50, *vectors.shape), random_state=0).fit_transform(vectors)
    flat = TSNE(2, init="pca", perplexity=min(30, len(vectors) // 4), random_state=0).fit_transform(reduced)
    return (flat - flat.min(0)) / np.ptp(flat, axis=0)


def draw(points: np.ndarray, labels: list[str]) -> str:
    """The points as SVG circles, a colour a label, with a legend."""
    names = sorted(set(labels))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    xy = MARGIN + points * [WIDTH - 150 - 2 * MARGIN, HEIGHT - 2 * MARGIN]
    groups = []
    for name in names:
        path = "".join(f"M{x:.0f} {y:.0f}h0" for (x, y), label in zip(xy, labels, strict=True) if label == name)
        groups.append(f'<path d="{path}" stroke="{colour[name]}"/>')
    legend = "".join(
        f'<circle cx="{WIDTH - 125}" cy="{30 + 22 * i}" r="5" fill="{colour[name]}"/>'
        f'<text x="{WIDTH - 112}" y="{34 + 22 * i}">{name}</text>'
        for i, name in enumerate(names)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13" fill="#444">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<g stroke-width="3.2" stroke-linecap="round" stroke-opacity=".75" fill="none">{"".join(groups)}</g>{legend}</svg>\n'
    )


def main(
    root: str, out: str, collection: str = "items", *, table: str = "labels", key: str = "item", label: str = "label"
) -> None:
    store = raystore.open(root, create=False)
    joined = f"{collection} i JOIN {table} l ON l.{key} = i.id"
    rows = store.sql(f"SELECT i.id, l.{label} AS label FROM {joined} ORDER BY hash(i.id) LIMIT 4000").to_dicts()
    column = next(c for c in store.sql(f"SELECT * FROM {collection} LIMIT 0", vectors=True).columns if c.startswith("vec_"))
    found = store.collection(collection).to_arrow(columns=["id", column])
    place_of = {id_: i for i, id_ in enumerate(found.column("id").to_pylist())}
    matrix = np.stack(found.column(column).combine_chunks().flatten().to_numpy().reshape(len(found), -1))
    picked = matrix[[place_of[row["id"]] for row in rows]]
    Path(out).write_text(draw(place(picked), [row["label"] for row in rows]), encoding="utf-8")
    print(f"{len(rows):,} points in {out}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
