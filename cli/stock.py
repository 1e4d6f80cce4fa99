"""inventory.events.v1, record by record -> every stock counted anew -> the first record at which something is wrong.

Shares no code with agents/ nor with the models of schemas/: what a rule or a model gets wrong must not be so here.
Memory: a few hundred bytes for each item, about as much for each reservation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

#: What an event does to (on hand, reserved), as a multiple of its quantity.
MOVES = {"stock_reserved": (0, 1), "stock_committed": (-1, -1), "stock_released": (0, -1)}
CHANGES = {"item_created", "item_changed", "stock_adjusted", *MOVES}
BESIDE = {"stock_low", "stock_out"}
REFUSED = "inventory_command_refused"


class Wrong(Exception):
    """Something in a record cannot be, or differs from a table."""


class Finding(NamedTuple):
    """The first thing that is wrong: in the event at `position`, or where no event is."""

    position: str | None
    item_id: str
    what: str

    def __str__(self) -> str:
        return f"{self.position or 'tables'}: item {self.item_id}: {self.what}"


@dataclass
class Kept:
    """A reservation as its events make it: what it took, and every (committed, released) that it went through."""

    quantity: int
    below: bool
    committed: int = 0
    released: int = 0
    passed: set[tuple[int, int]] = field(default_factory=lambda: {(0, 0)})


@dataclass
class Standing:
    """An item as its events make it."""

    version: int = 0
    on_hand: int = 0
    reserved: int = 0
    kept: dict[str, Kept] = field(default_factory=dict)


class Count:
    """All stock, counted from the events alone and held against what the tables say.

    `items`, `reservations`: the tables as they were read, before the events. `read_before`: where the events ended
    before that, by partition: what stands below must be in the tables. What stands above may be, and is compared then.
    """

    def __init__(
        self,
        items: Mapping[str, Mapping[str, Any]],
        reservations: Mapping[str, Mapping[str, Any]],
        read_before: Mapping[int, int],
    ) -> None:
        self.items: dict[str, Standing] = {}
        self.events = 0
        self._items, self._reservations, self._read_before = items, reservations, read_before

    def take(self, partition: int, offset: int, topic: str, key: bytes | None, raw: bytes | None) -> Finding | None:
        """Take the next event of a partition; gives what is wrong with it."""
        self.events += 1
        item_id = key.decode(errors="replace") if key else "-"
        below = offset < self._read_before.get(partition, 0)
        try:
            said = _parse(raw)
            if said["item_id"] != item_id:
                raise Wrong(f"the record's key is not the item that it speaks of, {said['item_id']}")
            self._apply(said, below=below)
            if said["type"] in CHANGES:
                self._hold_against_table(item_id, below=below)
        except (KeyError, TypeError, AttributeError) as missing:
            return Finding(f"{topic}-{partition}-{offset}", item_id, f"is not what an event looks like: {missing!r}")
        except Wrong as wrong:
            return Finding(f"{topic}-{partition}-{offset}", item_id, str(wrong))
        return None

    def close(self) -> Finding | None:
        """After the last event: what the tables hold that no event made, or do not hold."""
        for item_id, row in self._items.items():
            standing = self.items.get(item_id, Standing())
            if row["version"] > standing.version:
                what = f"the table items has version {row['version']}, the events end at version {standing.version}"
                return Finding(None, item_id, what)
        for key, row in self._reservations.items():
            item_id, _, name = key.partition("\0")
            kept = self.items.get(item_id, Standing()).kept.get(name)
            has = (row["committed"], row["released"])
            if kept is None or row["quantity"] != kept.quantity or has not in kept.passed:
                told = f"{row['quantity']} reserved, {has[0]} committed, {has[1]} released"
                return Finding(None, item_id, f"stock_reservations says of {name}: {told}; no event made it so")
        for item_id, standing in self.items.items():
            for name, kept in standing.kept.items():
                if kept.below and f"{item_id}\0{name}" not in self._reservations:
                    return Finding(None, item_id, f"{name} is reserved, and stock_reservations does not have it")
        return None

    def sums(self) -> dict[str, int]:
        """Of all items together, in pieces."""
        kept = [each for item in self.items.values() for each in item.kept.values()]
        return {
            "items": len(self.items),
            "on_hand": sum(item.on_hand for item in self.items.values()),
            "reserved": sum(item.reserved for item in self.items.values()),
            "committed": sum(each.committed for each in kept),
            "open_reservations": sum(each.quantity > each.committed + each.released for each in kept),
        }

    def _apply(self, said: dict[str, Any], *, below: bool) -> None:
        item_id, kind = said["item_id"], said["type"]
        standing = self.items.get(item_id)
        if kind == REFUSED or kind in BESIDE:
            at = standing.version if standing else 0
            if said["version"] != at:
                raise Wrong(f"{kind} at version {said['version']}, the item is at version {at}")
            if standing is not None and kind in BESIDE:
                _same(said, standing)
            return
        if kind == "item_created":
            if standing is not None:
                raise Wrong("is created a second time")
            standing = self.items[item_id] = Standing()
        if standing is None:
            raise Wrong(f"{kind} before the item was created")
        standing.version += 1
        if said["version"] != standing.version:
            raise Wrong(f"has version {said['version']} where {standing.version} follows")
        if kind == "stock_adjusted":
            standing.on_hand += _whole(said, "delta")
        elif kind in MOVES:
            _move(standing, said, below=below)
        if not 0 <= standing.reserved <= standing.on_hand:
            raise Wrong(f"is sold twice: {standing.on_hand} on hand, {standing.reserved} reserved")
        _same(said, standing)

    def _hold_against_table(self, item_id: str, *, below: bool) -> None:
        standing, row = self.items[item_id], self._items.get(item_id)
        at = row["version"] if row else 0
        if below and at < standing.version:
            raise Wrong(f"is at version {standing.version}, the table items has {at}")
        if row is not None and at == standing.version:
            for name, counted in (("on_hand", standing.on_hand), ("reserved", standing.reserved)):
                if row[name] != counted:
                    raise Wrong(f"the table items says {name} {row[name]}, the events add up to {counted}")


def _move(standing: Standing, said: dict[str, Any], *, below: bool) -> None:
    name, quantity = f"{said['order_uid']}:{said['line']}", _whole(said, "quantity")
    if quantity <= 0:
        raise Wrong(f"quantity is {quantity}, not above zero")
    kept = standing.kept.get(name)
    if said["type"] == "stock_reserved":
        if kept is not None:
            raise Wrong(f"{name} is reserved a second time")
        standing.kept[name] = Kept(quantity, below)
    elif kept is None:
        raise Wrong(f"{name} is settled and was never reserved")
    else:
        which = "committed" if said["type"] == "stock_committed" else "released"
        setattr(kept, which, getattr(kept, which) + quantity)
        remaining = kept.quantity - kept.committed - kept.released
        if remaining < 0 or said["remaining"] != remaining:
            done = f"{kept.committed} committed and {kept.released} released"
            raise Wrong(f"of {kept.quantity} reserved for {name} {done}; the event says {said['remaining']} remain")
        kept.passed.add((kept.committed, kept.released))
    on_hand, reserved = MOVES[said["type"]]
    standing.on_hand += on_hand * quantity
    standing.reserved += reserved * quantity


def _same(said: Mapping[str, Any], standing: Standing) -> None:
    for name, counted in (("on_hand", standing.on_hand), ("reserved", standing.reserved)):
        if said.get(name) != counted:
            raise Wrong(f"the event says {name} {said.get(name)}, the events add up to {counted}")


def _parse(raw: bytes | None) -> dict[str, Any]:
    try:
        said = orjson.loads(raw or b"")
    except orjson.JSONDecodeError as error:
        raise Wrong(f"is no event: {error}") from None
    if not isinstance(said, dict) or said.get("type") not in {*CHANGES, *BESIDE, REFUSED}:
        raise Wrong("is no event of an item")
    missing = {"item_id", "version"} - said.keys()
    if missing:
        raise Wrong(f"has no {' and no '.join(sorted(missing))}")
    return said


def _whole(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Wrong(f"{name} is {value!r}, not a whole number")
    return value
