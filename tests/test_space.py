"""The parameter space: what is in it, in which order, and what its fingerprint notices."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from igc.errors import SpaceError
from igc.space import Entry, ParameterSpace, flat_views


class Tied(nn.Module):
    """An embedding whose matrix is also the head's, between two layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight


class Holder(nn.Module):
    """A module of the given parameters, p0, p1, ..."""

    def __init__(self, *parameters: Tensor, trainable: bool = True) -> None:
        super().__init__()
        for i, tensor in enumerate(parameters):
            self.register_parameter(f"p{i}", nn.Parameter(tensor, requires_grad=trainable))


def names(space: ParameterSpace) -> list[str]:
    return [entry.name for entry in space.entries]


@given(widths=st.lists(st.integers(1, 5), min_size=2, max_size=5), bias=st.booleans())
def test_the_flat_view_is_the_modules_own_order_end_to_end(widths: list[int], bias: bool) -> None:
    model = nn.Sequential(*(nn.Linear(a, b, bias=bias) for a, b in pairwise(widths)))
    space = ParameterSpace.of(model)
    assert names(space) == [name for name, _ in model.named_parameters()]
    flat = parameters_to_vector(model.parameters())
    assert flat.numel() == space.D
    for entry, parameter in zip(space.entries, model.parameters(), strict=True):
        assert torch.equal(flat[entry.offset : entry.stop].view(entry.shape), parameter)
    assert torch.equal(torch.cat(list(flat_views(space.parameters(model)))), flat)


def test_tied_weights_count_once_under_their_first_name() -> None:
    model = Tied()
    space = ParameterSpace.of(model)
    assert names(space) == ["embedding.weight", "body.weight", "body.bias", "head.bias"]
    assert space.D == 7 * 4 + 4 * 4 + 4 + 7
    assert space.parameters(model)[0] is model.head.weight


@pytest.mark.parametrize("alias", ["embedding.weight", "head.weight"])
def test_a_tied_tensor_matches_a_pattern_by_any_of_its_names(alias: str) -> None:
    assert names(ParameterSpace.of(Tied(), include=[alias])) == ["embedding.weight"]
    assert names(ParameterSpace.of(Tied(), exclude=[alias])) == ["body.weight", "body.bias", "head.bias"]


def test_patterns_choose_and_exclude_wins() -> None:
    model = Tied()
    assert names(ParameterSpace.of(model, include=["body.*", "head.bias"])) == ["body.weight", "body.bias", "head.bias"]
    assert names(ParameterSpace.of(model, exclude=["*.bias"])) == ["embedding.weight", "body.weight"]
    assert names(ParameterSpace.of(model, include=["body.*"], exclude=["*.bias"])) == ["body.weight"]
    # The order is the module's, whatever the order of the patterns.
    assert names(ParameterSpace.of(model, include=["head.bias", "body.bias"])) == ["body.bias", "head.bias"]


def test_patterns_mind_the_case_of_names() -> None:
    with pytest.raises(SpaceError, match=r"no parameter matches 'Body\.\*'"):
        ParameterSpace.of(Tied(), include=["Body.*"])


def test_frozen_tensors_are_left_out() -> None:
    model = Tied()
    model.body.requires_grad_(False)
    assert names(ParameterSpace.of(model)) == ["embedding.weight", "head.bias"]
    # Named by a pattern, a frozen tensor stays frozen.
    assert names(ParameterSpace.of(model, include=["body.*", "head.bias"])) == ["head.bias"]


def test_buffers_are_no_parameters() -> None:
    assert names(ParameterSpace.of(nn.BatchNorm1d(3))) == ["weight", "bias"]


Shapes = list[tuple[int, int]]
SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5)


@given(left=SHAPES, right=SHAPES)
def test_fingerprints_are_equal_just_where_spaces_are(left: Shapes, right: Shapes) -> None:
    def space(shapes: Shapes) -> ParameterSpace:
        return ParameterSpace.from_shapes((f"t{i}", shape) for i, shape in enumerate(shapes))

    assert (space(left).fingerprint == space(right).fingerprint) == (left == right)
    assert len(space(left).fingerprint) == 8


