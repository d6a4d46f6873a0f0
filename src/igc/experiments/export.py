"""What leaves a run: an adapter of a few kilobytes, and the merged model in Hugging Face format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from igc.adapter import save_adapter
from igc.errors import RunError
from igc.experiments.assemble import Experiment

ADAPTER = "adapter.safetensors"
MERGED = "merged"


def export_adapter(experiment: Experiment, folder: Path) -> Path:
    """Write ``adapter.safetensors``: specs, fingerprint and sigmas; `igc.load_adapter` turns the base model into ours.

    Raises:
        AdapterError: the method is uncompressed and has none; with LoRA layers it has.
    """
    e, recipe = experiment, experiment.recipe
    current, settled = e.method.terms(e.server.state)
    # A subspace that has not moved adds nothing; a fresh one stands at the end of a time-varying run.
    terms = [term for term in (*settled, *current) if bool(term.sigma.any())]
    about = {
        "title": recipe.title,
        "task": recipe.task.model_dump(mode="json"),
        "model": recipe.model.model_dump(mode="json"),
        "seed": recipe.seed,
        "rounds": e.server.round,
    }
    path = _made(folder) / ADAPTER
    with _writing(path):
        dense = recipe.model.lora_rank is not None
        save_adapter(path, terms, e.space, recipe.space.include, recipe.space.exclude, about, dense)
    return path


def export_merged(experiment: Experiment, folder: Path) -> Path:
    """Write ``merged/``: the trained model with config and tokenizer, as `Task.reads_merged` says."""
    e = experiment
    e.workplace.theta.move_(*e.method.terms(e.server.state))
    target = _made(folder / MERGED)
    with _writing(target):
        e.task.save_merged(e.model, target)
        for weights in target.glob("*.safetensors"):  # which safetensors lets nobody else read
            weights.chmod((target / "config.json").stat().st_mode)
    return target


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own
        why = (isinstance(error, OSError) and error.strerror) or error
        raise RunError(f"cannot write {path}: {why}; mend that, or choose another folder with --out") from error


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}; choose another with --out") from error
    return folder
