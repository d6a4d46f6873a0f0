"""Adapters: a few kilobytes that turn a base model into the trained one.

A safetensors file: each sigma as a tensor, and metadata with the projections' specs, the patterns that choose the trained
tensors, and the fingerprint of the parameter space. No matrix and no weight is in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from igc.errors import AdapterError
from igc.files import write_atomically
from igc.projection import Term, Theta, projection_from_spec
from igc.space import ParameterSpace

FORMAT: Final = "igc-adapter"
VERSION: Final = 1


def save_adapter(
    path: str | Path,
    terms: Sequence[Term],
    space: ParameterSpace,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write an adapter.

    Args:
        path: the file to write, replaced atomically.
        terms: theta - theta_0 as a sum of A sigma; equal sums in equal order give equal bits when loaded.
        space: the trained tensors.
        include: the patterns that chose them.
        exclude: the patterns that left tensors out.
        about: anything JSON-ready that helps a reader, such as the base model's name.

    Raises:
        AdapterError: there is nothing compressed to save (an uncompressed method's displacement is as large as the model).
    """
    if any(term.projection.d == term.projection.D for term in terms):
        raise AdapterError(
            "an uncompressed method has no adapter, its update is as large as the model; export it merged"
        )
    header = {
        "format": FORMAT,
        "version": VERSION,
        "space": space.fingerprint.hex(),
        "include": list(include),
        "exclude": list(exclude),
        "terms": [term.projection.spec() for term in terms],
        "about": dict(about or {}),
    }
    tensors = {f"sigma.{i}": term.sigma.detach().cpu().contiguous() for i, term in enumerate(terms)}
    write_atomically(Path(path), save(tensors, metadata={"igc": json.dumps(header, separators=(",", ":"))}))


def read_adapter(path: str | Path) -> tuple[dict[str, Any], list[Term]]:
    """An adapter's header and terms.

    Raises:
        AdapterError: the file is missing, damaged or no adapter.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})["igc"])
            if header.get("format") != FORMAT or header.get("version") != VERSION:
                raise AdapterError(
                    f"{path}: adapter format {header.get('version')}; this version of igc reads {VERSION}"
                )
            terms = [
                Term(projection_from_spec(spec), file.get_tensor(f"sigma.{i}"))
                for i, spec in enumerate(header["terms"])
            ]
    except FileNotFoundError:
        raise AdapterError(f"{path}: there is no such file") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise AdapterError(f"{path}: not an adapter, or damaged ({error})") from None
    return header, terms


def load_adapter(model: nn.Module, path: str | Path) -> nn.Module:
    """Turn a base model into the trained one, in place.

    Args:
        model: the base, exactly as training began from it; on any device.
        path: an adapter that `igc export` or `save_adapter` wrote.

    Returns:
        The same model.

    Raises:
        AdapterError: the file is damaged, or was made for other tensors than the model has.
    """
    header, terms = read_adapter(path)
    space = ParameterSpace.of(model, header["include"], header["exclude"])
    if space.fingerprint.hex() != header["space"]:
        raise AdapterError(
            f"{path}: made for parameter space {header['space']}, this model has {space.fingerprint.hex()}"
            f" (D = {space.D:,}); load it on the base model that it was trained from, with nothing frozen"
        )
    # The same function as in training, so that the bits are the same.
    theta = Theta(space.parameters(model))
    theta.move_(terms)
    return model
