"""a worker under load + py-spy -> where the CPU of an order goes -> bench/profile.md."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bench.folds import Fed, Fold, OurFold, Product
from bench.ground import Ground, NotReady
from local.process import Child

RATE_HZ = 250
MAIN_THREAD = ": MainThread"
TOP = 10

#: What a frame means for somebody who does not know the code. Where a line of C is called from, its time counts there.
EXPLAINED = {
    "first_look (schemas/orders/first_look.py)": "msgspec parses and checks every field, in C; then the sums",
    "read_document (schemas/orders/reading.py)": "pydantic parses and checks every field of the document, in Rust",
    "_is_plain (schemas/orders/reading.py)": "counts colons, so that no name can have come twice unseen",
    "_adds_up (schemas/orders/reading.py)": "sums, currency, track numbers: the rules that span fields",
    "of (schemas/orders/words.py)": "a PlaceOrder, checked by pydantic once more",
    "_placed (agents/orders.py)": "an OrderPlaced, checked by pydantic, and its id",
    "carry_out (agents/orders.py)": "the agent's own steps: home, decide, keep, send",
    "derived_id (schemas/base.py)": "SHA-1 of the cause: the ids of command and event, the same in a replay",
    "encode_event (schemas/orders/words.py)": "the event's JSON; the document goes in as the bytes that came",
    "to_json (schemas/orders/words.py)": "JSON of the order and of its timeline entry",
    "keep (tables/orders.py)": "the rows of an order: itself, its timeline, two indexes",
    "murmur2 (streams/partitioner.py)": "Kafka's hash of the key, in Python: is the record at home?",
    "__setitem__ (streams/table.py)": "a row's key and value become bytes",
    "put (streams/batch.py)": "a row of the overlay, with an undo entry for the savepoint",
    "_prepared (streams/topic.py)": "the record for the outbox, its size checked",
    "__init__ (pydantic/main.py)": "PlaceOrder and OrderPlaced, checked by pydantic once more",
    "get (streams/batch.py)": "a read through overlay and store",
    "reset (streams/batch.py)": "frees the rows and sends of the batch before",
    "savepoint (streams/batch.py)": "what a record does from here on can be undone",
    "__aiter__ (streams/agent.py)": "one record handed to the agent: savepoint, decode, yield",
    "_batches (streams/transactions.py)": "records into batches for the broker, one by one, in C",
    "_build (aiokafka/producer/message_accumulator.py)": "the finished batch: its CRC, in C",
    "_unpack_records (aiokafka/consumer/fetcher.py)": "records out of fetched batches, one object each, in C; lz4",
    "apply (streams/store.py)": "rows into RocksDB's WriteBatch",
    "_write (streams/store.py)": "the WriteBatch into RocksDB's memtables",
    "get (streams/store.py)": "a read of RocksDB: is there such an order already?",
    "write (asyncio/selector_events.py)": "system calls: bytes to the broker (and to PostgreSQL)",
    "_read_ready__data_received (asyncio/selector_events.py)": "system calls: bytes from the broker",
    "select (selectors.py)": "epoll",
    "_run_once (asyncio/base_events.py)": "the event loop",
    "read_event (agents/effects/postgres/rows.py)": "the sink: an event parsed again and made rows",
    "copy_records_to_table (asyncpg/connection.py)": "the sink: rows encoded for COPY, in C",
    "<lambda> (<string>)": "a NamedTuple is made",
    "fold_kept (bench/fold_app.py)": "the bare fold: msgspec decodes what the checks need, the state is written",
    "fold_whole (bench/fold_app.py)": "the bare fold: orjson decodes and encodes everything",
    "accept (bench/fold_app.py)": "the bare fold's agent",
}

#: The first of these that a stack holds says what the work was for.
AREAS = (
    ("check the document", ("check_document (schemas/orders/reading.py)", "read_document (schemas/orders/reading.py)")),
    ("commit: build batches", ("_batches (streams/transactions.py)",)),
    ("commit: requests", ("(streams/transactions.py)",)),
    ("store: write", ("apply (streams/store.py)",)),
    ("store: read", ("get (streams/store.py)",)),
    ("tables: rows and their JSON", ("keep (tables/orders.py)", "put (streams/batch.py)")),
    ("event: decide", ("decide (agents/orders.py)",)),
    ("event: encode", ("encode_event (schemas/orders/words.py)",)),
    ("home partition", ("murmur2 (streams/partitioner.py)", "partition_for (streams/partitioner.py)")),
    ("command: make", ("placement (agents/orders.py)",)),
    ("agent and stream, the rest", ("_drive (streams/agent.py)",)),
    ("task, the rest", ("process (streams/task.py)", "step (streams/task.py)")),
    ("sink", ("step (streams/sink.py)", "_run (streams/sink.py)", "(agents/effects/postgres/", "(asyncpg/")),
    (
        "fetch: parse records",
        ("_unpack_records (aiokafka/consumer/fetcher.py)", "_proc_fetch_request (aiokafka/consumer/fetcher.py)"),
    ),
    ("Kafka client, network", ("(aiokafka/",)),
)


class Profile(NamedTuple):
    """Samples by function, each stack counted once per function, and by area."""

    total: int
    own: Counter[str]
    areas: Counter[str]


def run(ground: Ground, count: int, bare: bool = False) -> str:
    """Feed one worker and watch it; gives the report as Markdown. Raises NotReady when py-spy may not look."""
    fold: Fold = OurFold(ground) if bare else Product(ground)
    raw = ground.data_dir / "profile.raw"
    with fold:
        fold.feed(max(1, count // 10))  # caches fill, code is specialised
        pid = fold.children[0].pid
        spy: list[Child] = []
        before: list[Counter[str]] = []
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(pid), "--rate", str(RATE_HZ)]
        command += ["--format", "raw", "--threads", "--output", str(raw), "--duration", "600"]

        def look() -> None:
            before.append(threads(pid))
            spy.append(
                Child.start("py-spy", command, ground.data_dir / "logs" / "py-spy.log", stop_signal=signal.SIGINT)
            )

        fed = fold.feed(count, first=max(1, count // 10), at_gate=look)
        spent = threads(pid) - before[0]
        spy[0].stop()
    if not raw.exists():
        raise NotReady(
            f"py-spy wrote nothing; it needs the right to trace (root, or ptrace_scope 0):\n{spy[0].log_tail()}"
        )
    return report(read(raw.read_text().splitlines()), fold.title, count, fed, spent)


def read(lines: Iterable[str]) -> Profile:
    """py-spy's raw format: `thread;frame;frame count`, the outermost first, a frame is `name (file:line)`.

    Of the main thread: what others wait for, py-spy takes for work.
    """
    total, own, areas = 0, Counter[str](), Counter[str]()
    for line in lines:
        stack, _, number = line.rpartition(" ")
        thread, *called = stack.split(";")
        if not thread.endswith(MAIN_THREAD):
            continue
        frames = [_without_line(frame) for frame in called]
        count = int(number)
        total += count
        own[frames[-1]] += count
        areas[_area(frames)] += count
    return Profile(total, own, areas)


def _without_line(frame: str) -> str:
    name = re.sub(r":\d+\)$", ")", frame)
    return re.sub(r"\((?:.*?/site-packages/|.*?/lib/python[0-9.]+/)", "(", name)


def _area(frames: list[str]) -> str:
    for area, marks in AREAS:
        if any(_is(frame, mark) for frame in frames for mark in marks):
            return area
    return "the rest"


def report(profile: Profile, title: str, count: int, fed: Fed, spent: Counter[str]) -> str:
    # Only Python's own thread is sampled: RocksDB's compaction would otherwise count for functions that did not do it.
    micros = fed.cpu_ms * 1000 * (spent["Python"] / spent.total() if spent else 1)
    tick_us = 1e6 / os.sysconf("SC_CLK_TCK")
    apart = ", ".join(f"{kind} {ticks * tick_us / count:.1f} µs" for kind, ticks in spent.most_common())

    def share(part: int) -> str:
        return f"{100 * part / profile.total:.1f} % | {micros * part / profile.total:.1f}"

    tops = profile.own.most_common(TOP)
    lines = [
        "# Where the CPU of an order goes",
        "",
        f"`python -m bench profile`: {title}, {count:,} orders at once, {fed.per_s:,.0f} orders/s, "
        f"{fed.cpu_ms * 1000:.1f} µs of CPU per order, {profile.total:,} samples of py-spy. Time in C and Rust counts "
        f"for the Python function that called it. Threads: {apart}.",
        "",
        f"## The top {TOP}",
        "",
        "| own time | µs per order | function | what it is |",
        "| --- | --- | --- | --- |",
        *(f"| {share(part)} | `{name}` | {_explained(name)} |" for name, part in tops),
        "",
        "## By purpose",
        "",
        "| share | µs per order | purpose |",
        "| --- | --- | --- |",
        *(f"| {share(part)} | {area} |" for area, part in profile.areas.most_common()),
        "",
    ]
    return "\n".join(lines)


def _is(frame: str, mark: str) -> bool:
    """`f (file)` is also `Class.f (file)`; a mark that begins with a bracket is any function of such a file."""
    return frame == mark or frame.endswith(f".{mark}") or (mark.startswith("(") and mark in frame)


def _explained(frame: str) -> str:
    return next((text for known, text in EXPLAINED.items() if _is(frame, known)), "")


def threads(pid: int) -> Counter[str]:
    """CPU of a process's threads by kind, in clock ticks; empty where there is no /proc."""
    spent: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            name, rest = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            kind = "Python" if int(task.name) == pid else "RocksDB" if name.startswith("rocksdb") else "other threads"
            # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: utime and stime are fields 14 and 15.
            spent[kind] += sum(map(int, rest.split()[11:13]))
    return spent
