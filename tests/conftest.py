"""One real Kafka and one real PostgreSQL per session -> the fixtures `stack`, `clean_stack`, `workers` -> tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import RunningStack, Workers, start_stack

ROOT = Path(__file__).parent.parent
#: Rooms that start servers of their own, or measure.
WITH_SERVERS = {"faults", "local", "security", "test_bench.py"}
#: About a third of the time that servers take: with a stack of their own, beside the others.
BESIDE = {"agents", "streams", "security"}
FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """Started once, by the first test that asks. Tests share its topics: use ids of your own, or `clean_stack`."""
    embedded, running = start_stack()
    try:
        yield running
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` runs two processes: one has most of what needs servers, in the order of files; the other the rest."""
    for item in items:
        room = item.path.relative_to(ROOT).parts[1]
        if "stack" in getattr(item, "fixturenames", ()) or room in WITH_SERVERS:
            item.add_marker(pytest.mark.xdist_group("engine" if room in BESIDE else "servers"))
        elif room == "simulation":
            item.add_marker(pytest.mark.xdist_group("simulation"))  # its histories are played once, in one process


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" and report.failed:  # type: ignore[attr-defined]
        item.stash[FAILED] = True
    return report
