"""An application that already sends its spans somewhere: one line more.

From this folder:

    flask --app existing_provider run

Then look at http://127.0.0.1:5000/primes/400000; the span on the console has slowspan's attributes.
"""

from flask import Flask
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

import slowspan

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
provider.add_span_processor(slowspan.SlowSpanProcessor(threshold=0.5))  # The line; its place does not matter.
trace.set_tracer_provider(provider)

app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)


@app.get("/primes/<int:limit>")
def primes(limit: int) -> dict[str, int]:
    found = 0
    for number in range(2, limit):
        found += all(number % divisor for divisor in range(2, int(number**0.5) + 1))
    return {"primes": found}
