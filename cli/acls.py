"""the app's topology -> the rights its user needs on the brokers -> a table, kafka-acls lines or JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from itertools import groupby

import click

from cli.console import Operator, json_option, note, put_json, put_table
from cli.into import live_id
from cli.produce import intake_of
from schemas.topics import DEAD_LETTERS
from streams.positions import TOPIC as OFFSETS
from streams.rights import READ_WRITE, Operation, Resource, Right, with_more

#: Its topic for a moment, made for the round trip of a record.
DOCTORS_TOPICS = (Operation.CREATE, Operation.DELETE, Operation.READ, Operation.WRITE)


@click.command()
@click.option("--principal", help="Whose rights: User:name. Default: User: and ORDERSTREAM_KAFKA_USER.")
@click.option(
    "--for",
    "role",
    type=click.Choice(["worker", "operator", "producer"]),
    default="worker",
    show_default=True,
    help="worker: what `faust worker` needs. operator: that, and what the other commands need. producer: to order.",
)
@click.option("--commands", is_flag=True, help="Print lines for Kafka's kafka-acls.sh, ready to be run.")
@json_option
@click.pass_obj
def acls(operator: Operator, principal: str | None, role: str, commands: bool, as_json: bool) -> None:
    """Print the rights (ACLs) that this deployment needs on the brokers. Asks no broker and changes nothing.

    They follow from the topics, tables and agents of app.py and from the settings, so print them again after a change.

    Exit codes: 0 printed, 2 usage.
    """
    if principal is None:
        if operator.settings.kafka_user is None:
            raise click.UsageError("Whose rights? Give --principal User:name, or set ORDERSTREAM_KAFKA_USER.")
        principal = f"User:{operator.settings.kafka_user}"
    if ":" not in principal:
        raise click.BadParameter(f"{principal} has no type: User:{principal} is meant?", param_hint="--principal")
    rights = rights_of(operator, role)
    if as_json:
        put_json({"principal": principal, "for": role, "acls": [_row(right) for right in rights]})
    elif commands:
        for line in command_lines(rights, principal, str(operator.brokers)):
            click.echo(line)
        note("Add `--command-config admin.properties` where the brokers ask for an administrator's password.")
    else:
        put_table(
            ["on", "name", "operations", "for"],
            [[right.resource, _shown(right), ", ".join(right.operations), right.why] for right in rights],
        )
        note(f"--principal {principal}; --commands prints them as lines for kafka-acls.sh. A * ends a prefix.")


def rights_of(operator: Operator, role: str) -> list[Right]:
    """The rights of a role, one for each resource."""
    if role == "producer":
        why = "orders; nothing else may be written by who sends them"
        return [Right(Resource.TOPIC, intake_of(operator.settings).name, (Operation.WRITE,), why)]
    rights = operator.app.rights()
    return with_more(rights, _of_commands(operator)) if role == "operator" else rights


def _of_commands(operator: Operator) -> Iterator[Right]:
    """What the commands need beside a worker's rights."""
    app_id, changelogs = operator.app_id, {topic.name for topic in operator.app.changelog_topics()}
    for topic in operator.app.required_topics():
        made = (Operation.CREATE, Operation.ALTER_CONFIGS)
        if topic.name in changelogs:
            yield Right(Resource.TOPIC, topic.name, (*made, Operation.DELETE), "topics create, reset")
        else:
            yield Right(Resource.TOPIC, topic.name, made, "topics create")
    if operator.app.live is not None:
        yield Right(Resource.TOPIC, operator.app.live.partition.topic, READ_WRITE, "replay --into, versions")
        yield Right(Resource.TRANSACTIONAL_ID, live_id(operator), (Operation.WRITE,), "replay --into, versions")
    yield Right(Resource.TOPIC, DEAD_LETTERS.name, READ_WRITE, "dead-letters")
    yield Right(
        Resource.TRANSACTIONAL_ID, f"{operator.app.shared_id}-redrive", (Operation.WRITE,), "dead-letters redrive"
    )
    yield Right(Resource.TOPIC, f"{app_id}-doctor-", DOCTORS_TOPICS, "doctor", prefixed=True)
    yield Right(Resource.GROUP, app_id, (Operation.DELETE,), "reset")
    for effect in operator.app.effects:
        yield Right(Resource.GROUP, effect.group_id, (Operation.READ,), "offsets restore, offsets begin")
    yield Right(Resource.TOPIC, OFFSETS, (Operation.READ,), "offsets: what the broker remembers of them")


def command_lines(rights: Iterable[Right], principal: str, bootstrap: str) -> list[str]:
    """One line for all resources of a kind that get the same operations: each line is a Java process of its own."""

    def alike(right: Right) -> tuple[str, bool, tuple[str, ...]]:
        return right.resource, right.prefixed, right.operations

    lines = []
    for (resource, prefixed, operations), group in groupby(sorted(rights, key=alike), alike):
        words = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--add", "--allow-principal", principal]
        words += [word for operation in operations for word in ("--operation", operation)]
        words += [word for right in group for word in (f"--{resource}", right.name)]
        words += ["--resource-pattern-type", "prefixed"] if prefixed else []
        lines.append(shlex.join(words))
    return lines


def _row(right: Right) -> dict[str, object]:
    return {
        "resource": right.resource,
        "name": right.name,
        "pattern": "prefixed" if right.prefixed else "literal",
        "operations": list(right.operations),
        "why": right.why,
    }


def _shown(right: Right) -> str:
    return f"{right.name}*" if right.prefixed else right.name
