"""The best recipe for a budget of bytes, by successive halving."""

from typing import Final

JSON: Final = "tune.json"
STUDY: Final = "tune.db"  # in a tuning's folder, of which it is the sign
