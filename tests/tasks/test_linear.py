"""oneDNN's linear layers are PyTorch's, to rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from igc.errors import ModelError
from igc.tasks.linear import VARIABLE, OneDnnLinear, quicken_

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="no oneDNN in this PyTorch",
)
SIZES = st.integers(1, 70)


def layer(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(inputs, outputs, bias=bias)


def quick(plain: nn.Linear) -> nn.Linear:
    quickened = layer(plain.in_features, plain.out_features, plain.bias is not None)
    quickened.load_state_dict(plain.state_dict())
    quickened.__class__ = OneDnnLinear
    return quickened


def through(module: nn.Linear, x: Tensor, above: Tensor) -> list[Tensor]:
    """Output and gradients, in float64: the truth, where the module is in float64."""
    x = x.detach().requires_grad_()
    y = module(x)
    y.backward(above)
    assert x.grad is not None
    return [t.double() for t in (y.detach(), x.grad, *(p.grad for p in module.parameters() if p.grad is not None))]


@given(rows=SIZES, inputs=SIZES, outputs=SIZES, bias=st.booleans(), deep=st.booleans(), seed=st.integers(0, 99))
def test_output_and_gradients_are_as_near_the_truth_as_pytorchs_own(
    rows: int, inputs: int, outputs: int, bias: bool, deep: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, rows) if deep else (rows,)
    x = torch.randn(*shape, inputs, generator=generator)
    above = torch.randn(*shape, outputs, generator=generator)
    plain = layer(inputs, outputs, bias)
    ours = through(quick(plain), x, above)
    truth = through(layer(inputs, outputs, bias).double(), x.double(), above.double())
    for found, right in zip(ours, truth, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_strided_inputs_and_gradients() -> None:
    plain = layer(6, 5)
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(1)).t()
    above = torch.ones(1, 5).expand(7, 5)
    for found, right in zip(through(quick(plain), x, above), through(plain, x, above), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_what_needs_no_gradient_gets_none_and_no_rows_are_no_fault() -> None:
    frozen = quick(layer(4, 3))
    frozen.weight.requires_grad_(False)
    frozen(torch.ones(2, 4)).sum().backward()
    assert frozen.weight.grad is None
    assert frozen.bias.grad is not None and torch.equal(frozen.bias.grad, torch.full((3,), 2.0))
    assert frozen(torch.ones(0, 4)).shape == (0, 3)


def test_layers_change_where_asked_and_keep_names_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    class Derived(nn.Linear):
        """Some library's own."""

    model = nn.Sequential(layer(4, 3), Derived(3, 3), nn.Linear(3, 2, dtype=torch.bfloat16))
    before = model.state_dict()
    monkeypatch.setenv(VARIABLE, "torch")
    assert [type(m) for m in quicken_(model).children()] == [nn.Linear, Derived, nn.Linear]
    monkeypatch.setenv(VARIABLE, "onednn")
    assert [type(m) for m in quicken_(model).children()] == [OneDnnLinear, Derived, nn.Linear]
    after = model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    monkeypatch.setenv(VARIABLE, "mkl")
    with pytest.raises(ModelError, match="auto, torch or onednn"):
        quicken_(model)
