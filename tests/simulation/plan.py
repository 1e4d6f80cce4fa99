"""a seed -> one history's plan: the records, the weather, and what goes wrong when. The same seed, the same plan."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from tests.simulation.model import Topology, Word
from tests.simulation.network import Weather
from tests.simulation.orders import Orders
from tests.simulation.toy import Toy

TOPOLOGIES: dict[str, Topology] = {"toy": Toy(), "orders": Orders()}
#: Where the wall clock stands when a history begins.
BEGIN_MS = 1_700_000_000_000
POINTS = ("fenced", "restored", "agents_ran", "begun", "sent", "offsets_sent", "committed", "applied")
DAY_MS = 24 * 3600 * 1000


class Action(NamedTuple):
    """Something that happens at a moment (seconds): a word is sent, or something goes wrong."""

    at: float
    kind: str
    args: tuple[Any, ...]

    def __str__(self) -> str:
        about = self.args[0].about if isinstance(self.args[0], Word) else " ".join(map(str, self.args))
        return f"{self.at:7.3f} {self.kind} {about}"


@dataclass(frozen=True)
class Plan:
    """All that decides a history. `seed` also feeds the chances that are taken while it runs."""

    seed: int
    topology: str
    partitions: int
    machines: int
    standbys: int
    batch_max: int
    weather: Weather
    marker_delay_s: float
    wake_delay_s: float
    fail_batch: float
    batch_most: int
    readers: int
    length_s: float
    actions: tuple[Action, ...]

    @property
    def records(self) -> int:
        return sum(action.kind in ("send", "foreign") for action in self.actions)

    @property
    def faults(self) -> int:
        return len(self.actions) - self.records


def make_plan(seed: int, topology: str | None = None) -> Plan:
    """Draw a plan. Each history has its own mix: some are quiet, some have everything at once."""
    chance = Random(seed)
    name = topology or chance.choice(["toy", "toy", "orders"])
    partitions = chance.choice([1, 1, 2]) if name == "toy" else chance.choice([1, 2])
    sleepers = chance.random() < 0.1  # only workers that sleep while many ask: what a lease is for
    machines = chance.choice([2, 3] if sleepers else [1, 2, 2, 3])
    rough = chance.choice([0.0, 0.0, 0.01, 0.03, 0.1])
    length_s = 14.0 if sleepers else chance.choice([4.0, 8.0, 14.0])
    weather = Weather(
        latency_s=chance.choice([0.001, 0.005, 0.03]),
        lose_request=rough * chance.random(),
        lose_answer=rough * chance.random(),
        late=rough * chance.choice([0.0, 1.0]),
        give_up=chance.choice([0.0, 0.3, 1.0]),
    )
    return Plan(
        seed=seed,
        topology=name,
        partitions=partitions,
        machines=machines,
        standbys=chance.choice([0, 0, 1]),
        batch_max=chance.choice([1, 2, 3, 5, 2_000]),
        weather=weather,
        marker_delay_s=chance.choice([0.001, 0.02, 0.3]),
        wake_delay_s=chance.choice([0.001, 0.05]),
        fail_batch=chance.choice([0.0, 0.0, 0.01, 0.05]),
        batch_most=chance.choice([1, 2, 1_000, 1_000]),
        readers=4 if sleepers else chance.choice([0, 1, 2]),
        length_s=length_s,
        actions=_actions(chance, name, partitions, machines, length_s, ["sleep"] if sleepers else None),
    )


def _actions(
    chance: Random, name: str, partitions: int, machines: int, length_s: float, kinds: list[str] | None
) -> tuple[Action, ...]:
    topology = TOPOLOGIES[name]
    words = topology.words(chance, partitions, chance.randint(6, 30), BEGIN_MS)
    actions = [Action(_moment(chance, length_s), "send", (word,)) for word in words]
    for number in range(chance.choice([0, 0, 1, 2])):
        some = topology.words(chance, partitions, 2, BEGIN_MS, first=100 * (number + 1))
        arguments = (*some, chance.random() < 0.5, chance.choice([0.01, 0.5, 2.0]))
        actions.append(Action(_moment(chance, length_s), "foreign", arguments))
    for kind in kinds or chance.sample(sorted(FAULTS), chance.randint(0, 5)):
        for _ in range(chance.choice([1, 1, 2, 4])):
            actions.append(Action(_moment(chance, length_s), kind, FAULTS[kind](chance, machines)))
    return tuple(sorted(actions, key=lambda action: action.at))


def _moment(chance: Random, length_s: float) -> float:
    """Any time; a part of them in bursts."""
    at = chance.random() * length_s
    return at if chance.random() < 0.5 else round(at) + chance.random() * 0.05


def _who(chance: Random, machines: int) -> int:
    return chance.randrange(machines)


def _down_s(chance: Random) -> float:
    return chance.choice([0.01, 0.5, 2.0, 6.0])


#: What can go wrong, and how its arguments are drawn.
FAULTS: dict[str, Any] = {
    "kill": lambda chance, n: (_who(chance, n), _down_s(chance), chance.random() < 0.3),
    "kill_at": lambda chance, n: (
        _who(chance, n),
        chance.choice(POINTS),
        chance.choice([1, 1, 2, 5]),
        _down_s(chance),
        chance.random() < 0.3,
    ),
    "kill_all": lambda chance, n: (_down_s(chance), chance.random() < 0.3),
    "freeze": lambda chance, n: (_who(chance, n), chance.choice([0.2, 1.0, 3.0])),
    "sleep": lambda chance, n: (_who(chance, n), chance.choice([6.0, 10.0])),
    "stop": lambda chance, n: (_who(chance, n), _down_s(chance)),
    "damage": lambda chance, n: (_who(chance, n),),
    "disk_full": lambda chance, n: (_who(chance, n), chance.choice([0.1, 2.0])),
    "compact": lambda chance, n: (chance.choice([0.5, 0.9, 1.0]),),
    "clock": lambda chance, n: (chance.choice([-30_000, 60_000, DAY_MS // 2, DAY_MS + 60_000]),),
    "broker_away": lambda chance, n: (chance.choice([0.1, 1.0, 5.0]),),
    "database_away": lambda chance, n: (chance.choice([0.1, 3.0]),),
}
