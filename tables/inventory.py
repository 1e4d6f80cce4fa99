"""Inventory: events -> rows -> an item with its stock, its reservations, the catalogue. Tables of group `inventory`.

All rows of an item are written by the task of its item_id: whoever reserves stands in one line, and nothing is sold
twice. The layout of the keys (NUL ends a part, none may hold it):

    items                item_id -> Item
    item_versions        item_id NUL version -> ItemVersion    how it stood, for `as_of`
    stock_reservations   item_id NUL order_uid:line -> Reservation
    inventory_commands   item_id NUL command_id -> StockAnswer
    items_by_outlet      outlet_id NUL item_id -> what `query` is looked for in
                         each partition lists its own: a complete answer asks all
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from unicodedata import normalize

from schemas.base import content_of
from schemas.inventory import (
    NOTHING_NEW,
    InventoryCommand,
    InventoryCommandRefused,
    InventoryEvent,
    Item,
    ItemVersion,
    Reservation,
    StockAnswer,
    reservation_id_of,
)
from streams import App, Codec, Position, Table, positional
from tables.versions import Cut, Mark, NotKept, version_at

GROUP = "inventory"

#: Rows that one page may look at: a rare word must not turn one request into a scan of the whole partition.
MOST_SCANNED = 1_000


class Found(NamedTuple):
    """A partition's part of a list, by item_id, and the item_id up to which it is complete; None: to the end."""

    items: list[Item]
    frontier: str | None


@dataclass(frozen=True)
class InventoryTables:
    """The tables of inventory. Reads work in the group's agents and within `app.reading("inventory", partition)`."""

    items: Table[Item]
    versions: Table[ItemVersion]
    reservations: Table[Reservation]
    commands: Table[StockAnswer]
    by_outlet: Table[bytes]

    def item(self, item_id: str) -> Item | None:
        """The item as it stands."""
        return self.items.get(item_id)

    def item_at(self, item_id: str, cut: Cut) -> Item | None:
        """The item as it stood at the cut; None when it did not. Raises Undecided, NotKept."""
        item = self.items.get(item_id)
        return None if item is None else self._as_it_stood(item, cut)

    def _as_it_stood(self, item: Item, cut: Cut) -> Item | None:
        def mark(number: int) -> Mark:
            row = self._version(item.item_id, number)
            return Mark(row.latest_at, Position(row.topic, row.partition, row.offset))

        number = version_at(item.version, mark, cut)
        if number == 0:
            return None
        then = self._version(item.item_id, number)
        content = then.content or self._version(item.item_id, then.content_version).content
        assert content is not None, "the version that is named has it"
        return item._replace(
            on_hand=then.on_hand, reserved=then.reserved, version=number, updated_at=then.occurred_at, **content
        )

    def made_at(self, item_id: str, version: int) -> str:
        """When a version came to be. Raises NotKept."""
        return self._version(item_id, version).occurred_at

    def _version(self, item_id: str, number: int) -> ItemVersion:
        row = self.versions.get(_version_key(item_id, number))
        if row is None:
            raise NotKept(f"version {number} of item {item_id}")
        return row

    def reservation(self, item_id: str, reservation_id: str) -> Reservation | None:
        """The reservation as it stands, settled or not."""
        return self.reservations.get(f"{item_id}\0{reservation_id}")

    def answer(self, item_id: str, command_id: str) -> StockAnswer | None:
        """What became of a command; None when it has not come."""
        return self.commands.get(f"{item_id}\0{command_id}")

    def find(
        self,
        outlet_id: str | None = None,
        *,
        words: Sequence[str] = (),
        cut: Cut | None = None,
        after: str | None = None,
        limit: int = 50,
        most_scanned: int = MOST_SCANNED,
        enough: Callable[[], bool] | None = None,
    ) -> Found:
        """Items of this partition behind the item_id `after`: of one outlet or all, with all `words` in name or id.

        `cut`: as everything stood then, each item that is looked at by its own versions; raises NotKept. Looks at
        `most_scanned` rows at most, and ends when there is `enough`, so it may give fewer than `limit` and still have
        a frontier.
        """
        wanted = tuple(search_form(word) for word in words)
        items: list[Item] = []
        item_id, scanned, last = "", 0, None
        for item_id, text, item in self._catalogue(outlet_id, after, most_scanned):
            scanned += 1
            if last is not None and enough is not None and enough():
                return Found(items, last)
            last = item_id
            if cut is not None:
                item = self._as_it_stood(item or self.items[item_id], cut)
                if item is None:
                    continue
                text = search_form(search_text(item))
            if not all(word in text for word in wanted):
                continue
            if len(items) == limit:
                return Found(items, items[-1].item_id)
            items.append(item or self.items[item_id])
        return Found(items, item_id if scanned == most_scanned else None)

    def _catalogue(self, outlet_id: str | None, after: str | None, most: int) -> Iterator[tuple[str, str, Item | None]]:
        """item_id, what words are looked for in, and the item where it has been read already."""
        if outlet_id is None:
            for item_id, item in self.items.range(after=after, limit=most):
                yield item_id, search_form(search_text(item)), item
            return
        prefix = f"{outlet_id}\0"
        start = None if after is None else prefix + after
        for key, text in self.by_outlet.range(prefix, after=start, limit=most):
            yield key[len(prefix) :], search_form(text.decode()), None  # older rows are not normalised

    def keep_item(self, before: Item | None, after: Item | None, cause: Position) -> None:
        """Write down what an event changed in its item, if anything."""
        if after is not None and after is not before:
            self.items[after.item_id] = after
            self._keep_version(before, after, cause)
            if before is None or before.name != after.name:
                self.by_outlet[f"{after.outlet_id}\0{after.item_id}"] = search_text(after).encode()

    def _keep_version(self, before: Item | None, after: Item, cause: Position) -> None:
        earlier = self.versions.get(_version_key(before.item_id, before.version)) if before else None
        changed = before is None or earlier is None or _contents_differ(before, after)
        self.versions[_version_key(after.item_id, after.version)] = ItemVersion(
            after.on_hand,
            after.reserved,
            after.updated_at,
            max(after.updated_at, earlier.latest_at) if earlier else after.updated_at,
            after.version if changed or earlier is None else earlier.content_version,
            _content_of(after) if changed else None,
            *cause,
        )

    def keep_answer(
        self,
        item: Item | None,
        command: InventoryCommand,
        event: InventoryEvent | None,
        occurred_at: str,
        cause: Position,
    ) -> None:
        """Write down that a command is answered: by this event, or None when it had nothing new to say."""
        self.commands[f"{command.item_id}\0{command.command_id}"] = StockAnswer(
            content_of(command),
            event.type if event else NOTHING_NEW,
            event.reason if isinstance(event, InventoryCommandRefused) else None,
            item.version if item else 0,
            item.on_hand if item else 0,
            item.reserved if item else 0,
            occurred_at,
            *cause,
        )

    def keep_reservation(self, reservation: Reservation) -> None:
        id = reservation_id_of(reservation.order_uid, reservation.line)
        self.reservations[f"{reservation.item_id}\0{id}"] = reservation


