"""declared topics + a broker's metadata -> plan / create / alter / check -> topics as declared, or what to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NoReturn, assert_never

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    BrokerResponseError,
    KafkaConnectionError,
    KafkaError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

from streams.brokers import GRANT, NOT_ALLOWED, Brokers, as_brokers, client_options, let_in, unresolved

log = logging.getLogger(__name__)

#: The command that mends what `create` can mend; the wiring of an app may name its own.
MEND = "faust -A app topics create"

#: Long enough for a broker that is just starting, short enough for a person who waits for a plain error.
ANSWER_TIMEOUT_S = 10.0
#: New partitions have a leader within milliseconds on one broker, within a controller's failover on several.
LEADER_TIMEOUT_S = 30.0
_POLL_S = 0.05


#: Settings that correctness or a promise rests on: how long records are kept and whether they fit. A worker does not
#: start while one of them differs. All others are preferred: managed clusters (Confluent Cloud, MSK Express) do not
#: let everything be set, and brokers of other makes do not list everything; a difference is a warning.
REQUIRED = frozenset(
    {
        "cleanup.policy",
        "retention.ms",
        "retention.bytes",
        "max.message.bytes",
        "delete.retention.ms",
        "max.compaction.lag.ms",
        "message.timestamp.type",
    }
)
#: Numbers that may be larger than declared, or smaller, without harm.
MORE_IS_FINE = frozenset({"max.message.bytes", "delete.retention.ms"})
LESS_IS_FINE = frozenset({"max.compaction.lag.ms", "min.cleanable.dirty.ratio"})
#: A cluster that has not adopted a preferred setting after this long does not want to.
PREFERRED_TIMEOUT_S = 3.0
#: What brokers answer to a setting that cannot be set there: INVALID_CONFIG, POLICY_VIOLATION, INVALID_REQUEST.
_NOT_SETTABLE = (40, 42, 44)


class BrokerUnreachable(Exception):
    """No broker answered. What to do about it depends on who asks."""

    def __init__(self, brokers: Brokers | str, cause: str) -> None:
        super().__init__(f"no Kafka broker answers at {brokers}: {cause}")


class TopicsRefused(Exception):
    """The broker would not create or alter a topic; the message has the topic and the broker's own reason."""


class TopicsDiffer(Exception):
    """Topics are not as declared. `differences` is every one of them, the message names each and its mend."""

    def __init__(self, differences: Sequence[Difference], mend: str = MEND) -> None:
        self.differences = tuple(differences)
        lines = ["the topics on the broker are not as declared:", *(f"  {each}" for each in self.differences)]
        super().__init__("\n".join([*lines, *advice(self.differences, mend)]))


class NoLeader(Exception):
    """Partitions without a leader: their broker is down or still starting."""

    def __init__(self, partitions: Sequence[str], timeout_s: float) -> None:
        self.partitions = tuple(partitions)
        more = f" and {len(partitions) - 5} more" if len(partitions) > 5 else ""
        super().__init__(
            f"no leader after {timeout_s:g} s for {', '.join(partitions[:5])}{more}: "
            "a broker that holds them is down; start it, then try again"
        )


@dataclass(frozen=True)
class TopicConfig:
    """A topic as declared. `config` has the broker's own names and string values; only what it names is compared.

    `may_have_more`: more partitions than declared are reported and do not keep a worker from starting. So it is with
    inputs: Kafka takes no partition away, what is in the added ones is counted (streams/added_partitions.py) and
    forwarded (streams/forwarding.py). Of tables and journals, more partitions mean that the declared count was lowered.
    """

    name: str
    partitions: int
    replication_factor: int = 1
    config: Mapping[str, str] = field(default_factory=dict)
    may_have_more: bool = False


class What(StrEnum):
    """What differs, in the order in which `plan` looks."""

    MISSING = "missing"
    PARTITIONS = "partitions"
    REPLICATION = "replication"
    CONFIG = "config"


