"""Fixtures: `stack` (one real Kafka and PostgreSQL per process of the session), `clean_stack`, `workers`, `cluster`."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.processes import RunningStack, Workers, start_stack

ROOT = Path(__file__).parent.parent
#: What stays in one process of the suite: a broker that asks who you are; five hundred parsed files.
TOGETHER = ("tests/security/", "tests/test_tidy.py")
#: Begun first, so that neither process ends long after the other.
LONG = ("tests/test_main_job.py", "tests/faults/", "tests/test_readme.py", "tests/local/test_demo.py")
#: Workers that look every 25 ms instead of every 5, and commit no more often than that, take less of the processor,
#: which is what the suite's time goes by. `make faults` and the bench run on the defaults.
PATIENT = {
    "ORDERSTREAM_FETCH_MAX_WAIT_MS": "25",
    "ORDERSTREAM_COMMIT_INTERVAL_MS": "25",
    # On a machine with other load an outcome may take longer than a person would wait; only a hang takes this long.
    "ORDERSTREAM_OUTCOME_WAIT_MS": "60000",
    "ORDERSTREAM_REQUEST_TIMEOUT_MS": "120000",
}
FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """Started once, by the first test that asks. Tests share its topics: use ids of your own, or `clean_stack`."""
    embedded, running = start_stack()
    try:
        yield replace(running, tuning=PATIENT)
    finally:
        embedded.stop()
        shutil.rmtree(running.data_dir, ignore_errors=True)


@pytest.fixture
def clean_stack(stack: RunningStack) -> RunningStack:
    """The same stack without topics, positions, rows and stores."""
    for service in (stack.broker, stack.database):
        if not service.running():  # a test that killed it and failed before it started it again
            service.start()
    stack.wipe()
    return stack


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningStack]:
    """Three brokers: replication factor 3, min.insync.replicas 2. For a module, since three take 10 s and 600 MB."""
    embedded, running = start_stack(brokers=3)
    try:
        yield replace(running, tuning=PATIENT)
    finally:
        embedded.stop()
        shutil.rmtree(running.data_dir, ignore_errors=True)


@pytest.fixture
def workers(stack: RunningStack, request: pytest.FixtureRequest) -> Iterator[Workers]:
    """`workers.start()` gives a ready `faust -A app worker`. All end with the test; a failure shows their logs."""
    factory = Workers(stack)
    try:
        yield factory
    finally:
        factory.stop_all()
        if request.node.stash.get(FAILED, False):
            print(factory.log_tails())


class InTurn(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types for it
    """Test by test to whichever process is free. xdist's own groups do nothing with pytest 9.2 (its ids are fixed)."""

    def _split_scope(self, nodeid: str) -> str:
        return next((place for place in TOGETHER if nodeid.startswith(place)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> InTurn:
    return InTurn(config, log)


#: Fixtures that start a server. What uses none of them, and stands in none of SERVERS, is the fast part of the suite.
SERVER_FIXTURES = frozenset(("stack", "cluster", "secured", "site", "database", "pooler"))
SERVERS = ("tests/faults/", "tests/local/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if not SERVER_FIXTURES.isdisjoint(fixtures) or item.nodeid.startswith(SERVERS):
            item.add_marker("broker")
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" and report.failed:  # type: ignore[attr-defined]
        item.stash[FAILED] = True
    return report
