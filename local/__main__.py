"""`python -m local <command>` -> the embedded stack, handled from a terminal -> an exit code."""

import argparse
import os
import shutil
import signal
import sys

import psutil

from local import carrier_service, demo, hold, kafka, postgres, sandbox_service
from local.console import say
from local.errors import LocalError
from local.jars import KAFKA_VERSION, cache_dir, write_lock
from local.kafka import BROKER_COUNTS
from local.private import masked
from local.stack import STACK_FILE, Embedded, Stack, released, running
from schemas.hints import pasteable
from schemas.settings import Settings

EXIT_NOT_RUNNING = 3  # of `status`, as systemctl's and pg_ctl's
STOP_TIMEOUT_S = 60.0
#: What the stack and the commands keep in the data directory, all of it tied to the log: a snapshot of a log that is
#: gone must not be taken for one of the next.
OF_THE_LOG = (
    "kafka",
    "postgres",
    "provider",
    "carrier",
    "logs",
    "lock",
    STACK_FILE,
    "snapshots",
    "verifying.jsonl",
    "verified.jsonl",
    "webhooks.key",
)


def up(settings: Settings, parent: int | None, brokers: int | None) -> int:
    embedded = Embedded.from_settings(settings, brokers)
    try:
        stack = hold.start(embedded)
        rows = [*_kafka_rows(stack), ("PostgreSQL", masked(stack.postgres)), ("Payments", stack.provider)]
        print("\n".join(f"{name:<11} {address}" for name, address in rows if address))
        if stack.brokers > 1:
            print(f"{'Workers':<11} {worker_environment(stack)}\n{'':<11} (on this machine they find both themselves)")
        print(f"{'Logs':<11} {embedded.logs}\nCtrl-C stops all.")
        sys.stdout.flush()
        hold.watch([service.child for service in embedded.services if service.child], parent)
    except KeyboardInterrupt:
        pass
    finally:
        hold.stop(embedded)
    return 0


def _kafka_rows(stack: Stack) -> list[tuple[str, str]]:
    """Each broker by its number where there are several."""
    addresses = stack.kafka.split(",")
    if len(addresses) == 1:
        return [("Kafka", stack.kafka)]
    return [(f"Kafka {node}", address) for node, address in enumerate(addresses, 1)]


def worker_environment(stack: Stack) -> str:
    """What a worker elsewhere than on this data directory needs to use the cluster."""
    return f"ORDERSTREAM_KAFKA={stack.kafka} ORDERSTREAM_REPLICATION_FACTOR={stack.brokers}"


def stop(settings: Settings) -> int:
    stack = running(settings.data_dir)
    if stack is not None:
        psutil.Process(stack.pid).send_signal(signal.SIGTERM)
    left = released(settings.data_dir, STOP_TIMEOUT_S)
    if left is not None:
        raise LocalError(f"{left} on {settings.data_dir} still runs after {STOP_TIMEOUT_S:.0f} s; see its log there.")
    say(f"Stopped the stack on {settings.data_dir}." if stack else f"No stack runs on {settings.data_dir}.")
    return 0


def status(settings: Settings) -> int:
    stack = running(settings.data_dir)
    if stack is None:
        print(pasteable(f"No stack runs on {settings.data_dir}. Start one: python -m local up"))
        return EXIT_NOT_RUNNING
    rows = [
        *((name, address, kafka.answers(address)) for name, address in _kafka_rows(stack)),
        ("PostgreSQL", masked(stack.postgres), postgres.answers(stack.postgres)),
    ]
    if stack.provider:
        rows.append(("Payments", stack.provider, sandbox_service.answers(stack.provider)))
    if stack.carrier:
        directory = settings.data_dir / "carrier"
        rows.append(("Carrier", str(directory), carrier_service.answers(directory)))
    print(f"{'pid':<11} {stack.pid}")
    for name, address, answers in rows:
        print(f"{name:<11} {address}  {'answers' if answers else 'does not answer'}")
    return 0 if all(answers for _, _, answers in rows) else 1


def reset(settings: Settings, yes: bool) -> int:
    """Deletes only what the stack and the workers put there; anything else in the directory stays."""
    data_dir = settings.data_dir
    if (found := running(data_dir)) is not None or released(data_dir, 0.0) is not None:
        who = f" (pid {found.pid})" if found else ""
        raise LocalError(f"The stack on {data_dir} runs{who}. Stop it first: python -m local stop")
    targets = [data_dir / name for name in OF_THE_LOG if (data_dir / name).exists()]
    # Stores of workers, and the folders of other versions, which hold nothing but stores.
    targets += sorted(data_dir.glob("state-*"))
    targets += sorted({stores.parent for stores in data_dir.glob("*/state-*")} - {data_dir})
    if not targets:
        say(f"Nothing to delete in {data_dir}.")
        return 0
    if not yes:
        question = f"Delete {', '.join(str(target) for target in targets)}? Every order in them is lost. [y/N] "
        if not sys.stdin.isatty():
            raise LocalError(
                "reset deletes every order of the embedded stack. Without a terminal to ask on, say --yes."
            )
        if input(question).strip().lower() not in ("y", "yes"):
            say("Nothing was deleted.")
            return 1
    for target in targets:
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()
    say(f"Deleted {len(targets)} entries of {data_dir}.")
    return 0


def lock(settings: Settings) -> int:
    say(f"Resolving Apache Kafka {KAFKA_VERSION} ...")
    say(f"local/kafka.lock names {write_lock(cache_dir(settings.cache_dir))} jars.")
    return 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local", description="The embedded Kafka and PostgreSQL.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("up", "start both and hold them up until Ctrl-C"),
        ("dev", "up, the topics and one worker with its log on the terminal"),
        ("demo", "up, the topics, one worker and sample orders; then addresses and the next things to try"),
    ):
        command = commands.add_parser(name, help=text)
        if name == "up":
            command.add_argument(
                "--brokers",
                type=int,
                choices=BROKER_COUNTS,
                help="brokers of Kafka: 3 survive the loss of one (default: ORDERSTREAM_KAFKA_BROKERS)",
            )
        command.add_argument("--with-parent", action="store_true", help="end also when the calling process is gone")
    commands.add_parser("stop", help="stop what runs on the data directory")
    commands.add_parser(
        "status", help=f"what runs and whether it answers; exit code {EXIT_NOT_RUNNING} if nothing runs"
    )
    command = commands.add_parser("reset", help="delete the embedded stack's data, after asking")
    command.add_argument("--yes", action="store_true", help="do not ask")
    commands.add_parser("lock", help="resolve Kafka's jars anew after a change of its version")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, settings: Settings, caller: int) -> int:
    parent = caller if getattr(options, "with_parent", False) else None
    match options.command:
        case "up":
            return up(settings, parent, options.brokers)
        case "dev":
            return demo.dev(settings, parent)
        case "demo":
            return demo.demo(settings, parent)
        case "stop":
            return stop(settings)
        case "status":
            return status(settings)
        case "reset":
            return reset(settings, options.yes)
        case _:
            return lock(settings)


def main() -> int:
    caller = os.getppid()  # before anything that takes time: it may be gone at the first look otherwise
    options = parse()
    hold.interruptible()
    try:
        return run(options, Settings.load_or_exit(), caller)
    except LocalError as error:
        print(pasteable(f"error: {error}"), file=sys.stderr)
        return 1
    except OSError as error:  # a file or directory of somebody else, a full disk
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
