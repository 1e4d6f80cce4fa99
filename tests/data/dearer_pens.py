"""Rules to try with `faust -A app what-if --rules tests/data/dearer_pens.py`: an order pays 20 for each pen."""

from agents import checkout
from schemas.inventory import StockReserved
from schemas.purchases import RecordReservation

as_it_is = checkout._reserved


def _reserved(event: StockReserved) -> RecordReservation:
    said = as_it_is(event)
    return said.model_copy(update={"price_minor": 2000}) if event.item_id == "pen" else said


checkout._reserved = _reserved
