"""the toy topology (tests/streams/toy.py): words to produce, and a model of what must come of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import orjson

from streams import App
from streams.records import StoredRecord
from tests.simulation.model import LETTERS, Due, Out, State, Word, home, json_out, letter, letter_seen
from tests.streams import toy

KEYS = ["a", "b", "c", "d"]


class Toy:
    """Counts of words by key, forgotten when a reminder is due."""

    name: ClassVar[str] = "toy"
    inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {"words": ("words", "reminders")}
    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {"words": ("counts", "words_deadlines")}
    deadlines: ClassVar[Mapping[str, str]] = {"words": "words_deadlines"}
    outputs: ClassVar[tuple[str, ...]] = ("counted", LETTERS)
    asked: ClassVar[Mapping[str, str]] = {"words": "counts"}

    @staticmethod
    @cache
    def app(partitions: int) -> App:
        return toy.make_app(Path("unused"), "toy", partitions)

    def words(self, chance: Random, partitions: int, count: int, now_ms: int, first: int = 0) -> list[Word]:
        texts = [b"x"] * 12 + [b"bad", b"bug", None, b"remind 300", b"remind 2000", b"remind 9000", b"remind 60000"]
        return [self._word(chance.choice(KEYS), chance.choice(texts), partitions) for _ in range(count)]

    def _word(self, key: str, text: bytes | None, partitions: int) -> Word:
        raw = key.encode()
        return Word("words", home(raw, partitions), raw, text, f"{key}: {text!r}")

    def work(self, state: State, record: StoredRecord, partitions: int) -> list[Out]:
        counts, key = state.tables["counts"], record.key or b"none"
        if record.topic == "reminders":
            counts.pop(key, None)
            return []
        if record.value is None:
            return [letter(record, "poison", partitions)]
        if record.value in (b"bad", b"bug"):
            return [letter(record, "poison" if record.value == b"bad" else "failed", partitions)]
        number = counts[key] = counts.get(key, 0) + 1
        if record.value.startswith(b"remind"):
            due_at_ms = record.timestamp + int(record.value.split()[1])
            state.schedule(Due(due_at_ms, key.decode(), "reminders", key.decode(), b"due"))
        said = {"key": key.decode(), "n": number, "offset": record.offset}
        return [Out("counted", home(key, partitions), record.timestamp, key, said, ())]

    def row(self, table: str, value: bytes) -> Any:
        return orjson.loads(value)

    def out(self, record: StoredRecord) -> Out:
        if record.topic == LETTERS:
            return letter_seen(record)
        return json_out(record, bytes if record.topic == "reminders" else orjson.loads)

    def due_value(self, value: bytes) -> Any:
        return value

    def identity(self, out: Out) -> str | None:
        return f"{out.key!r} {out.value['offset']}" if out.topic == "counted" else None

    def keys(self, group: str) -> list[str]:
        return KEYS

    def told(self, value: Any) -> Any:
        return value
