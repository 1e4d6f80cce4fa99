"""a question about an outlet -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping

from tables.inventory import GROUP
from tables.outlets import OutletTables
from web.asking import Answer, Desk, Question
from web.outlets.shapes import present


class OutletQuestions:
    """What the owner of an outlet can be asked."""

    def __init__(self, desk: Desk, tables: OutletTables) -> None:
        self._tables = tables
        self.outlet = desk.learn(Question("outlet", GROUP, self._outlet))
        self.outcome = desk.learn(Question("outlet_outcome", GROUP, self._outcome))

    def _outlet(self, args: Mapping[str, str]) -> Answer:
        id = args["outlet_id"]
        return Answer({"outlet": present(id, self._tables.outlet(id), self._tables.all_series(id))})

    def _outcome(self, args: Mapping[str, str]) -> Answer:
        """What became of a command: its answer, if it has come, and the outlet as it stands now."""
        answer = self._tables.answer(args["outlet_id"], args["command_id"])
        return Answer({**self._outlet(args).meta, "answer": answer._asdict() if answer else None})