def test_the_fingerprint_changes_with_names_shapes_and_order() -> None:
    spaces: list[list[tuple[str, tuple[int, ...]]]] = [
        [("a", (2, 3)), ("b", (4,))],
        [("a", (2, 3)), ("c", (4,))],  # a name
        [("b", (4,)), ("a", (2, 3))],  # the order
        [("a", (3, 2)), ("b", (4,))],  # a shape of the same size
        [("a", (6,)), ("b", (4,))],  # the number of axes
        [("a", (2, 3)), ("b", (2,)), ("b2", (2,))],  # where one ends
        [("a", (2, 3)), ("b", (4, 1))],
        [('a",[2,3]],["b', (4,))],  # a name that spells a separator
        [("ä", (2, 3)), ("b", (4,))],
    ]
    assert len({ParameterSpace.from_shapes(shapes).fingerprint for shapes in spaces}) == len(spaces)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_fingerprint_ignores_values_dtype_and_mode(dtype: torch.dtype) -> None:
    base = ParameterSpace.of(nn.Linear(3, 2))
    other = nn.Linear(3, 2).to(dtype).eval()
    with torch.no_grad():
        other.weight.fill_(torch.nan)
    assert ParameterSpace.of(other) == base
    assert ParameterSpace.of(other).fingerprint == base.fingerprint


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_fingerprint_ignores_the_device() -> None:
    assert ParameterSpace.of(nn.Linear(3, 2).cuda()) == ParameterSpace.of(nn.Linear(3, 2))


BASE = torch.zeros(6, 6)
OVERLAPS = {
    "all of it": (BASE, BASE[:]),
    "transposed": (BASE, BASE.t()),
    "a row of it": (BASE, BASE[2]),
    "a column of it": (BASE, BASE[:, 3]),
    "one element": (BASE[:3].reshape(-1), BASE.reshape(-1)[17:]),
    "the later first": (BASE.reshape(-1)[17:], BASE[:3].reshape(-1)),
    "another dtype": (BASE, BASE.view(torch.bfloat16)),
}


