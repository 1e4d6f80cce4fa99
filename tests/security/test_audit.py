"""What pip-audit said -> make audit -> holes, none, or that nothing is known; never the last taken for the second."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest import param

from tests.security.audit import audit

GOOD: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
BAD: dict[str, Any] = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (3)"}


@pytest.mark.parametrize(
    ("out", "err", "code", "said"),
    [
        param(json.dumps({"dependencies": [GOOD]}), "No known", 0, "1 of 1 packages", id="none"),
        param(json.dumps({"dependencies": [GOOD, BAD]}), "", 1, "b 2: PYSEC-1, mended in 2.1", id="a hole"),
        param(json.dumps({"dependencies": [SKIPPED]}), "No known", 2, "not in the database: c.", id="a mirror"),
        param(json.dumps({"dependencies": [GOOD, SKIPPED]}), "No known", 2, "1 of 2 packages", id="one not known"),
        param(json.dumps({"dependencies": [BAD, SKIPPED]}), "", 1, "PYSEC-1", id="a hole, and one not known"),
        param("", "Traceback\nConnectionError: no route\n\n", 2, "did not run: ConnectionError: no route", id="no way"),
        param("", "", 2, "it said nothing", id="silence"),
        param(json.dumps({"dependencies": []}), "", 2, "0 of 0", id="nothing looked up"),
    ],
)
def test_exit_codes(out: str, err: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(lambda command: (code, out, err)) == code
    printed = capsys.readouterr()
    assert said in printed.out + printed.err
    assert ("not known" in printed.err) is (code == 2 or "skip_reason" in out)
