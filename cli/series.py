"""outlets.events.v1, record by record -> every series of numbers counted anew -> the first record that is wrong.

Shares no code with agents/ nor with the models of schemas/: what a rule or a model gets wrong must not be so here.
Memory: about 300 bytes for each number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

CONFIGURED, ISSUED = "outlet_configured", "number_issued"


class Wrong(Exception):
    """Something in a record cannot be, or differs from a table or an order."""


class Finding(NamedTuple):
    """The first thing that is wrong: in the event at `position`, or where no event is."""

    position: str | None
    outlet_id: str
    what: str

    def __str__(self) -> str:
        return f"{self.position or 'tables'}: outlet {self.outlet_id}: {self.what}"


class Recorded(NamedTuple):
    """The number that an order says it has, and the event that says so."""

    number: str
    position: str


class Count:
    """All order numbers, counted from the events alone and held against the tables and against the orders.

    `last`, `numbers`: the tables number_series and order_numbers as they were read, before the events; so were the
    orders, `recorded`. `read_before`: where the events ended before that, by partition: what stands below must be in
    the tables. An order may not know its number yet.
    """

    def __init__(
        self,
        last: Mapping[str, int],
        numbers: Mapping[str, str],
        recorded: Mapping[str, Recorded],
        read_before: Mapping[int, int],
    ) -> None:
        self.events = 0
        self._last, self._numbers, self._recorded = last, numbers, recorded
        self._read_before = read_before
        self._counted: Counter[tuple[str, str, int]] = Counter()
        self._orders: dict[str, tuple[str, str]] = {}  # order -> outlet, number
        self._versions: Counter[str] = Counter()
        self._prefixes: dict[str, str] = {}

    def take(self, partition: int, offset: int, topic: str, key: bytes | None, raw: bytes | None) -> Finding | None:
        """Take the next event of a partition; gives what is wrong with it."""
        self.events += 1
        outlet_id = key.decode(errors="replace") if key else "-"
        try:
            said = _parse(raw)
            if said["outlet_id"] != outlet_id:
                raise Wrong(f"the record's key is not the outlet that it speaks of, {said['outlet_id']}")
            if said["type"] == CONFIGURED:
                self._configure(outlet_id, said)
            else:
                self._number(outlet_id, said, below=offset < self._read_before.get(partition, 0))
        except (KeyError, TypeError, AttributeError) as missing:
            return Finding(f"{topic}-{partition}-{offset}", outlet_id, f"is not what an event looks like: {missing!r}")
        except Wrong as wrong:
            return Finding(f"{topic}-{partition}-{offset}", outlet_id, str(wrong))
        return None

    def close(self) -> Finding | None:
        """After the last event: what tables and orders hold that no event made."""
        for key, last in self._last.items():
            outlet_id, prefix, year = key.split("\0")
            counted = self._counted[outlet_id, prefix, int(year)]
            if last > counted:
                what = f"the table number_series has {prefix}/{year} at {last}, the events end at {counted}"
                return Finding(None, outlet_id, what)
        for key, number in self._numbers.items():
            outlet_id, _, order = key.partition("\0")
            if self._orders.get(order) != (outlet_id, number):
                return Finding(None, outlet_id, f"order_numbers gives order {order} the number {number}; no event did")
        for order, recorded in self._recorded.items():
            outlet_id, number = self._orders.get(order, ("-", "none"))
            if recorded.number != number:
                what = f"order {order} has {recorded.number}, it was given {number}"
                return Finding(recorded.position, outlet_id, what)
        return None

    def sums(self) -> dict[str, int]:
        """Of all outlets together. `not_yet_recorded`: what orders did not say yet when they were read."""
        return {
            "outlets": len({outlet for outlet, _, _ in self._counted}),
            "series": len(self._counted),
            "numbers": len(self._orders),
            "not_yet_recorded": len(self._orders.keys() - self._recorded.keys()),
        }

    def _configure(self, outlet_id: str, said: Mapping[str, Any]) -> None:
        self._versions[outlet_id] += 1
        if said["version"] != self._versions[outlet_id]:
            raise Wrong(f"has version {said['version']} where {self._versions[outlet_id]} follows")
        self._prefixes[outlet_id] = said["number_prefix"] or outlet_id

    def _number(self, outlet_id: str, said: Mapping[str, Any], *, below: bool) -> None:
        order, number, prefix, year = (said[name] for name in ("order_uid", "order_number", "prefix", "year"))
        if prefix != (wanted := self._prefixes.get(outlet_id, outlet_id)):
            raise Wrong(f"{number} begins with {prefix}, the outlet's begin with {wanted}")
        if str(year) != said["occurred_at"][:4]:
            raise Wrong(f"{number} is of {year} and was given at {said['occurred_at']}")
        before = self._counted[outlet_id, prefix, year]
        sequence = said["sequence"]
        if isinstance(sequence, bool) or not isinstance(sequence, int) or sequence < 1:
            raise Wrong(f"sequence is {sequence!r}, not a whole number from 1 on")
        if sequence <= before:
            raise Wrong(f"{number} is given a second time: {prefix}/{year} is at {before} already")
        if sequence > before + 1:
            raise Wrong(f"{number} leaves a gap: {prefix}/{year} is at {before}")
        if number != f"{prefix}/{year}/{sequence:06d}":
            raise Wrong(f"{number} is not how {sequence} of {prefix}/{year} is written")
        if order in self._orders:
            raise Wrong(f"order {order} has a second number, {number} after {self._orders[order][1]}")
        self._counted[outlet_id, prefix, year] = sequence
        self._orders[order] = (outlet_id, number)
        if below and self._numbers.get(f"{outlet_id}\0{order}") != number:
            row = self._numbers.get(f"{outlet_id}\0{order}")
            raise Wrong(f"order {order} has {number}, the table order_numbers says {row}")
        if below and self._last.get(f"{outlet_id}\0{prefix}\0{year}", 0) < sequence:
            at = self._last.get(f"{outlet_id}\0{prefix}\0{year}", 0)
            raise Wrong(f"{number} was given, the table number_series has {prefix}/{year} at {at}")


def _parse(raw: bytes | None) -> dict[str, Any]:
    try:
        said = orjson.loads(raw or b"")
    except orjson.JSONDecodeError as error:
        raise Wrong(f"is no event: {error}") from None
    if not isinstance(said, dict) or said.get("type") not in (CONFIGURED, ISSUED):
        raise Wrong("is no event of an outlet")
    return said
