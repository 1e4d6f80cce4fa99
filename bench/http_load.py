"""requests -> keep-alive connections -> one server: as many as it takes, or at a steady rate -> one line of JSON.

`python -m bench.http_load` in a process of its own. It speaks just enough HTTP to cost a fraction of
what any server costs: requests are bytes made beforehand, an answer is its status line and its Content-Length.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from bench import orders
from bench.latency import percentile
from local.ports import HOST

#: What is bought, and by whom; a hundred of each.
ITEMS, BUYERS, PIECES = "bench-item-{}", "bench-buyer-{}", 10**6
#: Requests under way at once when the server sets the pace.
CONNECTIONS = 16
#: At a steady rate: enough that a slow answer does not hold up the next request.
MOST_CONNECTIONS = 256


class Load(NamedTuple):
    """What was asked, for how long, and how long the answers took (from when each request was due)."""

    per_s: float
    p50_ms: float
    p99_ms: float
    bad: int  # answers with another status than the one that is wanted
    asked: int


class _Connection:
    """One request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self._received = b""
        self._size = -1

    def ask(self, request: bytes, due: float) -> None:
        self.due, self._received, self._size = due, b"", -1
        self.socket.sendall(request)

    def take(self) -> int | None:
        """What has arrived; the status once the answer is whole."""
        arrived = self.socket.recv(1 << 16)
        if not arrived:
            raise ConnectionError("the server closed a connection")
        self._received += arrived
        if self._size < 0:
            head, separator, _ = self._received.partition(b"\r\n\r\n")
            if not separator:
                return None
            at = head.lower().index(b"content-length:") + 15
            self._size = len(head) + 4 + int(head[at:].split(b"\r", 1)[0])
        return int(self._received[9:12]) if len(self._received) >= self._size else None


def drive(port: int, requests: Iterator[bytes], wanted: int, *, seconds: float, per_s: float = 0.0) -> Load:
    """`per_s` 0: each answer is followed by the next request. Else they are sent when due, whatever the answers do."""
    epoll = select.epoll()
    by_fd: dict[int, _Connection] = {}
    free: deque[_Connection] = deque()

    def connect() -> _Connection:
        connection = _Connection(port)
        by_fd[connection.socket.fileno()] = connection
        epoll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    clock = time.perf_counter
    took: list[float] = []
    sent, bad, began = 0, 0, clock()
    free.extend(connect() for _ in range(CONNECTIONS))
    while (now := clock()) < began + seconds or len(free) < len(by_fd):
        if now > began + seconds + 10:
            raise TimeoutError(f"{len(by_fd) - len(free)} requests are without an answer 10 s after the last one")
        open_ = now < began + seconds
        while open_ and (not per_s or sent < (now - began) * per_s):
            if not free:
                if not per_s or len(by_fd) >= MOST_CONNECTIONS:
                    break
                free.append(connect())
            free.popleft().ask(next(requests), began + sent / per_s if per_s else clock())
            sent += 1
        for fd, _ in epoll.poll(0.0005 if per_s else 0.1):
            connection = by_fd[fd]
            status = connection.take()
            if status is not None:
                took.append((clock() - connection.due) * 1000)
                bad += status != wanted
                free.append(connection)
    for connection in by_fd.values():
        connection.socket.close()
    took.sort()
    return Load(len(took) / seconds, percentile(took, 50), percentile(took, 99), bad, sent)


def lookups(path: str, count: int) -> Iterator[bytes]:
    """Orders 0 to count - 1 in a random order that is the same each time."""
    chance = random.Random(1)
    while True:
        uid = orders.order_uid(chance.randrange(count))
        yield f"GET {path}{uid} HTTP/1.1\r\nHost: {HOST}\r\nAccept: application/json\r\n\r\n".encode()


def postings(path: str, first: int) -> Iterator[bytes]:
    """New orders from number `first` on."""
    while True:
        value = orders.order(first)[1]
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(value)}"
        yield head.encode() + b"\r\n\r\n" + value
        first += 1


def carts(path: str, name: str) -> Iterator[bytes]:
    """Two items, one piece of each, for one of the buyers. `name` tells these carts from those of another run."""
    for number in itertools.count():
        items = [{"item_id": ITEMS.format((number + step) % 100), "quantity": 1} for step in (0, 37)]
        cart = {"user_id": BUYERS.format(number % 100), "items": items, "idempotency_key": f"{name}-{number}"}
        value = json.dumps(cart).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(value)}"
        yield head.encode() + b"\r\n\r\n" + value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("lookups", "postings", "carts"))
    parser.add_argument("port", type=int)
    parser.add_argument("path", help="what an order's uid follows, or what is posted to")
    parser.add_argument("--orders", type=int, required=True, help="how many orders there are to look up")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-s", type=float, default=1.0)
    parser.add_argument("--per-s", type=float, default=0.0)
    parser.add_argument("--name", default="cart", help="of carts: another name, other orders")
    options = parser.parse_args()
    if options.what == "lookups":
        requests, wanted = lookups(options.path, options.orders), 200
    elif options.what == "carts":
        requests, wanted = carts(options.path, options.name), 201
    else:
        requests, wanted = postings(options.path, options.orders), 201
    drive(options.port, requests, wanted, seconds=options.warm_s, per_s=options.per_s)
    found = drive(options.port, requests, wanted, seconds=options.seconds, per_s=options.per_s)
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main()
