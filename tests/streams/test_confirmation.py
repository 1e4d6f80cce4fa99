"""When a member that hears nothing from its group begins again."""

from __future__ import annotations

import pytest

from streams.membership import Confirmation, Unconfirmed


class Time:
    """A clock that a test moves, and the looks that are made every half second meanwhile."""

    def __init__(self, session_ms: int = 6_000) -> None:
        self.now = 1_000.0
        self.confirmation = Confirmation(session_ms, 15_000, lambda: self.now)

    def pass_s(self, seconds: float, confirmed_at: float) -> None:
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            self.confirmation.check(confirmed_at)


@pytest.mark.parametrize("session_ms", [1_000, 6_000])
def test_silence_is_borne_through_two_rebalances_and_no_longer(session_ms: int) -> None:
    time = Time(session_ms)
    time.pass_s(30, confirmed_at=time.now)
    with pytest.raises(Unconfirmed, match="bootstrap addresses"):
        time.pass_s(1, confirmed_at=1_000.0)


def test_a_long_session_is_waited_for_three_times() -> None:
    assert Confirmation(60_000, 15_000).limit_s == 180


def test_a_heartbeat_that_is_confirmed_begins_the_time_again() -> None:
    time = Time()
    for _ in range(10):
        time.pass_s(20, confirmed_at=time.now)


def test_a_worker_that_slept_itself_is_given_the_time_to_hear_from_its_group() -> None:
    time = Time()
    time.pass_s(5, confirmed_at=1_000.0)
    time.now += 3_600  # frozen
    time.pass_s(30, confirmed_at=1_000.0)
    with pytest.raises(Unconfirmed):
        time.pass_s(1, confirmed_at=1_000.0)
