"""schemas/topics.py -> the AsyncAPI 3.0 document: every topic, its records, who writes and who reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from schemas import dead_letters
from schemas.base import Fault
from schemas.topics import TopicSpec

JsonObject = dict[str, Any]

VERSION = "1.0.0"


def document(specs: Iterable[TopicSpec], bootstrap: str, *, encrypted: bool = False) -> JsonObject:
    """The whole document, from this platform's point of view: it receives what its agents read and sends the rest.

    `bootstrap`: the brokers that this worker uses, as host:port,….
    """
    specs = tuple(specs)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Orderstream",
            "version": VERSION,
            "description": "The topics of the order platform. Kafka is its only system of record: all state follows"
            " from these records. Events and dead letters are written in transactions; read them with"
            " `isolation.level=read_committed`.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": bootstrap.split(",")[0],
                "protocol": "kafka-secure" if encrypted else "kafka",
                "description": "The brokers of this installation; more than one may be listed in its settings.",
            }
        },
        "channels": {_id(spec.name): _channel(spec) for spec in specs},
        "operations": dict(operation for spec in specs for operation in _operations(spec)),
        "components": {"schemas": schemas(specs), "messages": _messages(specs)},
    }


def schemas(specs: Iterable[TopicSpec]) -> JsonObject:
    """JSON Schema of every record type and what it is made of, by name."""
    models = {model.__name__: model for spec in specs for model in spec.values} | {"Fault": Fault}
    _, whole = models_json_schema(
        [(model, "validation") for model in models.values()], ref_template="#/components/schemas/{model}"
    )
    defined: JsonObject = whole["$defs"]
    return {name: defined[name] for name in sorted(defined)}


def _id(name: str) -> str:
    """Keys of an AsyncAPI document take letters, digits, `.`, `_` and `-`; ours keep to what code generators take."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def _channel(spec: TopicSpec) -> JsonObject:
    names = [model.__name__ for model in spec.values] or ["DeadLetter"]
    return {
        "address": spec.name,
        "title": spec.name,
        "description": f"{spec.description} Key: {spec.key}. Written by: {spec.writer}.",
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "tags": [{"name": "public" if spec.public else "internal"}],
        "bindings": {
            "kafka": {
                "bindingVersion": "0.5.0",
                "topic": spec.name,
                "partitions": spec.partitions,
                "replicas": spec.replication_factor,
                "topicConfiguration": {
                    "cleanup.policy": [spec.cleanup],
                    "retention.ms": spec.retention_ms,
                    "max.message.bytes": spec.max_message_bytes,
                },
            }
        },
    }


def _operations(spec: TopicSpec) -> Iterable[tuple[str, JsonObject]]:
    channel = {"$ref": f"#/channels/{_id(spec.name)}"}
    if spec.group is not None:
        group = {"type": "string", "enum": [spec.group], "description": "The group of agents that reads it."}
        yield (
            f"receive_{_id(spec.name)}",
            {
                "action": "receive",
                "channel": channel,
                "summary": f"Read by the agents of group {spec.group}.",
                "bindings": {"kafka": {"bindingVersion": "0.5.0", "groupId": group}},
            },
        )
    if spec.writer != "any producer":
        yield (
            f"send_{_id(spec.name)}",
            {"action": "send", "channel": channel, "summary": f"Written by {spec.writer}."},
        )


def _messages(specs: Iterable[TopicSpec]) -> JsonObject:
    messages: JsonObject = {}
    for spec in specs:
        for model in spec.values:
            messages[model.__name__] = {
                "name": model.__name__,
                "title": model.__name__,
                "summary": (model.__doc__ or "").strip().split("\n")[0],
                "contentType": "application/json",
                "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
                "bindings": _key(spec),
            }
        if not spec.values:
            messages["DeadLetter"] = _dead_letter(spec)
    return messages


def _key(spec: TopicSpec) -> JsonObject:
    return {"kafka": {"bindingVersion": "0.5.0", "key": {"type": "string", "description": spec.key}}}


def _dead_letter(spec: TopicSpec) -> JsonObject:
    """The record as it came, whatever it was; its headers say where from and why."""
    text: JsonObject = {"type": "string"}
    headers = {
        dead_letters.KIND: {"type": "string", "enum": ["poison", "failed"]},
        dead_letters.REASON: text,
        dead_letters.FAULTS: {**text, "contentMediaType": "application/json", "description": "A list of Fault."},
        dead_letters.TOPIC: text,
        dead_letters.PARTITION: text,
        dead_letters.OFFSET: text,
        dead_letters.TIMESTAMP: {**text, "description": "Of the original record: Unix time in milliseconds."},
        dead_letters.ATTEMPT: {**text, "description": "1 at first; one more with each redrive."},
        dead_letters.AGENT: text,
        dead_letters.VALUE_BYTES: {**text, "description": "Size of a value that is left out: it stays on its topic."},
        dead_letters.VALUE_SHA256: {**text, "description": "Of the value that is left out."},
        dead_letters.KEY_BYTES: {**text, "description": "Size of a key that is left out."},
        dead_letters.HEADERS_LEFT_OUT: {**text, "description": "Number of headers, if they are left out."},
        dead_letters.REDRIVEN: {**text, "description": "On a marker only: the id of the letter that was sent back."},
    }
    return {
        "name": "DeadLetter",
        "title": "Dead letter",
        "summary": spec.description,
        "contentType": "application/octet-stream",
        "payload": {"description": "The original bytes, up to 64 KiB; larger values stay on their own topic."},
        "headers": {"type": "object", "properties": headers, "additionalProperties": True},
        "bindings": _key(spec),
    }