@dataclass(frozen=True)
class Difference:
    """One thing about one topic that is not as declared. `setting` names the configuration when `what` is CONFIG."""

    topic: str
    what: What
    wanted: str
    found: str | None = None
    setting: str | None = None
    may_have_more: bool = False

    @property
    def mendable(self) -> bool:
        """`create` and `alter` mend it; a partition count moves keys and replicas move data, so those never."""
        return self.what in (What.MISSING, What.CONFIG)

    @property
    def is_preferred(self) -> bool:
        """A setting that workers can do without (see REQUIRED)."""
        return self.what is What.CONFIG and self.setting not in REQUIRED

    @property
    def blocks(self) -> bool:
        """A worker must not start. Fewer replicas than declared are a risk, not a fault: they are only reported."""
        if self.what is What.PARTITIONS and self.may_have_more:
            return int(self.found or 0) < int(self.wanted)
        return self.what is not What.REPLICATION and not self.is_preferred

    @property
    def may_delete_records(self) -> bool:
        """Mending it lets the broker delete records that it keeps today."""
        match self.setting:
            case "cleanup.policy":
                return True
            case "retention.ms" | "retention.bytes" if self.found is not None:
                return int(self.wanted) >= 0 and not 0 <= int(self.found) <= int(self.wanted)
            case _:
                return False

    def __str__(self) -> str:
        match self.what:
            case What.MISSING:
                return f"{self.topic}: missing (declared partitions: {self.wanted})"
            case What.PARTITIONS | What.REPLICATION:
                return f"{self.topic}: {_NOUNS[self.what]} are {self.found} instead of {self.wanted}"
            case What.CONFIG:
                note = " (preferred; workers run without it)" if self.is_preferred else ""
                return f"{self.topic}: {self.setting} is {self.found or 'not known'} instead of {self.wanted}{note}"
        assert_never(self.what)


_NOUNS = {What.PARTITIONS: "partitions", What.REPLICATION: "replicas"}


def advice(differences: Collection[Difference], mend: str = MEND) -> list[str]:
    """What to do about these differences, each thing said once."""
    differences = list(differences)
    kinds = {difference.what for difference in differences}
    lines = []
    if any(each.mendable and not each.is_preferred for each in differences):
        lines.append(f"Run `{mend}` to create what is missing and to set what differs.")
    elif any(each.is_preferred for each in differences):
        lines.append(f"`{mend}` sets what is only preferred, where the broker lets it be set; workers run without it.")
    if any(each.what is What.PARTITIONS and not each.blocks for each in differences):
        lines.append(
            "Kafka takes no partition away. Set the producers to the declared count, and run `faust -A app topics"
            " forward TOPIC`: it brings the records in the added partitions to those that are read."
        )
    if any(each.what is What.PARTITIONS and each.blocks for each in differences):
        lines.append(
            "Nothing here changes a partition count: another count sends keys to other partitions, away from "
            "their state. Set the declared count to the broker's, or copy the topics into new ones that have it."
        )
    if What.REPLICATION in kinds:
        lines.append("Workers run with fewer replicas; Kafka's own kafka-reassign-partitions adds some.")
    return lines


class _AlteredConfigs(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "resources",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
            ),
        ),
    )


class _AlterConfigs(RequestStruct):  # type: ignore[misc]
    """Kafka's IncrementalAlterConfigs: sets what it names. aiokafka has only its predecessor, which resets the rest."""

    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = _AlteredConfigs
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                ("configs", Array(("name", String("utf-8")), ("operation", Int8), ("value", String("utf-8")))),
            ),
        ),
        ("validate_only", Boolean),
    )


