"""A proof as one HTML file that asks no network, for a reader who has never heard of an embedding; light, dark, wide and narrow.

It answers in this order: is it better, what changed, how does it look, which classes got worse, what do single rows say, how was
it measured, how was it made. It holds ids, labels and numbers; items only where they are handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from raystore.fine_tune.proof import map_plot, words
from raystore.fine_tune.proof.changes import Change
from raystore.fine_tune.proof.proof import Asked, ClassProof, Neighbour, Proof
from raystore.train.report import plots
from raystore.train.report.html import document
from raystore.train.report.plots import BLUE, ORANGE, Axis, Series

_WORSE = 15
_TABLE = 300
_OPEN = 2
_GREY = "#8a94a0"
_COLOURS = {"rose": BLUE, "fell": ORANGE, "cannot tell": _GREY}
_BAR = 150

STYLE = """
.verdict { border-left: 8px solid var(--soft); font-size: 18px }
.verdict.better { border-color: #3f83c9 } .verdict.worse { border-color: #d0672f }
.verdict p { max-width: none } .verdict .soft { font-size: 15px }
.figures td:first-child { white-space: normal } .figures small { display: block; color: var(--soft); max-width: 50ch }
.figures:not(.classes) td:first-child { min-width: 9em }
.figures :is(td, th):nth-child(5) { text-align: center }
@media (max-width: 620px) { .figures:not(.classes) :is(td, th):nth-child(5), .drawn { display: none }
  .figures td, .figures th { padding-right: 8px; font-size: 13.5px } }
.badge { display: inline-block; border-radius: 99px; padding: 0 9px; font-size: 13px; border: 1px solid currentColor;
  white-space: nowrap }
.rose { color: #2f74bb } .fell { color: #c0561d } .tie { color: var(--soft) }
@media (prefers-color-scheme: dark) { .rose { color: #74aee6 } .fell { color: #ef935f } }
.asked { border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; margin: 12px 0 }
.asked summary { color: inherit; overflow-wrap: anywhere } .asked summary small { color: var(--soft) }
h3 { font-size: 16px; margin: 22px 0 6px }
.asked .item { margin: 6px 0; overflow-wrap: anywhere }
.sides { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 4px 28px }
@media (max-width: 620px) { .sides { grid-template-columns: minmax(0, 1fr) } }
.sides h4 { margin: 6px 0 2px; font-size: 13px; color: var(--soft); font-weight: 600 }
.sides ol { list-style: none; margin: 0; padding: 0; font-size: 13.5px }
.sides li { display: grid; grid-template-columns: 1.2em minmax(0, 1fr) auto; gap: 0 6px; padding: 1px 0;
  border-bottom: 1px solid var(--line) }
.sides li span { overflow-wrap: anywhere } .sides li .cos { color: var(--soft); font-variant-numeric: tabular-nums }
.sides .other { color: #c0561d } .sides .own { color: #2f74bb }
@media (prefers-color-scheme: dark) { .sides .other { color: #ef935f } .sides .own { color: #74aee6 } }
.sides small { color: var(--soft) } .asked img { max-width: 96px; max-height: 96px; border-radius: 4px; display: block }
"""


def page(proof: Proof, items: Mapping[str, str], made: str = "") -> str:
    """The whole page; `made` is its last part, of how the encoder was made."""
    title = f"{proof.after} against {proof.before}"
    head = (
        f"<meta http-equiv='Content-Security-Policy' content=\"{map_plot.policy()}\"><style>{STYLE}{map_plot.STYLE}</style>"
    )
    parts = [
        f"<h1>Is {escape(proof.after)} better?</h1>",
        f"<p class='soft'>Compared with {escape(proof.before)}. {escape(words.where(proof))}.</p>",
        _verdict(proof),
        f"<h2>What changed?</h2>{_figures(proof)}",
        _maps(proof),
        _worse(proof),
        _neighbours(proof, items),
        _curve(proof),
        _method(proof),
        made,
    ]
    return document(title, [part for part in parts if part], head=head)


def summary(proof: Proof) -> str:
    """The compact form for a notebook: the verdict, the figures, the classes that got worse."""
    worse = "".join(f"<p>{escape(said)}</p>" for said in words.worse_sentences(proof)[:1])
    return f"<div><p><b>{escape(words.headline(proof))}</b></p>{_figures(proof)}{worse}</div>"


def _verdict(proof: Proof) -> str:
    kind = {"better": "better", "not better": "worse", "cannot tell": ""}[proof.verdict]
    verdict, _, rest = words.headline(proof).partition(":")
    notes = "".join(f"<p class='soft'>{escape(said)}</p>" for said in words.verdict_notes(proof))
    return f"<div class='lead verdict {kind}'><p><b>{escape(verdict)}</b>:{escape(rest)}</p>{notes}</div>"


def _figures(proof: Proof) -> str:
    shares = [c for name, c in proof.metrics.items() if name != "silhouette"]
    widest = _widest(shares)
    rows = []
    for name, c in proof.metrics.items():
        about = f"<b>{escape(words.name_of(name, proof.k))}</b><small>{escape(words.meaning(name, proof.k))}</small>"
        drawn = "" if name == "silhouette" else _whisker(c, widest)
        rows.append([about, words.value(name, c.before), words.value(name, c.after), _gain(name, c), drawn, _badge(c)])
    told = (
        "<p class='soft'>Below a difference stands where it may really lie (95% interval).<span class='drawn'> Beside it the same is "
        "drawn: right of the line is better, left of it worse; a bar across the line means that these rows cannot tell.</span></p>"
    )
    return _table(("", "before", "after", "difference", "worse | better", ""), rows, "figures") + told


def _maps(proof: Proof) -> str:
    if proof.maps is None:
        return ""
    maps = proof.maps
    how = {"pca": "principal components (PCA)", "umap": "UMAP"}[maps.method]
    said = (
        f"Every dot is one of {len(maps.ids):,} rows that training did not see, drawn by {how}: rows that the encoder takes for alike "
        "lie together. Where it is better, a class is one tight patch of its own."
    )
    if maps.shown is not None:
        before, after = maps.shown
        said += (
            f" A flat map cannot show all: this one holds {before:.0%} of the differences between rows before and {after:.0%} "
            "after, so classes that overlap here may well be apart. The figures above measure all of it."
        )
    else:
        said += " Distances between far patches mean little in such a map. The figures above measure all of it."
    if len(set(maps.codes)) > len(map_plot.COLOURS):
        said += " Coloured are the classes that changed most surely."
    return f"<h2>How does it look?</h2><p>{escape(said)}</p>{map_plot.two_maps(proof, maps)}"


def _worse(proof: Proof) -> str:
    if not proof.per_class:
        return ""
    said = "".join(f"<p>{escape(each)}</p>" for each in words.worse_sentences(proof))
    worse, p = proof.worse_classes, words.name_of("precision", proof.k)
    parts = [f"<h2>Which classes got worse?</h2>{said}"]
    if worse:
        shown = worse[:_WORSE]
        more = f" The {len(shown)} of {len(worse):,} that lost most surely." if len(shown) < len(worse) else ""
        parts.append(f"<p class='soft'>{escape(words.meaning('precision', proof.k))}{more}</p>{_class_table(shown)}")
    else:
        parts.append(f"<p>None has a lower {p}.</p>")
    ordered = sorted(proof.per_class, key=lambda c: (c.precision.value, c.label))
    first = ordered[:_TABLE]
    note = "" if len(first) == len(ordered) else f", the {len(first)} lowest of {len(ordered):,}"
    parts.append(f"<details><summary>Every class, the largest loss first{note}</summary>{_class_table(first)}</details>")
    return "".join(parts)


def _class_table(classes: Sequence[ClassProof]) -> str:
    widest = _widest([c.precision for c in classes])
    rows = []
    for each in classes:
        c = each.precision
        sides = [words.value("precision", v) for v in (c.before, c.after)]
        named = " to ".join(words.value("knn_accuracy", v) for v in (each.knn_accuracy.before, each.knn_accuracy.after))
        counts = [f"{each.rows:,}", named, f"{each.reference_rows:,}"]
        rows.append([escape(each.label), *sides, _gain("precision", c), _whisker(c, widest), _badge(c), *counts])
    headers = ("class", "before", "after", "difference", "worse | better", "", "rows", "named right", "training rows")
    return _table(headers, rows, "classes figures")


def _neighbours(proof: Proof, items: Mapping[str, str]) -> str:
    if not proof.neighbours:
        return ""
    held = "" if items else " Ids and labels alone are shown, since a run keeps no items."
    said = (
        f"Single rows that training did not see, with their nearest training rows. ● has the row's own label, ○ another one; the "
        f"number is the cosine, 1 where two rows are the same to the encoder.{held}"
    )
    parts = [f"<h2>What do single rows say?</h2><p>{escape(said)}</p>"]
    for heading, sign in (
        ("More neighbours of their own label", 1),
        ("Fewer neighbours of their own label", -1),
        ("As many", 0),
    ):
        group = [
            each for each in proof.neighbours if (each.right[1] > each.right[0]) - (each.right[1] < each.right[0]) == sign
        ]
        if group:
            parts.append(f"<h3>{heading}</h3>" + "".join(_asked(each, items, i < _OPEN) for i, each in enumerate(group)))
    return "".join(parts)


def _asked(asked: Asked, items: Mapping[str, str], opened: bool) -> str:
    before, after = asked.right
    change = f"{before} of {len(asked.before)} before, {after} of {len(asked.after)} after"
    kind = "rose" if after > before else "fell" if after < before else "tie"
    item = f"<div class='item'>{_item(items[asked.id])}</div>" if asked.id in items else ""
    lists = "".join(
        f"<div><h4>{when}</h4><ol>{''.join(_neighbour(each, asked.label, items) for each in side)}</ol></div>"
        for when, side in (("before", asked.before), ("after", asked.after))
    )
    return (
        f"<details class='asked'{' open' if opened else ''}><summary><b>{escape(asked.label)}</b> "
        f"<small>row {escape(asked.id)}</small> <span class='badge {kind}'>{change}</span></summary>"
        f"{item}<div class='sides'>{lists}</div></details>"
    )


def _neighbour(each: Neighbour, label: str, items: Mapping[str, str]) -> str:
    own = each.label == label
    sign = f"<span class='{'own' if own else 'other'}' title='{'its own' if own else 'another'} label'>{'●' if own else '○'}</span>"
    item = f"<br>{_item(items[each.id])}" if each.id in items else ""
    told = f"<span>{escape(each.label)} <small>{escape(each.id)}</small>{item}</span>"
    return f"<li>{sign}{told}<span class='cos'>{each.cosine:.2f}</span></li>"


def _item(item: str) -> str:
    if item.startswith("data:image/"):
        return f"<img alt='' src='{escape(item, quote=True)}'>"
    return escape(words.cut(item))


def _curve(proof: Proof) -> str:
    plotted = []
    kinds = (("Loss in training", [(p.step, p.loss) for p in proof.curve], ORANGE, "{:.3g}".format),
             ("kNN accuracy on validation rows", [(p.step, p.val_accuracy) for p in proof.curve], BLUE, plots.percent))  # fmt: skip
    for title, points, colour, say in kinds:
        known = [(step, y) for step, y in points if y is not None]
        if len(known) < 2:
            continue
        steps, ys = [float(step) for step, _ in known], [y for _, y in known]
        margin = 0.06 * (max(ys) - min(ys)) or 0.01
        axes = Axis("step", min(steps), max(steps), "{:,.0f}".format), Axis("", min(ys) - margin, max(ys) + margin, say)
        drawn = plots.line_plot([Series("", steps, ys, "line", colour)], title=title, x=axes[0], y=axes[1], height=240)
        plotted.append(f"<figure>{drawn}</figure>")
    return f"<h2>How did the training go?</h2><div class='pair'>{''.join(plotted)}</div>" if plotted else ""


def _method(proof: Proof) -> str:
    stated = ", ".join(words.name_of(name, proof.k) for name in proof.stated)
    said = [
        f"The verdict goes by {stated or 'no figure'}. Better: one of them rose, surely enough for having looked at "
        f"{len(proof.stated)}, and none fell. Not better: one fell, or each is surely less than half a point up. "
        "Else these rows cannot tell.",
        "Intervals are percentile intervals of 1,000 bootstrap draws of entities with all their rows, the same draws for both "
        "encoders. They say what other rows of the same kind would give; not what a shift of the data does, nor another training.",
        f"{words.name_of('precision', proof.k)} is over as many neighbours as the class has rows, where those are fewer than "
        f"{proof.k}. A vote of neighbours weighs each by the fourth power of its cosine. The silhouette is by cosine distance.",
        *words.mcnemar_said(proof),
        words.left_out(proof),
        f"Measured in {proof.seconds:.1f} s.",
    ]
    return "<h2>How was it measured?</h2>" + "".join(f"<p>{escape(each)}</p>" for each in said if each)


def _widest(changes: Iterable[Change]) -> float:
    bounds = [abs(v) for c in changes for v in (c.low, c.high, c.value) if v is not None]
    return max(bounds, default=0.0) or 1.0


def _whisker(c: Change, widest: float) -> str:
    """The difference as a dot, its interval as a bar, around a line that is no difference."""
    middle, colour = _BAR / 2, _COLOURS[words.mark(c)]

    def at(v: float) -> float:
        return round(middle + (middle - 5) * v / widest, 1)

    bar = ""
    if c.low is not None and c.high is not None:
        left, right = at(c.low), at(c.high)
        bar = f"<rect x='{left}' y='4' width='{max(right - left, 1):.1f}' height='6' rx='1' fill='{colour}' fill-opacity='.55'/>"
    return (
        f"<svg width='{_BAR}' height='14' aria-hidden='true'><path d='M{middle:g} 0V14' stroke='currentColor' stroke-opacity='.45'/>"
        f"{bar}<circle cx='{at(c.value)}' cy='7' r='3.5' fill='{colour}'/></svg>"
    )


def _gain(metric: str, c: Change) -> str:
    """The difference, and its interval under it."""
    return f"{words.gain(metric, c.value)}<small>{words.between(metric, c)}</small>"


def _badge(c: Change) -> str:
    said = words.mark(c)
    return f"<span class='badge {said if said in ('rose', 'fell') else 'tie'}'>{said}</span>"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    """Of cells that are HTML already."""
    head = "".join(f"<th>{escape(h)}</th>" for h in headers)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table class='{kind}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
