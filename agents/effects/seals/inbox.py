"""orders.inbox.v1, documents in clear -> sealed -> orders; what is no document -> a dead letter without it.

The keys come from outside of the log, so this is no agent: a replay begins with what stands on `orders`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.base import InvalidDocument
from schemas.orders import MAX_DOCUMENT_BYTES, Identified, check_clear
from schemas.seals import Seal, seal_document
from schemas.topics import DEAD_LETTERS, ORDERS
from streams import FaultAt, Poison, Record, TopicPartition, partition_for
from streams.dead_letters import dead_letter
from streams.records import Fields, Position
from tables.keys import Keyring

#: A header of what is moved: where it stood in clear.
FROM = "inbox-position"

Made = tuple[TopicPartition, Fields]


class Inbox:
    """Seals what producers send."""

    def __init__(self, keyring: Keyring, partitions: int) -> None:
        self._keyring, self._partitions = keyring, partitions

    async def seal(self, records: Sequence[Record]) -> list[Made]:
        """What becomes of records, in their order. Raises NotReadable while keys cannot be looked up or made."""
        read = [(record, self._read(record)) for record in records]
        customers = {found.customer_id for _, found in read if not isinstance(found, Poison)}
        seals = await self._keyring.seals_for(customers) if customers else {}
        return [self._made(record, found, seals) for record, found in read]

    def _made(self, record: Record, found: Identified | Poison, seals: Mapping[str, Seal]) -> Made:
        if isinstance(found, Poison):
            return self._refused(record, found)
        try:
            return self._sealed(record, found, seals[found.customer_id])
        except Exception as error:  # a bug of ours must not hold up those behind; what it says may quote the document
            return self._refused(record, RuntimeError(type(error).__name__))

    def _read(self, record: Record) -> Identified | Poison:
        if record.value is None:
            return Poison([FaultAt("$", "is a tombstone: orders are cancelled by a command")], "not_json")
        try:
            return check_clear(record.value)
        except InvalidDocument as error:
            return Poison((FaultAt(fault.path, fault.message) for fault in error.faults), error.reason)

    def _sealed(self, record: Record, document: Identified, seal: Seal) -> Made:
        """On its home partition, under its own key and at its own time, with the headers that it came with."""
        assert record.value is not None, "read above"
        sealed, uid = seal_document(record.value, seal), document.order_uid.encode()
        if len(sealed) > MAX_DOCUMENT_BYTES:
            what = f"has {len(sealed)} bytes with its personal data sealed; at most {MAX_DOCUMENT_BYTES} are taken"
            return self._refused(record, Poison([FaultAt("$", what)], "too_large"))
        position = str(Position(record.topic, record.partition, record.offset))
        headers = [*record.headers, (FROM, position.encode())]
        home = TopicPartition(ORDERS.name, partition_for(uid, self._partitions))
        return home, (record.timestamp, uid, sealed, headers)

    def _refused(self, record: Record, why: Exception) -> Made:
        """A letter without key and value: what nobody can read nobody can seal. They stay where they are, for a week.

        Which field is personal is not known of what is no document, nor whose it is.
        """
        letter = dead_letter(record, "orders.inbox", why)
        place = TopicPartition(DEAD_LETTERS.name, record.partition % self._partitions)
        return place, (letter.timestamp, None, None, letter.headers)
