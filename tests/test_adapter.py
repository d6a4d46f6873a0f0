"""Adapters: what is saved is what is loaded, bit for bit, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from igc import adapter
from igc.adapter import load_adapter, read_adapter, save_adapter
from igc.errors import AdapterError
from igc.projection import BlockedHadamard, Identity, Term, Theta, to_dense
from igc.space import ParameterSpace
from support.strategies import COMPRESSING, make, vector
from support.toy import ToyTask

DIM = 100


def toy(dtype: torch.dtype = torch.float32) -> nn.Module:
    return ToyTask(width=60).model().to(dtype)


SPACE = ParameterSpace.of(toy())


def terms(count: int = 1, family: str = "blocked-hadamard", space: ParameterSpace = SPACE) -> list[Term]:
    return [Term(make(family, space.D, DIM, s), vector(DIM, s)) for s in range(count)]


def flat(model: nn.Module, space: ParameterSpace = SPACE) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in space.parameters(model)])


def trained(moved: Sequence[Term], dtype: torch.dtype = torch.float32, space: ParameterSpace = SPACE) -> nn.Module:
    model = toy(dtype)
    Theta(space.parameters(model)).move_(moved)
    return model


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("family", COMPRESSING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_loaded_model_is_the_trained_one_bit_for_bit(
    tmp_path: Path, family: str, count: int, dtype: torch.dtype
) -> None:
    moved = terms(count, family)
    save_adapter(tmp_path / "a.igc", moved, SPACE)
    base = toy(dtype)
    loaded = load_adapter(base, tmp_path / "a.igc")
    assert loaded is base
    assert torch.equal(flat(loaded), flat(trained(moved, dtype)))
    exact = flat(toy(dtype)).double() + sum(to_dense(t.projection).double() @ t.sigma.double() for t in moved)
    tolerance = 1e-4 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(flat(loaded).double(), exact, rtol=tolerance, atol=1e-4)


def test_rows_of_one_state_are_saved_like_any_other(tmp_path: Path) -> None:
    state = vector(3 * DIM, 5).view(3, DIM)  # as the K-subspace method keeps its sigmas
    moved = [Term(t.projection, state[k]) for k, t in enumerate(terms(3))]
    save_adapter(tmp_path / "a.igc", moved, SPACE)
    assert torch.equal(flat(load_adapter(toy(), tmp_path / "a.igc")), flat(trained(moved)))


def test_patterns_and_what_is_said_about_it_travel(tmp_path: Path) -> None:
    space = ParameterSpace.of(toy(), include=["0.*", "2.*"], exclude=["*.bias"])
    moved = terms(space=space)
    save_adapter(tmp_path / "a.igc", moved, space, ["0.*", "2.*"], ["*.bias"], about={"base": "toy", "rounds": 9})
    header, _ = read_adapter(tmp_path / "a.igc")
    assert header["about"] == {"base": "toy", "rounds": 9}
    model = load_adapter(toy(), tmp_path / "a.igc")
    assert torch.equal(flat(model, space), flat(trained(moved, space=space), space))
    before = dict(toy().named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.endswith(".bias")


@pytest.mark.parametrize("count", [1, 4])
def test_the_file_takes_four_bytes_a_number_and_little_more(tmp_path: Path, count: int) -> None:
    save_adapter(tmp_path / "a.igc", terms(count), SPACE)
    size = (tmp_path / "a.igc").stat().st_size
    assert 4 * DIM * count <= size < 4 * DIM * count + 400 + 250 * count


def test_an_older_adapter_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    for seed in (1, 2):
        moved = [Term(terms()[0].projection, vector(DIM, seed))]
        save_adapter(tmp_path / "a.igc", moved, SPACE)
    assert torch.equal(read_adapter(tmp_path / "a.igc")[1][0].sigma, vector(DIM, 2))
    assert [file.name for file in tmp_path.iterdir()] == ["a.igc"]


def test_a_model_of_other_tensors_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.igc", terms(), SPACE)
    other = ToyTask(width=7).model()
    before = flat(other, ParameterSpace.of(other))
    with pytest.raises(AdapterError) as caught:
        load_adapter(other, tmp_path / "a.igc")
    for part in (SPACE.fingerprint.hex(), ParameterSpace.of(other).fingerprint.hex(), "base model", str(tmp_path)):
        assert part in str(caught.value)
    assert torch.equal(flat(other, ParameterSpace.of(other)), before)


def test_a_model_with_something_frozen_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.igc", terms(), SPACE)
    model = toy()
    next(model.parameters()).requires_grad_(False)
    with pytest.raises(AdapterError, match="nothing frozen"):
        load_adapter(model, tmp_path / "a.igc")


def test_a_model_without_the_named_tensors_is_refused(tmp_path: Path) -> None:
    space = ParameterSpace.of(toy(), include=["0.*"])
    save_adapter(tmp_path / "a.igc", terms(space=space), space, include=["0.*"])
    with pytest.raises(AdapterError, match=r"0\.\*"):
        load_adapter(nn.Linear(3, 3), tmp_path / "a.igc")


def test_an_uncompressed_displacement_is_refused(tmp_path: Path) -> None:
    whole = Term(Identity(D=SPACE.D, d=SPACE.D, seed=0), torch.zeros(SPACE.D))
    with pytest.raises(AdapterError, match=r"as large as the model.*merged"):
        save_adapter(tmp_path / "a.igc", [*terms(), whole], SPACE)
    assert list(tmp_path.iterdir()) == []


def test_a_projection_onto_all_dimensions_is_no_such_thing(tmp_path: Path) -> None:
    model, projection = nn.Linear(3, 2), BlockedHadamard(D=8, d=8, seed=1)
    space = ParameterSpace.of(model)
    save_adapter(tmp_path / "a.igc", [Term(projection, torch.ones(8))], space)
    before = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    moved = torch.cat([p.detach().reshape(-1) for p in load_adapter(model, tmp_path / "a.igc").parameters()])
    torch.testing.assert_close(moved - before, projection.expand(torch.ones(8)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"nowhere\.igc.*no such file"):
        load_adapter(toy(), tmp_path / "nowhere.igc")


FOREIGN = {
    "empty": b"",
    "text": b"this is a diary, not an adapter, and it goes on for some lines\n" * 9,
    "zip": b"PK\x03\x04" + bytes(200),
    "other safetensors": save({"weight": torch.zeros(3)}),
    "other metadata": save({"weight": torch.zeros(3)}, metadata={"format": "pt"}),
    "metadata no JSON": save({"sigma.0": torch.zeros(3)}, metadata={"igc": "{"}),
    "metadata a list": save({"sigma.0": torch.zeros(3)}, metadata={"igc": "[]"}),
    "metadata empty": save({"sigma.0": torch.zeros(3)}, metadata={"igc": "{}"}),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_is_no_adapter_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.igc").write_bytes(data)
    model = toy()
    with pytest.raises(AdapterError, match=r"a\.igc"):
        load_adapter(model, tmp_path / "a.igc")
    assert torch.equal(flat(model), flat(toy()))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError):
        read_adapter(tmp_path)


class Claim:
    """Stands for a projection that only another version, or a damaged file, could name."""

    D, d = SPACE.D, 1

    def __init__(self, spec: dict[str, object]) -> None:
        self._spec = spec

    def spec(self) -> dict[str, object]:
        return self._spec


CLAIMS: dict[str, dict[str, object]] = {
    "unknown family": {"family": "hexagons", "D": SPACE.D, "d": DIM, "seed": 0},
    "unknown setting": {"family": "partition", "D": SPACE.D, "d": DIM, "seed": 0, "twist": 1},
    "a field gone": {"family": "partition", "D": SPACE.D, "seed": 0},
    "no family": {"D": SPACE.D, "d": DIM, "seed": 0},
    "no number": {"family": "partition", "D": "many", "d": DIM, "seed": 0},
    "another d": BlockedHadamard(D=SPACE.D, d=DIM - 1, seed=0).spec(),
    "another D": BlockedHadamard(D=SPACE.D + 1, d=DIM, seed=0).spec(),
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_a_term_that_cannot_be_is_refused(tmp_path: Path, claim: dict[str, object]) -> None:
    projection: Any = Claim(claim)
    save_adapter(tmp_path / "a.igc", [Term(projection, vector(DIM, 0))], SPACE)
    model = toy()
    with pytest.raises(AdapterError, match=r"a\.igc"):
        load_adapter(model, tmp_path / "a.igc")
    assert torch.equal(flat(model), flat(toy()))


def test_another_version_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "VERSION", 7)
        save_adapter(tmp_path / "a.igc", terms(), SPACE)
    with pytest.raises(AdapterError, match=r"a\.igc: adapter format 7; this version of igc reads 1"):
        read_adapter(tmp_path / "a.igc")


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.igc"
    save_adapter(path, terms(), SPACE)
    data = path.read_bytes()
    for length in [*range(0, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(AdapterError, match="damaged"):
            read_adapter(path)


def test_a_changed_byte_is_refused_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.igc"
    save_adapter(path, terms(), SPACE)
    data = path.read_bytes()
    for place in range(0, len(data), 23):
        wrong = bytearray(data)
        wrong[place] ^= 0x04
        path.write_bytes(bytes(wrong))
        with pytest.raises(AdapterError):
            load_adapter(toy(), path)
