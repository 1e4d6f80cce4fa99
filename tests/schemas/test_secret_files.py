"""Secrets in files, as containers mount them, instead of in the environment, which every process listing shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pytest import mark, raises

from schemas.settings import IN_FILES, Settings, SettingsError

VALUES = {"postgres": "postgresql://u:p@db:5432/x"}
OTHERS = {"provider_secret": {"ORDERSTREAM_PROVIDER_URL": "https://pay.example"}}


def text(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


@mark.parametrize("name", IN_FILES)
def test_a_secret_may_be_in_a_file(name: str, tmp_path: Path) -> None:
    variable, secret = f"ORDERSTREAM_{name.upper()}", VALUES.get(name, "k" * 40)
    file, others = tmp_path / "secret", OTHERS.get(name, {})
    file.write_text(f"{secret}\n")
    loaded = Settings.load({f"{variable}_FILE": str(file), **others})
    assert text(getattr(loaded, name)) == secret and secret not in repr(loaded)
    with raises(SettingsError, match="both set"):
        Settings.load({f"{variable}_FILE": str(file), variable: secret, **others})
    assert text(getattr(Settings.load({f"{variable}_FILE": "", variable: secret, **others}), name)) == secret
    file.write_text("\n")
    with raises(SettingsError, match="is empty"):
        Settings.load({f"{variable}_FILE": str(file), **others})
    with raises(SettingsError, match="cannot be read"):
        Settings.load({f"{variable}_FILE": str(tmp_path / "none"), **others})


def test_other_settings_have_no_such_form() -> None:
    with raises(SettingsError):
        Settings.load({"ORDERSTREAM_WEB_PORT_FILE": "/dev/null"})
