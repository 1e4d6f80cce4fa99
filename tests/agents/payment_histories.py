"""seeds -> random histories of payments through the real task loop, accounts attached -> what is true of every one.

The provider is the sandbox's money, asked with the effect's own words; between them stands a bad network: requests that
arrive late or never, answers that are lost, callbacks that are lost, repeated, late and out of order.

python -m tests.agents.payment_histories 100000        as many histories, from seed 0 on
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import orjson

from agents.effects.provider import Asked, asked_by, failed, recorded, request_for
from local.sandbox import NOBODY, Money, Refused, callback_of
from schemas.accounts import HoldState, account_id_of
from schemas.payments import Payment, PaymentMethod, PaymentStatus, RefundState
from schemas.provider import AuthorisationAsked, Callback, CaptureAsked, ProviderAnswer, ProviderStatus, RefundAsked
from streams.driver import Driver
from tests.agents import on_demand
from tests.agents.account_histories import audit, check_balances
from tests.agents.domain import make_app
from web.payments.callbacks import command_of

COMMANDS, EVENTS = "payments.commands.v1", "payments.events.v1"
PARTITIONS = 2
TOGETHER = 100
USERS = 12
METHODS = [*["account"] * 5, *["provider"] * 6, "prepaid", "cash_on_delivery"]
SWITCHES: list[dict[str, float]] = [*[{}] * 5, {"decline": 1}, {"pending": 1}, {"paid": 1}, {"wrong-amount": 1}]
FINAL = {PaymentStatus.DECLINED, PaymentStatus.VOIDED, PaymentStatus.CAPTURED}


class Network:
    """The provider and the ways to it. What is on its way is delivered in any order."""

    def __init__(self, driver: Driver, chance: Random) -> None:
        self.driver, self.chance, self.money = driver, chance, Money()
        self.read = dict.fromkeys(range(PARTITIONS), 0)
        self.waiting: dict[str, list[Asked]] = {}
        self.late_requests: list[tuple[Asked, bool]] = []
        self.callbacks: list[dict[str, Any]] = []
        self.switches: dict[str, dict[str, float]] = {}
        self.good = False  # at the end everything arrives
        self.remembers = chance.random() < 0.5  # voids of what it does not know yet

    def take(self) -> None:
        """The events that came since, each behind those of its order before it."""
        for record in self.driver.read(EVENTS):
            if record.offset >= self.read[record.partition]:
                self.read[record.partition] = record.offset + 1
                event = asked_by(record.value)
                if event is not None:
                    self.waiting.setdefault(event.order_uid, []).append(event)

    def work(self) -> None:
        """Some orders' next request; as the effect does it, one after the other for each order."""
        for uid in [uid for uid in self.waiting if self.good or self.chance.random() < 0.5]:
            event = self.waiting[uid].pop(0)
            if not self.waiting[uid]:
                del self.waiting[uid]
            for _ in range(2 if self.chance.random() < 0.1 else 1):  # killed before the commit: again
                self.ask(event)

    def ask(self, event: Asked) -> None:
        fate = 1.0 if self.good else self.chance.random()
        if fate < 0.1:
            self.record(failed(event, "provider_unreachable", "no route"))
        elif fate < 0.2:
            self.late_requests.append((event, True))
            self.record(failed(event, "provider_unreachable", "no answer"))
        elif fate < 0.3:
            self.decide(event, certain=True)
            self.record(failed(event, "provider_unreachable", "no answer"))
        else:
            answer = self.decide(event, certain=False)
            self.record(failed(event, "refused", "no") if answer is None else recorded(event, answer))

    def decide(self, event: Asked, *, certain: bool) -> ProviderAnswer | None:
        """What the provider does. `certain`: its callback gets through in the end, for nobody heard the answer."""
        path, key, asked = request_for(event)
        switches = self.switches.setdefault(event.order_uid, self.chance.choice(SWITCHES))

        def act() -> ProviderAnswer:
            match asked:
                case AuthorisationAsked():
                    return self.money.authorise(asked, switches)
                case CaptureAsked():
                    return self.money.capture(event.order_uid, asked)
                case RefundAsked():
                    return self.money.refund(event.order_uid, asked)
                case _:
                    return self.void(event.order_uid)

        try:
            answer = self.money.once(key, path, asked.model_dump_json().encode(), act)
        except Refused:
            return None
        payment = self.money.payments.get(event.order_uid)
        if payment is None:
            return answer
        if answer.status is ProviderStatus.PENDING and self.money.decide(event.order_uid):
            decided = answer.model_copy(update={"status": ProviderStatus.AUTHORISED})
            self.callbacks.append(callback_of(payment, decided, key, 0))
        elif certain or self.chance.random() < 0.7:
            self.callbacks += [callback_of(payment, answer, key, 0)] * self.chance.choice([1, 1, 2, 3])
        return answer

    def void(self, uid: str) -> ProviderAnswer:
        known = uid in self.money.payments
        answer = self.money.void(uid)
        if not known and not self.remembers:
            del self.money.payments[uid]
        return answer

    def call_back(self) -> None:
        for _ in range(len(self.callbacks)):
            if self.good or self.chance.random() < 0.4:
                said = self.callbacks.pop(self.chance.randrange(len(self.callbacks)))
                if said["user_id"] == NOBODY:  # the void of what it does not know
                    continue
                command = command_of(Callback.model_validate_json(orjson.dumps(said)))
                self.record(command)

    def arrive_late(self) -> None:
        for _ in range(len(self.late_requests)):
            if self.good or self.chance.random() < 0.3:
                event, certain = self.late_requests.pop(self.chance.randrange(len(self.late_requests)))
                self.decide(event, certain=certain)

    def record(self, command: Any) -> None:
        if command is not None:
            anywhere = self.chance.randrange(PARTITIONS) if self.chance.random() < 0.1 else None
            raw = command.model_dump_json().encode()
            for _ in range(2 if self.chance.random() < 0.1 else 1):
                self.driver.produce(COMMANDS, key=command.order_uid, value=raw, partition=anywhere)

    def quiet(self) -> bool:
        return not (self.waiting or self.late_requests or self.callbacks)


