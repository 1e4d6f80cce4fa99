"""inventory.commands.v1 -> every event that it must have led to, to the last piece -> stock, and where it all went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.bought import Told, must
from tests.oracle.verdict import Kind, Verdict

MOST, FULL = 10**9, 10**12
CHECK = "items"
GOODS = ("outlet_id", "name", "price_minor", "currency", "attributes")


@dataclass(slots=True)
class Kept:
    """A reservation."""

    quantity: int
    asked: int
    partial: bool
    expires: int | None
    committed: int = 0
    released: int = 0

    @property
    def left(self) -> int:
        return self.quantity - self.committed - self.released


@dataclass(slots=True)
class Item:
    goods: dict[str, Any]
    low_at: int = 0
    on_hand: int = 0
    reserved: int = 0
    version: int = 1
    kept: dict[str, Kept] = field(default_factory=dict)
    #: Pieces by where they came from and went: received, adjusted, return, …
    moved: Counter[str] = field(default_factory=Counter)

    @property
    def free(self) -> int:
        return self.on_hand - self.reserved


@dataclass
class Stock:
    """All items by what their commands must have led to."""

    items: dict[str, Item] = field(default_factory=dict)
    _answered: set[tuple[str, str]] = field(default_factory=set)

    def judge(self, home: list[Told], verdict: Verdict) -> None:
        for told in home:
            id = told.said["item_id"]
            before = self._free(id)
            low_before = self._low(id)
            expected = self.expect(told.said)
            must(verdict, CHECK, told, expected)
            beside = self._beside(id, before, low_before) if expected and "refused" not in expected["type"] else []
            verdict.equal("warnings", told, beside, [event["type"] for event in told.events[1:]])
            self._never_below_zero(told, verdict)
        for id, item in self.items.items():
            verdict.looked(CHECK)
            committed = sum(kept.committed for kept in item.kept.values())
            reserved = sum(kept.left for kept in item.kept.values())
            where = {"on_hand": item.on_hand, "reserved": item.reserved}
            come = sum(item.moved.values()) - committed
            verdict.equal("conservation of stock", id, {"on_hand": come, "reserved": reserved}, where)

    def _never_below_zero(self, told: Told, verdict: Verdict) -> None:
        for event in told.events:
            if "on_hand" in event and not 0 <= event["reserved"] <= event["on_hand"]:
                stands = f"{event['reserved']} reserved of {event['on_hand']}"
                verdict.add(Kind.WRONG, "oversold", told, stands)

    def _free(self, id: str) -> int:
        return self.items[id].free if id in self.items else 0

    def _low(self, id: str) -> bool:
        return id in self.items and self.items[id].free < self.items[id].low_at

    def _beside(self, id: str, free: int, low: bool) -> list[str]:
        """The warnings that stand beside a change."""
        warned = ["stock_low"] if self._low(id) and not low else []
        return [*warned, *(["stock_out"] if self._free(id) == 0 and free > 0 else [])]

    def expect(self, said: dict[str, Any]) -> dict[str, Any] | None:
        """What a command must lead to, with the item as those before it left it; None: nothing new."""
        id, kind = said["item_id"], said["type"]
        if (id, said["command_id"]) in self._answered:
            return None
        self._answered.add((id, said["command_id"]))
        item = self.items.get(id)
        reason = self._objection(item, said)
        if reason is not None:
            stands = {"version": item.version if item else 0, "available": item.free if item else 0}
            return {"type": "inventory_command_refused", "command": kind, "reason": reason, **stands}
        if kind == "create_item":
            if item is not None:
                return None
            self.items[id] = Item({name: said.get(name, {}) for name in GOODS})
            return self._stands("item_created", self.items[id])
        assert item is not None, "a command without an item was refused"
        return self._carry_out(item, said)

    def _objection(self, item: Item | None, said: dict[str, Any]) -> str | None:
        """The first reason, in the order in which the reasons are documented."""
        kind = said["type"]
        if kind == "create_item":
            goods = {name: said.get(name, {}) for name in GOODS}
            return None if item is None or item.goods == goods else "exists_with_different_content"
        if item is None:
            return "no_such_item"
        if kind == "change_item":
            given = any(said.get(name) is not None for name in ("name", "price_minor", "attributes", "low_stock_at"))
            return None if given else "nothing_to_change"
        if kind == "adjust_stock":
            delta = said["delta"]
            if delta == 0:
                return "zero_delta"
            if abs(delta) > MOST:
                return "quantity_above_limit"
            if item.free + delta < 0:
                return "insufficient_stock"
            return "stock_above_limit" if item.on_hand + delta > FULL else None
        quantity = said.get("quantity")
        if quantity is not None and quantity <= 0:
            return "not_positive_quantity"
        if quantity is not None and quantity > MOST:
            return "quantity_above_limit"
        kept = item.kept.get(_line(said))
        return _objection_to_reserving(item, kept, said) if kind == "reserve_stock" else _to_settling(kept, quantity)

    def _carry_out(self, item: Item, said: dict[str, Any]) -> dict[str, Any] | None:
        kind = said["type"]
        if kind == "change_item":
            return self._change(item, said)
        if kind == "adjust_stock":
            item.on_hand += said["delta"]
            item.moved[said["reason"]] += said["delta"]
            item.version += 1
            return self._stands("stock_adjusted", item, delta=said["delta"], reason=said["reason"])
        kept = item.kept.get(_line(said))
        if kind == "reserve_stock":
            if kept is not None:
                return None
            taken = min(said["quantity"], item.free)
            partial = said.get("partial", False)
            item.kept[_line(said)] = Kept(taken, said["quantity"], partial, said.get("expires_at_ms"))
            item.reserved += taken
            item.version += 1
            price = {"price_minor": item.goods["price_minor"], "currency": item.goods["currency"]}
            return self._stands("stock_reserved", item, quantity=taken, line=said["line"], **price)
        assert kept is not None, "a command without its reservation was refused"
        quantity = kept.left if said.get("quantity") is None else said["quantity"]
        item.reserved -= quantity
        item.version += 1
        if kind == "commit_stock":
            item.on_hand -= quantity
            kept.committed += quantity
            return self._stands("stock_committed", item, quantity=quantity, remaining=kept.left)
        kept.released += quantity
        return self._stands("stock_released", item, quantity=quantity, remaining=kept.left)

    def _change(self, item: Item, said: dict[str, Any]) -> dict[str, Any] | None:
        goods = item.goods | {name: said[name] for name in GOODS if said.get(name) is not None}
        low_at = item.low_at if said.get("low_stock_at") is None else said["low_stock_at"]
        if (goods, low_at) == (item.goods, item.low_at):
            return None
        item.goods, item.low_at = goods, low_at
        item.version += 1
        return self._stands("item_changed", item, price_minor=goods["price_minor"], low_stock_at=low_at)

    @staticmethod
    def _stands(kind: str, item: Item, **more: Any) -> dict[str, Any]:
        standing = {"version": item.version, "on_hand": item.on_hand, "reserved": item.reserved}
        return {"type": kind, **standing, **more}


def _line(said: dict[str, Any]) -> str:
    return f"{said['order_uid']}:{said['line']}"


def _objection_to_reserving(item: Item, kept: Kept | None, said: dict[str, Any]) -> str | None:
    if kept is not None:
        asked = (said["quantity"], said.get("partial", False), said.get("expires_at_ms"))
        same = (kept.asked, kept.partial, kept.expires) == asked
        return None if same else "reservation_exists_with_different_content"
    if item.free == 0:
        return "out_of_stock"
    return "insufficient_stock" if said["quantity"] > item.free and not said.get("partial", False) else None


def _to_settling(kept: Kept | None, quantity: int | None) -> str | None:
    if kept is None:
        return "no_such_reservation"
    if kept.left == 0:
        return "reservation_already_settled"
    return "quantity_above_reservation" if quantity is not None and quantity > kept.left else None
