"""What the simulation found, held where it plays no part: in aiokafka's own classes and in RocksDB."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, RequestTimedOutError
from aiokafka.producer.producer import AIOKafkaProducer
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import EndTxnRequest, TxnOffsetCommitRequest

from streams.kafka import never_repeat
from streams.store import IDENTITY, POSITION, Memory, RocksStore


def request(kind: type[Any]) -> Any:
    """One by its class, which is all that is looked at."""
    return object.__new__(kind)


def producer(error: Exception) -> Any:
    async def send(node_id: int, request: Any, *, group: Any = None) -> Any:
        raise error

    found = SimpleNamespace(client=SimpleNamespace(send=send))
    never_repeat(found)
    return found


@pytest.mark.parametrize("error", [RequestTimedOutError(), KafkaConnectionError()])
@pytest.mark.parametrize("kind", [EndTxnRequest, TxnOffsetCommitRequest])
async def test_a_change_of_a_transaction_without_an_answer_is_no_reason_to_repeat_it(
    kind: type[Any], error: Exception
) -> None:
    """aiokafka's handlers repeat after any KafkaError and after nothing else."""
    with pytest.raises(Exception, match="was not answered") as raised:
        await producer(error).client.send(0, request(kind))
    assert not isinstance(raised.value, KafkaError)


async def test_what_was_never_sent_and_what_is_numbered_may_be_repeated() -> None:
    with pytest.raises(NodeNotReadyError):
        await producer(NodeNotReadyError()).client.send(0, request(EndTxnRequest))
    with pytest.raises(RequestTimedOutError):
        await producer(RequestTimedOutError()).client.send(0, request(ProduceRequest))


async def test_the_client_is_where_aiokafka_looks_for_it() -> None:
    """The sender sends through the object that `never_repeat` changes."""
    real = AIOKafkaProducer(bootstrap_servers="127.0.0.1:9", transactional_id="t")
    never_repeat(real)
    assert real._sender.client.send is real.client.send
    assert real.client.send.__qualname__.startswith("never_repeat")


def test_an_emptied_family_keeps_its_identity_alone_and_its_neighbour_everything(tmp_path: Path) -> None:
    memory = Memory(1 << 20, 1 << 20)
    store = RocksStore(tmp_path / "s", ["x", "y"], memory)
    for family in ("x", "y"):
        store.identify(family, b"i")
        store.apply({family: {b"a": b"1", "ö".encode(): b"2"}}, {family: 7}, 1_700_000_000_000)
    store.empty("x")
    assert (store.position("x"), store.current_at_ms("x"), store.identity("x")) == (0, 0, b"i")
    assert list(store.range("x", b"\x01", b"\xff", False)) == []
    store.close()
    again = RocksStore(tmp_path / "s", ["x", "y"], memory)
    assert (again.position("x"), again.get("x", b"a"), again.identity("x")) == (0, None, b"i")
    assert (again.position("y"), again.current_at_ms("y"), again.get("y", b"a")) == (7, 1_700_000_000_000, b"1")
    again.close()


def test_a_store_of_an_older_version_has_a_position_and_no_time(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", ["x"], Memory(1 << 20, 1 << 20))
    store._families["x"].put(POSITION, (7).to_bytes(8, "big"))
    assert (store.position("x"), store.current_at_ms("x")) == (7, 0)
    assert POSITION > IDENTITY, "emptying takes what lies behind the position, and the identity stays"
    store.close()