def words(chance: Random, order: int, now_ms: int) -> list[dict[str, Any]]:
    """What the order's saga says of its payment, in a random mood."""
    uid = f"order-{order}"
    said: list[dict[str, Any]] = [
        {
            "type": "authorise_payment",
            "user_id": f"u{chance.randrange(USERS)}",
            "method": chance.choice(METHODS),
            "amount_minor": chance.choice([*range(1, 30), 0]),
            "currency": "INR",
            "expires_at_ms": now_ms + chance.choice([1, 500, 5_000]) if chance.random() < 0.5 else None,
        }
    ]
    for _ in range(chance.randint(0, 5)):
        match chance.choice(["capture", "capture", "capture", "void", "refund", "refund", "refund"]):
            case "capture":
                amount = chance.choice([None, None, chance.randint(1, 30)])
                said.append({"type": "capture_payment", "amount_minor": amount})
            case "void":
                said.append({"type": "void_payment", "reason": "cancelled"})
            case _:
                which, amount = chance.choice(["r1", "r2", "r3"]), chance.randint(1, 12)
                said.append({"type": "refund_payment", "refund_id": which, "amount_minor": amount, "reason": "back"})
    return [{**each, "order_uid": uid, "command_id": f"{uid}-{n}"} for n, each in enumerate(said)]


async def play(seed: int, *, replay: bool = False) -> Counter[str]:
    """TOGETHER histories; raises AssertionError where one is not as it must be. Gives what happened how often."""
    chance = Random(seed)
    app, _ = make_app(Path("unused"), PARTITIONS)
    async with Driver(app, batch_max_records=chance.choice([1, 7, 1_000, 1_000])) as driver:
        network = Network(driver, chance)
        fund(driver, chance)
        lives = [words(chance, order, driver.clock.now_ms()) for order in range(TOGETHER)]
        sent: list[dict[str, Any]] = []
        while any(lives):
            for _ in range(chance.randint(10, 60)):
                live = chance.choice([each for each in lives if each] or [[]])
                if live:
                    sent.append(live.pop(0))
                    put(driver, chance, sent[-1])
                if sent and chance.random() < 0.1:
                    put(driver, chance, chance.choice(sent))
            if chance.random() < 0.2:
                group = chance.choice(["orders", "accounts"])
                await driver.start(group, chance.randrange(PARTITIONS), lose_store=chance.random() < 0.5)
            await turn(driver, network)
            await driver.advance(chance.choice([0, 1, 100, 700, 60_000]))
        await settle(driver, network)
        await reverse(driver, network)
        seen = check(driver, network)
        if replay:
            before = {name: driver.rows(name) for group in app.groups.values() for name in group.tables}
            await driver.replay()
            await driver.run()
            assert {name: driver.rows(name) for name in before} == before
            assert check(driver, network) == seen, "a replay sends nothing again"
        return seen


def fund(driver: Driver, chance: Random) -> None:
    for user in range(USERS - 1):  # one has no account
        account = account_id_of(f"u{user}", "INR")
        opening = {"type": "open_account", "command_id": "o", "user_id": f"u{user}", "currency": "INR"}
        deposit = {"type": "deposit", "command_id": "d", "account_id": account, "amount_minor": chance.randint(1, 150)}
        for said in (opening, deposit):
            driver.produce("accounts.commands.v1", key=account, value=orjson.dumps(said))


