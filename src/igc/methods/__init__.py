"""Federated methods: one small file each, reading like its pseudo-code."""

from igc.methods.base import Means, Method, MissedError, Traffic, Turn
from igc.methods.burn_in import BurnIn
from igc.methods.calibrated import Calibrated
from igc.methods.error_feedback import ErrorFeedback
from igc.methods.fedsgd import fedsgd
from igc.methods.fetchsgd import FetchSgd
from igc.methods.k_subspace import KSubspace
from igc.methods.local_steps import LocalSteps
from igc.methods.local_top_k import LocalTopK
from igc.methods.plateau import Plateau
from igc.methods.powersgd import PowerSgd
from igc.methods.random_k import RandomK
from igc.methods.scaffold import Scaffold
from igc.methods.static import Static
from igc.methods.time_varying import TimeVarying
from igc.methods.true_top_k import TrueTopK
from igc.methods.worker import Loss, Sketch, Worker
from igc.methods.zeroth_order import ZerothOrder

__all__ = [
    "BurnIn",
    "Calibrated",
    "ErrorFeedback",
    "FetchSgd",
    "KSubspace",
    "LocalSteps",
    "LocalTopK",
    "Loss",
    "Means",
    "Method",
    "MissedError",
    "Plateau",
    "PowerSgd",
    "RandomK",
    "Scaffold",
    "Sketch",
    "Static",
    "TimeVarying",
    "Traffic",
    "TrueTopK",
    "Turn",
    "Worker",
    "ZerothOrder",
    "fedsgd",
]
