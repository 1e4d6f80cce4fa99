"""docs/security.md -> its variables, files and limits -> the settings and the code say the same."""

import re

import pytest

from schemas.settings import IN_FILES, PREFIX, Settings
from schemas.topics import TOPICS
from streams.brokers import GRANT
from tests.processes import ROOT
from web import asyncapi

PAGE = (ROOT / "docs" / "security.md").read_text()

#: Settings of the embedded Kafka, which no client is told of.
EMBEDDED = ("kafka_port", "kafka_brokers")


@pytest.mark.parametrize("name", sorted(set(re.findall(rf"{PREFIX}([A-Z_]+[A-Z])\b", PAGE))))
def test_every_variable_is_a_setting(name: str) -> None:
    assert name.lower() in {*Settings.model_fields, *(f"{each}_file" for each in IN_FILES)}


def test_every_setting_of_the_kafka_client_is_explained() -> None:
    about = [name for name in Settings.model_fields if name.startswith("kafka_") and name not in EMBEDDED]
    assert len(about) == 8
    assert [name for name in about if PREFIX + name.upper() not in PAGE] == []


def test_the_defaults_that_it_names_are_the_defaults() -> None:
    settings = Settings.load({})
    assert settings.kafka_security_protocol == "PLAINTEXT" and "`PLAINTEXT` (default)" in PAGE
    assert settings.kafka_sasl_mechanism == "SCRAM-SHA-512" and "`SCRAM-SHA-512` (default)" in PAGE
    assert settings.max_request_bytes == 1 << 20 and "| a body | 1 MiB;" in PAGE
    assert settings.max_json_depth == 32 and "| nesting of a body | 32 levels |" in PAGE
    assert settings.request_timeout_ms == 15_000 and "a request in all | 10 s; 15 s |" in PAGE
    assert settings.idle_connection_ms == 75_000 and "| a connection without a request | 75 s |" in PAGE
    assert GRANT in PAGE


def test_producers_are_told_that_they_need_tls() -> None:
    assert asyncapi.document(TOPICS, "a:1", encrypted=True)["servers"]["kafka"]["protocol"] == "kafka-secure"
    assert asyncapi.document(TOPICS, "a:1")["servers"]["kafka"]["protocol"] == "kafka"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:streams|tests|schemas)/[\w./]*)`", PAGE))))
def test_every_path_exists(path: str) -> None:
    assert (ROOT / path).exists()
