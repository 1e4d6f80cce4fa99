"""a question about items -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import monotonic
from typing import Any

import orjson

from tables.inventory import GROUP, InventoryTables
from tables.versions import NotKept
from web import as_of
from web.asking import Answer, Desk, Question
from web.items.shapes import present
from web.limits import Limits

#: Whose records make an item's versions known.
TOLD_ON = "inventory.events.v1"


class ItemQuestions:
    """What the owner of items can be asked."""

    def __init__(self, desk: Desk, tables: InventoryTables, limits: Limits) -> None:
        self._tables, self._limits = tables, limits
        self.item = desk.learn(Question("item", GROUP, self._item))
        self.moment = desk.learn(Question("moment", GROUP, self._moment))
        self.outcome = desk.learn(Question("outcome", GROUP, self._outcome))
        self.page = desk.learn(Question("page", GROUP, self._page, costly=True))

    def _item(self, args: Mapping[str, str]) -> Answer:
        item, cut = self._tables.item(args["item_id"]), as_of.cut_in(args)
        past: dict[str, Any] = {}
        if item is not None and cut is not None:
            look = partial(self._tables.item_at, item.item_id, cut)
            item, past = as_of.looked_up(look, item.version, item.created_at)
        return Answer({"item": present(item) if item else None, **past})

    def _moment(self, args: Mapping[str, str]) -> Answer:
        """When a version came to be."""
        item = self._tables.item(args["item_id"])
        if item is None:
            return Answer()
        made_at = partial(self._tables.made_at, item.item_id)
        return Answer(as_of.moment(args, item.version, item.created_at, TOLD_ON, made_at))

    def _outcome(self, args: Mapping[str, str]) -> Answer:
        """What became of a command: its answer, if it has come, and the item as it stands now."""
        item = self._tables.item(args["item_id"])
        answer = self._tables.answer(args["item_id"], args["command_id"])
        return Answer({"item": present(item) if item else None, "answer": answer._asdict() if answer else None})

    def _page(self, args: Mapping[str, str]) -> Answer:
        """The next items of this partition: `limit` of them, or as many as fit into `bytes`, but one at least."""
        cut = as_of.cut_in(args)
        until = monotonic() + self._limits.page_scan_past_s
        enough = None if cut is None else lambda: monotonic() >= until
        try:
            found = self._tables.find(
                args.get("outlet_id"),
                words=args.get("query", "").split(),
                cut=cut,
                after=args.get("after"),
                limit=int(args["limit"]),
                most_scanned=self._limits.page_scan_rows if cut is None else self._limits.page_scan_past_rows,
                enough=enough,
            )
        except NotKept as error:
            return Answer(as_of.lost(error))
        places: list[str] = []
        items: list[bytes] = []
        room, frontier = int(args["bytes"]), found.frontier
        for item in found.items:
            if room <= 0:
                frontier = places[-1]
                break
            places.append(item.item_id)
            items.append(orjson.dumps(present(item)))
            room -= len(items[-1])
        return Answer({"places": places, "frontier": frontier}, items)
