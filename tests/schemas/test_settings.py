"""ORDERSTREAM_ variables -> the settings, or an error that names each bad one."""

from base64 import b64encode
from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.settings import PREFIX, Settings, SettingsError, reference


def test_nothing_set_gives_the_embedded_default() -> None:
    settings = Settings.load({})
    assert (settings.kafka, settings.postgres) == (None, None)
    assert (settings.data_dir, settings.web_port, settings.kafka_port) == (Path(".data"), 6066, 9092)
    assert settings.url == "http://127.0.0.1:6066"


def test_variables_are_read_and_converted() -> None:
    environment = {"KAFKA": "a:1,b:2", "WEB_PORT": "7000", "SINK": "false", "DATA_DIR": "/x", "GROUP_INSTANCE_ID": "w1"}
    settings = Settings.load({PREFIX + name: value for name, value in environment.items()} | {"OTHER": "ignored"})
    assert settings.kafka == "a:1,b:2" and settings.web_port == 7000 and settings.sink is False
    assert settings.data_dir == Path("/x") and settings.group_instance_id == "w1"


def test_load_reads_the_process_environment_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "PARTITIONS", "12")
    assert Settings.load().partitions == 12
    assert Settings.load({}).partitions == 4, "but nothing besides what it is given"


def test_an_empty_variable_is_an_unset_one() -> None:
    """As in docker-compose's `${NAME:-}`."""
    assert Settings.load({PREFIX + "KAFKA": "", PREFIX + "WEB_PORT": ""}) == Settings.load({})


def test_overrides_win_over_the_environment() -> None:
    assert Settings.load({PREFIX + "WEB_PORT": "7000"}, web_port=7001).web_port == 7001


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WEB_PRT", "1", "ORDERSTREAM_WEB_PRT is not a setting of Orderstream. Did you mean ORDERSTREAM_WEB_PORT?"),
        ("ZZZZ", "1", "ORDERSTREAM_ZZZZ is not a setting of Orderstream. `python -m schemas.settings` lists"),
        ("WEB_PORT", "many", "ORDERSTREAM_WEB_PORT=many: Input should be a valid integer"),
        ("WEB_PORT", "70000", "ORDERSTREAM_WEB_PORT=70000: Input should be less than or equal to 65535"),
        ("PARTITIONS", "0", "ORDERSTREAM_PARTITIONS=0: Input should be greater than or equal to 1. Partitions of each"),
        ("LOG_FORMAT", "xml", "ORDERSTREAM_LOG_FORMAT=xml: Input should be 'auto', 'json' or 'console'"),
        ("SINK", "maybe", "ORDERSTREAM_SINK=maybe: Input should be a valid boolean"),
    ],
)
def test_a_bad_variable_is_named_with_what_is_allowed(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({PREFIX + name: value})
    assert said in str(caught.value)


def test_every_bad_variable_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({PREFIX + "WEB_PORT": "x", PREFIX + "PARTITIONS": "y"})
    assert "WEB_PORT=x" in str(caught.value) and "PARTITIONS=y" in str(caught.value)


def test_a_program_ends_with_the_sentence_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PREFIX + "WEB_PRT", "1")
    with pytest.raises(SystemExit) as ended:
        Settings.load_or_exit()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ORDERSTREAM_WEB_PRT is not a setting")


def test_the_password_in_the_dsn_is_not_shown_by_repr() -> None:
    assert "hunter2" not in repr(Settings.load({PREFIX + "POSTGRES": "postgresql://u:hunter2@h/db"}))


