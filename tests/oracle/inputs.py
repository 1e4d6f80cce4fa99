"""records of `orders` and `orders.commands.v1` -> what each of them asks for, or the paths of its faults."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.oracle import documents
from tests.oracle.documents import ORDER_UID, Object, like, parse, tree_faults
from tests.oracle.log import COMMANDS, INTAKE, Log, Record, derived, home_of

WHITE = b" \t\r\n"
COMMAND_ID = like(r"[!-~]{1,64}")
_MEMBER = re.compile(rb'"document"\s*:\s*')


class Command(NamedTuple):
    """What a record asks for: to place the order that `document` describes, or (no document) to cancel one."""

    command_id: str
    order_uid: str
    document: bytes | None
    customer_id: str = ""
    reason: str = ""

    @property
    def places(self) -> bool:
        return self.document is not None


@dataclass(frozen=True, slots=True)
class Input:
    """One record of an input topic. Without a command it is poison, and `faults` says where."""

    record: Record
    command: Command | None
    faults: frozenset[str]
    home: int | None

    @property
    def at_home(self) -> bool:
        return self.home == self.record.partition


def read_inputs(log: Log) -> list[Input]:
    """Every input, in the order of topics, partitions and offsets."""
    found = [_bare(record, log.partitions) for record in log.of(INTAKE)]
    return found + [_told(record, log.partitions) for record in log.of(COMMANDS)]


def _bare(record: Record, partitions: int) -> Input:
    """A document by itself. The command that it stands for is named after its place in the log."""
    raw = record.value
    if raw is None or len(raw) > documents.MOST_BYTES:
        return _poison(record, "$")
    try:
        tree, faults = parse(raw)
    except ValueError:
        return _poison(record, "$")
    faults |= tree_faults(tree)
    if faults:
        return _poison(record, *faults)
    name = derived(f"{record.topic}-{record.partition}-{record.offset}")
    # White space around a document is not part of it.
    command = Command(name, tree["order_uid"], raw.strip(WHITE), tree["customer_id"])
    return Input(record, command, frozenset(), home_of(command.order_uid, partitions))


def _told(record: Record, partitions: int) -> Input:
    """A command in its own words."""
    if record.value is None:
        return _poison(record, "$")
    try:
        tree, faults = parse(record.value)
    except ValueError:
        return _poison(record, "$")
    faults |= _command_faults(tree)
    if faults:
        return _poison(record, *faults)
    if tree["type"] == "place_order":
        document = tree["document"]
        raw = _as_received(record.value, document)
        command = Command(tree["command_id"], tree["order_uid"], raw, document["customer_id"])
    else:
        command = Command(tree["command_id"], tree["order_uid"], None, reason=tree["reason"])
    return Input(record, command, frozenset(), home_of(command.order_uid, partitions))


def _command_faults(tree: Any) -> frozenset[str]:
    if not isinstance(tree, Object):
        return frozenset("$")
    kind = tree.get("type")
    if kind not in ("place_order", "cancel_order"):
        return frozenset({"$.type"})
    faults = {
        path
        for path, fits in (("command_id", COMMAND_ID), ("order_uid", ORDER_UID))
        if not (path in tree and fits(tree[path]))
    }
    if kind == "cancel_order":
        reason = tree.get("reason")
        if not (isinstance(reason, str) and 1 <= len(reason) <= 500 and "\0" not in reason):
            faults.add("reason")
    elif "document" not in tree:
        faults.add("document")
    else:
        document = tree["document"]
        inner = document.get("order_uid") if isinstance(document, Object) else None
        if isinstance(inner, str) and inner != tree.get("order_uid"):
            faults.add("order_uid")
        faults.update(f"document{path[1:]}" for path in tree_faults(document))
    return frozenset(f"$.{path}" for path in faults)


def _as_received(raw: bytes, document: Any) -> bytes:
    """The bytes of the member `document`, wherever in the record it stands."""
    text = raw.decode()
    for found in _MEMBER.finditer(raw):
        start = len(raw[: found.end()].decode())
        try:
            value, end = _plain.raw_decode(text, start)
        except ValueError:
            continue
        if value == document:
            return text[start:end].encode()
    raise AssertionError("a document that was parsed stands in the record")


_plain = json.JSONDecoder()


def keeps(raw: bytes, document: bytes) -> bool:
    """Whether a record of the platform ends in the document as it was received, byte for byte."""
    inner = raw.removesuffix(b"}").rstrip(WHITE)
    return inner.endswith(document) and inner.removesuffix(document).rstrip(WHITE).endswith(b',"document":')


def _poison(record: Record, *faults: str) -> Input:
    return Input(record, None, frozenset(faults), None)
