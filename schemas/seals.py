"""personal fields of orders -> sealed strings, which rules carry and nobody reads without the customer's key; and back.

`sealed:v1:<key id>:<base64url>` stands for the JSON text of the field: AES-SIV (RFC 5297, deterministic authenticated
encryption) under a key of the customer, bound to the order and to the field's path in it. The same field of the same
order is the same string again, so that an order that is sent twice is known again; equal fields of two orders differ.

What is personal, and what is not sealed although it may say something of a person, stands in PERSONAL and BESIDE.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256, sha512
from typing import Any

import msgspec
import orjson
from pydantic import Field

from schemas.base import Model
from schemas.masters import name_of
from schemas.orders.document import Item, OrderDocument, Payment
from schemas.orders.sealed import MARK as MARK
from schemas.orders.sealed import SEALED
from schemas.strict_json import location_path, member_path

#: What is sealed. `*`: whatever it is called. What nobody declared may be about anybody, so it is sealed everywhere.
PERSONAL = {
    "an order document": ("$.delivery.*", "$.payment.bank", "every member that the schema does not declare"),
    "a cart": ("$.address.*",),
}
#: What is not sealed, and why.
BESIDE = {
    "customer_id, user_id": "a pseudonym: keys, indexes, limits and accounts go by it. Use no e-mail address.",
    "payment.transaction, payment.request_id, payment.instrument": "names at the payment provider, who must know them.",
    "reasons of cancellations, returns and refusals": "free text of callers about orders: no place for names.",
    "internal_signature": "the producer's own; whether the document is still as it was signed cannot be said anyway.",
}

SECRET_BYTES, NONCE_BYTES, ID_BYTES = 32, 12, 12


class CustomerKey(Model):
    """A customer's key, itself wrapped (AES-256-GCM) by the master key: who reads the topic alone has nothing."""

    customer_id: str
    key_id: str = Field(pattern=r"^[A-Za-z0-9_-]{16}$", description="Sealed strings name it.")
    master: str = Field(description="Which master key wrapped it: the first 16 digits of a hash of that.")
    wrapped: str = Field(description="Base64 of nonce, ciphertext and tag, bound to the record's key.")


class Seal:
    """The key of one customer, ready for use."""

    def __init__(self, key_id: str, secret: bytes) -> None:
        # Here and not above: a tenth of a second of the start of whoever seals nothing.
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        self.key_id, self._secret = key_id, secret
        self._cipher = AESSIV(hmac.digest(secret, b"orderstream seal", sha512))

    def shut(self, text: bytes, order_uid: str, path: str) -> str:
        """The sealed string of a field whose JSON text this is."""
        sealed = self._cipher.encrypt(text, [order_uid.encode(), path.encode()])
        return f"sealed:v1:{self.key_id}:{urlsafe_b64encode(sealed).rstrip(b'=').decode()}"

    def reveal(self, sealed: str, order_uid: str, path: str) -> bytes | None:
        """The JSON text; None when it was not sealed with this key as this field of this order."""
        from cryptography.exceptions import InvalidTag

        try:
            raw = urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
            return self._cipher.decrypt(raw, [order_uid.encode(), path.encode()])
        except (InvalidTag, ValueError):
            return None

    def repeat(self, raw: bytes) -> bytes:
        """What a request is known again by: without the key nobody can try whether it was a certain one."""
        return hmac.digest(hmac.digest(self._secret, b"orderstream repeat", sha256), raw, sha256)


#: The key that a sealed string names; None: there is none any more.
Find = Callable[[str], Seal | None]
Where = tuple[str | int, ...]

# -- sealing -----------------------------------------------------------------------------------------------------------

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_write = msgspec.json.Encoder().encode


