"""What the simulation found, held where it plays no part: in RocksDB."""

from __future__ import annotations

from pathlib import Path

from streams.store import IDENTITY, POSITION, Memory, RocksStore


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
