"""A data directory and a port -> the sandbox payment service (local/sandbox.py) as a process -> its URL and secret."""

import secrets
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from local import ports
from local.service import Service

CALLBACK_SECRET = "callback-secret"
ROOT = Path(__file__).parent.parent


class SandboxProvider(Service):
    """One service. `directory` is its own; a second start on it resumes with the same payments and the same secret."""

    name = "The sandbox provider"

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        callback_url: str,
        log: Path,
        options: Sequence[str] = (),
        two_secrets: bool = False,
    ) -> None:
        """`two_secrets`: callbacks are signed with another secret than requests."""
        super().__init__(directory, log)
        self.port, self.callback_url, self._options = port, callback_url, options
        self._two_secrets = two_secrets

    @property
    def url(self) -> str:
        return f"http://{ports.HOST}:{self.port}"

    @property
    def secret(self) -> str:
        return secret_in(self.directory)

    def launch(self) -> None:
        ports.require_free(self.port, self.name, "ORDERSTREAM_SANDBOX_PORT")
        file = _made(self.directory / "secret")
        options = ["--port", str(self.port), "--secret-file", str(file), "--callback", self.callback_url]
        if self._two_secrets:
            options += ["--callback-secret-file", str(_made(self.directory / CALLBACK_SECRET))]
        options += ["--state", str(self.directory / "state.json"), *self._options]
        self.spawn([sys.executable, "-m", "local.sandbox", *options], cwd=ROOT)

    def answers(self, timeout_s: float = 3.0) -> bool:
        return answers(self.url, timeout_s)


def _made(file: Path) -> Path:
    """A file with a secret, made once."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24) + "\n")
    return file


def secret_in(directory: Path) -> str:
    return (directory / "secret").read_text().strip()


def callback_secret_in(directory: Path) -> str:
    """What the sandbox signs its callbacks with."""
    file = directory / CALLBACK_SECRET
    return file.read_text().strip() if file.exists() else secret_in(directory)


def answers(url: str, timeout_s: float = 3.0) -> bool:
    """Its health address answers in time."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout_s) as response:
            return bool(response.status == 200)
    except OSError:
        return False
