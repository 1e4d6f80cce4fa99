"""tables, changelogs, events, PostgreSQL and ledger -> each held against the others and a fold -> the first difference.

What is done is written down part by part, with the positions that it holds for: a run that was ended goes on there.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from cli.attest import DECIDING
from cli.console import Found, Operator, json_option, note, progress, put_json, put_table
from cli.folding import scratch
from cli.processes import RECORDS_FOR_A_PROCESS, Process, processors, together
from cli.rooms import ROOT
from cli.verifying import Result, audits, parts, tasks, verify_audits, verify_tasks
from streams.attest import code_version
from streams.kafka import KafkaLog, onlooker
from streams.log_identity import read_identity

#: How often a process says how far it is.
TELL_S = 0.2
#: What of a value is worth a line of text.
MOST_SHOWN = 300


class Kept:
    """What an unfinished run has found so far: a line of JSON for each part, after one that says what it is of."""

    def __init__(self, file: Path, about: Result, anew: bool) -> None:
        self._file, self.about = file, about
        lines = [] if anew or not file.exists() else _lines(file)
        self.results = {each["part"]: each for each in lines[1:]} if lines[:1] == [about] else {}
        if not self.results:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(orjson.dumps(about) + b"\n")

    def add(self, result: Result) -> None:
        """One that could not be looked at is not kept: it is looked at again."""
        self.results[result["part"]] = result
        if "failed" not in result:
            with self._file.open("ab") as file:
                file.write(orjson.dumps(result) + b"\n")

    def close(self) -> None:
        """The run is over: the next one begins anew. What it found stays beside it."""
        self._file.replace(self._file.with_name("verified.jsonl"))


def _lines(file: Path) -> list[Result]:
    """All whole lines: a process that was killed may have left half of one."""
    found = []
    for line in file.read_bytes().split(b"\n"):
        try:
            found.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            break
    return found


@click.command()
@click.option("--anew", is_flag=True, help="Begin at the beginning, although a run was interrupted.")
@click.option(
    "--part", "wanted", metavar="NAME", multiple=True, help="Only this: a task such as orders-2, or an audit."
)
@click.option("--processes", type=click.IntRange(1), metavar="COUNT", help="Default: one for each processor.")
@click.option("--line-by-line", is_flag=True, hidden=True)
@json_option
@click.pass_obj
def verify(
    operator: Operator,
    anew: bool,
    wanted: tuple[str, ...],
    processes: int | None,
    line_by_line: bool,
    as_json: bool,
) -> None:
    """Hold everything against everything: tables, changelogs, events, PostgreSQL and ledger against each other and
    against a fold of the log by the rules at hand; and name the first difference.

    Task by task: stores of this machine against the changelogs, changelogs and events against a fold, as of the offsets
    that are committed. Then `ledger verify`, `items verify`, `numbers verify` and `sink verify`. Workers may run or
    not. A run that was ended goes on where it was. Exit codes: 0 all equal, 1 a difference, or a task that is being
    replayed, 2 usage, 3 no broker (or no PostgreSQL) answers.
    """
    every = list(parts(operator))
    if unknown := [name for name in wanted if name not in every]:
        raise click.BadParameter(f"there is no part {unknown[0]}; there are {', '.join(every)}", param_hint="--part")
    if line_by_line:
        _tell_lines(operator, wanted)
        return
    inputs = [name for group in operator.app.groups.values() for name in group.topics]
    cluster, topics = operator.run(operator.after_check(read_identity(operator.brokers, inputs)))
    about: Result = {
        "code": code_version(ROOT / room for room in DECIDING),
        "app": operator.app_id,
        "parts": list(wanted),
    }
    about |= {"cluster": cluster, "topics": dict(topics)}
    kept = Kept(operator.app.engine_settings().state_dir.parent / "verifying.jsonl", about, anew)
    left = [name for name in (wanted or every) if name not in kept.results]
    if kept.results:
        note(f"Going on with a run that was ended: {len(kept.results)} of {len(wanted or every)} parts are done.")
    began = time.perf_counter()
    _verify(operator, left, processes, kept)
    results = [kept.results[name] for name in wanted or every if name in kept.results]
    failed = [each for each in results if "failed" in each]
    if not failed:
        kept.close()
    differences = [{"part": each["part"], **each["difference"]} for each in results if each.get("difference")]
    if as_json:
        equal = not differences and not failed
        put_json({"equal": equal, "code": about["code"], "parts": results, "differences": differences})
    else:
        _show(operator, results, time.perf_counter() - began)
    if differences:
        more = f" There are {len(differences)} parts that differ: --json has them all." if differences[1:] else ""
        raise Found(f"{sentence(differences[0])}{more}")
    if failed:
        error = click.ClickException(f"{failed[0]['part']}: {failed[0]['failed']}")
        error.exit_code = failed[0]["exit_code"]
        raise error


def _verify(operator: Operator, names: Sequence[str], processes: int | None, kept: Kept) -> None:
    records = operator.run(operator.after_check(_how_much(operator, names)))
    count = processes or min(processors(), 1 + records // RECORDS_FOR_A_PROCESS)
    with progress("verifying", records) as bar:
        if count == 1:
            _here(operator, names, kept.add, bar.update)
        else:
            shares = [list(names[number::count]) for number in range(count)]
            runs = [_child(share, kept.add, bar.update) for share in shares if share]
            operator.run(together(*runs))


async def _how_much(operator: Operator, names: Iterable[str]) -> int:
    """Records that the tasks among these parts have to be folded from, and to be compared with."""
    settings, every = operator.app.engine_settings(), tasks(operator)
    chosen = [every[name] for name in names if name in every]
    read = [tp for group, n in chosen for tp in (*group.inputs(n), *group.changelogs(n).values())]
    async with onlooker(settings) as consumer:
        bounds = await KafkaLog(settings, consumer).bounds(read) if read else {}
    return sum(end - first for first, end in bounds.values())


def _here(
    operator: Operator, names: Iterable[str], tell: Callable[[Result], None], moved: Callable[[int], None]
) -> None:
    """In this process: tasks by the same loop, then each audit by one of its own."""
    names, known = list(names), audits(operator)
    chosen = [name for name in names if name not in known]
    with scratch(operator) as folder:
        if chosen:
            operator.run(verify_tasks(operator, chosen, folder, tell, moved))
    verify_audits(operator, (name for name in names if name in known), tell)


def _tell_lines(operator: Operator, names: Sequence[str]) -> None:
    """For the process that asked: a number is how many records were read since, anything else is a result."""
    count, told_at = 0, time.monotonic()

    def moved(more: int) -> None:
        nonlocal count, told_at
        count += more
        if time.monotonic() - told_at > TELL_S:
            print(count, flush=True)
            count, told_at = 0, time.monotonic()

    _here(operator, names, lambda result: print(orjson.dumps(result).decode(), flush=True), moved)


async def _child(names: Sequence[str], tell: Callable[[Result], None], moved: Callable[[int], Any]) -> None:
    """A process of its own for these parts: this command once more, as it was called. It ends with this one."""
    called = sys.argv[1 : sys.argv.index("verify")]
    options = [option for name in names for option in ("--part", name)]
    called += ["verify", "--line-by-line", *options]
    async with Process("cli.held", "faust", *called, path=os.pathsep.join(sys.path)) as process:
        async for line in process.lines():
            if line.isdigit():
                moved(int(line))
            elif line.startswith("{"):
                tell(orjson.loads(line))
        if (words := await process.last_words()) is not None:
            raise Found(words)


# -- words -------------------------------------------------------------------------------------------------------------


def sentence(difference: Result) -> str:
    """A difference in words."""
    what, key, at = difference["what"], difference["key"], difference["at"]
    if what not in ("table", "topic"):
        return f"{what}."
    place = f"{what} {difference['name']}, partition {difference['partition']}, key {key!r}"
    (one, first), (other, second) = difference["sides"].items()
    said = f"{place}: {one} has {_brief(first, second)}, {other} has {_brief(second, first)}."
    return said + (f" It follows from {at}." if at else "")


def _brief(value: Any, other: Any) -> str:
    """Of two documents only what differs."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {name: value[name] for name in value if name not in other or other[name] != value[name]}
    text = "nothing" if value is None else orjson.dumps(value).decode()
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _show(operator: Operator, results: Sequence[Result], seconds: float) -> None:
    """A line for each group and each audit."""
    known = audits(operator)
    lines: dict[str, list[Result]] = {}
    for each in results:
        name = each["part"] if each["part"] in known else each["part"].rpartition("-")[0]
        lines.setdefault(name, []).append(each)
    columns = ("records", "rows", "events", "stores")
    cells = [
        (name, len(found), *(f"{sum(each.get(column, 0) for each in found):,}" for column in columns), _verdict(found))
        for name, found in lines.items()
    ]
    put_table(("what", "parts", *columns, ""), cells)
    for each in results:
        if each.get("unfounded"):
            note(f"{each['part']}: {each['unfounded']}, so it was not held against a fold.")
    note(f"{seconds:.1f} s.")


def _verdict(found: Sequence[Result]) -> str:
    if any(each.get("difference") for each in found):
        return "differs"
    return "not looked at" if any("failed" in each for each in found) else "equal"
