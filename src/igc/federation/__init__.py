"""The federated loop: one server round over any engine."""

from igc.federation.engine import Engine, Reply, Request, StatefulEngine
from igc.federation.fused import Fused
from igc.federation.in_process import InProcess
from igc.federation.ledger import Account, Ledger
from igc.federation.processes import Crew, Processes
from igc.federation.sampling import Dropout, Sampler
from igc.federation.server import RoundResult, Server
from igc.federation.worker import BatchSettings, NonFiniteError, Workplace

__all__ = [
    "Account",
    "BatchSettings",
    "Crew",
    "Dropout",
    "Engine",
    "Fused",
    "InProcess",
    "Ledger",
    "NonFiniteError",
    "Processes",
    "Reply",
    "Request",
    "RoundResult",
    "Sampler",
    "Server",
    "StatefulEngine",
    "Workplace",
]
