"""the sample order, sealed, checked and opened many times -> microseconds of each: `python -m bench.seals`."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from schemas.orders import check_document, same_document
from schemas.orders.samples import SAMPLE_ORDER
from schemas.seals import Seal, key_id_of, open_json, seal_document, unwrap, wrap

ROUNDS, TIMES = 7, 2_000


def microseconds(work: Callable[[], object]) -> float:
    """The median of some rounds, by the processor's time."""

    def a_round() -> float:
        began = time.process_time()
        for _ in range(TIMES):
            work()
        return (time.process_time() - began) / TIMES * 1e6

    return median(a_round() for _ in range(ROUNDS))


def main() -> None:
    seal = Seal(key_id_of(b"i" * 12), b"s" * 32)
    key = wrap("test", seal.key_id, b"s" * 32, b"m" * 32, b"n" * 12)
    clear, sealed = SAMPLE_ORDER, seal_document(SAMPLE_ORDER, seal)
    assert same_document(open_json(sealed, lambda _: seal)[0], clear)
    print(f"{len(clear)} bytes in clear, {len(sealed)} sealed")
    for what, work in (
        ("seal an order", lambda: seal_document(clear, seal)),
        ("open an order", lambda: open_json(sealed, lambda _: seal)),
        ("open an order whose key is gone", lambda: open_json(sealed, lambda _: None)),
        ("look at an answer with nothing sealed", lambda: open_json(clear, lambda _: seal)),
        ("check a document in clear", lambda: check_document(clear)),
        ("check a sealed document", lambda: check_document(sealed)),
        ("unwrap a key", lambda: unwrap(key, b"m" * 32)),
    ):
        print(f"{what:<40}{microseconds(work):8.1f} µs")


if __name__ == "__main__":
    main()
