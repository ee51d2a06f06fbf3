"""The list of orders. It asks the database once for every order (an N+1 query), without an index."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass
class Order:
    """An order as the page shows it."""

    number: int
    customer: str
    items: list[sqlite3.Row]


def latest_orders(database: sqlite3.Connection, count: int) -> list[Order]:
    """Return the newest orders with their items."""
    rows = database.cursor().execute("SELECT id, customer FROM orders ORDER BY id DESC LIMIT ?", (count,)).fetchall()
    return [Order(row["id"], row["customer"], items_of(database, row["id"])) for row in rows]


def items_of(database: sqlite3.Connection, order: int) -> list[sqlite3.Row]:
    """Return the items of one order."""
    query = "SELECT name, quantity FROM order_items JOIN products ON products.id = product_id WHERE order_id = ?"
    return database.cursor().execute(query, (order,)).fetchall()
