"""a what-if report -> one HTML page without scripts or anything from elsewhere -> for people."""

from __future__ import annotations

from html import escape
from typing import Any

from cli.courses import pairs

STYLE = """
:root { color-scheme: light dark; --line: #8884; --was: #c2410c; --would: #15803d; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; } .up { color: var(--would); } .down { color: var(--was); }
tr.parts td { background: #facc1533; } code { font-size: .87em; overflow-wrap: anywhere; }
.big { font-size: 2rem; font-weight: 600; } details { margin: .2rem 0; } summary { cursor: pointer; }
pre { white-space: pre-wrap; font-size: .8rem; margin: .3rem 0; }
"""


def page(found: dict[str, Any]) -> str:
    """Everything in the report; every order has an address on the page."""
    orders = found["orders"]
    rules = [*found["rules"], *([f"revision {found['revision']}"] if found["revision"] else [])] or ["the same rules"]
    parts = [
        f"<h1>What if: {escape(', '.join(rules))}</h1>",
        f'<p><span class="big">{orders["end_differently"]:,}</span> of {orders["count"]:,} orders end differently;'
        f" {orders['another_way_to_the_same_end']:,} more go another way to the same end.<br>"
        f"{found['records']:,} records of the log were folded with both rules in {found['seconds']:.1f} s"
        f" ({found['records_per_s']:,} a second). Nothing was written and nobody was called.</p>",
    ]
    if found["dead_letters"]:
        parts.append(f"<p>Records that could not be applied: {found['dead_letters']:+,}.</p>")
    parts += ["<h2>Orders by status</h2>", _sums("status", found["by_status"])]
    for currency, sums in found["money"].items():
        parts += [f"<h2>Money, {escape(currency)}, in minor units</h2>", _sums("", sums)]
    parts += ["<h2>Orders that differ</h2>", _orders(found["differing"])]
    for each in found["sample"]:
        parts += [f"<h2>In full: <code>{escape(each['order_uid'])}</code></h2>", _courses(each)]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>What if</title>'
    body = "".join(parts)
    return f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>\n'


def _sums(what: str, lines: dict[str, dict[str, int]]) -> str:
    rows = []
    for name, each in lines.items():
        difference = each["difference"]
        kind = "up" if difference > 0 else "down"
        shown = f'<span class="{kind}">{difference:+,}</span>' if difference else ""
        cells = "".join(f'<td class="n">{cell}</td>' for cell in (f"{each['was']:,}", f"{each['would_be']:,}", shown))
        rows.append(f"<tr><td>{escape(name.removesuffix('_minor').replace('_', ' '))}</td>{cells}</tr>")
    head = f'<tr><th>{what}</th><th class="n">was</th><th class="n">would be</th><th class="n">difference</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>"


def _orders(orders: list[dict[str, Any]]) -> str:
    if not orders:
        return "<p>None: every order has the same events and ends the same.</p>"
    rows = [
        f'<tr id="{escape(each["order_uid"])}"><td><code>{escape(each["order_uid"])}</code></td>'
        f"<td>{_facts(each['was'])}</td><td>{_facts(each['would_be'])}</td><td>{_first(each['first_event'])}</td></tr>"
        for each in orders
    ]
    head = "<tr><th>order</th><th>was</th><th>would be</th><th>first event that differs</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _facts(order: dict[str, Any] | None) -> str:
    if order is None:
        return "the same end"
    named = (f"{escape(name.replace('_', ' '))}: {escape(str(value))}" for name, value in order.items())
    return "<br>".join(named)


def _first(first: dict[str, Any] | None) -> str:
    if first is None:
        return ""
    place = f"{first['topic']}, number {first['number']}"
    return f"{escape(place)}{_event(first['was'])}{_event(first['would_be'])}"


def _courses(sample: dict[str, Any]) -> str:
    rows = []
    for course in sample["courses"]:
        rows.append(f'<tr><th colspan="2">{escape(course["topic"])}</th></tr>')
        for was, would in pairs(course):
            mark = "" if was == would else ' class="parts"'
            rows.append(f"<tr{mark}><td>{_event(was)}</td><td>{_event(would)}</td></tr>")
    return f"<table><tr><th>was</th><th>would be</th></tr>{''.join(rows)}</table>"


def _event(event: dict[str, Any] | None) -> str:
    if event is None:
        return "<details open><summary>nothing</summary></details>"
    lines = "\n".join(f"{name}: {value}" for name, value in event.items())
    return f"<details><summary>{escape(str(event.get('type', 'bytes')))}</summary><pre>{escape(lines)}</pre></details>"
