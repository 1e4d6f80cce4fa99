"""A running worker -> what its own OpenAPI document allows, and what nobody should send -> documented answers only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import RunningStack, Worker, Workers

#: What is looked at in every answer.
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method",
)  # fmt: skip


@pytest.fixture(scope="module")
def worker(stack: RunningStack) -> Iterator[Worker]:
    stack.wipe()
    stack.faust("topics", "create")
    factory = Workers(stack)
    # Answers come within a second, so that many requests fit into the test.
    yield factory.start(env={"ORDERSTREAM_OUTCOME_WAIT_MS": "1000", "ORDERSTREAM_REQUEST_TIMEOUT_MS": "5000"})
    factory.stop_all()


def test_the_openapi_document_is_kept_to_whatever_is_sent(worker: Worker, tmp_path: Path) -> None:
    """schemathesis makes requests from the document, good and bad, from a fixed seed, for 25 s."""
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{worker.url}/openapi.json",
        "--checks", ",".join(CHECKS), "--seed", "7", "--max-time", "25", "--max-examples", "30",
        "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color", "--warnings", "off",
        "--request-timeout", "10", "--generation-database", "none", "--suppress-health-check", "all",
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2_000:]
    assert worker.get("/health/ready")[0] == 200
