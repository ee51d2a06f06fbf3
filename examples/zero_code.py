"""An application that knows nothing of slowspan.

From this folder:

    opentelemetry-instrument flask --app zero_code run

Every request over one second has a report; http://127.0.0.1:5000/primes/400000 is one.
"""

from flask import Flask

app = Flask(__name__)


@app.get("/primes/<int:limit>")
def primes(limit: int) -> dict[str, int]:
    found = 0
    for number in range(2, limit):
        found += all(number % divisor for divisor in range(2, int(number**0.5) + 1))
    return {"primes": found}
