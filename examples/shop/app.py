"""A small shop in Flask. It knows nothing of slowspan, and nothing of OpenTelemetry."""

from __future__ import annotations

import os

from flask import Flask, render_template

import carrier
import database
import orders
import pricing


def create_app() -> Flask:
    """Make the application. ``SHOP_DATABASE`` names its SQLite file, ``SHOP_CARRIER`` the carrier's URL."""
    app = Flask(__name__)
    app.config["DATABASE"] = os.environ["SHOP_DATABASE"]
    app.config["CARRIER"] = os.environ["SHOP_CARRIER"]
    app.teardown_appcontext(database.close_connection)

    @app.get("/")
    def front_page() -> str:
        products = database.connection().execute("SELECT name, category, cents FROM products LIMIT 20")
        return render_template("front_page.html", products=products.fetchall())

    @app.get("/orders")
    def order_list() -> str:
        return render_template("orders.html", orders=orders.latest_orders(database.connection(), 500))

    @app.get("/reports/sales")
    def sales_report() -> str:
        return render_template("sales.html", months=pricing.sales_by_month(database.connection()))

    @app.get("/delivery/<int:order>")
    def delivery(order: int) -> str:
        answer = carrier.delivery_of(app.config["CARRIER"], order)
        return render_template("delivery.html", order=order, delivery=answer)

    return app