@pytest.mark.parametrize("pair", OVERLAPS.values(), ids=OVERLAPS.keys())
def test_tensors_that_share_memory_untied_are_refused_with_both_names(pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(SpaceError, match="share memory") as caught:
        ParameterSpace.of(Holder(*pair))
    assert "'p0'" in str(caught.value)
    assert "'p1'" in str(caught.value)
    # The way out that the error names.
    space = ParameterSpace.of(Holder(*pair), exclude=["p1"])
    assert pair[0].numel() == space.D


def test_neighbours_in_one_storage_are_no_overlap() -> None:
    flat = torch.zeros(36)
    space = ParameterSpace.of(Holder(flat[:12].view(3, 4), flat[12:30], flat[30:]))
    assert space.D == 36


def test_empty_tensors_take_no_room_and_overlap_nothing() -> None:
    flat = torch.zeros(4)
    space = ParameterSpace.of(Holder(flat, flat[2:2], torch.zeros(0, 3)))
    assert [(entry.offset, entry.size) for entry in space.entries] == [(0, 4), (4, 0), (4, 0)]
    with pytest.raises(SpaceError, match="nothing to train"):
        ParameterSpace.of(Holder(torch.zeros(0)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_an_unsupported_dtype_is_refused_by_name(dtype: torch.dtype) -> None:
    model = Holder(torch.zeros(3), torch.zeros(3).to(dtype))
    with pytest.raises(SpaceError, match=f"'p1' is {str(dtype).removeprefix('torch.')}; supported are float32"):
        ParameterSpace.of(model)
    assert ParameterSpace.of(model, exclude=["p1"]).D == 3


def test_frozen_integers_disturb_nothing() -> None:
    model = Holder(torch.zeros(3))
    model.register_parameter("quantised", nn.Parameter(torch.zeros(9, dtype=torch.int8), requires_grad=False))
    assert ParameterSpace.of(model).D == 3


def test_the_meta_device_is_refused() -> None:
    with pytest.raises(SpaceError, match="'weight' is on the meta device"):
        ParameterSpace.of(nn.Linear(2, 2, device="meta"))


@pytest.mark.parametrize(
    "model", [nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)], ids=["no parameters", "all frozen"]
)
def test_nothing_to_train_is_refused(model: nn.Module) -> None:
    with pytest.raises(SpaceError, match="nothing to train"):
        ParameterSpace.of(model)


def test_excluding_everything_is_refused() -> None:
    with pytest.raises(SpaceError, match="nothing to train"):
        ParameterSpace.of(Tied(), exclude=["*"])


@pytest.mark.parametrize("where", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused_and_names_are_shown(where: str) -> None:
    patterns = {where: ["body.*", "encoder.*", "decoder.*"]}
    with pytest.raises(SpaceError, match=r"'encoder\.\*', 'decoder\.\*'.*embedding\.weight") as caught:
        ParameterSpace.of(Tied(), **patterns)
    assert "body.*" not in str(caught.value)


def test_a_model_that_does_not_fit_is_refused() -> None:
    space = ParameterSpace.of(Tied())
    with pytest.raises(SpaceError, match=r"no parameter 'embedding\.weight'"):
        space.parameters(nn.Linear(4, 4))
    wide = Tied()
    wide.body = nn.Linear(4, 5)
    with pytest.raises(SpaceError, match=r"'body\.weight' has shape \(5, 4\), the parameter space \(4, 4\)"):
        space.parameters(wide)


def test_gradients_come_in_order_with_none_for_what_backward_left_out() -> None:
    model = Tied()
    space = ParameterSpace.of(model)
    assert space.gradients(model) == [None] * 4
    model.body(torch.ones(4)).sum().backward()
    found = space.gradients(model)
    assert found[0] is None
    assert found[3] is None
    assert found[1] is model.body.weight.grad
    assert found[2] is model.body.bias.grad


def test_an_entry_knows_its_place() -> None:
    scalar, block = ParameterSpace.from_shapes([("s", ()), ("m", (2, 3))]).entries
    assert (scalar.size, scalar.stop) == (1, 1)
    assert block == Entry("m", (2, 3), 1)
    assert (block.size, block.stop) == (6, 7)


def tiny_bert() -> nn.Module:
    config = BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12,
    )  # fmt: skip
    model: nn.Module = BertForMaskedLM(config)
    return model


def tiny_gpt2() -> nn.Module:
    model: nn.Module = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=12, n_embd=8, n_layer=2, n_head=2))
    return model


@pytest.mark.parametrize(
    ("make", "shared"),
    [(tiny_bert, "bert.embeddings.word_embeddings.weight"), (tiny_gpt2, "transformer.wte.weight")],
    ids=["bert", "gpt2"],
)
def test_a_transformer_has_each_of_its_weights_once(make: type[nn.Module], shared: str) -> None:
    model = make()
    space = ParameterSpace.of(model)
    by_memory = {p.data_ptr(): p.numel() for _, p in model.named_parameters(remove_duplicate=False)}
    assert sum(by_memory.values()) == space.D
    assert names(space).count(shared) == 1
    without = ParameterSpace.of(model, exclude=["*.decoder.weight" if "bert" in shared else "lm_head.weight"])
    assert space.D - without.D == 50 * 8
    assert shared not in names(without)
    assert ParameterSpace.of(make()).fingerprint == space.fingerprint


def test_gpt2_has_the_size_that_its_config_says() -> None:
    # Word and position embeddings; a block: two norms, attention 4 n^2 + 4 n, feed-forward 8 n^2 + 5 n; a last norm.
    n, vocabulary, positions, layers = 8, 50, 12, 2
    block = 2 * 2 * n + (4 * n * n + 4 * n) + (8 * n * n + 5 * n)
    expected = (vocabulary + positions) * n + layers * block + 2 * n
    assert expected == ParameterSpace.of(tiny_gpt2()).D
