"""`python -m local up|dev|demo|stop|status|reset|lock` -> the embedded stack, handled from a terminal."""

import argparse
import shutil
import signal
import sys
import time

import psutil

from local import kafka, postgres
from local.console import say
from local.errors import LocalError
from local.jars import KAFKA_VERSION, cache_dir, write_lock
from local.stack import Embedded, Stack, running, services_released
from schemas.settings import Settings, SettingsError

EXIT_NOT_RUNNING = 3  # `status`: as systemctl's and pg_ctl's


def up(settings: Settings) -> int:
    embedded = Embedded.from_settings(settings)
    stack = start(embedded)
    try:
        say(f"Kafka       {stack.kafka}\nPostgreSQL  {stack.postgres}\nLogs        {embedded.logs}\nCtrl-C stops both.")
        return watch(embedded)
    except KeyboardInterrupt:
        return 0
    finally:
        stop_quietly(embedded)


def start(embedded: Embedded) -> Stack:
    """Start and say how long it took."""
    began = time.monotonic()
    say(f"Starting Apache Kafka {KAFKA_VERSION} and PostgreSQL in {embedded.data_dir} …")
    stack = embedded.start()
    say(f"Both answer after {time.monotonic() - began:.1f} s.")
    return stack


def watch(embedded: Embedded) -> int:
    """Until somebody interrupts. A server that ends by itself ends the stack: half a stack helps nobody."""
    while True:
        for service in (embedded.kafka, embedded.postgres):
            if service.child is not None and not service.running():
                raise LocalError(
                    f"{service.name} ended by itself with code {service.child.exit_code}, so the stack was stopped. "
                    f"Its data is kept: start again. The end of {service.log}:\n{service.child.log_tail()}"
                )
        time.sleep(0.5)


def stop_quietly(embedded: Embedded) -> None:
    """A second Ctrl-C must not cut the clean stop short; it ends by itself within the guards' grace period."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    say("\nStopping …")
    embedded.stop()
    say("Stopped. The data is kept; `python -m local reset` deletes it.")


def stop(settings: Settings) -> int:
    stack = running(settings.data_dir)
    if stack is None:
        if not services_released(settings.data_dir, timeout_s=20):
            raise LocalError(f"No stack holds {settings.data_dir}, but one of its servers still runs; see `ps`.")
        say(f"No stack runs on {settings.data_dir}.")
        return 0
    psutil.Process(stack.pid).send_signal(signal.SIGTERM)
    if not services_released(settings.data_dir, timeout_s=60):
        raise LocalError(
            f"The stack of pid {stack.pid} did not stop within 60 s. As a last resort: kill -9 {stack.pid}."
        )
    say(f"Stopped the stack on {settings.data_dir}.")
    return 0


def status(settings: Settings) -> int:
    stack = running(settings.data_dir)
    if stack is None:
        print(f"No stack runs on {settings.data_dir}. Start one: python -m local up")
        return EXIT_NOT_RUNNING
    healthy = {"Kafka": kafka.answers(stack.kafka), "PostgreSQL": postgres.answers(stack.postgres)}
    print(f"pid         {stack.pid}")
    for name, address in (("Kafka", stack.kafka), ("PostgreSQL", stack.postgres)):
        print(f"{name:<11} {address}  {'answers' if healthy[name] else 'does not answer'}")
    return 0 if all(healthy.values()) else 1


def reset(settings: Settings, yes: bool) -> int:
    """Only what the stack and the workers put there; anything else in the directory stays."""
    data_dir = settings.data_dir
    if running(data_dir) is not None:
        raise LocalError(f"The stack on {data_dir} runs. Stop it first: python -m local stop")
    names = ("kafka", "postgres", "logs", "lock", "stack.json")
    targets = [data_dir / name for name in names if (data_dir / name).exists()] + sorted(data_dir.glob("state-*"))
    if not targets:
        say(f"Nothing to delete in {data_dir}.")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise LocalError(
                "reset deletes every order of the embedded stack. Say --yes when there is no terminal to ask on."
            )
        answer = input(f"Delete {', '.join(str(target) for target in targets)}? All orders in it are lost. [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            say("Nothing was deleted.")
            return 1
    for target in targets:
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    say(f"Deleted {len(targets)} entries of {data_dir}.")
    return 0


def lock(settings: Settings) -> int:
    say(f"Resolving Apache Kafka {KAFKA_VERSION} …")
    say(f"local/kafka.lock now names {write_lock(cache_dir(settings.cache_dir))} jars.")
    return 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local", description="The embedded Kafka and PostgreSQL.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start both and hold them up until Ctrl-C")
    commands.add_parser("stop", help="stop the stack that runs on the data directory")
    commands.add_parser(
        "status", help=f"say what runs and whether it answers; exit code {EXIT_NOT_RUNNING} if nothing runs"
    )
    commands.add_parser("reset", help="delete the data directory's contents").add_argument("--yes", action="store_true")
    commands.add_parser("lock", help="resolve Kafka's jars anew after a change of its version")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        settings = Settings.load()
        match options.command:
            case "up":
                return up(settings)
            case "stop":
                return stop(settings)
            case "status":
                return status(settings)
            case "reset":
                return reset(settings, options.yes)
            case _:
                return lock(settings)
    except (LocalError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
