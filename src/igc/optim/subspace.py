"""The subspace optimizer: any torch.optim optimizer trains sigma in an ordinary training loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from igc.errors import ProjectionError
from igc.projection import InPlaceTheta, Projection, Term, Theta, project_tensors
from igc.projection.in_place import Reload
from igc.space import ParameterSpace


class SubspaceOptimizer:
    """Trains theta = theta_0 + A sigma by steps on sigma alone.

    ::

        projection = igc.BlockedHadamard(D=space.D, d=1024, seed=0)
        optimizer = igc.SubspaceOptimizer(model, projection, lambda p: torch.optim.Adam(p, lr=1e-3))
        for batch in batches:
            loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()

    Learning-rate schedulers attach to ``optimizer.inner``. Memory beside the model: theta_0 (not with ``in_place``), and
    what the inner optimizer keeps for d numbers.

    Args:
        model: the model to train, on the device where it stays.
        projection: A, of shape (D, d), where D is the size of the space.
        make_inner: takes ``[sigma]`` and returns a ``torch.optim`` optimizer.
        space: which tensors to train; all trainable ones by default.
        in_place: keep no copy of theta_0; the model then drifts from theta_0 + A sigma by rounding (see `InPlaceTheta`),
            and `load_state_dict` takes a model that is at theta_0 and an optimizer that has not stepped.
        reload: with ``in_place``: gives theta_0's tensors again, in the order of the space, from wherever they are kept;
            every ``every`` steps, and in `resync_`, the model is computed anew from them, and the drift is gone.
        every: steps from one re-synchronisation to the next.

    Raises:
        SpaceError: the model does not fit the space.
        ProjectionError: the projection does not fit the space, or ``reload`` comes without ``in_place``.
    """

    def __init__(
        self,
        model: nn.Module,
        projection: Projection,
        make_inner: Callable[[list[Tensor]], torch.optim.Optimizer],
        space: ParameterSpace | None = None,
        *,
        in_place: bool = False,
        reload: Reload | None = None,
        every: int = 100,
    ) -> None:
        self.space = space or ParameterSpace.of(model)
        self.projection = projection
        self._parameters = self.space.parameters(model)
        if reload is not None and not in_place:
            raise ProjectionError("`reload` re-synchronises a model that is moved in place: pass in_place=True with it")
        self._theta: Theta | InPlaceTheta = (
            InPlaceTheta(self._parameters, reload, every) if in_place else Theta(self._parameters)
        )
        device = self._parameters[0].device
        self.sigma = nn.Parameter(torch.zeros(projection.d, device=device))
        self._theta.move_([self._term()])  # a projection of the wrong size is refused here, not at the first step
        self.inner = make_inner([self.sigma])

    @torch.no_grad()
    def step(self) -> None:
        """Project the gradients that backward left, step on sigma, and move the model to theta_0 + A sigma."""
        sizes = [entry.size for entry in self.space.entries]
        self.sigma.grad = project_tensors(self.projection, [p.grad for p in self._parameters], sizes)
        self.inner.step()
        self._theta.move_([self._term()])

    def resync_(self) -> None:
        """End the drift of a model that is moved in place: read theta_0 again, and add A sigma.

        Raises:
            ProjectionError: nobody said where theta_0 is.
        """
        if isinstance(self._theta, InPlaceTheta):
            self._theta.resync_()

    def zero_grad(self) -> None:
        """Free the gradients of the model and of sigma."""
        for parameter in self._parameters:
            parameter.grad = None
        self.sigma.grad = None

    def state_dict(self) -> dict[str, Any]:
        """sigma, the inner optimizer's state, and the spec and fingerprint that they belong to; no tensor of size D."""
        return {
            "sigma": self.sigma.detach().clone(),
            "inner": copy.deepcopy(self.inner.state_dict()),  # torch's own goes on changing as training does
            "projection": self.projection.spec(),
            "fingerprint": self.space.fingerprint.hex(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the model must be at the same theta_0 as then.

        Raises:
            ProjectionError: the state belongs to another projection or parameter space.
        """
        for what, ours in (("projection", self.projection.spec()), ("fingerprint", self.space.fingerprint.hex())):
            if state[what] != ours:
                raise ProjectionError(f"the state belongs to another {what}, {state[what]}; this optimizer's is {ours}")
        with torch.no_grad():
            self.sigma.copy_(state["sigma"])
        self.inner.load_state_dict(copy.deepcopy(state["inner"]))  # torch's keeps the tensors that it is given
        self._theta.move_([self._term()])

    def _term(self) -> Term:
        return Term(self.projection, self.sigma.detach().clone())
