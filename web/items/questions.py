"""a question about items -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from tables.inventory import GROUP, InventoryTables
from web.asking import Answer, Desk, Question
from web.items.shapes import present
from web.limits import Limits


class ItemQuestions:
    """What the owner of items can be asked."""

    def __init__(self, desk: Desk, tables: InventoryTables, limits: Limits) -> None:
        self._tables, self._limits = tables, limits
        self.item = desk.learn(Question("item", GROUP, self._item))
        self.outcome = desk.learn(Question("outcome", GROUP, self._outcome))
        self.page = desk.learn(Question("page", GROUP, self._page))

    def _item(self, args: Mapping[str, str]) -> Answer:
        item = self._tables.item(args["item_id"])
        return Answer({"item": present(item) if item else None})

    def _outcome(self, args: Mapping[str, str]) -> Answer:
        """What became of a command: its answer, if it has come, and the item as it stands now."""
        item = self._tables.item(args["item_id"])
        answer = self._tables.answer(args["item_id"], args["command_id"])
        return Answer({"item": present(item) if item else None, "answer": answer._asdict() if answer else None})

    def _page(self, args: Mapping[str, str]) -> Answer:
        """The next items of this partition: `limit` of them, or as many as fit into `bytes`, but one at least."""
        found = self._tables.find(
            args.get("outlet_id"),
            words=args.get("query", "").split(),
            after=args.get("after"),
            limit=int(args["limit"]),
            most_scanned=self._limits.page_scan_rows,
        )
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
