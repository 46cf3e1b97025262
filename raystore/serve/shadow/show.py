"""How a shadow report is shown: sentences and tables, in the terminal and in HTML. Labels and numbers, never content."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from raystore.serve.shadow.measures import ClassFlips, Drift, Estimate, Latency
from raystore.train.compare.show import comparison_page, gain, mcnemar_said, moved_classes, verdict
from raystore.train.report.html import document

if TYPE_CHECKING:
    from raystore.serve.shadow.report import ShadowReport

_SHOWN = 10
_ON_PAGE = 100


def title(r: ShadowReport) -> str:
    return f"{r.shadow} in the shadow of {r.live}"


def seen(r: ShadowReport) -> str:
    """How much of the traffic the report is about."""
    if not r.n_paired or r.since is None or r.until is None:
        return f"Deployment {r.deployment}: no request was seen by both."
    subjects = "" if r.entities == r.n_paired else f", of {r.entities:,} subjects"
    return (
        f"Deployment {r.deployment}: {r.n_paired:,} of {r.n_live:,} requests were seen by both ({r.coverage:.1%}){subjects}, "
        f"{r.since:%Y-%m-%d %H:%M} to {r.until:%Y-%m-%d %H:%M} UTC."
    )


def agreement_said(r: ShadowReport) -> str:
    """How much they agree, in a sentence; nothing without pairs."""
    if r.agreement is not None:
        what = "sets of labels" if r.task == "labels" else "label"
        said = f"They give the same {what} to {_share(r.agreement)}"
        answered = r.agreement_answered
        if answered is not None and r.abstained is not None and (r.abstained.live or r.abstained.shadow):
            said += f"; where neither abstains, to {_share(answered)}"
        return f"{said}."
    if r.absolute_difference is not None and r.difference is not None:
        alike = "" if r.correlation is None else f"; their correlation is {r.correlation:.3f}"
        return (
            f"Their numbers lie {_number(r.absolute_difference)} apart on average, the shadow's {_number(r.difference)} above"
            f"{alike}."
        )
    return ""


def labelled_said(r: ShadowReport) -> list[str]:
    """What the labels say, or that there are none."""
    if not r.n_paired:
        return []
    if r.comparison is None:
        return ["No pair has a label yet, so which head is better is not known."]
    said = [f"{r.n_labelled:,} pairs have a label ({r.n_labelled / r.n_paired:.1%}).", verdict(r.comparison)]
    return [*said, *([mcnemar_said(r.comparison)] if r.comparison.mcnemar else [])]


def needed_said(r: ShadowReport) -> str:
    """What the numbers of labels stand on; nothing where there are none."""
    if not r.needed or r.discordance is None:
        return ""
    alone = "can be right on at most" if r.discordance_is_bound else "is right on"
    of = "the pairs" if r.discordance_is_bound else "the labelled pairs"
    return (
        f"One head alone {alone} {r.discordance:.1%} of {of}. Labels that tell a gain, of different subjects "
        "(McNemar, two-sided 5%, 80% power):"
    )


def needed_rows(r: ShadowReport) -> list[tuple[str, str, str]]:
    """A gain, how many labels tell it, and how many more than there are."""
    return [
        (
            gain("accuracy", n.gain),
            *(("more than they differ by", "") if n.pairs is None else (f"{n.pairs:,}", f"{n.more:,}")),
        )
        for n in r.needed
    ]


def both_rows(r: ShadowReport) -> list[tuple[str, str, str]]:
    """Figures that each head has: name, live, shadow."""
    rows: list[tuple[str, str, str]] = []
    if r.abstained is not None and r.task == "classes":
        rows.append(("abstains", f"{r.abstained.live:.1%}", f"{r.abstained.shadow:.1%}"))
    if r.confidence_live is not None and r.confidence_shadow is not None:
        rows.append(("mean confidence", f"{r.confidence_live:.3f}", f"{r.confidence_shadow:.3f}"))
    if r.latency_live is not None or r.latency_shadow is not None:
        live, shadow = r.latency_live, r.latency_shadow
        rows += [
            (f"head's ms, {quantile}", _ms(live, quantile), _ms(shadow, quantile)) for quantile in ("p50", "p95", "p99")
        ]
    if r.drift_live is not None and r.drift_shadow is not None:
        rows.append(("drift (PSI)", _psi(r.drift_live), _psi(r.drift_shadow)))
    return rows


def changed_classes(r: ShadowReport) -> list[ClassFlips]:
    """Those that the heads do not give alike, the most changed first."""
    return sorted((c for c in r.per_class if c.left or c.came), key=lambda c: (-(c.left + c.came), c.label))


def report_text(r: ShadowReport) -> str:
    """For a terminal of 100 columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    console = Console(
        file=out, force_jupyter=False, width=100, color_system=None, highlight=False, markup=False, emoji=False
    )

    def draw(header: Sequence[str], rows: Sequence[Sequence[str]], named: str = "", left: int = 1) -> None:
        if not rows:
            return
        table = Table(box=None, pad_edge=False, title=named or None, title_justify="left", title_style="")
        for i, column in enumerate(header):
            text = i < left
            table.add_column(Text(column), justify="left" if text else "right", overflow="ellipsis", no_wrap=text)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print("", table, sep="\n")

    console.print(title(r))
    for said in (seen(r), agreement_said(r)):
        if said:
            console.print(said)
    draw(("", r.live, r.shadow), both_rows(r))
    draw(_FLIP_HEADER, _flip_cells(r, _SHOWN), _first("flips", _SHOWN, r.n_flips), left=2)
    if r.task == "labels":
        draw(_CLASS_HEADER, _class_cells(r, _SHOWN), _first("labels given otherwise", _SHOWN, len(changed_classes(r))))
    console.print()
    for said in labelled_said(r):
        console.print(said)
    if r.comparison is not None and (moved := moved_classes(r.comparison)):
        rows = [[c.label, f"{c.gained:,}", f"{c.lost:,}", f"{c.support:,}"] for c in moved[:_SHOWN]]
        draw(("class", "gained", "lost", "labelled"), rows, _first("classes that changed", _SHOWN, len(moved)))
    if said := needed_said(r):
        console.print("", said, sep="\n")
        draw(_NEEDED_HEADER, needed_rows(r))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def report_page(r: ShadowReport, *, whole: bool = True) -> str:
    """The report as one HTML file, or as what a notebook shows."""
    parts = [f"<h1>{escape(title(r))}</h1>" if whole else f"<p><b>{escape(title(r))}</b></p>", _p(seen(r), "soft")]
    parts.append(_p(agreement_said(r), "lead"))
    parts.append(_table(("", r.live, r.shadow), both_rows(r)))
    most = _ON_PAGE if whole else _SHOWN
    if r.flips:
        parts.append(f"<h2>{escape(_first('flips', most, r.n_flips))}</h2>")
        parts.append(
            _p(f"Requests that {r.live} calls one thing and {r.shadow} another, and their share of all that it calls so.")
        )
        parts.append(_table(_FLIP_HEADER, _flip_cells(r, most)))
    if changed := _class_cells(r, most):
        what = "labels" if r.task == "labels" else "classes"
        parts.append(f"<h2>{escape(_first(f'{what} given otherwise', most, len(changed_classes(r))))}</h2>")
        parts.append(_table(_CLASS_HEADER, changed))
    parts.append("<h2>Labels</h2>" if whole else "<p>Labels</p>")
    if r.comparison is None:
        parts += [_p(said) for said in labelled_said(r)]
    else:
        parts.append(comparison_page(r.comparison, whole=False))
    parts += [_p(needed_said(r)), _table(_NEEDED_HEADER, needed_rows(r))]
    return document(title(r), parts) if whole else f"<div>{''.join(parts)}</div>"


