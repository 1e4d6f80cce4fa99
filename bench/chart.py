"""lines of results.json -> one SVG with a panel of bars for each of the chief lines, for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

#: Which lines, and how a panel is headed. A line without figures is left out.
PANELS = {
    "throughput": "Orders per second, exactly-once but for Faust (more is better)",
    "product": "Orders per second with all that the product does (more is better)",
    "cpu": "CPU seconds per 1,000 orders, broker apart (less is better)",
    "latency_p99": "Produce to committed event at 1,000/s, p99 in ms (less is better)",
    "restore": "300,000 orders from an empty store to ready, in seconds (less is better)",
}
OURS = {"product": "Orderstream, full product"}

WIDTH, LABEL, VALUE, BAR, GAP, HEAD, PAD = 760, 210, 90, 20, 6, 30, 18
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .head { font-weight: 600 } .ours { fill: #0969da } .peer { fill: #afb8c1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .ours { fill: #4493f8 } .peer { fill: #57606a }
  }
"""


def draw(lines: Mapping[str, Mapping[str, Any]]) -> str:
    panels, y = [], PAD
    for name, title in PANELS.items():
        if name in lines:
            text, height = _panel(lines[name], title, OURS.get(name, "Orderstream"), y)
            panels.append(text)
            y += height + PAD
    body = "\n".join(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">\n'
        f"<title>Orderstream beside its peers, same machine, same broker</title>\n<style>{STYLE}</style>\n"
        f"{body}\n</svg>\n"
    )


def _panel(line: Mapping[str, Any], title: str, ours: str, top: int) -> tuple[str, int]:
    bars = {ours: line["ours"], **line["peers"]}
    largest = max(bars.values()) or 1
    room = WIDTH - LABEL - VALUE
    parts = [f'<text class="head" x="0" y="{top + 14}">{escape(title)}</text>']
    for number, (label, value) in enumerate(bars.items()):
        y, width = top + HEAD + number * (BAR + GAP), max(1.0, room * value / largest)
        kind = "peer" if number else "ours"
        parts += [
            f'<text x="0" y="{y + 15}">{escape(label)}</text>',
            f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>',
            f'<text x="{LABEL + width + 8:.1f}" y="{y + 15}">{_figure(value)}</text>',
        ]
    return "\n".join(parts), HEAD + len(bars) * (BAR + GAP)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
