"""Methods beside one another: the same task, the same trials, paid for in the same bytes."""

from typing import Final

JSON: Final = "comparison.json"
RUNS: Final = "runs"  # in a comparison's folder, and in a tuning's
