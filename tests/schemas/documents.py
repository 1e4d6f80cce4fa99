"""The sample order, changed in one place: what the tests of documents start from."""

from __future__ import annotations

from typing import Any

import orjson

from schemas.base import InvalidDocument
from schemas.orders import read_document
from schemas.orders.samples import SAMPLE_ORDER

SAMPLE = SAMPLE_ORDER
GONE: Any = object()


def changed(*changes: tuple[str, Any]) -> bytes:
    """The sample with each "a.0.b" set to a value, or left out with GONE."""
    tree = orjson.loads(SAMPLE)
    for path, value in changes:
        *above, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        holder = tree
        for step in above:
            holder = holder[step]
        if value is GONE:
            del holder[last]
        else:
            holder[last] = value
    return orjson.dumps(tree)


def faults_of(raw: bytes) -> dict[str, str]:
    """The faults of a document by path; empty when it is accepted."""
    try:
        read_document(raw)
    except InvalidDocument as error:
        return {fault.path: fault.message for fault in error.faults}
    return {}
