"""igc as a Flower app: the recipe's server and clients, with Flower carrying the messages.

Flower's strategies send every node the same record, and want arrays; here each client gets its own payload, as the
method made it, and answers with one. See ``docs/deployment.md``.
"""

import os

# Nothing that igc runs reports to anybody, unless its user says so.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns that this will be its default
