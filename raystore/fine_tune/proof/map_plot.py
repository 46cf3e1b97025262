"""The two maps as SVG that is seen without a script, and the small script that links them: point at a row in one, find it in the
other. Pure: text in, text out. The script reads ids and labels from a JSON block, never from markup."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape

import numpy as np

from raystore.fine_tune.proof.proof import Maps, Proof

# Told apart on light and dark paper; what is left over is grey.
COLOURS = ("#3f83c9", "#d0672f", "#3f9b5a", "#b4518f", "#8a6fd1", "#ad861c", "#2a979f", "#cf4b4f", "#7d8c2e", "#a06a48")
REST = "#8a94a0"
_DOT = 15  # of 1000
_MARGIN = 24

STYLE = """
.maps { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 8px 24px }
@media (max-width: 620px) { .maps { grid-template-columns: minmax(0, 1fr) } }
.maps figure { margin: 0; position: relative; overflow: visible }
.maps figcaption { font-weight: 600; margin-bottom: 4px; overflow-wrap: anywhere }
.map { display: block; width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px; background: var(--lead);
  cursor: crosshair }
.map path { fill: none; stroke-linecap: round; stroke-opacity: .75 }
.map .rest { stroke-opacity: .35 }
.map.focus path { stroke-opacity: .1 }
.map.focus path.on { stroke-opacity: .95 }
.map circle { fill: none; stroke: var(--ink); stroke-width: 5; pointer-events: none }
.keys { display: flex; flex-wrap: wrap; gap: 4px 6px; margin: 10px 0; align-items: center }
.key { display: inline-flex; align-items: center; gap: 6px; border: 1px solid var(--line); border-radius: 99px; padding: 2px 10px;
  font: inherit; font-size: 13px; background: none; color: inherit; max-width: 100%; overflow-wrap: anywhere; text-align: left }
button.key { cursor: pointer }
button.key[aria-pressed=true] { border-color: var(--ink); box-shadow: 0 0 0 1px var(--ink) }
.key i { width: 10px; height: 10px; border-radius: 50%; flex: none }
.keys select { font: inherit; font-size: 13px; max-width: 100%; background: var(--paper); color: inherit; border: 1px solid var(--line);
  border-radius: 6px; padding: 3px 6px }
