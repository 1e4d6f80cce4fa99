"""two attestations -> equal, or the first difference in words; rows -> a hash that sees all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from cli.attest import attest, first_difference
from streams.attest import attested, code_version
from streams.store import IDENTITY, POSITION, MemoryStore
from tests.cli.running import desk

ROW = {"table": "orders", "partition": 0, "position": {"orders": 7}, "rows": 1, "hash": "a" * 64}


def store(**rows: str) -> MemoryStore:
    made = MemoryStore()
    made.apply({"orders": {key.encode(): value.encode() for key, value in rows.items()}}, {"orders": 9}, 17)
    return made


def test_a_hash_covers_rows_and_position_and_nothing_of_the_stores_own() -> None:
    one, position = store(a="1", b="2"), {"orders": 7}
    found = attested(one, "orders", 0, position)
    assert found == attested(store(b="2", a="1"), "orders", 0, position)
    assert found.rows == 2 and len(found.hash) == 64
    one.apply({"orders": {POSITION: b"elsewhere", IDENTITY: b"other"}}, {}, 0)
    assert attested(one, "orders", 0, position) == found
    others = [store(a="1"), store(a="1", b="3"), store(a="1", c="2"), store(a="12", b=""), store(a="1", b="2", c="")]
    hashes = {attested(other, "orders", 0, position).hash for other in others}
    assert len(hashes | {found.hash, attested(one, "orders", 0, {"orders": 8}).hash}) == 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"hash": "b" * 64}, "orders, partition 0: other rows after the same records: bbbbbbbbbbbbbbbb now"),
        ({"position": {"orders": 8}}, "orders, partition 0: at orders:8 now, it was at orders:7 then."),
        ({"partition": 1}, "orders, partition 1: the earlier one does not have it."),
    ],
)
def test_the_first_difference_in_words(change: dict[str, Any], said: str | None) -> None:
    found = first_difference([ROW], [ROW | change])
    assert found == said or (said is not None and found is not None and found.startswith(said))


@pytest.mark.parametrize("content", [b"no JSON", b"[]", orjson.dumps({"tables": [{"table": "orders"}]})])
def test_a_file_that_is_no_attestation_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "earlier.json"
    file.write_bytes(content)
    result = desk("127.0.0.1:9", tmp_path).run(attest, "--against", str(file))
    assert result.exit_code == 2
    assert "is not what `attest --json` prints" in result.stderr


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = desk("127.0.0.1:9", tmp_path).run(attest, "--table", "nothing")
    assert result.exit_code == 2
    assert "there is no table nothing" in result.stderr


def test_the_code_has_a_version_that_changes_with_it(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("a = 1")
    before = code_version([tmp_path])
    assert before == code_version([tmp_path]) and len(before) == 16
    (tmp_path / "rules.py").write_text("a = 2")
    assert code_version([tmp_path]) != before
