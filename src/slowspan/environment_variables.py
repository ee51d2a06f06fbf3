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
"""Thresholds by route, path, URL or span name: ``/reports/.*=5, /api/.*=0.3``."""

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

OTEL_PYTHON_SLOWSPAN_RECORD_UNSAMPLED = "OTEL_PYTHON_SLOWSPAN_RECORD_UNSAMPLED"
"""Whether slow requests are also reported of those that the trace sampler drops. Default: false."""

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

OTEL_PYTHON_SLOWSPAN_ALERT_WINDOW = "OTEL_PYTHON_SLOWSPAN_ALERT_WINDOW"
"""How long an alert is not told again: seconds, or ``10d``, ``36h``, ``90m``. Default: ``10d``."""

OTEL_PYTHON_SLOWSPAN_ALERT_KEY = "OTEL_PYTHON_SLOWSPAN_ALERT_KEY"
"""What makes one alert: ``parameters`` (default), ``?NAME``, ``hot_line``, or ``endpoint`` for the endpoint alone."""

OTEL_PYTHON_SLOWSPAN_REALERT_RATIO = "OTEL_PYTHON_SLOWSPAN_REALERT_RATIO"
"""A request so many times as slow as the worst one told is told again. Default: 2."""

OTEL_PYTHON_SLOWSPAN_ALERTS_PER_HOUR = "OTEL_PYTHON_SLOWSPAN_ALERTS_PER_HOUR"
"""The most alerts told in an hour. Default: 30."""

OTEL_PYTHON_SLOWSPAN_REPORTS_PER_HOUR = "OTEL_PYTHON_SLOWSPAN_REPORTS_PER_HOUR"
"""The most reports kept of one endpoint in an hour, by each process. Default: 60."""

OTEL_PYTHON_SLOWSPAN_ALERT_STORE = "OTEL_PYTHON_SLOWSPAN_ALERT_STORE"
"""URI of the store shared by all hosts: ``redis://…``, ``memcached://…``. Unset: SQLite in the report directory."""

OTEL_PYTHON_SLOWSPAN_ALERT_STORE_FILE = "OTEL_PYTHON_SLOWSPAN_ALERT_STORE_FILE"
"""Path of a file that holds ``OTEL_PYTHON_SLOWSPAN_ALERT_STORE``."""

OTEL_PYTHON_SLOWSPAN_MATTERMOST_URL = "OTEL_PYTHON_SLOWSPAN_MATTERMOST_URL"
"""The Mattermost server's address."""

OTEL_PYTHON_SLOWSPAN_MATTERMOST_TOKEN = "OTEL_PYTHON_SLOWSPAN_MATTERMOST_TOKEN"
"""Access token of a bot or user of Mattermost."""

OTEL_PYTHON_SLOWSPAN_MATTERMOST_TOKEN_FILE = "OTEL_PYTHON_SLOWSPAN_MATTERMOST_TOKEN_FILE"
"""Path of a file that holds the token."""

OTEL_PYTHON_SLOWSPAN_MATTERMOST_LOGIN = "OTEL_PYTHON_SLOWSPAN_MATTERMOST_LOGIN"
"""User name or email address at Mattermost, where there is no token."""

OTEL_PYTHON_SLOWSPAN_MATTERMOST_PASSWORD = "OTEL_PYTHON_SLOWSPAN_MATTERMOST_PASSWORD"
"""The password to it."""

OTEL_PYTHON_SLOWSPAN_MATTERMOST_PASSWORD_FILE = "OTEL_PYTHON_SLOWSPAN_MATTERMOST_PASSWORD_FILE"
"""Path of a file that holds the password."""

OTEL_PYTHON_SLOWSPAN_MATTERMOST_CHANNEL = "OTEL_PYTHON_SLOWSPAN_MATTERMOST_CHANNEL"
"""The channel's id, or ``team/channel``."""

OTEL_PYTHON_SLOWSPAN_MATTERMOST_CA_FILE = "OTEL_PYTHON_SLOWSPAN_MATTERMOST_CA_FILE"
"""Path of the certificates (PEM) that the Mattermost server's one is checked against."""

OTEL_PYTHON_SLOWSPAN_MATTERMOST_PROXY = "OTEL_PYTHON_SLOWSPAN_MATTERMOST_PROXY"
"""URL of the proxy before the Mattermost server."""

OTEL_PYTHON_SLOWSPAN_MATTERMOST_THREADS = "OTEL_PYTHON_SLOWSPAN_MATTERMOST_THREADS"
"""Whether a later alert of the same goes into the first one's thread. Default: true."""

OTEL_PYTHON_SLOWSPAN_APPRISE_URLS = "OTEL_PYTHON_SLOWSPAN_APPRISE_URLS"
"""URLs of Apprise, with commas or whitespace between them."""

OTEL_PYTHON_SLOWSPAN_APPRISE_URLS_FILE = "OTEL_PYTHON_SLOWSPAN_APPRISE_URLS_FILE"
"""Path of a file that holds them."""

OTEL_PYTHON_SLOWSPAN_WEBHOOK_URL = "OTEL_PYTHON_SLOWSPAN_WEBHOOK_URL"
"""Where each alert is posted as JSON."""

OTEL_PYTHON_SLOWSPAN_WEBHOOK_URL_FILE = "OTEL_PYTHON_SLOWSPAN_WEBHOOK_URL_FILE"
"""Path of a file that holds the webhook's URL."""

OTEL_PYTHON_SLOWSPAN_WEBHOOK_SECRET = "OTEL_PYTHON_SLOWSPAN_WEBHOOK_SECRET"
"""Key of the webhook's signature."""

OTEL_PYTHON_SLOWSPAN_WEBHOOK_SECRET_FILE = "OTEL_PYTHON_SLOWSPAN_WEBHOOK_SECRET_FILE"
"""Path of a file that holds the key."""

OTEL_PYTHON_SLOWSPAN_NOTIFY_TIMEOUT = "OTEL_PYTHON_SLOWSPAN_NOTIFY_TIMEOUT"
"""Seconds that a channel may take for one try. Default: 30."""

OTEL_PYTHON_SLOWSPAN_NOTIFIERS = "OTEL_PYTHON_SLOWSPAN_NOTIFIERS"
"""Names of the notifiers that are on, comma-separated, or ``none``. Unset: file, log and the channels configured."""

OTEL_PYTHON_SLOWSPAN_MAX_SAMPLES = "OTEL_PYTHON_SLOWSPAN_MAX_SAMPLES"
"""The most samples kept of one request. Default: 2000."""

OTEL_PYTHON_SLOWSPAN_MAX_RECORDINGS = "OTEL_PYTHON_SLOWSPAN_MAX_RECORDINGS"
"""The most requests sampled at the same time. Default: 200."""

OTEL_PYTHON_SLOWSPAN_QUEUE_SIZE = "OTEL_PYTHON_SLOWSPAN_QUEUE_SIZE"
"""The most profiles that wait for delivery. Default: 100."""

OTEL_PYTHON_SLOWSPAN_FLUSH_TIMEOUT = "OTEL_PYTHON_SLOWSPAN_FLUSH_TIMEOUT"
"""Seconds that delivery may take at exit and shutdown. Default: 5."""
