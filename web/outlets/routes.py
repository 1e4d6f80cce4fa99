"""handlers of outlets -> their addresses; web/routes.py has the others'."""

from __future__ import annotations

from tables.outlets import OutletTables
from web.asking import Desk
from web.commands import Commands
from web.limits import Limits
from web.outlets.questions import OutletQuestions
from web.outlets.reads import OutletReads
from web.outlets.writes import OutletWrites
from web.requests import Requests
from web.routes import Route


def outlet_routes(
    desk: Desk, tables: OutletTables, commands: Commands, once: Requests, inputs: frozenset[str], limits: Limits
) -> list[Route]:
    """How an outlet takes orders; its queue stands with the orders that wait in it."""
    questions = OutletQuestions(desk, tables)
    reads = OutletReads(desk, questions, inputs, limits)
    writes = OutletWrites(desk, questions, commands, once, limits)
    return [
        Route("GET", "/api/v1/outlets/{outlet_id}", reads.show, "getOutlet"),
        Route("PUT", "/api/v1/outlets/{outlet_id}", writes.configure, "configureOutlet"),
    ]
