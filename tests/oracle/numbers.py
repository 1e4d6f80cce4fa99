"""outlets.commands.v1 -> every number that it must have led to -> series without a gap, one number for each order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.bought import Told, must
from tests.oracle.verdict import Verdict

CHECK = "order numbers"


@dataclass
class Numbers:
    """What outlets said of themselves, and the numbers that they gave."""

    said: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    last: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    of_order: dict[str, str] = field(default_factory=dict)
    _heard: set[tuple[str, str]] = field(default_factory=set)

    def judge(self, home: list[Told], verdict: Verdict) -> None:
        for told in home:
            verdict.looked(CHECK)
            must(verdict, CHECK, told, self._expect(told))

    def _expect(self, told: Told) -> dict[str, Any] | None:
        outlet = told.said["outlet_id"]
        if told.said["type"] == "configure_outlet":
            wanted = (told.said.get("approval"), told.said.get("number_prefix"))
            if (outlet, told.id) in self._heard or self.said.get(outlet, (None, None)) == wanted:
                return None
            self._heard.add((outlet, told.id))
            self.said[outlet] = wanted
            return {"type": "outlet_configured", "approval": wanted[0], "number_prefix": wanted[1]}
        order = told.said["order_uid"]
        if order in self.of_order:
            return None
        prefix, year = self.said.get(outlet, (None, None))[1] or outlet, int(told.at[:4])
        self.last[outlet, prefix, year] += 1
        sequence = self.last[outlet, prefix, year]
        self.of_order[order] = f"{prefix}/{year}/{sequence:06d}"
        return {"type": "number_issued", "sequence": sequence, "order_number": self.of_order[order]}
