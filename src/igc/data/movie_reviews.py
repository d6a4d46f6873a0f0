"""Sentences of movie reviews with the sign of their rating: text classification.

C. J. Hutto and E. Gilbert, "VADER: A parsimonious rule-based model for sentiment analysis of social media text", ICWSM
2014: 10,605 sentences of Pang and Lee's movie reviews, each with the mean of twenty ratings between -4 and 4. Text in
UTF-8, one row a line (CRLF), tab separated: number, rating, sentence.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from pydantic import Field

from igc.data.base import LabelledText, Source
from igc.data.hold_out import SplitOptions, split
from igc.errors import DataError
from igc.fetch import fetch
from igc.fetch.packages import VADER_SENTIMENT

_FILE = "movieReviewSnippets_GroundTruth.txt"


class MovieReviewsOptions(SplitOptions):
    """Sizes of the splits, and which sentences count as neutral.

    Attributes:
        neutral: sentences whose mean rating is at most this far from zero are left out.
    """

    validation: float = Field(default=1000, ge=0)
    test: float = Field(default=1000, ge=0)
    neutral: float = Field(default=0.5, ge=0, lt=4)


def load_movie_reviews(
    path: Path | None, options: MovieReviewsOptions, rng: np.random.Generator
) -> Source[LabelledText]:
    """Load the sentences: label 1 is positive, 0 negative. The source knows no clients.

    Args:
        path: the file of ratings, or ``None`` to fetch it.
        options: sizes and the neutral band.
        rng: draws the splits.

    Raises:
        DataError: a row is malformed.
        FetchError: the file cannot be fetched.
    """
    file = path or fetch(VADER_SENTIMENT) / _FILE
    examples = [
        LabelledText(text, int(rating > 0)) for rating, text in read_ratings(file) if abs(rating) > options.neutral
    ]
    kept, evaluation = split(examples, options, rng)
    return Source([examples[i] for i in kept], None, evaluation)


def read_ratings(file: Path) -> list[tuple[float, str]]:
    """Rating and sentence of every row.

    Raises:
        DataError: the file cannot be read, or a row has not three columns, a finite rating and a sentence.
    """
    try:
        rows = file.read_text(encoding="utf-8").split("\n")  # not splitlines(): a sentence may hold a line separator
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    if rows[-1] == "":
        rows.pop()
    found: list[tuple[float, str]] = []
    for number, row in enumerate(rows, 1):
        columns = row.rstrip("\r").split("\t")
        try:
            _, rating, text = columns
            value = float(rating)
        except ValueError:
            value, text = math.nan, ""
        if not math.isfinite(value) or not text.strip():
            raise DataError(
                f"{file}, line {number}: expected number, rating and sentence with tabs between, not {row[:80]!r}"
            )
        found.append((value, text.strip()))
    return found
