"""Paired client and server steps around the mean: norm bounds, robust rules, noise, and what noise has bought."""

from igc.federation.protection.accountant import Accountant, Spending
from igc.federation.protection.answered import Answered, AnsweredError
from igc.federation.protection.bound import NormBound
from igc.federation.protection.noise import GaussianNoise
from igc.federation.protection.protection import UNPROTECTED, Protection
from igc.federation.protection.robust import Krum, Median, RobustMean, Rule, TrimmedMean

__all__ = [
    "UNPROTECTED",
    "Accountant",
    "Answered",
    "AnsweredError",
    "GaussianNoise",
    "Krum",
    "Median",
    "NormBound",
    "Protection",
    "RobustMean",
    "Rule",
    "Spending",
    "TrimmedMean",
]