class _AlterConfigsRequest(Request[_AlterConfigs]):  # type: ignore[misc]
    API_KEY = 44
    SET = 0

    def __init__(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        self._settings = settings

    def build(self, request_struct_class: type[_AlterConfigs]) -> _AlterConfigs:
        return request_struct_class(
            [
                (ConfigResourceType.TOPIC, topic, [(name, self.SET, value) for name, value in configs.items()])
                for topic, configs in self._settings.items()
            ],
            False,
        )


@asynccontextmanager
async def admin_client(brokers: Brokers | str, timeout_s: float) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started client that knows a broker; whatever keeps it from being answered is BrokerUnreachable, or NotLetIn."""
    client = AIOKafkaAdminClient(**client_options(brokers), request_timeout_ms=int(timeout_s * 1000))
    try:
        async with asyncio.timeout(timeout_s):
            await client.start()
            while not client._client.cluster.brokers():  # a broker answers metadata before it knows itself
                await asyncio.sleep(_POLL_S)
                await client._client.force_metadata_update()
        yield client
    except (TimeoutError, RequestTimedOutError):
        raise BrokerUnreachable(brokers, f"no answer within {timeout_s:g} s") from None
    except BrokerResponseError as error:  # it answered, with a no
        raise TopicsRefused(f"the broker at {brokers} refused: {error} ({type(error).__name__})") from error
    except KafkaConnectionError as error:  # its text repeats the addresses, as Python shows tuples
        if unknown := await unresolved(brokers):
            raise BrokerUnreachable(brokers, f"the name {unknown} cannot be resolved") from error
        await let_in(brokers, timeout_s)
        raise BrokerUnreachable(brokers, f"the connection was refused or cut{_how(brokers)}") from error
    except (KafkaError, OSError) as error:
        raise BrokerUnreachable(brokers, str(error) or type(error).__name__) from error
    finally:
        await client.close()


def _how(brokers: Brokers | str) -> str:
    """A listener that expects something else than what it is sent only hangs up: say what it was sent."""
    asked = as_brokers(brokers)
    return f" ({asked.how})" if asked.security.encrypted or asked.security.with_user else ""


async def _topics(client: AIOKafkaAdminClient) -> dict[str, dict[str, Any]]:
    """Metadata of every topic. Asking for topics by name would create them on a broker with auto-creation on."""
    return {topic["topic"]: topic for topic in await client.describe_topics()}


async def _configs(client: AIOKafkaAdminClient, wanted: Sequence[TopicConfig]) -> dict[str, dict[str, str | None]]:
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, topic.name, dict.fromkeys(topic.config))
        for topic in wanted
        if topic.config
    ]
    found: dict[str, dict[str, str | None]] = {}
    if not resources:
        return found
    for response in await client.describe_configs(resources):
        for code, message, _type, name, entries in response.resources:
            if code:
                _refuse(name, code, message)
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _refuse(topic: str, code: int, message: str | None) -> NoReturn:
    error = for_code(code)
    refusal = f"the broker refused topic {topic}: {message or error.description} ({error.__name__})"
    raise TopicsRefused(f"{refusal}; `{GRANT}` prints the rights that are needed" if error in NOT_ALLOWED else refusal)


def _same(setting: str, wanted: str, found: str | None) -> bool:
    """Whether the broker's value is as good as the declared one."""
    if setting == "cleanup.policy" and found is not None:  # a list, in any order
        return {part.strip() for part in wanted.split(",")} == {part.strip() for part in found.split(",")}
    if found is not None and setting in MORE_IS_FINE | LESS_IS_FINE:
        try:
            return float(found) >= float(wanted) if setting in MORE_IS_FINE else float(found) <= float(wanted)
        except ValueError:
            return wanted == found
    return wanted == found


def _fits(setting: str, wanted: str, replicas: int) -> bool:
    """Whether a topic with so many replicas should have the setting: with too few of them it would take no record."""
    return setting != "min.insync.replicas" or replicas > int(wanted)


def _compare(
    topic: TopicConfig, metadata: Mapping[str, Any], configs: Mapping[str, str | None]
) -> Iterable[Difference]:
    partitions = len(metadata["partitions"])
    if partitions != topic.partitions:
        yield Difference(
            topic.name,
            What.PARTITIONS,
            str(topic.partitions),
            str(partitions),
            may_have_more=topic.may_have_more,
        )
    replicas = min((len(partition["replicas"]) for partition in metadata["partitions"]), default=0)
    if replicas < topic.replication_factor:
        yield Difference(topic.name, What.REPLICATION, str(topic.replication_factor), str(replicas))
    for setting, wanted in topic.config.items():
        if _fits(setting, wanted, replicas) and not _same(setting, wanted, configs.get(setting)):
            yield Difference(topic.name, What.CONFIG, wanted, configs.get(setting), setting)


async def _plan(client: AIOKafkaAdminClient, wanted: Sequence[TopicConfig]) -> list[Difference]:
    existing = await _topics(client)
    present = [topic for topic in wanted if topic.name in existing]
    configs = await _configs(client, present)
    differences: list[Difference] = []
    for topic in wanted:
        if topic.name not in existing:
            differences.append(Difference(topic.name, What.MISSING, str(topic.partitions)))
        else:
            differences.extend(_compare(topic, existing[topic.name], configs.get(topic.name, {})))
    return differences


async def plan(
    brokers: Brokers | str, wanted: Sequence[TopicConfig], *, timeout_s: float = ANSWER_TIMEOUT_S
) -> list[Difference]:
    """Everything that is not as declared, in the order of `wanted`; changes nothing. Raises BrokerUnreachable."""
    async with admin_client(brokers, timeout_s) as client:
        return await _plan(client, wanted)


async def partition_counts(brokers: Brokers | str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, int]:
    """How many partitions each existing topic has. Raises BrokerUnreachable."""
    async with admin_client(brokers, timeout_s) as client:
        return {name: len(topic["partitions"]) for name, topic in (await _topics(client)).items()}


async def create(
    brokers: Brokers | str, missing: Sequence[TopicConfig], *, timeout_s: float = LEADER_TIMEOUT_S
) -> list[str]:
    """Create topics and wait until each partition has a leader; returns the names that this call made.

    A topic that exists already is left as it is, so two starters may call this at once: `check` afterwards tells
    whether it is as declared. Raises BrokerUnreachable, TopicsRefused (the broker's reason), NoLeader.
    """
    if not missing:
        return []
    made: list[str] = []
    async with admin_client(brokers, timeout_s) as client:
        refused = await _create(client, missing, made, timeout_s)
        # The broker may not let a preferred setting be set: without those, or it is another reason.
        plain = [replace(topic, config=_required(topic.config)) for topic in missing if topic.name in refused]
        if plain:
            await _create(client, plain, made, timeout_s)
        for topic in plain:
            log.warning("topic %s is created with required settings only: %s", topic.name, refused[topic.name][1])
        await _await_leaders(client, missing, timeout_s)
    return made


async def _create(
    client: AIOKafkaAdminClient, wanted: Sequence[TopicConfig], made: list[str], timeout_s: float
) -> dict[str, tuple[int, str | None]]:
    """Add to `made`; returns the topics that were refused for a setting. Raises TopicsRefused for any other reason."""
    new = [
        NewTopic(topic.name, topic.partitions, topic.replication_factor, topic_configs=dict(topic.config))
        for topic in wanted
    ]
    refused: dict[str, tuple[int, str | None]] = {}
    preferring = {topic.name for topic in wanted if len(_required(topic.config)) < len(topic.config)}
    response = await client.create_topics(new, timeout_ms=int(timeout_s * 1000))
    for name, code, *message in response.topic_errors:
        reason = message[0] if message else None
        if code == 0:
            made.append(name)
        elif code in _NOT_SETTABLE and name in preferring:
            refused[name] = code, reason
        elif code != TopicAlreadyExistsError.errno:
            _refuse(name, code, reason)
    return refused


def _required(config: Mapping[str, str]) -> dict[str, str]:
    return {setting: value for setting, value in config.items() if setting in REQUIRED}


async def delete(brokers: Brokers | str, names: Sequence[str], *, timeout_s: float = LEADER_TIMEOUT_S) -> None:
    """Delete topics and wait until they are gone; those that are not there are passed over."""
    async with admin_client(brokers, timeout_s) as client:
        existing = sorted(set(names) & (await _topics(client)).keys())
        if existing:
            await client.delete_topics(existing)
        async with asyncio.timeout(timeout_s):
            while not (await _topics(client)).keys().isdisjoint(existing):  # noqa: ASYNC110  # nothing to wait on
                await asyncio.sleep(_POLL_S)


async def alter(
    brokers: Brokers | str, differences: Sequence[Difference], *, timeout_s: float = ANSWER_TIMEOUT_S
) -> list[Difference]:
    """Set the configurations that differ, and no other setting of those topics; returns what was changed: a preferred
    setting that the broker does not take is left out.

    Partition counts and replicas are passed over (see `Difference.mendable`). Whoever calls this for a difference that
    `may_delete_records` has asked before. Raises BrokerUnreachable, TopicsRefused.
    """
    changes = [difference for difference in differences if difference.what is What.CONFIG]
    required = [change for change in changes if not change.is_preferred]
    preferred = [change for change in changes if change.is_preferred]
    if not changes:
        return []
    async with admin_client(brokers, timeout_s) as client:
        for name, code, message in await _set(client, required):
            _refuse(name, code, message)
        # By themselves, since a broker refuses all settings of a topic for one that cannot be set there.
        for name, code, message in await _set(client, preferred):
            if code not in _NOT_SETTABLE:
                _refuse(name, code, message)
            log.warning("topic %s: the broker does not take a preferred setting: %s", name, message)
        await _await_settings(client, required, timeout_s)
        missed = await _await_settings(client, preferred, PREFERRED_TIMEOUT_S, must=False)
    return [change for change in changes if change not in missed]


async def _set(client: AIOKafkaAdminClient, changes: Sequence[Difference]) -> list[tuple[str, int, str | None]]:
    """Returns the topics that were refused, with the broker's code and reason."""
    settings: dict[str, dict[str, str]] = {}
    for change in changes:
        settings.setdefault(change.topic, {})[change.setting or ""] = change.wanted
    if not settings:
        return []
    response = await client._send_request(_AlterConfigsRequest(settings))
    return [(name, code, message) for code, message, _type, name in response.resources if code]


async def _await_settings(
    client: AIOKafkaAdminClient, changes: Sequence[Difference], timeout_s: float, *, must: bool = True
) -> list[Difference]:
    """The controller has them; wait until the broker that is asked shows them too, so that `check` agrees.

    Returns the changes that it does not show after `timeout_s`; with `must` it raises TimeoutError instead.
    """
    settings: dict[str, dict[str, str]] = {}
    for change in changes:
        settings.setdefault(change.topic, {})[change.setting or ""] = change.wanted
    wanted = [TopicConfig(name, 0, config=config) for name, config in settings.items()]
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = await _configs(client, wanted)
        missed = [
            change
            for change in changes
            if not _same(change.setting or "", change.wanted, found[change.topic].get(change.setting or ""))
        ]
        if not missed:
            return []
        if asyncio.get_running_loop().time() > deadline:
            if must:
                raise TimeoutError
            return missed
        await asyncio.sleep(_POLL_S)


async def _await_leaders(client: AIOKafkaAdminClient, wanted: Sequence[TopicConfig], timeout_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while leaderless := _leaderless(await _topics(client), wanted):
        if asyncio.get_running_loop().time() > deadline:
            raise NoLeader(leaderless, timeout_s)
        await asyncio.sleep(_POLL_S)


def _leaderless(existing: Mapping[str, Mapping[str, Any]], wanted: Sequence[TopicConfig]) -> list[str]:
    """Partitions, as `topic-partition`, that nobody can write to yet; a topic not in the metadata yet counts whole."""
    found: list[str] = []
    for topic in wanted:
        led = {
            partition["partition"]
            for partition in existing.get(topic.name, {"partitions": ()})["partitions"]
            if partition["leader"] >= 0
        }
        # A topic that exists with another count is `check`'s business: wait only for the partitions it has.
        known = len(existing[topic.name]["partitions"]) if topic.name in existing else topic.partitions
        found += [f"{topic.name}-{number}" for number in range(known) if number not in led]
    return found


async def check(
    brokers: Brokers | str, wanted: Sequence[TopicConfig], *, mend: str = MEND, timeout_s: float = LEADER_TIMEOUT_S
) -> None:
    """Return when every topic is as declared and led; the gate that a worker passes before it does anything else.

    Logs a warning for what is preferred and for too few replicas, and for topics whose loss one broker can cause.
    Raises TopicsDiffer (missing, other partition count or configuration), NoLeader, BrokerUnreachable.
    """
    async with admin_client(brokers, timeout_s) as client:
        differences = await _plan(client, wanted)
        if any(difference.blocks for difference in differences):
            raise TopicsDiffer(differences, mend)
        for difference in differences:
            log.warning("topic is not as declared: %s", difference)
        for risk in await _risks(client, wanted):
            log.warning("%s", risk)
        await _await_leaders(client, wanted, timeout_s)


#: The broker's own topics that everything rests on: positions of all groups, and states of all transactions.
OWN_TOPICS = ("__consumer_offsets", "__transaction_state")


async def risks(
    brokers: Brokers | str, wanted: Sequence[TopicConfig], *, timeout_s: float = ANSWER_TIMEOUT_S
) -> list[str]:
    """What the loss of one broker would take with it, as sentences with their remedy; none on a cluster of one broker.

    Raises BrokerUnreachable, TopicsRefused.
    """
    async with admin_client(brokers, timeout_s) as client:
        return await _risks(client, wanted)


async def _risks(client: AIOKafkaAdminClient, wanted: Sequence[TopicConfig]) -> list[str]:
    brokers = len(client._client.cluster.brokers())
    if brokers < 2:
        return []
    existing = await _topics(client)
    replicas = {
        name: min((len(partition["replicas"]) for partition in topic["partitions"]), default=0)
        for name, topic in existing.items()
    }
    found = []
    alone = sorted(topic.name for topic in wanted if replicas.get(topic.name, 0) == 1)
    if alone:
        shown = ", ".join(alone[:3]) + (f" and {len(alone) - 3} more" if len(alone) > 3 else "")
        found.append(
            f"{shown}: one replica on a cluster of {brokers} brokers; the loss of a disk loses records, and the loss of"
            " a broker stops their partitions. Set ORDERSTREAM_REPLICATION_FACTOR=3 before topics are created; Kafka's"
            " own kafka-reassign-partitions adds replicas to those that exist."
        )
    own = [name for name in OWN_TOPICS if replicas.get(name) == 1]
    if own:
        found.append(
            f"{' and '.join(own)}: one replica on a cluster of {brokers} brokers; without its broker no worker"
            " commits. Kafka's own kafka-reassign-partitions adds replicas; offsets.topic.replication.factor and"
            " transaction.state.log.replication.factor of the brokers are for new clusters."
        )
    return found