_NEEDED_HEADER = ("gain", "labels", "still needed")
_FLIP_HEADER = ("live", "shadow", "requests", "of live's label")
_CLASS_HEADER = ("", "live gives it", "shadow gives it", "both", "live alone", "shadow alone")


def _class_cells(r: ShadowReport, most: int) -> list[list[str]]:
    return [
        [c.label, f"{c.live:,}", f"{c.shadow:,}", f"{c.both:,}", f"{c.left:,}", f"{c.came:,}"]
        for c in changed_classes(r)[:most]
    ]


def _flip_cells(r: ShadowReport, most: int) -> list[list[str]]:
    return [[f.live, f.shadow, f"{f.count:,}", f"{f.share:.1%}"] for f in r.flips[:most]]


def _first(what: str, shown: int, n: int) -> str:
    return f"{what[0].upper()}{what[1:]}" if n <= shown else f"The {shown} most frequent of {n:,} {what}"


def _share(e: Estimate) -> str:
    return f"{e.value:.1%} ({e.low:.1%} to {e.high:.1%})"


def _number(e: Estimate) -> str:
    return f"{e.value:.4g} ({e.low:.4g} to {e.high:.4g})"


def _ms(latency: Latency | None, quantile: str) -> str:
    return "" if latency is None else f"{getattr(latency, quantile):.2f}"


def _psi(drift: Drift) -> str:
    return f"{drift.psi:.3f} (chance {drift.chance:.3f})"


def _p(said: str, kind: str = "") -> str:
    return f"<p{f' class={kind!r}' if kind else ''}>{escape(said)}</p>" if said else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table class='classes'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
