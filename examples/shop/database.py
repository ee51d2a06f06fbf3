"""The shop's SQLite file: its schema, made-up rows, and one connection per request."""

from __future__ import annotations

import random
import sqlite3
import sys
from pathlib import Path

from flask import current_app, g

SCHEMA = """
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, category TEXT, cents INTEGER);
CREATE TABLE campaigns (category TEXT, first_day INTEGER, last_day INTEGER, percent INTEGER);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, day INTEGER);
CREATE TABLE order_items (order_id INTEGER, product_id INTEGER, quantity INTEGER);
"""
CATEGORIES = ("tea", "coffee", "cups", "kettles", "filters", "books")
PRODUCTS, CAMPAIGNS, ORDERS, ITEMS_PER_ORDER, DAYS = 200, 150, 24_000, 4, 365


def connection() -> sqlite3.Connection:
    """Return this request's connection."""
    if "database" not in g:
        g.database = sqlite3.connect(current_app.config["DATABASE"])
        g.database.row_factory = sqlite3.Row
    return g.database


def close_connection(_error: BaseException | None = None) -> None:
    """Close this request's connection, if it had one."""
    database = g.pop("database", None)
    if database is not None:
        database.close()


def create(path: Path) -> None:
    """Create the database; the rows are the same every time."""
    chance = random.Random(7)
    products = [
        (f"Product no. {number}", chance.choice(CATEGORIES), chance.randrange(200, 9000))
        for number in range(1, PRODUCTS + 1)
    ]
    starts = [chance.randrange(DAYS) for _ in range(CAMPAIGNS)]
    campaigns = [(chance.choice(CATEGORIES), day, day + 14, chance.randrange(5, 30)) for day in starts]
    orders = [(f"Customer {chance.randrange(500)}", chance.randrange(DAYS)) for _ in range(ORDERS)]
    items = [
        (order, chance.randrange(1, PRODUCTS + 1), chance.randrange(1, 5))
        for order in range(1, ORDERS + 1)
        for _ in range(ITEMS_PER_ORDER)
    ]
    database = sqlite3.connect(path)
    with database:
        database.executescript(SCHEMA)
        database.executemany("INSERT INTO products (name, category, cents) VALUES (?, ?, ?)", products)
        database.executemany("INSERT INTO campaigns VALUES (?, ?, ?, ?)", campaigns)
        database.executemany("INSERT INTO orders (customer, day) VALUES (?, ?)", orders)
        database.executemany("INSERT INTO order_items VALUES (?, ?, ?)", items)
    database.close()


if __name__ == "__main__":
    create(Path(sys.argv[1]))
