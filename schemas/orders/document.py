"""Orders: the document that producers send, every field typed and bounded.

Source of the fields: the sample order (samples.py). All are required; unknown extra fields are kept. Money is
integer minor units (cents) of `payment.currency`. What cannot be said field by field stands in reading.py.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.base import MAX_WHOLE
from schemas.base import ORDER_UID_PATTERN as ORDER_UID_PATTERN
from schemas.base import OrderUid as OrderUid

#: 9999-12-31T23:59:59Z. A time in milliseconds by mistake lies beyond it.
MAX_UNIX_TIME = 253_402_300_799
#: Far above any real basket; bounds the work that one record can ask for.
MAX_ITEMS = 10_000
#: Equal to the largest record of the topic `orders`.
MAX_DOCUMENT_BYTES = 1 << 20

PHONE_PATTERN = r"^\+[1-9][0-9]{4,14}$"
EMAIL_PATTERN = r"^[^\s@]{1,64}@[^\s@.]+(\.[^\s@.]+)+$"
CURRENCY_PATTERN = r"^[A-Z]{3}$"
LOCALE_PATTERN = r"^[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8})*$"
RFC3339_PATTERN = (
    r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)

#: A pattern says what is refused, not what is wanted; these say it to the person who has to mend the document.
PATTERN_HINTS = {
    ORDER_UID_PATTERN: "1 to 64 letters, digits and . _ ~ -, beginning with a letter or digit",
    PHONE_PATTERN: "an international number: + and 5 to 15 digits, as in +9720000000",
    EMAIL_PATTERN: "an e-mail address, as in test@gmail.com",
    CURRENCY_PATTERN: "an ISO 4217 code: three capital letters, as in USD",
    LOCALE_PATTERN: "a language tag, as in en or pt-BR",
    RFC3339_PATTERN: "an RFC 3339 time with its offset, as in 2021-11-26T06:22:19Z",
}

# PostgreSQL's bigint holds any sum of items that a document has room for.
Whole = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
Money = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
Text32 = Annotated[str, Field(max_length=32)]
Text64 = Annotated[str, Field(max_length=64)]
Text128 = Annotated[str, Field(max_length=128)]
Text256 = Annotated[str, Field(max_length=256)]
Name64 = Annotated[str, Field(min_length=1, max_length=64)]
Name256 = Annotated[str, Field(min_length=1, max_length=256)]

CustomerId = Annotated[
    str,
    Field(min_length=1, max_length=64, description="Who orders; the key of the customer index.", examples=["test"]),
]


class DocumentPart(BaseModel):
    """Strict, because any producer may send: "1" is not 1, nor is 1.0 or true. Extra fields are kept as they came."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", defer_build=True)


class Delivery(DocumentPart):
    """Where the order goes and who receives it. Personal data: masked in logs."""

    name: Name256 = Field(description="The recipient.", examples=["Test Testov"])
    phone: str = Field(pattern=PHONE_PATTERN, description="E.164.", examples=["+9720000000"])
    zip: Text32 = Field(description="Postal code; empty where the country has none.", examples=["2639809"])
    city: Name256 = Field(examples=["Kiryat Mozkin"])
    address: Annotated[str, Field(min_length=1, max_length=512)] = Field(
        description="Street and house.", examples=["Ploshad Mira 15"]
    )
    region: Text256 = Field(examples=["Kraiot"])
    email: str = Field(pattern=EMAIL_PATTERN, max_length=254, description="RFC 5321.", examples=["test@gmail.com"])


class Payment(DocumentPart):
    """What is paid and how. goods_total + delivery_cost + custom_fee = amount."""

    transaction: Name64 = Field(description="The payment's id at its provider.", examples=["b563feb7b2b84b6test"])
    request_id: Text64 = Field(description="The provider's request; may be empty.", examples=[""])
    currency: str = Field(pattern=CURRENCY_PATTERN, description="ISO 4217, for all amounts.", examples=["USD"])
    provider: Name64 = Field(examples=["wbpay"])
    amount: Money = Field(description="The whole sum, minor units.", examples=[1817])
    payment_dt: Annotated[int, Field(ge=0, le=MAX_UNIX_TIME)] = Field(
        description="When it was paid: Unix time in seconds.", examples=[1637907727]
    )
    bank: Text128 = Field(examples=["alpha"])
    delivery_cost: Money = Field(description="Minor units.", examples=[1500])
    goods_total: Money = Field(description="Sum of the items' total_price, minor units.", examples=[317])
    custom_fee: Money = Field(description="Customs, minor units.", examples=[0])


class Item(DocumentPart):
    """One line of the order."""

    chrt_id: Whole = Field(description="The variant's id.", examples=[9934930])
    track_number: Name64 = Field(description="Equal to the order's.", examples=["WBILMTESTTRACK"])
    price: Money = Field(description="Before the discount, minor units.", examples=[453])
    rid: Name64 = Field(description="The line's id.", examples=["ab4219087a764ae0btest"])
    name: Name256 = Field(examples=["Mascaras"])
    sale: Annotated[int, Field(ge=0, le=100)] = Field(description="Discount in percent.", examples=[30])
    size: Text32 = Field(examples=["0"])
    total_price: Money = Field(description="What the line costs, minor units.", examples=[317])
    nm_id: Whole = Field(description="The product's id.", examples=[2389212])
    brand: Text256 = Field(examples=["Vivienne Sabo"])
    status: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        description="The line's status at the shop.", examples=[202]
    )


class OrderDocument(DocumentPart):
    """An order as its producer sends it, on the topic `orders` or by POST. Kept byte for byte as received."""

    order_uid: OrderUid
    track_number: Name64 = Field(description="The parcel's number; each item carries it.", examples=["WBILMTESTTRACK"])
    entry: Text32 = Field(description="Where the order came in.", examples=["WBIL"])
    delivery: Delivery
    payment: Payment
    # Ends at the first bad item: the thorough reading goes through them itself, and does not name 100,000 faults.
    items: Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    locale: Annotated[str, Field(pattern=LOCALE_PATTERN, max_length=35)] = Field(
        description="BCP 47 tag of the customer's language.", examples=["en"]
    )
    internal_signature: Annotated[str, Field(max_length=1024)] = Field(description="May be empty.", examples=[""])
    customer_id: CustomerId
    delivery_service: Name64 = Field(examples=["meest"])
    shardkey: Text32 = Field(description="Of the producer's own storage; kept, not used.", examples=["9"])
    sm_id: Whole = Field(description="The shop's id.", examples=[99])
    date_created: str = Field(
        pattern=RFC3339_PATTERN, description="RFC 3339, as the producer says.", examples=["2021-11-26T06:22:19Z"]
    )
    oof_shard: Text32 = Field(description="Of the producer's own storage; kept, not used.", examples=["1"])