SASL = {"KAFKA": "a:1", "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_USER": "orders"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SSL"}, "SECURITY_PROTOCOL=SSL needs ORDERSTREAM_KAFKA: the embedded broker"),
        (SASL, "SASL_SSL needs ORDERSTREAM_KAFKA_USER, and ORDERSTREAM_KAFKA_PASSWORD or ORDERSTREAM_KAFKA_PASSWORD_F"),
        ({"KAFKA": "a:1", "KAFKA_USER": "u"}, "not used with ORDERSTREAM_KAFKA_SECURITY_PROTOCOL=PLAINTEXT"),
        ({"KAFKA": "a:1", "KAFKA_PASSWORD": "hunter2"}, "its password are not used with"),
        ({"KAFKA": "a:1", "KAFKA_CA_FILE": "ca.pem"}, "_CA_FILE, _CERT_FILE and _KEY_FILE are not used with"),
        (SASL | {"KAFKA_PASSWORD": "hunter2", "KAFKA_PASSWORD_FILE": "x"}, "are both set: unset one"),
        (SASL | {"KAFKA_PASSWORD_FILE": "/no/such/file"}, "PASSWORD_FILE=/no/such/file cannot be read: No such file"),
        (SASL | {"KAFKA_PASSWORD": "hunter2", "KAFKA_KEY_FILE": "k"}, "KEY_FILE needs ORDERSTREAM_KAFKA_CERT_FILE"),
        ({"KAFKA_SASL_MECHANISM": "GSSAPI"}, "ORDERSTREAM_KAFKA_SASL_MECHANISM=GSSAPI: Input should be 'PLAIN'"),
        ({"POSTGRES": "postgresql://u:hunter2/x@h/db"}, "ORDERSTREAM_POSTGRES is no DSN"),
        ({"POSTGRES": "host=h password=hunter2"}, "ORDERSTREAM_POSTGRES is no DSN"),
        ({"POSTGRES": "postgresql://u:hunter2@h:99999/db"}, "ORDERSTREAM_POSTGRES is no DSN"),
        (
            {"POSTGRES": "postgresql://u:hunter2@h/db?sslrootcert=/no/ca.pem"},
            "sslrootcert=/no/ca.pem: there is no such",
        ),
    ],
)
def test_what_does_not_fit_together_is_said_without_a_password(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({PREFIX + name: value for name, value in given.items()})
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_brokers_password_is_given_or_in_a_file_and_shown_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter 2 \n")
    given = {PREFIX + name: value for name, value in SASL.items()}
    read = Settings.load(given | {PREFIX + "KAFKA_PASSWORD_FILE": str(secret)})
    assert read.kafka_security()["password"] == "hunter 2 ", "without the end of the line, and nothing else"
    assert Settings.load(given | {PREFIX + "KAFKA_PASSWORD": "x"}).kafka_security()["password"] == "x"
    assert "hunter" not in f"{read!r} {read} {read.model_dump()}"
    assert Settings.load({}).kafka_security()["protocol"] == "PLAINTEXT"


def test_settings_do_not_change_after_the_start() -> None:
    with pytest.raises(ValidationError):
        Settings.load({}).web_port = 1  # type: ignore[misc]


def test_every_setting_is_described_in_the_reference() -> None:
    table = reference()
    for name, field in Settings.model_fields.items():
        assert field.description and field.description.endswith("."), f"{name} needs a sentence with unit and reason"
        assert f"`{PREFIX}{name.upper()}`" in table
    for name in Settings.model_fields:
        if name.endswith(("_ms", "_bytes")):
            unit = {"ms": " ms", "bytes": " bytes"}[name.rsplit("_", 1)[1]]
            assert unit in (Settings.model_fields[name].description or ""), f"{name}: say the unit"


def test_sealing_needs_a_master_key_and_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    on = {PREFIX + "SEAL": "true", PREFIX + "SEAL_MASTER_KEY_FILE": str(file)}
    for environment, said in (
        ({PREFIX + "SEAL": "true"}, "ORDERSTREAM_SEAL=true needs ORDERSTREAM_SEAL_MASTER_KEY_FILE"),
        ({PREFIX + "SEAL_MASTER_KEY_FILE": "x"}, "is not used without ORDERSTREAM_SEAL=true"),
        (on, "cannot be read: No such file"),
    ):
        with pytest.raises(SettingsError, match=said):
            Settings.load(environment)
    file.write_text("too short\n")
    with pytest.raises(SettingsError, match="32 bytes in base64"):
        Settings.load(on)
    file.write_bytes(b64encode(b"k" * 32) + b"\n")
    assert Settings.load(on).masters_of_seals() == (b"k" * 32,)
    assert Settings.load({}).masters_of_seals() == ()
