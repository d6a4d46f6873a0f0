"""A DistributedDataParallel communication hook that all-reduces d numbers in place of the gradient's D.

Every replica projects its gradient, s = A^T g; the mean of s is all-reduced, d float32 numbers in one call a step; every
replica writes scale A s where DDP would have written the mean gradient. By linearity that is scale A A^T of the mean
gradient, whatever the number of replicas and however DDP cut its buckets. Method: L. Melas-Kyriazi and F. Wang, "Intrinsic
Gradient Compression for Scalable and Efficient Federated Learning", FL4NLP 2022, static and time-varying; error feedback:
S. P. Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML 2019.
"""

# No `from __future__ import annotations` here: DDP looks at a hook's annotations, and refuses them as strings.

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from igc.errors import ProjectionError, SpaceError
from igc.finite import all_finite
from igc.optim import SubspaceOptimizer
from igc.projection import Projection, add_expanded_, project_tensors
from igc.space import ParameterSpace


class SubspaceState:
    """What `subspace_hook` needs and remembers: the projection, the step, and with error feedback the error.

    ::

        state = SubspaceState(model, projection, steps_per_subspace=1, error_feedback=True)
        ddp_model.register_comm_hook(state, subspace_hook)

    Tuning:

    - ``projection.d`` is the cost: 4 d bytes a step and replica go into the all-reduce. Start small and double;
      at d = D / 120, docs/ddp.md measured about three points of accuracy less than uncompressed.
    - ``scale``: |A A^T g| is sqrt(D / d) times |g| for a gradient that knows nothing of A. With ``scale=1`` the step is an
      unbiased estimate of the gradient over the draw of A, and along the subspace D / d times what SGD would do: divide
      SGD's learning rate by D / d, or leave it and set ``scale=d / D``, which for a projection with orthogonal columns is
      the gradient's own part in the subspace. Adam divides the scale out again, and its step leaves the subspace; to
      train sigma with Adam, as igc's recipes do, take `average_sigma` and no DDP at all.
    - ``steps_per_subspace``: 0 keeps one subspace for good (static; d dimensions are explored, and learned quickly). N
      draws a fresh one every N steps (time-varying) at no cost in bytes. Momentum gathers over subspaces only where N is
      small; 1 is the usual choice with error feedback.
    - ``error_feedback`` adds what a subspace did not carry to the next gradient. It needs fresh subspaces, since what one
      subspace cannot carry it never will, and a contraction, so that ``scale`` becomes d / D. It costs D floats (4 D bytes)
      on every replica. Updates come with a delay of about D / d subspaces: of use only where D / d subspaces fit many
      times into training. Under a gradient scaler the error is in scaled units; prefer bfloat16 there.

    Args:
        model: the model, bare or in DDP; its parameters must stay the same objects (``.to(device)`` keeps them).
        projection: A, of shape (D, d), where D is the size of the space; the same value on every replica.
        space: which tensors are trained; all trainable ones by default. DDP must not reduce any other.
        process_group: DDP's; the default group if None.
        steps_per_subspace: N; 0 for one subspace.
        error_feedback: whether to remember what was not sent.
        scale: the factor of A A^T g; None: 1, or d / D with error feedback.

    Raises:
        SpaceError: the model does not fit the space.
        ProjectionError: the projection does not fit the space, or the settings do not fit one another.
    """

    def __init__(
        self,
        model: nn.Module,
        projection: Projection,
        space: ParameterSpace | None = None,
        *,
        process_group: dist.ProcessGroup | None = None,
        steps_per_subspace: int = 0,
        error_feedback: bool = False,
        scale: float | None = None,
    ) -> None:
        bare = model.module if isinstance(model, DistributedDataParallel) else model
        self.space = space or ParameterSpace.of(bare)
        if projection.D != self.space.D:
            raise ProjectionError(
                f"D = {projection.D:,} of the projection; the model trains {self.space.D:,} parameters"
            )
        if steps_per_subspace < 0:
            raise ProjectionError(f"steps_per_subspace = {steps_per_subspace}; 0 keeps one subspace, N > 0 renews it")
        if error_feedback and not steps_per_subspace:
            raise ProjectionError(
                "error_feedback with steps_per_subspace = 0: one subspace never carries what it left out; set"
                " steps_per_subspace = 1, or leave error feedback off"
            )
        self.projection = projection
        self.process_group = process_group
        self.steps_per_subspace = steps_per_subspace
        self.scale = scale if scale is not None else projection.d / projection.D if error_feedback else 1.0
        self.step = 0
        parameters = self.space.parameters(bare)
        self.error = [torch.zeros_like(p, dtype=torch.float32) for p in parameters] if error_feedback else None
        self._places = {id(parameter): place for place, parameter in enumerate(parameters)}
        self._parameters = parameters  # keeps the ids taken
        self._gradients: list[Tensor | None] = [None] * len(parameters)
        self._waiting: list[tuple[torch.futures.Future[Tensor], Tensor]] = []

    @property
    def subspace(self) -> Projection:
        """The A of the step to come."""
        return (
            self.projection.child(self.step // self.steps_per_subspace) if self.steps_per_subspace else self.projection
        )

    def state_dict(self) -> dict[str, Any]:
        """What training goes on from: the step, and with error feedback this replica's own error, D floats.

        Errors differ from replica to replica: with error feedback each replica saves and loads its own.
        """
        return {
            "step": self.step,
            "error": None if self.error is None else [error.clone() for error in self.error],
            "projection": self.projection.spec(),
            "fingerprint": self.space.fingerprint.hex(),
            "steps_per_subspace": self.steps_per_subspace,
            "scale": self.scale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ProjectionError: the state belongs to another projection, model or setting.
        """
        ours = self.state_dict()
        for what in ("projection", "fingerprint", "steps_per_subspace", "scale"):
            if state[what] != ours[what]:
                raise ProjectionError(f"the state was saved with {what} = {state[what]}; this one's is {ours[what]}")
        if (state["error"] is None) != (self.error is None):
            raise ProjectionError("one of the two states has error feedback, the other not; set error_feedback alike")
        self.step = state["step"]
        for error, saved in zip(self.error or [], state["error"] or [], strict=True):
            error.copy_(saved)

    def _take(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        if bucket.index() == 0:  # also after a backward that broke off half way
            self._gradients = [None] * len(self._parameters)
            self._waiting = []
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            place = self._places.get(id(parameter))
            if place is None:
                raise SpaceError(
                    f"DDP reduces a parameter of shape {tuple(parameter.shape)} that is not in the hook's space: build the"
                    " state from the same model, after its layers are final; freeze what `exclude` leaves out"
                )
            self._gradients[place] = _as_laid_out(gradient, parameter)
        buffer = bucket.buffer()
        future: torch.futures.Future[Tensor] = torch.futures.Future(devices=[buffer.device] if buffer.is_cuda else None)
        self._waiting.append((future, buffer))
        return future

    def _reduce(self) -> None:
        """One step, once all buckets are there: project, all-reduce d numbers, and write what they stand for."""
        group = self.process_group or dist.group.WORLD
        sizes = [entry.size for entry in self.space.entries]
        A, gradients = self.subspace, self._gradients
        sent = project_tensors(A, gradients, sizes)
        if self.error is not None:
            self.error = [error.to(sent.device) for error in self.error]  # the model may have moved since
            sent += project_tensors(A, self.error, sizes)
        mean = sent / dist.get_world_size(group)
        dist.all_reduce(mean, group=group)

        # A step that a gradient scaler will skip, since some replica overflowed, must leave no trace in the error.
        if self.error is not None and all_finite(mean):
            for error, gradient in zip(self.error, gradients, strict=True):
                if gradient is not None:
                    error.add_(gradient)
            add_expanded_(A, self.error, sent, alpha=-self.scale)

        # A parameter that DDP leaves alone has no gradient to write to: its rows are computed for nothing.
        written = [
            torch.zeros(size, device=mean.device) if gradient is None else gradient.zero_()
            for gradient, size in zip(gradients, sizes, strict=True)
        ]
        add_expanded_(A, written, mean, alpha=self.scale)
        self.step += 1
        waiting, self._waiting = self._waiting, []
        self._gradients = [None] * len(self._parameters)
        for future, buffer in waiting:
            future.set_result(buffer)


def subspace_hook(state: SubspaceState, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Replace the mean gradient by scale A A^T of it, for d numbers on the wire.

    Buckets wait for the last one; then the whole gradient is projected in the order of the parameter space, so that no bit
    depends on ``bucket_cap_mb`` or on DDP's rebuilding of buckets, and all futures complete together. The all-reduce
    does not overlap with backward; it is d numbers long.

    Args:
        state: one per DDP model.
        bucket: from DDP: float32, bfloat16 or float16.

    Returns:
        The future of the bucket's buffer.

    Raises:
        SpaceError: DDP reduces a parameter that is not in the state's space.
    """
    future = state._take(bucket)
    if bucket.is_last():
        state._reduce()
    return future


def average_sigma(optimizer: SubspaceOptimizer, process_group: dist.ProcessGroup | None = None) -> None:
    """Let replicas train one sigma: each step all-reduces the mean of sigma's gradient, d numbers, before the inner step.

    This is the static method itself, with any ``torch.optim`` optimizer on sigma, and takes the place of DDP: the model
    stays bare. All replicas must start from equal weights (the same seed, or a broadcast), and step together.

    Args:
        optimizer: each replica's, of equal projections and settings.
        process_group: the default group if None.
    """
    group = process_group or dist.group.WORLD

    def average(*_: Any) -> None:
        gradient = optimizer.sigma.grad
        assert gradient is not None
        gradient /= dist.get_world_size(group)
        dist.all_reduce(gradient, group=group)

    optimizer.inner.register_step_pre_hook(average)


def _as_laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The bucket's part of a parameter with its coordinates in place.

    DDP lays dense parameters out by their own strides (channels-last, for instance), but a bucket's ``gradients()`` are
    viewed as if row-major.
    """
    if not torch.ops.aten.is_non_overlapping_and_dense(parameter):
        return gradient
    return gradient.as_strided(parameter.size(), parameter.stride(), gradient.storage_offset())


__all__: Sequence[str] = ["SubspaceState", "average_sigma", "subspace_hook"]
