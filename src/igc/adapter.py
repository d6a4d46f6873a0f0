"""Adapters: a few kilobytes that turn a base model into the trained one.

A safetensors file: each sigma as a tensor, and metadata with the projections' specs, the patterns that choose the trained
tensors, the fingerprint of the parameter space, and a checksum of all this. No matrix and no weight is in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from igc.errors import AdapterError, ProjectionError, SpaceError
from igc.files import write_atomically
from igc.projection import Identity, Term, Theta, projection_from_spec
from igc.records import tensor_digest
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
    dense: bool = False,
) -> None:
    """Write an adapter.

    Args:
        path: the file to write, replaced atomically.
        terms: theta - theta_0 as a sum of A sigma; equal sums in equal order give equal bits when loaded.
        space: the trained tensors.
        include: the patterns that chose them.
        exclude: the patterns that left tensors out.
        about: anything JSON-ready that helps a reader, such as the base model's name.
        dense: write D numbers of an uncompressed method, too; worth it where few tensors are trained, as with LoRA.

    Raises:
        AdapterError: there is nothing small to save (the displacement is as large as the model, as of uncompressed and
            sparsifying methods), and ``dense`` was not asked for.
    """
    if not dense and any(isinstance(term.projection, Identity) for term in terms):
        raise AdapterError(
            "no adapter: this method keeps no small state, its update is as large as the model; what it trained is in the"
            " merged model"
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
    text = json.dumps(header, separators=(",", ":"))
    metadata = {"igc": text, "checksum": _checksum(text, list(tensors.values()))}
    write_atomically(Path(path), save(tensors, metadata=metadata))


def read_adapter(path: str | Path) -> tuple[dict[str, Any], list[Term]]:
    """An adapter's header and terms.

    Raises:
        AdapterError: the file is missing, damaged or no adapter.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata["igc"])
            if header["format"] != FORMAT or header["version"] != VERSION:
                raise AdapterError(f"{path}: adapter format {header['version']}; this version of igc reads {VERSION}")
            sigmas = [file.get_tensor(f"sigma.{i}") for i in range(len(header["terms"]))]
        if _checksum(metadata["igc"], sigmas) != metadata["checksum"]:
            raise AdapterError(f"{path}: damaged (the checksum does not match); copy or export it again")
        terms = [Term(projection_from_spec(spec), x) for spec, x in zip(header["terms"], sigmas, strict=True)]
        if any(tuple(term.sigma.shape) != (term.projection.d,) for term in terms):
            raise AdapterError(f"{path}: damaged (a sigma does not have the size of its projection)")
    except FileNotFoundError:
        raise AdapterError(f"{path}: there is no such file") from None
    except (SafetensorError, ProjectionError, OSError, KeyError, TypeError, ValueError) as error:
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
    try:
        space = ParameterSpace.of(model, header["include"], header["exclude"])
    except SpaceError as error:
        raise AdapterError(f"{path}: made for another model ({error})") from None
    if space.fingerprint.hex() != header["space"]:
        raise AdapterError(
            f"{path}: made for parameter space {header['space']}, this model has {space.fingerprint.hex()}"
            f" (D = {space.D:,}); load it on the base model that it was trained from, with nothing frozen"
        )
    if any(term.projection.D != space.D for term in terms):
        raise AdapterError(f"{path}: damaged (a projection does not have the {space.D:,} rows of the model)")
    # The same function as in training, so that the bits are the same.
    theta = Theta(space.parameters(model))
    theta.move_(terms)
    return model


def _checksum(header: str, sigmas: Sequence[Tensor]) -> str:
    digest = hashlib.blake2b(header.encode(), digest_size=16, person=b"igc-adapter")
    for sigma in sigmas:
        digest.update(tensor_digest(sigma).encode())
    return digest.hexdigest()