def seal_document(raw: bytes, seal: Seal) -> bytes:
    """An order document that was checked, with everything personal sealed and all other values as they were written."""
    document = _members(raw)
    uid: str = orjson.loads(bytes(document["order_uid"]))

    def shut(members: dict[str, msgspec.Raw], path: str, clear: Any) -> bytes:
        for name, value in members.items():
            if name not in clear:
                sealed = seal.shut(bytes(value), uid, member_path(path, name))
                members[name] = msgspec.Raw(b'"%b"' % sealed.encode())
        return _write(members)

    document["delivery"] = msgspec.Raw(shut(_members(document["delivery"]), "$.delivery", ()))
    clear_of_payment = Payment.model_fields.keys() - {"bank"}
    document["payment"] = msgspec.Raw(shut(_members(document["payment"]), "$.payment", clear_of_payment))
    items = _elements(document["items"])
    for index, item in enumerate(items):
        members = _members(item)
        if len(members) > len(Item.model_fields):
            items[index] = msgspec.Raw(shut(members, f"$.items[{index}]", Item.model_fields))
    document["items"] = msgspec.Raw(_write(items))
    return shut(document, "$", OrderDocument.model_fields)


def seal_address(address: Mapping[str, Any], order_uid: str, seal: Seal) -> dict[str, str | int | None]:
    """The address of a cart, each member sealed."""
    return {
        name: seal.shut(orjson.dumps(value), order_uid, member_path("$.address", name))
        for name, value in address.items()
    }


# -- opening -----------------------------------------------------------------------------------------------------------


def open_json(raw: bytes, find: Find) -> tuple[bytes, list[str]]:
    """A JSON object with every sealed string opened, wherever it stands; and the paths of those that nobody can open.

    Those are null, and listed as `erased`. A field belongs to the nearest object around it that has an order_uid.
    """
    if MARK not in raw:
        return raw, []
    erased: list[str] = []
    told = _opened(orjson.loads(raw), (), 0, "", find, erased)
    if erased:
        told["erased"] = erased
    return orjson.dumps(told), erased


def _opened(value: Any, where: Where, order_at: int, uid: str, find: Find, erased: list[str]) -> Any:
    """`where`: the steps from the root; after `order_at` of them comes the object of the order `uid`."""
    match value:
        case str():
            found = SEALED.fullmatch(value) if value.startswith("sealed:v1:") else None
            if found is None:
                return value
            seal = find(found[1])
            text = None if seal is None else seal.reveal(found[2], uid, location_path(where[order_at:]))
            if text is None:
                erased.append(location_path(where))
                return None
            return orjson.Fragment(text)
        case dict():
            if isinstance(own := value.get("order_uid"), str):
                uid, order_at = own, len(where)
            return {name: _opened(each, (*where, name), order_at, uid, find, erased) for name, each in value.items()}
        case list():
            return [_opened(each, (*where, at), order_at, uid, find, erased) for at, each in enumerate(value)]
        case _:
            return value


# -- customers' keys ---------------------------------------------------------------------------------------------------


def key_id_of(chance: bytes) -> str:
    """ID_BYTES of chance as a key's id."""
    return urlsafe_b64encode(chance).decode()


def record_key(customer_id: str, key_id: str) -> str:
    return f"{customer_id}/{key_id}"


def wrap(customer_id: str, key_id: str, secret: bytes, master: bytes, nonce: bytes) -> CustomerKey:
    """A key as its topic holds it. `nonce`: NONCE_BYTES of chance, never twice."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    wrapped = nonce + AESGCM(master).encrypt(nonce, secret, record_key(customer_id, key_id).encode())
    return CustomerKey(
        customer_id=customer_id, key_id=key_id, master=name_of(master), wrapped=b64encode(wrapped).decode()
    )


def unwrap(key: CustomerKey, master: bytes) -> Seal:
    """The key itself. Raises ValueError when it was not wrapped so."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    raw = b64decode(key.wrapped)
    try:
        secret = AESGCM(master).decrypt(
            raw[:NONCE_BYTES], raw[NONCE_BYTES:], record_key(key.customer_id, key.key_id).encode()
        )
    except InvalidTag:
        raise ValueError(f"the key {key.key_id} of a customer is not what its master key has wrapped") from None
    return Seal(key.key_id, secret)
