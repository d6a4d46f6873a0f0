"""Federated methods: one small file each, reading like its pseudo-code."""

from igc.methods.base import Means, Method, MissedError, Sketch, Traffic, Turn, Worker
from igc.methods.fedsgd import fedsgd
from igc.methods.k_subspace import KSubspace
from igc.methods.static import Static
from igc.methods.time_varying import TimeVarying

__all__ = [
    "KSubspace",
    "Means",
    "Method",
    "MissedError",
    "Sketch",
    "Static",
    "TimeVarying",
    "Traffic",
    "Turn",
    "Worker",
    "fedsgd",
]
