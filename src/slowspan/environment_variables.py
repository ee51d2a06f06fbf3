"""The environment variables, one for each setting; ``opentelemetry-instrument`` makes flags of these names.

``docs/configuration.md`` explains the values.
"""

OTEL_PYTHON_SLOWSPAN_CONFIG = "OTEL_PYTHON_SLOWSPAN_CONFIG"
"""The path of a settings file: TOML, YAML or JSON, told by its suffix."""

OTEL_PYTHON_SLOWSPAN_ENABLED = "OTEL_PYTHON_SLOWSPAN_ENABLED"
"""Whether anything is recorded from the start. Default: true."""

OTEL_PYTHON_SLOWSPAN_THRESHOLD = "OTEL_PYTHON_SLOWSPAN_THRESHOLD"
"""Seconds from which on a request is slow. Default: 1."""

OTEL_PYTHON_SLOWSPAN_THRESHOLDS = "OTEL_PYTHON_SLOWSPAN_THRESHOLDS"
"""Thresholds by route, path or URL: ``/reports/.*=5, /api/.*=0.3``."""

OTEL_PYTHON_SLOWSPAN_ENGINE = "OTEL_PYTHON_SLOWSPAN_ENGINE"
"""``thread`` (default) or ``inline``."""

OTEL_PYTHON_SLOWSPAN_START_AFTER = "OTEL_PYTHON_SLOWSPAN_START_AFTER"
"""Seconds a request is left alone before it is sampled. Default: 0.05."""

OTEL_PYTHON_SLOWSPAN_INTERVAL = "OTEL_PYTHON_SLOWSPAN_INTERVAL"
"""Mean seconds between two samples of a request. Default: 0.01."""

OTEL_PYTHON_SLOWSPAN_OVERHEAD_BUDGET = "OTEL_PYTHON_SLOWSPAN_OVERHEAD_BUDGET"
"""What the sampler may use, as a share of one core, averaged over ten seconds. Default: 0.01."""

OTEL_PYTHON_SLOWSPAN_HUNG_AFTER = "OTEL_PYTHON_SLOWSPAN_HUNG_AFTER"
"""Seconds after which a request that is still running yields a partial report. Default: 10."""

OTEL_PYTHON_SLOWSPAN_FINE_SWITCHING = "OTEL_PYTHON_SLOWSPAN_FINE_SWITCHING"
"""Whether the interpreter's switch interval may be finer while a late request is sampled. Default: true."""

OTEL_PYTHON_SLOWSPAN_SPAN_KINDS = "OTEL_PYTHON_SLOWSPAN_SPAN_KINDS"
"""Span kinds that are requests, comma-separated. Default: ``SERVER``."""

OTEL_PYTHON_SLOWSPAN_EXCLUDED_URLS = "OTEL_PYTHON_SLOWSPAN_EXCLUDED_URLS"
"""Regular expressions, comma-separated: URLs that are left out. Unset: ``OTEL_PYTHON_EXCLUDED_URLS``."""

OTEL_PYTHON_SLOWSPAN_INCLUDED_URLS = "OTEL_PYTHON_SLOWSPAN_INCLUDED_URLS"
"""Regular expressions, comma-separated: the only URLs that are recorded."""

OTEL_PYTHON_SLOWSPAN_EXCLUDED_ATTRIBUTES = "OTEL_PYTHON_SLOWSPAN_EXCLUDED_ATTRIBUTES"
"""Attribute filters ``name`` or ``name=regular expression``, comma-separated: spans that are left out."""

OTEL_PYTHON_SLOWSPAN_INCLUDED_ATTRIBUTES = "OTEL_PYTHON_SLOWSPAN_INCLUDED_ATTRIBUTES"
"""Attribute filters, comma-separated: the only spans that are recorded."""

OTEL_PYTHON_SLOWSPAN_REPORT_DIR = "OTEL_PYTHON_SLOWSPAN_REPORT_DIR"
"""Directory of the reports. Default: ``slowspan-<user id>`` in the system's temporary directory."""

OTEL_PYTHON_SLOWSPAN_RETENTION_COUNT = "OTEL_PYTHON_SLOWSPAN_RETENTION_COUNT"
"""The most reports kept. Default: 500."""

OTEL_PYTHON_SLOWSPAN_RETENTION_BYTES = "OTEL_PYTHON_SLOWSPAN_RETENTION_BYTES"
"""The most bytes of reports kept. Default: 500000000."""

OTEL_PYTHON_SLOWSPAN_RETENTION_AGE = "OTEL_PYTHON_SLOWSPAN_RETENTION_AGE"
"""Seconds after which a report is deleted. Default: 2592000, which is 30 days."""

OTEL_PYTHON_SLOWSPAN_REPORT_URL = "OTEL_PYTHON_SLOWSPAN_REPORT_URL"
"""Where people read a report: a URL with ``{id}``, ``{name}`` or ``{file}``."""

OTEL_PYTHON_SLOWSPAN_TRACE_URL = "OTEL_PYTHON_SLOWSPAN_TRACE_URL"
"""Where people look at a trace: a URL with ``{trace_id}`` or ``{span_id}``."""

OTEL_PYTHON_SLOWSPAN_REDACTED_PARAMETERS = "OTEL_PYTHON_SLOWSPAN_REDACTED_PARAMETERS"
"""Regular expressions: names of query parameters whose values are hidden; ``default``: the built-in ones."""

OTEL_PYTHON_SLOWSPAN_NOTIFIERS = "OTEL_PYTHON_SLOWSPAN_NOTIFIERS"
"""Names of the notifiers that are on, comma-separated, or ``none``. Default: ``file, log``."""

OTEL_PYTHON_SLOWSPAN_MAX_SAMPLES = "OTEL_PYTHON_SLOWSPAN_MAX_SAMPLES"
"""The most samples kept of one request. Default: 2000."""

OTEL_PYTHON_SLOWSPAN_MAX_RECORDINGS = "OTEL_PYTHON_SLOWSPAN_MAX_RECORDINGS"
"""The most requests sampled at the same time. Default: 200."""

OTEL_PYTHON_SLOWSPAN_QUEUE_SIZE = "OTEL_PYTHON_SLOWSPAN_QUEUE_SIZE"
"""The most profiles that wait for delivery. Default: 100."""

OTEL_PYTHON_SLOWSPAN_FLUSH_TIMEOUT = "OTEL_PYTHON_SLOWSPAN_FLUSH_TIMEOUT"
"""Seconds that delivery may take at exit and shutdown. Default: 5."""
