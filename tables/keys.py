"""customers.keys.v1, followed -> the keys that there are, made and destroyed through it; nothing else holds them.

Every worker that seals or opens follows the whole topic. What it knows is at most FRESH_S old when it is used: who has
written tombstones and waited as long knows that no worker opens anything with those keys any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple

import orjson

from schemas.masters import name_of
from schemas.seals import (
    ID_BYTES,
    MARK,
    NONCE_BYTES,
    SECRET_BYTES,
    CustomerKey,
    Seal,
    key_id_of,
    open_json,
    record_key,
    unwrap,
    wrap,
)
from schemas.topics import CUSTOMER_KEYS, KEEP_KEY_DELETIONS_MS
from streams import NotReadable, Record, TopicPartition, partition_for
from streams.following import Follower, Tail

#: How old what is known of the topic may be when it is used, in seconds.
FRESH_S = 1.0
#: A follower that has not looked for longer may have missed a tombstone that compaction has removed: it begins anew.
LONGEST_UNSEEN_S = KEEP_KEY_DELETIONS_MS / 1000 / 2
#: Keys in use at the same time that are kept unwrapped; unwrapping takes microseconds.
MOST_OPEN_KEYS = 4_096
#: How often a key that was destroyed while it was made is made again.
ATTEMPTS = 3
#: A record that says nothing: the broker begins a new segment, and so compacts an old one, only when something comes.
TICK = "/tick"


class Said(NamedTuple):
    """A record for the topic of keys. No value: a tombstone."""

    partition: int
    key: str
    value: bytes | None


#: Writes to the topic of keys: all of it is acknowledged by all replicas when it returns.
Write = Callable[[Sequence[Said]], Awaitable[None]]


class Held(NamedTuple):
    """A key as the topic has it."""

    customer_id: str
    value: bytes


class Keyring:
    """The keys of all customers. `clock`: seconds that also go by while a machine sleeps; `chance`: n random bytes."""

    def __init__(
        self,
        write: Write,
        tail: Tail,
        partitions: int,
        masters: Sequence[bytes],
        chance: Callable[[int], bytes],
        clock: Callable[[], float],
    ) -> None:
        """`masters`: the newest first; it wraps new keys, all of them unwrap. None: nothing is sealed or opened."""
        self._write, self._partitions, self._chance, self._clock = write, partitions, chance, clock
        self._masters = {name_of(master): master for master in masters}
        self._newest = masters[0] if masters else None
        self._held: dict[str, Held] = {}
        self._of: dict[str, list[str]] = {}  # by customer, in the order of the log
        self._open: dict[str, Seal] = {}
        self._looked_at: float | None = None
        self.strange = 0  # records that are no key of ours
        here = [TopicPartition(CUSTOMER_KEYS.name, number) for number in range(partitions)]
        self._follower = Follower(tail, here, self._take, self._forget)

    def __len__(self) -> int:
        """How many keys are known."""
        return len(self._held)

    async def look(self) -> None:
        """Know every key and tombstone that was acknowledged before the call. Raises NotReadable."""
        now = self._clock()
        if self._looked_at is not None and now - self._looked_at > LONGEST_UNSEEN_S:
            await self._follower.close()
        try:
            await self._follower.catch_up()
        except Exception as error:  # whatever the client raises: nothing may be opened by what was known before
            why = str(error) or type(error).__name__
            raise NotReadable(f"the customers' keys cannot be looked up: {why}") from error
        self._looked_at = now

    async def refresh(self) -> None:
        """The same, unless it was done within FRESH_S."""
        if self._looked_at is None or self._clock() - self._looked_at > FRESH_S:
            await self.look()

    async def seal_for(self, customer_id: str) -> Seal:
        """The key to seal with: the customer's first, or a new one, which is in the topic before anything is sealed.

        Workers that make one at the same time all take the one that came to stand first. Raises NotReadable.
        """
        return (await self.seals_for({customer_id}))[customer_id]

    async def seals_for(self, customer_ids: Collection[str]) -> dict[str, Seal]:
        """The same for several at once."""
        await self.refresh()
        for _ in range(ATTEMPTS):
            missing = [customer_id for customer_id in customer_ids if customer_id not in self._of]
            if not missing:
                return {customer_id: self._seal(self._of[customer_id][0]) for customer_id in customer_ids}
            await self._write([self._made(customer_id) for customer_id in missing])
            await self.look()
        raise NotReadable("a customer's key was destroyed as often as it was made")

    def _made(self, customer_id: str) -> Said:
        assert self._newest is not None, "who has no master key seals nothing"
        key_id = key_id_of(self._chance(ID_BYTES))
        secret, nonce = self._chance(SECRET_BYTES), self._chance(NONCE_BYTES)
        key = wrap(customer_id, key_id, secret, self._newest, nonce)
        return self._said(customer_id, key_id, orjson.dumps(key.model_dump()))

    async def opened(self, raw: bytes) -> tuple[bytes, list[str]]:
        """JSON with everything opened whose key there is, and the paths of all else. Raises NotReadable."""
        if MARK not in raw:
            return raw, []
        await self.refresh()
        return open_json(raw, self._find)

    def keys_of(self, customer_id: str) -> list[str]:
        """The ids of a customer's keys, as far as is known."""
        return list(self._of.get(customer_id, ()))

    async def destroy(self, customer_id: str) -> list[str]:
        """Tombstones for all keys of a customer, acknowledged; gives their ids. Raises NotReadable."""
        await self.look()
        destroyed = self.keys_of(customer_id)
        await self._write([self._said(customer_id, key_id, None) for key_id in destroyed])
        await self.look()
        return destroyed

    async def tick(self) -> None:
        """Let every partition's segments grow old: see TICK."""
        await self._write([Said(partition, TICK, None) for partition in range(self._partitions)])

    async def close(self) -> None:
        await self._follower.close()

    def _said(self, customer_id: str, key_id: str, value: bytes | None) -> Said:
        home = partition_for(customer_id.encode(), self._partitions)
        return Said(home, record_key(customer_id, key_id), value)

    def _find(self, key_id: str) -> Seal | None:
        return self._seal(key_id) if key_id in self._held else None

    def _seal(self, key_id: str) -> Seal:
        seal = self._open.get(key_id)
        if seal is None:
            key = CustomerKey.model_validate_json(self._held[key_id].value)
            if key.master not in self._masters:
                raise NotReadable(
                    f"a key of a customer is wrapped by the master key {key.master}, which is not at hand"
                )
            seal = unwrap(key, self._masters[key.master])
            if len(self._open) >= MOST_OPEN_KEYS:
                del self._open[next(iter(self._open))]
            self._open[key_id] = seal
        return seal

    def _take(self, record: Record) -> None:
        name = (record.key or b"").decode(errors="replace")
        customer_id, _, key_id = name.rpartition("/")
        if name == TICK:
            return
        if not customer_id or (record.value is not None and b'"wrapped"' not in record.value):
            self.strange += 1
        elif record.value is None:
            self._open.pop(key_id, None)
            if self._held.pop(key_id, None) is not None:
                self._of[customer_id].remove(key_id)
                if not self._of[customer_id]:
                    del self._of[customer_id]
        elif key_id not in self._held:
            self._held[key_id] = Held(customer_id, record.value)
            self._of.setdefault(customer_id, []).append(key_id)

    def _forget(self) -> None:
        """Reading begins anew: until it has come to the end again nobody may take what is missing for destroyed."""
        self._looked_at = None
        self._held.clear()
        self._of.clear()
        self._open.clear()
