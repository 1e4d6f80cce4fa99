"""a worker under load + py-spy -> where the CPU of an order goes -> bench/profile.md."""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.folds import Fed, Fold, OurFold, Product
from bench.ground import Ground, NotReady
from local.process import Child

RATE_HZ = 250
TOP = 10

#: What a frame means for somebody who does not know the code. Where a line of C is called from, its time counts there.
EXPLAINED = {
    "read_document (schemas/orders/reading.py)": "pydantic parses and checks every field of the document, in Rust",
    "_is_plain (schemas/orders/reading.py)": "counts colons, so that no name can have come twice unseen",
    "_adds_up (schemas/orders/reading.py)": "sums, currency, track numbers: the rules that span fields",
    "of (schemas/orders/words.py)": "a PlaceOrder, checked by pydantic once more",
    "_placed (agents/orders.py)": "an OrderPlaced, checked by pydantic, and its uuid5",
    "event_id_for (schemas/base.py)": "the event's uuid5: SHA-1 of the cause, in Python",
    "derived_id (schemas/base.py)": "uuid5: SHA-1 of the cause, in Python's uuid module",
    "uuid5 (uuid.py)": "SHA-1 and a UUID object for the event's id",
    "__init__ (uuid.py)": "a UUID object that is made only to become text",
    "encode_event (schemas/orders/words.py)": "the event's JSON; the document goes in as the bytes that came",
    "to_json (schemas/orders/words.py)": "JSON of the order and of its timeline entry",
    "murmur2 (streams/partitioner.py)": "Kafka's hash of the key, in Python: is the record at home?",
    "_send_partition (streams/kafka.py)": "records into batches for the broker (C, called record by record)",
    "apply (streams/store.py)": "rows into RocksDB's WriteBatch, and the write",
    "get (streams/store.py)": "RocksDB reads: is there such an order already?",
    "__init__ (pydantic/main.py)": "a pydantic model is made and checked: PlaceOrder, OrderPlaced",
    "_put (streams/batch.py)": "the overlay, with an undo entry for the savepoint",
    "set (streams/batch.py)": "the overlay's row, with the codec's bytes",
    "keep (tables/orders.py)": "four rows of an order: itself, its timeline, two indexes",
    "_unpack_records (aiokafka/consumer/fetcher.py)": "records out of fetched batches (C), one object each",
    "_maybe_uncompress": "lz4",
    "carry_out (agents/orders.py)": "the agent's own steps",
    "rfc3339 (schemas/base.py)": "the record's time as text",
    "place_of (tables/orders.py)": "the key of the index by time",
    "read_event (agents/effects/postgres/rows.py)": "the sink: an event parsed again and made a row",
    "copy_records_to_table (asyncpg/connection.py)": "the sink: rows encoded for COPY, in C",
    "_copy_in_records (asyncpg/connection.py)": "the sink: rows encoded for COPY, in C",
}

#: The first of these that a stack holds says what the work was for.
AREAS = (
    ("check the document", ("read_document (schemas/orders/reading.py)",)),
    ("commit: build and send batches", ("send (streams/kafka.py)",)),
    (
        "commit: offsets and the transaction's requests",
        ("send_offsets (streams/kafka.py)", "commit (streams/kafka.py)", "begin (streams/kafka.py)"),
    ),
    ("store: write", ("apply (streams/store.py)",)),
    ("store: read", ("get (streams/store.py)",)),
    ("tables: rows and their JSON", ("keep (tables/orders.py)", "set (streams/batch.py)")),
    ("event: decide", ("decide (agents/orders.py)",)),
    ("event: encode", ("encode_event (schemas/orders/words.py)",)),
    ("home partition", ("murmur2 (streams/partitioner.py)", "partition_for (streams/partitioner.py)")),
    ("command: make", ("placement (agents/orders.py)",)),
    ("agent and stream, the rest", ("_drive (streams/agent.py)",)),
    ("task, the rest", ("process (streams/task.py)", "step (streams/task.py)")),
    ("sink", ("step (streams/sink.py)", "_run (streams/sink.py)")),
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
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(pid), "--rate", str(RATE_HZ)]
        command += ["--format", "raw", "--output", str(raw), "--duration", "600"]

        def look() -> None:
            spy.append(
                Child.start("py-spy", command, ground.data_dir / "logs" / "py-spy.log", stop_signal=signal.SIGINT)
            )

        fed = fold.feed(count, first=max(1, count // 10), at_gate=look)
        spy[0].stop()
    if not raw.exists():
        raise NotReady(
            f"py-spy wrote nothing; it needs the right to trace (root, or ptrace_scope 0):\n{spy[0].log_tail()}"
        )
    return report(read(raw.read_text().splitlines()), fold.title, count, fed)


def read(lines: Iterable[str]) -> Profile:
    """py-spy's raw format: `frame;frame;frame count`, the outermost first, a frame is `name (file:line)`."""
    total, own, areas = 0, Counter[str](), Counter[str]()
    for line in lines:
        stack, _, number = line.rpartition(" ")
        frames = [_without_line(frame) for frame in stack.split(";")]
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
        if any(mark in frame for frame in frames for mark in marks):
            return area
    return "the rest"


def report(profile: Profile, title: str, count: int, fed: Fed) -> str:
    micros = fed.cpu_ms * 1000

    def share(part: int) -> str:
        return f"{100 * part / profile.total:.1f} % | {micros * part / profile.total:.1f}"

    tops = profile.own.most_common(TOP)
    lines = [
        "# Where the CPU of an order goes",
        "",
        f"`python -m bench profile`: {title}, {count:,} orders at once, {fed.per_s:,.0f} orders/s, {micros:.1f} µs of "
        f"CPU per order, {profile.total:,} samples of py-spy. Time in C and Rust counts for the Python function that",
        "called it.",
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


def _explained(name: str, explained: Mapping[str, str] = EXPLAINED) -> str:
    return next((text for known, text in explained.items() if name.startswith(known) or known in name), "")
