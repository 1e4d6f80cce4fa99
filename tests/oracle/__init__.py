"""The oracle: what the input topics must have led to, judged without a line of the platform's own code.

It is written from the documented behaviour, so a rule that is wrong in the platform cannot be wrong here in the same
way; `test_tidy` of this folder (tests/test_oracle.py) holds it to that. Reading order:

    verdict.py     what was found: lost, doubled, reordered, wrong, hanging, with counts and first examples
    log.py         what is judged: records as they stand in the log
    documents.py   the rules of an order document: bytes -> the paths of all its faults
    inputs.py      records of `orders` and `orders.commands.v1` -> commands, poison, ids, homes
    inlet.py       every input has one fate: at home, brought home, dead letter
    history.py     orders.events.v1 as the claimed history: each event has its input, each input its outcome
    tables.py      the events folded into the rows that each table must have; changelogs held to them
    postgres.py    the same for the rows of PostgreSQL
    judge.py       all of the above over one log
    window.py      the same for what workers answer, and for what a poller saw over time
    bought.py      checkout: each command with what it led to, by domains; strays, dead letters
    ledger.py      every event that the commands of accounts must have led to; both legs
    stock.py       the same for items
    money.py       payments: legal moves, sums, who may be silent
    purchases.py   the same for orders that are bought, with their quantities
    parcels.py     shipments as carriers have them: who is believed when, one parcel for each; their own books
    joins.py       what each event must ask of the other domains, once
    checkout.py    all of these over one log; money and goods at rest; the provider's own notes
    checkout_window.py    what workers answer about them
    ask.py         asks workers for orders, and polls them all the time
    planting.py    plants faults into honest histories, so that the judges can be judged
    broker.py      reads all of it from a real broker, with another client library than the platform's
"""
