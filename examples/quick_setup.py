"""An application without OpenTelemetry, set up with one call.

From this folder:

    flask --app quick_setup run

Then look at http://127.0.0.1:5000/primes/400000 and into the log.
"""

import logging

from flask import Flask

import slowspan

logging.basicConfig(level=logging.INFO)
app = Flask(__name__)
slowspan.quick_setup(app, service_name="primes", threshold=0.5)


@app.get("/primes/<int:limit>")
def primes(limit: int) -> dict[str, int]:
    found = 0
    for number in range(2, limit):
        found += all(number % divisor for divisor in range(2, int(number**0.5) + 1))
    return {"primes": found}