.told { max-width: none; min-height: 1.6em; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
@media (max-width: 620px) { .told { min-height: 4.8em } }
"""

SCRIPT = """
const data = JSON.parse(document.getElementById('map-data').textContent);
const maps = [...document.querySelectorAll('svg.map')], told = document.getElementById('map-told');
const keys = document.getElementById('map-keys'), sides = [data.before, data.after];
const idle = told.textContent;
let pinned = null;
const rings = maps.map(map => {
  const ring = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
  ring.setAttribute('r', 17); ring.style.display = 'none';
  map.append(ring); return ring;
});
function focus(code) {
  for (const map of maps) {
    map.classList.toggle('focus', code !== null);
    for (const path of map.querySelectorAll('path')) path.classList.toggle('on', Number(path.dataset.code) === code);
  }
}
function show(row) {
  rings.forEach((ring, side) => {
    ring.style.display = row === null ? 'none' : '';
    if (row === null) return;
    ring.setAttribute('cx', sides[side][row][0]); ring.setAttribute('cy', 1000 - sides[side][row][1]);
  });
  told.textContent = row === null ? idle : `${data.classes[data.codes[row]]}, row ${data.ids[row]}`;
  focus(row === null ? pinned : data.codes[row]);
}
function nearest(event, side) {
  const box = maps[side].getBoundingClientRect(), view = maps[side].viewBox.baseVal;
  const x = view.x + (event.clientX - box.left) / box.width * view.width;
  const y = view.y + (event.clientY - box.top) / box.height * view.height;
  let best = null, least = 40 * 40;
  sides[side].forEach((at, row) => {
    const off = (at[0] - x) ** 2 + (1000 - at[1] - y) ** 2;
    if (off < least) { least = off; best = row; }
  });
  return best;
}
function pin(code) {
  pinned = code;
  for (const key of keys.querySelectorAll('button')) key.setAttribute('aria-pressed', Number(key.dataset.code) === code);
  if (select) select.value = code === null ? '' : String(code);
  focus(code);
}
let select = null;
maps.forEach((map, side) => {
  map.addEventListener('pointermove', event => show(nearest(event, side)));
  map.addEventListener('pointerdown', event => show(nearest(event, side)));
  map.addEventListener('pointerleave', event => { if (event.pointerType === 'mouse') show(null); });
});
for (const key of [...keys.querySelectorAll('.key')]) {
  if (!key.dataset.code) continue;
  const button = document.createElement('button');
  button.className = 'key'; button.type = 'button'; button.dataset.code = key.dataset.code; button.append(...key.childNodes);
  button.setAttribute('aria-pressed', 'false');
  button.addEventListener('click', () => pin(pinned === Number(button.dataset.code) ? null : Number(button.dataset.code)));
  key.replaceWith(button);
}
if (data.classes.length > keys.querySelectorAll('button').length) {
  select = document.createElement('select');
  select.setAttribute('aria-label', 'Show one class');
  select.append(new Option('Show one class …', ''));
  data.classes.map((label, code) => [label, code]).filter(each => data.codes.includes(each[1]))
    .sort((a, b) => a[0].localeCompare(b[0])).forEach(([label, code]) => select.append(new Option(label, code)));
  select.addEventListener('change', () => pin(select.value === '' ? null : Number(select.value)));
  keys.append(select);
}
"""


def policy() -> str:
    """The page's content policy: nothing from anywhere, no script but this one."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def two_maps(proof: Proof, maps: Maps) -> str:
    """Both maps, the key to the coloured classes, the data and the script."""
    coloured = coloured_classes(proof, maps)
    figures = "".join(
        f"<figure><figcaption>{when}: {escape(name)}</figcaption>{_map(side, maps.codes, coloured, f'{when}: {name}')}</figure>"
        for when, name, side in (("Before", proof.before, maps.before), ("After", proof.after, maps.after))
    )
    keys = "".join(
        f"<span class='key' data-code='{code}'><i style='background:{colour}'></i>{escape(proof.classes[code])}</span>"
        for code, colour in coloured.items()
    )
    if len(coloured) < len(set(maps.codes)):
        keys += f"<span class='key'><i style='background:{REST}'></i>other classes</span>"
    about = {"classes": proof.classes, **maps.model_dump(include={"ids", "codes", "before", "after"})}
    # Inside of a script element only "</script" and "<!--" could end it; neither is left where "<" is written as an escape.
    data = json.dumps(about, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f"<div class='keys' id='map-keys'>{keys}</div>"
        "<p class='told soft' id='map-told' aria-live='polite'>Point at a row to see its id and class, and where it lies in the other "
        f"map. Choose a class to see it alone.</p><div class='maps'>{figures}</div>"
        f"<script type='application/json' id='map-data'>{data}</script><script>{SCRIPT}</script>"
    )


def coloured_classes(proof: Proof, maps: Maps) -> dict[int, str]:
    """Colours by class: all of them up to ten; of more the ten whose neighbours changed most surely, for better or worse."""
    there = sorted(set(maps.codes))
    if len(there) > len(COLOURS):
        changed = {c.label: min(abs(v) for v in (c.precision.low, c.precision.high) if v is not None)
                   for c in proof.per_class if c.precision.rose or c.precision.fell}  # fmt: skip
        sizes = np.bincount(maps.codes, minlength=len(proof.classes))
        there.sort(key=lambda code: (-changed.get(proof.classes[code], -1.0), -sizes[code], code))
    return dict(zip(there, COLOURS, strict=False))


def _map(points: Sequence[tuple[int, int]], codes: Sequence[int], colours: dict[int, str], title: str) -> str:
    """A path of dots for each class; the grey ones below, so that the coloured ones are seen."""
    dots: dict[int, list[str]] = {}
    for (x, y), code in zip(points, codes, strict=True):
        dots.setdefault(code, []).append(f"M{x} {1000 - y}h0")
    order = sorted(dots, key=lambda code: (code in colours, code))
    paths = "".join(
        f"<path class='{'dots' if code in colours else 'rest'}' data-code='{code}' stroke='{colours.get(code, REST)}'"
        f" d='{''.join(dots[code])}'/>"
        for code in order
    )
    low, size = -_MARGIN, 1000 + 2 * _MARGIN
    return (
        f"<svg class='map' viewBox='{low} {low} {size} {size}' role='img' aria-label='{escape(title, quote=True)}'"
        f" stroke-width='{_DOT}'>{paths}</svg>"
    )
