"""The fault runs: every row of docs/faults.md on real workers, a real Kafka and a real PostgreSQL. Reading order:

__main__.py    `python -m tests.faults`: which rows, which seed, the table at the end
shop.py        a payment provider and shoppers beside the orders, and their judgement
row.py         what a row is, what came of it, the table
trial.py       the platform under load, its strikes and recoveries, the judgement
recording.py   what an older version wrote, and what came of it: recorded/*.jsonl
app.py         the product's app with a bug, a slow hand, a jumping clock or a limit planted in it
*_rows.py      the rows
"""

from tests.faults import (  # noqa: F401  each enters its rows
    abuse_rows,
    checkout_rows,
    cluster_rows,
    outside_rows,
    record_rows,
    store_rows,
    version_rows,
    webhook_rows,
    worker_rows,
)
from tests.faults.row import ROWS as rows

__all__ = ["rows"]
