"""The ``[data]`` table of a recipe: which source, and how it is dealt out to clients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from igc.data.sources import SOURCES
from igc.errors import did_you_mean

Partition = Literal["natural", "iid", "dirichlet", "labels"]
# No shell expands --set data.path=~/texts; unlike Path.expanduser, this leaves an unknown user's as it is.
HomePath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]  # noqa: PTH111

# Which settings each partition needs; the others of these it refuses.
DEALT_BY: dict[Partition, frozenset[str]] = {
    "natural": frozenset(),
    "iid": frozenset({"clients"}),
    "dirichlet": frozenset({"clients", "alpha"}),
    "labels": frozenset({"clients", "labels_per_client"}),
}


class DataSettings(BaseModel):
    """Where examples come from and who holds them.

    Attributes:
        source: a name in :data:`igc.data.sources.SOURCES`.
        path: local file or folder; what it has to name is the source's to say.
        partition: ``natural`` (the source's own clients), ``iid``, ``dirichlet`` (labels skewed by ``alpha``) or
            ``labels`` (``labels_per_client`` labels each). ``None``: natural where the source has clients, else iid.
        clients: how many clients to deal to; not with ``natural``.
        alpha: concentration of ``dirichlet``; small is skewed.
        labels_per_client: labels that each client holds under ``labels``.
        max_clients: keep at most this many clients, drawn at random with the seed.
        options: the source's own settings, checked against its options model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    path: HomePath | None = None
    partition: Partition | None = None
    clients: int | None = Field(default=None, ge=1)
    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    labels_per_client: int | None = Field(default=None, ge=1)
    max_clients: int | None = Field(default=None, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        if source not in SOURCES:
            raise ValueError(f"no data source '{source}'{did_you_mean(source, SOURCES)}; known: {', '.join(SOURCES)}")
        return source

    @property
    def partition_in_force(self) -> Partition:
        """What was asked for, or else the source's own."""
        return self.partition or SOURCES[self.source].partition

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        loader = SOURCES[self.source]
        how = self.partition_in_force
        faults = _faults_of_options(loader.options, self.options)
        if loader.needs_path and self.path is None:
            faults.append(f"source '{self.source}' needs 'path': {loader.path}")
        if how == "natural" and not loader.natural:
            faults.append(f"source '{self.source}' has no clients of its own; choose iid, dirichlet or labels")
        if how in ("dirichlet", "labels") and not loader.labelled:
            faults.append(f"partition '{how}' goes by labels, and source '{self.source}' has none")
        for name in ("clients", "alpha", "labels_per_client"):
            given, wanted = getattr(self, name) is not None, name in DEALT_BY[how]
            if wanted and not given:
                own = " (or is it 'natural'?)" if self.partition is None and loader.natural else ""
                faults.append(f"partition '{how}' needs '{name}'{own}")
            if given and not wanted:
                faults.append(f"partition '{how}' takes no '{name}'")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _faults_of_options(model: type[BaseModel], options: dict[str, Any]) -> list[str]:
    """What is wrong with a source's options, in words."""
    try:
        model(**options)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            name = ".".join(str(part) for part in fault["loc"])
            unknown = fault["type"] == "extra_forbidden"
            hint = f"unknown{did_you_mean(name, model.model_fields)}" if unknown else fault["msg"]
            faults.append(f"options.{name}: {hint}")
        return faults
    return []
