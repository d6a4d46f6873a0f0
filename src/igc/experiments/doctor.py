"""What this machine offers to igc, and what it lacks, with the remedy."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from typing import NamedTuple

import torch

from igc.fetch import PACKAGES, cache_folder, is_cached
from igc.fetch.debian import is_here
from igc.fetch.packages import FASHION_MNIST
from igc.projection import kernels

# module -> distribution, extra that brings it, what it is for
_EXTRAS = {
    "gguf": ("gguf", "gguf", "models in GGUF files, such as the recipe shakespeare's"),
    "accelerate": ("accelerate", "gguf", "models in GGUF files, such as the recipe shakespeare's"),
    "datasets": ("datasets", "hub", "data sets from a Hugging Face hub"),
    "peft": ("peft", "lora", "LoRA layers: model.lora_rank"),
    "optuna": ("optuna", "tune", "igc tune"),
    "flwr": ("flwr", "flower", "federations of machines: igc deploy"),
    "ray": ("ray", "flower-sim", "igc train --engine flower-sim"),
    "dp_accounting": ("dp-accounting", "privacy", "differential privacy"),
    "cryptography": ("cryptography", "secure", "secure aggregation"),
    "tensorboard": ("tensorboard", "tensorboard", "igc train --tensorboard"),
}


class Finding(NamedTuple):
    """One line of the report: what was looked at, whether it is well, what was found.

    Where it is an option that is not there, ``well`` is None.
    """

    what: str
    well: bool | None
    found: str


def examine() -> Iterator[Finding]:
    """Look at everything that a run depends on; nothing is changed or downloaded."""
    yield Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("igc", True, version("intrinsic-gradient-compression"))
    yield Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("gpu", True, ", ".join(gpus) or "none; runs compute on the CPU")
    yield _kernel()
    yield from _packages()
    yield from _cache()


def _kernel() -> Finding:
    found = kernels.names()
    if found[0] in ("triton", "reference"):
        remedy = "install a C++ compiler (GCC or Clang), then reinstall igc with pip"
        return Finding("kernel", False, f"PyTorch reference on the CPU, correct but many times slower; {remedy}")
    others = "Triton on GPUs" if "triton" in found else "PyTorch on other devices"
    return Finding("kernel", True, f"native ({found[0]}) on the CPU; {others}")


def _packages() -> Iterator[Finding]:
    pip = importlib.util.find_spec("pip") is not None
    remedy = "" if pip else "missing: data and models cannot be fetched; `python -m ensurepip` installs it"
    yield Finding("pip", pip, remedy or f"{version('pip')}, fetches data and models")
    yield Finding("transformers", True, version("transformers"))
    for module, (distribution, extra, use) in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            remedy = f"pip install 'intrinsic-gradient-compression[{extra}]'"
            yield Finding(module, None, f"not installed; needed only for {use}: {remedy}")
        else:
            yield Finding(module, True, version(distribution))


def _cache() -> Iterator[Finding]:
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    writable = os.access(existing, os.W_OK)
    note = f"{free / 1e9:.1f} GB free" if writable else "not writable; set IGC_HOME to a folder that is"
    yield Finding("cache", writable and free > 1e9, f"{folder}, {note}")
    for name, package in PACKAGES.items():
        size = f"{package.size / 1e6:.0f} MB"
        yield Finding(f"  {name}", True, "cached" if is_cached(package) else f"not fetched yet, {size} on first use")
    yield _images()


def _images() -> Finding:
    what, size = f"  {FASHION_MNIST.name}", f"{FASHION_MNIST.size / 1e6:.0f} MB"
    if is_here(FASHION_MNIST):
        return Finding(what, True, "here")
    if shutil.which("apt-get"):
        return Finding(what, True, f"not fetched yet, {size} from Debian on first use")
    return Finding(
        what, None, "not here, and no apt-get to fetch it; set data.path to a folder with MNIST's four IDX files"
    )
