"""the log and other rules -> every order folded both ways, nothing touched -> which end differently, and where."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from cli.console import Found, Operator, json_option, note, put_json, put_table
from cli.courses import MONEY, pairs, report
from cli.folding import describe, fold_pasts, fold_shadow, scratch, spool_pasts
from cli.rooms import furnish
from cli.snapshot import move
from cli.what_if_page import page
from streams.errors import LogMismatch, NotReadable
from streams.snapshot import Snapshot

#: Lines of a table that somebody reads.
MOST_LINES = 20


@click.command(name="what-if")
@click.option(
    "--rules",
    metavar="MODULE",
    multiple=True,
    help="A module or a .py file that is imported before the rules are wired, or MODULE=FILE: a file in place of one"
    " of ours, as agents.purchases.rules=mine.py (repeatable).",
)
@click.option("--revision", metavar="GITREV", help="Schemas, tables and agents as they are in this git revision.")
@click.option("--sample", default=1, show_default=True, metavar="COUNT", help="Orders to show in full.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page for people.")
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), help="Keep the snapshot, for `diff`.")
@json_option
@click.pass_obj
def what_if(
    operator: Operator,
    rules: tuple[str, ...],
    revision: str | None,
    sample: int,
    html: Path | None,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Try other rules on the real past: which orders would have ended differently, where, and for how much money?

    The log is read and folded twice, with the rules at hand and with the others, in processes that know no broker:
    nothing is written, no group is touched, nobody is called. Workers may run or not. Without --rules and --revision
    the rules are tried on themselves, and nothing differs. Exit codes: 0 done, 1 the rules could not be folded or the
    log is not whole, 2 no such module, file or revision, 3 no broker answers.
    """
    with scratch(operator) as folder:
        module = furnish(folder / "rooms", rules, revision)
        began = time.perf_counter()
        count = operator.run(operator.after_check(_fold(operator, folder, module)))
        seconds = time.perf_counter() - began
        with Snapshot(folder / "was.snapshot") as was, Snapshot(folder / "shadow.snapshot") as would:
            found = report(was, would, sample)
        if keep is not None:
            move(folder / "shadow.snapshot", keep)
    found = {
        "rules": list(rules),
        "revision": revision,
        "records": count,
        "seconds": round(seconds, 3),
        "records_per_s": round(count / seconds),
        **found,
    }
    if html is not None:
        html.write_text(page(found))
        note(f"A page for people: {html}")
    if as_json:
        put_json(found)
    else:
        show(found)


async def _fold(operator: Operator, folder: Path, module: str | None) -> int:
    try:
        count, reached = await spool_pasts(operator, folder)
    except (LogMismatch, NotReadable) as error:
        raise Found(f"{error}.") from None
    await fold_pasts(operator, folder, count, folder / "was.snapshot")
    would = await fold_shadow(operator, folder, count, folder / "rooms", module)
    with Snapshot(would) as snapshot:
        describe(snapshot, reached)
    return count


def show(found: dict[str, Any]) -> None:
    """The report as tables."""
    orders = found["orders"]
    head = f"{found['records']:,} records folded twice in {found['seconds']:.1f} s"
    click.echo(f"{head}: {orders['end_differently']} of {orders['count']:,} orders end differently.")
    if orders["another_way_to_the_same_end"]:
        click.echo(f"Another way to the same end: {orders['another_way_to_the_same_end']}.")
    if found["dead_letters"]:
        click.echo(f"Records that could not be applied: {found['dead_letters']:+} (dead_letters.v1).")
    if not found["differing"]:
        return
    click.echo()
    put_table(("status", "was", "would be", ""), [_line(name, each) for name, each in found["by_status"].items()])
    for currency, sums in found["money"].items():
        click.echo()
        names = [*MONEY, "moved_minor"]
        put_table((currency, "was", "would be", ""), [_line(name, sums[name]) for name in names])
    click.echo()
    put_table(
        ("order", "was", "would be", "first other event"), [_order(each) for each in found["differing"]][:MOST_LINES]
    )
    if (more := len(found["differing"]) - MOST_LINES) > 0:
        click.echo(f"and {more} more: --json and --html have them all")
    for each in found["sample"]:
        click.echo(f"\nIn full: {each['order_uid']}")
        put_table(("", "was", "would be"), course_lines(each))


def _line(name: str, each: dict[str, int]) -> tuple[str, str, str, str]:
    difference = f"{each['difference']:+,}" if each["difference"] else ""
    return name, f"{each['was']:,}", f"{each['would_be']:,}", difference


def _order(each: dict[str, Any]) -> tuple[str, str, str, str]:
    first = each["first_event"]
    where = (
        ""
        if first is None
        else f"{first['topic']} #{first['number']}: {_kind(first['was'])} / {_kind(first['would_be'])}"
    )
    return each["order_uid"], standing(each["was"]), standing(each["would_be"]), where


def standing(order: dict[str, Any] | None) -> str:
    """An order in a few words."""
    if order is None:
        return "the same"
    total = f" {order['total_minor']:,} {order['currency']}" if "total_minor" in order and "currency" in order else ""
    why = f" ({order['ended']})" if order.get("ended") else ""
    return f"{order.get('status', '')}{total}{why}"


def course_lines(sample: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Both courses of an order side by side; `*` marks where they part."""
    lines: list[tuple[str, str, str]] = []
    for course in sample["courses"]:
        for was, would in pairs(course):
            lines.append(("" if was == would else "*", told(was), told(would)))
    return lines


def told(event: dict[str, Any] | None) -> str:
    """An event in a few words: what it is, and the facts that a reader looks for."""
    if event is None:
        return ""
    names = ("price_minor", "quantity", "amount_minor", "total_minor", "capture_minor", "refund_minor", "reason")
    facts = [f"{name.removesuffix('_minor')} {event[name]}" for name in names if event.get(name) is not None]
    return " ".join([_kind(event), *facts])


def _kind(event: dict[str, Any] | None) -> str:
    return "nothing" if event is None else str(event.get("type", "?"))
