"""a trial balance, accounts.events.v1 -> whether one follows from the other: with confluent-kafka and nothing of ours.

    python check_trial_balance.py BOOTSTRAP trial-balance.json

Reads the committed events up to the offsets that the file names, adds up both legs of every movement, and compares.
Exit code 0 and "right", or 1 and the first thing that is wrong.
"""

import json
import sys
from collections import defaultdict

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

bootstrap, path = sys.argv[1:]
with open(path) as file:  # noqa: PTH123 - the standard library's shortest
    claim = json.load(file)
ends = {int(partition): end for partition, end in claim["positions"].items()}
balances: dict[str, int] = defaultdict(int)
currency_of: dict[str, str] = {}
movements = set()

settings = {"bootstrap.servers": bootstrap, "group.id": "audit", "enable.auto.commit": False}
reader = Consumer({**settings, "isolation.level": "read_committed", "enable.partition.eof": True})
reader.assign([TopicPartition(claim["topic"], partition, OFFSET_BEGINNING) for partition in ends])
while ends:
    message = reader.poll(30) or sys.exit(f"{bootstrap} sends nothing of {claim['topic']}")
    partition, offset = message.partition() or 0, message.offset() or 0
    where = f"{claim['topic']}-{partition}"
    if partition not in ends or offset >= ends[partition]:
        ends.pop(partition, None)
        continue
    if message.error():
        sys.exit(f"{where} cannot be read to {ends[partition]}: {message.error()} at {offset}")
    if move := json.loads(message.value() or b"{}").get("movement"):
        debit, credit, amount = move["debit"], move["credit"], move["amount_minor"]
        if move["movement_id"] in movements or debit == credit or amount <= 0:
            sys.exit(f"{where}-{offset}: not a movement of two legs, or one that was there before: {move}")
        movements.add(move["movement_id"])
        for account, signed in ((debit, -amount), (credit, amount)):
            balances[account] += signed
            if currency_of.setdefault(account, move["currency"]) != move["currency"]:
                sys.exit(f"{where}-{offset}: {account} has {currency_of[account]}")
        if not debit.startswith("clearing:") and balances[debit] < 0:
            sys.exit(f"{where}-{offset}: {debit} is overdrawn: {balances[debit]}")

said = {line["account_id"]: line["balance_minor"] for line in claim["accounts"]}
for account in sorted(said.keys() | balances.keys()):
    if said.get(account, 0) != balances.get(account, 0):
        sys.exit(f"{account}: the file says {said.get(account)}, the movements add up to {balances.get(account, 0)}")
for currency in set(currency_of.values()):
    if difference := sum(balance for account, balance in balances.items() if currency_of[account] == currency):
        sys.exit(f"{currency}: debits and credits differ by {difference}")
print(f"right: {len(said)} accounts, {len(movements)} movements, every currency adds up to 0")
