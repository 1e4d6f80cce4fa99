"""inputs and what was made of them -> each has one fate: at home, brought home once, or one dead letter."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256

from tests.oracle.inputs import Input
from tests.oracle.log import COMMANDS, INTAKE, Log, Position, Record
from tests.oracle.verdict import Kind, Verdict

PREFIX = "dead-letter-"
#: A larger value stays on its own topic; the letter has its size and digest.
MOST_VALUE_BYTES = 64 << 10
#: A dead letter lists so many faults at most.
MOST_FAULTS = 100


def judge_forwarding(log: Log, inputs: Iterable[Input], verdict: Verdict) -> None:
    """A valid record away from home is brought there once: same id, time, headers, content, keyed by the order."""
    away: dict[str, list[Input]] = defaultdict(list)
    arrived: dict[str, list[Input]] = defaultdict(list)
    for each in inputs:
        if each.command is None:
            continue
        if not each.at_home:
            away[each.command.command_id].append(each)
        elif each.record.topic == COMMANDS and (log.sent is None or each.record.position not in log.sent):
            arrived[each.command.command_id].append(each)
    for name, origins in away.items():
        verdict.looked("brought home", len(origins))
        copies = arrived.pop(name, [])
        _pair(origins, copies, log.sent is not None, verdict)
    if log.sent is not None:
        for name, copies in arrived.items():
            verdict.add(Kind.WRONG, "brought home", copies[0].record.position, f"nobody sent command {name}")


def _pair(origins: Sequence[Input], copies: Sequence[Input], all_forwarded: bool, verdict: Verdict) -> None:
    """`copies` are known to be forwarded, or may be a client's own when the command's id was a client's choice."""
    where = origins[0].record.position
    exact = all_forwarded or any(origin.record.topic == INTAKE for origin in origins)
    if len(copies) < len(origins):
        verdict.add(Kind.LOST, "brought home", where, f"sent {len(origins)} times, {len(copies)} at home")
    elif exact and len(copies) > len(origins):
        at = ", ".join(str(copy.record.position) for copy in copies)
        verdict.add(Kind.DOUBLED, "brought home", where, f"sent {len(origins)} times, at home as {at}")
    for copy in copies if exact else ():
        if not any(_carries(copy, origin) for origin in origins):
            verdict.add(Kind.WRONG, "brought home", copy.record.position, f"differs from {where}, which it stands for")


def _carries(copy: Input, origin: Input) -> bool:
    one, other = copy.command, origin.command
    assert one is not None and other is not None
    return (
        one == other
        and copy.record.key == one.order_uid.encode()
        and copy.record.timestamp == origin.record.timestamp
        and copy.record.headers == origin.record.headers
    )


def judge_letters(log: Log, letters: Iterable[Record], inputs: Iterable[Input], verdict: Verdict) -> None:
    """Dead letters = poison: one each, with the original bytes, the origin, and every fault by its path."""
    poison = {each.record.position: each for each in inputs if each.command is None}
    verdict.looked("dead letters", len(poison))
    came: Counter[Position] = Counter()
    for letter in letters:
        if f"{PREFIX}redriven" in dict(letter.headers):
            continue
        origin = origin_of(letter)
        if origin is None:
            verdict.add(Kind.WRONG, "dead letters", letter.position, "does not say where it comes from")
        elif origin.topic in (INTAKE, COMMANDS):
            came[origin] += 1
            if origin not in poison:
                verdict.add(Kind.WRONG, "dead letters", origin, f"nothing is wrong with it, {_why(letter)}")
            else:
                _judge_letter(letter, poison[origin], verdict)
    for position, each in poison.items():
        if position not in came:
            verdict.add(Kind.LOST, "dead letters", position, f"poison at {sorted(each.faults)} left no dead letter")
    for position, times in came.items():
        if times > 1:
            verdict.add(Kind.DOUBLED, "dead letters", position, f"{times} dead letters")


def origin_of(letter: Record) -> Position | None:
    ours = dict(letter.headers)
    try:
        topic, partition, offset = (ours[PREFIX + name].decode() for name in ("topic", "partition", "offset"))
        return Position(topic, int(partition), int(offset))
    except (KeyError, ValueError):
        return None


def _judge_letter(letter: Record, origin: Input, verdict: Verdict) -> None:
    source, ours = origin.record, dict(letter.headers)
    where = source.position
    kept = tuple((name, value) for name, value in letter.headers if not name.startswith(PREFIX))
    if len(source.value or b"") > MOST_VALUE_BYTES:
        value, told = None, (str(len(source.value or b"")), sha256(source.value or b"").hexdigest())
    else:
        value, told = source.value, ("", "")
    verdict.equal("dead letters", where, (source.key, value), (letter.key, letter.value))
    size, digest = (ours.get(PREFIX + name, b"").decode() for name in ("value-bytes", "value-sha256"))
    verdict.equal("dead letters", where, told, (size, digest))
    verdict.equal("dead letters", where, source.headers, kept)
    stated = {name: ours.get(PREFIX + name, b"").decode() for name in ("kind", "timestamp", "attempt")}
    verdict.equal("dead letters", where, {"kind": "poison", "timestamp": str(source.timestamp), "attempt": "1"}, stated)
    for name in ("reason", "agent"):
        if not ours.get(PREFIX + name):
            verdict.add(Kind.WRONG, "dead letters", where, f"gives no {name}")
    try:
        faults = json.loads(ours.get(PREFIX + "faults", b"[]"))
        paths = {fault["path"] for fault in faults if fault["message"]}
    except (ValueError, KeyError, TypeError):
        verdict.add(Kind.WRONG, "dead letters", where, f"its faults cannot be read: {ours.get(PREFIX + 'faults')!r}")
        return
    if len(origin.faults) <= MOST_FAULTS and paths != origin.faults:
        verdict.equal("dead letters", where, sorted(origin.faults), sorted(paths))


def _why(letter: Record) -> str:
    ours = dict(letter.headers)
    return ", ".join(f"{name} {ours.get(PREFIX + name, b'')!r}" for name in ("kind", "reason", "faults"))
