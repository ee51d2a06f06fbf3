"""Prices and campaigns: the sales report is made here, line by line, in plain Python."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Campaign:
    """A discount on one category for some days of the year."""

    category: str
    first_day: int
    last_day: int
    percent: int

    def covers(self, category: str, day: int) -> bool:
        """Tell whether the discount holds for this category on this day."""
        return category == self.category and self.first_day <= day <= self.last_day


@dataclass(frozen=True)
class Line:
    """One sold line: so many of a product on a day."""

    category: str
    day: int
    quantity: int
    cents: int


def sales_by_month(database: sqlite3.Connection) -> dict[int, int]:
    """Return what was sold in each month, in cents, after discounts."""
    campaigns = [
        Campaign(*row) for row in database.execute("SELECT category, first_day, last_day, percent FROM campaigns")
    ]
    months: defaultdict[int, list[Line]] = defaultdict(list)
    for row in database.execute(
        "SELECT category, day, quantity, cents FROM order_items"
        " JOIN orders ON orders.id = order_id JOIN products ON products.id = product_id"
    ):
        line = Line(*row)
        months[line.day // 31 + 1].append(line)
    return {month: total_for(lines, campaigns) for month, lines in sorted(months.items())}


def total_for(lines: list[Line], campaigns: list[Campaign]) -> int:
    """Return what these lines cost, in cents, each with its best discount."""
    total = 0
    for line in lines:
        percent = 0
        for campaign in campaigns:
            if campaign.covers(line.category, line.day) and campaign.percent > percent:
                percent = campaign.percent
        total += line.quantity * line.cents * (100 - percent) // 100
    return total