def _content_of(item: Item) -> dict[str, Any]:
    """What of an item can change, but for its stock."""
    return {
        "name": item.name,
        "price_minor": item.price_minor,
        "attributes": item.attributes,
        "low_stock_at": item.low_stock_at,
    }


def _contents_differ(before: Item, after: Item) -> bool:
    """Asked at each movement of stock, which leaves the attributes the very same. Others count as other ones even when
    they are equal: to Python 1, 1.0 and true are."""
    figures = (before.name, before.price_minor, before.low_stock_at)
    return before.attributes is not after.attributes or figures != (after.name, after.price_minor, after.low_stock_at)


def _version_key(item_id: str, version: int) -> str:
    return f"{item_id}\0{version:010d}"


def search_text(item: Item) -> str:
    """What words are looked for in: without case, the way that Unicode means it (STRASSE finds Straße)."""
    return f"{item.item_id} {item.name}".casefold()


def search_form(text: str) -> str:
    """Text as it is compared: a letter with an accent is one character, however it was typed (NFC of Unicode §3.13).

    Applied when items are searched, not when they are kept, so that rows of every version are the same bytes.
    """
    return text.casefold() if text.isascii() else normalize("NFC", normalize("NFD", text).casefold())


def declare(app: App) -> InventoryTables:
    """Declare the tables on the app. Their changelogs are named after them."""
    return InventoryTables(
        items=app.Table(
            "items", group=GROUP, codec=Codec(Item.to_json, Item.from_json), help="Items and their stock by id."
        ),
        versions=app.Table(
            "item_versions",
            group=GROUP,
            codec=positional(ItemVersion),
            help="How each item stood before, version by version.",
        ),
        reservations=app.Table(
            "stock_reservations",
            group=GROUP,
            codec=Codec(Reservation.to_json, Reservation.from_json),
            help="Stock set aside for lines of orders.",
        ),
        commands=app.Table(
            "inventory_commands",
            group=GROUP,
            codec=Codec(StockAnswer.to_json, StockAnswer.from_json),
            help="Answered commands, so that none counts twice.",
        ),
        by_outlet=app.Table("items_by_outlet", group=GROUP, value_type=bytes, help="Items of an outlet."),
    )
