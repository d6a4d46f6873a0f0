"""Federated datasets: sources, and partitions of them into clients."""

from igc.data.base import FederatedDataset, LabelledImage, LabelledText, Opening, Source
from igc.data.load import load_dataset
from igc.data.settings import DEALT_BY, DataSettings
from igc.data.sources import SOURCES, Loader

__all__ = [
    "DEALT_BY",
    "SOURCES",
    "DataSettings",
    "FederatedDataset",
    "LabelledImage",
    "LabelledText",
    "Loader",
    "Opening",
    "Source",
    "load_dataset",
]