def put(driver: Driver, chance: Random, said: dict[str, Any]) -> None:
    anywhere = chance.randrange(PARTITIONS) if chance.random() < 0.1 else None
    driver.produce(COMMANDS, key=said["order_uid"], value=orjson.dumps(said), partition=anywhere)


async def turn(driver: Driver, network: Network) -> None:
    await driver.run()
    network.take()
    network.work()
    network.arrive_late()
    network.call_back()
    await driver.run()
    check_balances(driver)


async def settle(driver: Driver, network: Network) -> None:
    """The network mends; what nobody captured is voided; everything runs out."""
    network.good = True
    await turn(driver, network)
    for uid, payment in driver.rows("payments").items():
        if payment.status in (PaymentStatus.REQUESTED, PaymentStatus.AUTHORISED):
            said = {"type": "void_payment", "command_id": f"{uid}-end", "order_uid": uid, "reason": "rejected"}
            driver.produce(COMMANDS, key=uid, value=orjson.dumps(said))
    for _ in range(60):
        await turn(driver, network)
        network.take()
        if network.quiet() and not driver.rows("orders_deadlines"):
            break
        await driver.advance(3_600_000)
    assert network.quiet() and driver.rows("orders_deadlines") == {}, "something goes on for ever"


async def reverse(driver: Driver, network: Network) -> None:
    """The provider takes captured money back by itself, reports it once or more, and people settle some of it."""
    chance, theirs = network.chance, network.money.payments
    for _, payment in sorted(theirs.items()):
        left = payment.captured - payment.refunded
        if left > 0 and chance.random() < 0.5:
            status = chance.choice([ProviderStatus.REFUNDED, ProviderStatus.CHARGED_BACK])
            taken = ProviderAnswer(id="x", status=status, amount=chance.randint(1, left))
            payment.refunded += taken.amount
            said = callback_of(payment, taken, None, 0)
            network.callbacks += [said | {"id": f"cb-{n}", "movement_id": "m"} for n in range(chance.randint(1, 2))]
    network.call_back()
    await driver.run()
    for uid, ours in sorted(driver.rows("payments").items()):
        for each in ours.unresolved():
            outcome = chance.choice(["accepted", "reinstated", None])
            if outcome is not None:
                said = {
                    "type": "resolve_reversal",
                    "command_id": f"{uid}-settled",
                    "order_uid": uid,
                    "outcome": outcome,
                }
                put(driver, chance, {**said, "reversal_id": each.reversal_id, "reason": "seen"})
            if outcome == "reinstated":
                theirs[uid].refunded -= each.amount_minor
    await driver.run()


def check(driver: Driver, network: Network) -> Counter[str]:
    """At the end: everything is decided, nothing is held, and every sum is where it belongs."""
    assert not driver.read("dead_letters.v1")
    payments: dict[str, Payment] = driver.rows("payments")
    for uid, payment in payments.items():
        assert payment.status in FINAL, (uid, payment)
        assert payment.refunding_minor == 0 and 0 <= payment.refunded_minor <= payment.captured_minor, (uid, payment)
        late = payment.status is not PaymentStatus.CAPTURED
        assert not late or payment.captured_minor == payment.refunded_minor, ("late money goes back", uid, payment)
    assert all(refund.state is RefundState.REFUNDED for refund in driver.rows("payment_refunds").values())
    check_accounts(driver, payments)
    check_provider(network, payments)
    versions: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for record in driver.read(EVENTS):
        event = orjson.loads(record.value or b"")
        told[event["reason"] if event["type"] == "payment_command_refused" else event["type"]] += 1
        if event["type"] != "payment_command_refused":
            versions[event["order_uid"]] += 1
            assert event["version"] == versions[event["order_uid"]], "versions step by one"
    assert versions == {uid: payment.version for uid, payment in payments.items()}
    return told


def check_accounts(driver: Driver, payments: dict[str, Payment]) -> None:
    kept = sum(p.captured_minor - p.refunded_minor for p in payments.values() if p.method is PaymentMethod.ACCOUNT)
    accounts = driver.rows("accounts")
    assert kept == sum(row.balance_minor for id, row in accounts.items() if id.startswith("clearing:sales"))
    assert not any(hold.state is HoldState.HELD for hold in driver.rows("account_holds").values()), "held for ever"
    finding, _ = audit(driver)
    assert finding is None, finding


def check_provider(network: Network, payments: dict[str, Payment]) -> None:
    for uid, theirs in network.money.payments.items():
        ours = payments[uid]
        assert theirs.status not in (ProviderStatus.AUTHORISED, ProviderStatus.PENDING), ("held for ever", uid, ours)
        gone = ours.refunded_minor + ours.reversed_minor()
        assert (theirs.captured, theirs.refunded) == (ours.captured_minor, gone), (uid, theirs, ours)


if __name__ == "__main__":
    sys.exit(on_demand.main(play, TOGETHER, sys.argv[1:]))
