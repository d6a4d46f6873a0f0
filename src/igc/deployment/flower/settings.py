"""What the two apps are told: the run's settings, and each node's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from igc.data.settings import HomePath
from igc.errors import RecipeError, did_you_mean
from igc.experiments.recipe import Device

Seconds = Annotated[float, Field(gt=0)]


class _Settings(BaseModel):
    """Flat settings, as Flower passes them; names are written with dashes."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    @classmethod
    def read(cls, config: Mapping[str, Any], where: str) -> Self:
        """The settings in one of Flower's configs.

        Args:
            config: key -> text, number or truth.
            where: what errors call it.

        Raises:
            RecipeError: lists every fault.
        """
        try:
            return cls.model_validate(dict(config))
        except ValidationError as error:
            known = [field.alias or name for name, field in cls.model_fields.items()]
            faults = []
            for fault in error.errors():
                name = ".".join(str(part) for part in fault["loc"])
                unknown = fault["type"] == "extra_forbidden"
                faults.append(
                    f"{name}: no such setting{did_you_mean(name, known)}; known: {', '.join(known)}"
                    if unknown
                    else f"{name} = {fault['input']!r}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
                )
            raise RecipeError(f"{where}: {'; '.join(faults)}") from None


class RunSettings(_Settings):
    """The run config of a deployment (``[tool.flwr.app.config]``, ``flwr run --run-config``).

    Attributes:
        out: the run's folder on the server; one that holds a run goes on with it.
        clients: names of all clients, parted by commas, where each brings data of its own; empty: the clients of the
            recipe's data.
        quorum: clients that must be there before the first round; 0: all.
        patience: seconds to wait for them, and for anybody at all once the training goes on.
        deadline: seconds for an answer, each of the four of a round with secure aggregation; clients that answer later are
            left out of the round.
        owners: who may have which clients, ``NODE: CLIENT, ...`` a line; empty: whoever claims a client first.
        threads: of PyTorch, on both sides; 0: as many as it likes. Sums may differ in their last bits with it.
    """

    out: str = "runs/federation"
    clients: str = ""
    quorum: Annotated[int, Field(ge=0)] = 0
    patience: Seconds = 600.0
    deadline: Seconds = 600.0
    owners: str = ""
    threads: Annotated[int, Field(ge=0)] = 0

    @property
    def roster(self) -> tuple[str, ...]:
        """The names in ``clients``."""
        return _names(self.clients)


class NodeSettings(_Settings):
    """The node config of a SuperNode (``flower-supernode --node-config``).

    Attributes:
        clients: names, parted by commas, of the clients whose data are here.
        partition_id: number of this node among ``num_partitions``, which have the recipe's clients dealt out in turns; in
            place of ``clients``, and set by Flower's simulation.
        num_partitions: how many nodes there are.
        data: the file or folder with the data of this node's one client, in place of the recipe's ``data.path``.
        model: the folder with the base model, in place of the recipe's ``model.source``.
        device: where to compute, in place of the recipe's.
        memory: a folder of this node for what its clients remember, by its whole path; without one, Flower keeps it until
            the SuperNode or the run ends.
    """

    clients: str = ""
    num_partitions: Annotated[int, Field(ge=1)] | None = None
    partition_id: Annotated[int, Field(ge=0)] | None = None
    data: HomePath | None = None
    model: str | None = None
    device: Device | None = None
    memory: HomePath | None = None

    @field_validator("partition_id")
    @classmethod
    def _is_one_of_them(cls, number: int | None, info: ValidationInfo) -> int | None:
        count = info.data.get("num_partitions")
        if number is not None and count is not None and number >= count:
            raise PydanticCustomError(
                "fault",
                "counts from 0; at most {most} with num-partitions = {count}",
                {"most": count - 1, "count": count},
            )
        return number

    @field_validator("memory")
    @classmethod
    def _is_always_the_same(cls, folder: Path | None) -> Path | None:
        # A SuperNode that is started from elsewhere would look elsewhere, find nothing, and answer rounds anew.
        if folder is not None and not folder.is_absolute():
            raise PydanticCustomError(
                "fault",
                "depends on the folder that the SuperNode is started in; say its whole path, '{whole}' from here",
                {"whole": str(folder.absolute())},
            )
        return folder

    @property
    def names(self) -> tuple[str, ...]:
        """The names in ``clients``."""
        return _names(self.clients)

    def served(self, everybody: tuple[str, ...]) -> tuple[str, ...]:
        """Those of all clients whose data are here.

        Raises:
            RecipeError: the settings name nobody, or somebody unknown.
        """
        if self.clients:
            names = self.names
            if unknown := [name for name in names if name not in everybody]:
                raise RecipeError(
                    f"node config: there is no client '{unknown[0]}'{did_you_mean(unknown[0], everybody)}; the federation"
                    f" has {len(everybody)}, from '{everybody[0]}' to '{everybody[-1]}'"
                )
            return names
        if self.partition_id is None or self.num_partitions is None:
            raise RecipeError(
                'node config: say whose data are here, by clients="NAME,..." or partition-id=0 num-partitions=4'
            )
        return everybody[self.partition_id :: self.num_partitions]


def _names(listing: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in listing.split(",") if name.strip()))
