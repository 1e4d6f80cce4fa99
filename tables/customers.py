"""Customers: events -> one row each: what the window still counts. A table of the group `accounts`.

customers    user_id -> Customer
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.customers import Customer
from streams import App, Codec, Table
from tables.accounts import GROUP


@dataclass(frozen=True)
class CustomerTables:
    """The table of customers. Reads work in the group's agents and within `app.reading("accounts", partition)`."""

    customers: Table[Customer]

    def customer(self, user_id: str) -> Customer | None:
        """The customer as of the last attempt."""
        return self.customers.get(user_id)

    def keep(self, customer: Customer) -> None:
        self.customers[customer.user_id] = customer


def declare(app: App) -> CustomerTables:
    """Declare the table on the app. Its changelog is named after it."""
    return CustomerTables(
        app.Table(
            "customers",
            group=GROUP,
            codec=Codec(Customer.to_json, Customer.from_json),
            help="Orders of a customer that the limit counts.",
        )
    )
