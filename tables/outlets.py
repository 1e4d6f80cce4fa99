"""Outlets: events -> rows -> what an outlet has said, and the numbers of its orders. Tables of the group `inventory`.

All rows of an outlet are written by the task of its outlet_id: whoever takes a number stands in one line. The layout of
the keys (NUL ends a part, none may hold it):

    outlets           outlet_id -> Outlet
    outlet_commands   outlet_id NUL command_id -> OutletAnswer
    number_series     outlet_id NUL prefix NUL year -> the last number of the series
    order_numbers     outlet_id NUL order_uid -> the order's number
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from schemas.base import content_of
from schemas.outlets import (
    NOTHING_NEW,
    ConfigureOutlet,
    NumberIssued,
    Outlet,
    OutletAnswer,
    OutletConfigured,
    Series,
)
from streams import App, Codec, Position, Table
from tables.inventory import GROUP

#: Prefixes that an outlet has had, times years: a read of an outlet shows no more of them.
MOST_SERIES = 200


@dataclass(frozen=True)
class OutletTables:
    """The tables of outlets. Reads work in the group's agents and within `app.reading("inventory", partition)`."""

    outlets: Table[Outlet]
    commands: Table[OutletAnswer]
    series: Table[int]
    numbers: Table[bytes]

    def outlet(self, outlet_id: str) -> Outlet | None:
        """What the outlet has said of itself; None: nothing."""
        return self.outlets.get(outlet_id)

    def answer(self, outlet_id: str, command_id: str) -> OutletAnswer | None:
        """What became of a command; None when it has not come."""
        return self.commands.get(f"{outlet_id}\0{command_id}")

    def last_of(self, outlet_id: str, series: Series) -> int:
        """The last number of a series; 0 before its first."""
        return self.series.get(_series_key(outlet_id, series), 0)

    def number_of(self, outlet_id: str, order_uid: str) -> str | None:
        """The number that an order of this outlet has."""
        found = self.numbers.get(f"{outlet_id}\0{order_uid}")
        return None if found is None else found.decode()

    def all_series(self, outlet_id: str) -> Iterator[tuple[Series, int]]:
        """The series of an outlet, each with its last number."""
        for key, last in self.series.range(f"{outlet_id}\0", limit=MOST_SERIES):
            _, prefix, year = key.split("\0")
            yield Series(prefix, int(year)), last

    def keep_outlet(self, outlet: Outlet) -> None:
        self.outlets[outlet.outlet_id] = outlet

    def keep_answer(
        self, command: ConfigureOutlet, event: OutletConfigured | None, outlet: Outlet | None, cause: Position
    ) -> None:
        """Write down that a command is answered: by this event, or None when it had nothing new to say."""
        answer = OutletAnswer(
            content_of(command), event.type if event else NOTHING_NEW, outlet.version if outlet else 0, *cause
        )
        self.commands[f"{command.outlet_id}\0{command.command_id}"] = answer

    def keep_number(self, event: NumberIssued) -> None:
        """The series goes on behind this number, and the order has it for ever."""
        self.series[_series_key(event.outlet_id, Series(event.prefix, event.year))] = event.sequence
        self.numbers[f"{event.outlet_id}\0{event.order_uid}"] = event.order_number.encode()


def _series_key(outlet_id: str, series: Series) -> str:
    return f"{outlet_id}\0{series.prefix}\0{series.year}"


def declare(app: App) -> OutletTables:
    """Declare the tables on the app. Their changelogs are named after them."""
    return OutletTables(
        outlets=app.Table(
            "outlets", group=GROUP, codec=Codec(Outlet.to_json, Outlet.from_json), help="How outlets take orders."
        ),
        commands=app.Table(
            "outlet_commands",
            group=GROUP,
            codec=Codec(OutletAnswer.to_json, OutletAnswer.from_json),
            help="Answered commands, so that none counts twice.",
        ),
        series=app.Table("number_series", group=GROUP, value_type=int, help="The last number of each series."),
        numbers=app.Table("order_numbers", group=GROUP, value_type=bytes, help="The number of each order."),
    )
