"""The server's side of secure aggregation: one sum for each group of a round, and no upload.

Bonawitz et al., CCS 2017, for clients and a server that keep to the protocol but look at all they see; neighbours as in
Bell et al., CCS 2020. u, v are clients of a group:

    keys      u -> server     two public keys, fresh in each round
    shares    server -> u     its neighbours' keys
              u -> server     for each neighbour, sealed: shares of u's mask key and of a random seed
    masked    server -> u     the shares dealt to it, and the method's download
              u -> server     q_u + mask(seed_u) + sum_v +- mask(key_uv)    mod 2^32, q_u its weighted, quantised upload
    unmask    server -> u     whose upload came and whose did not
              u -> server     of each neighbour a share: of its seed if it came, of its mask key if not

Masks between two clients cancel in the sum. The server brings back the seeds of those who came, and the mask keys of those
who did not, whose masks the others' uploads still hold. Clients may drop out after any stage as long as a threshold of each
neighbourhood stays. Uploads are summed as they come: the server holds d numbers a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igc.federation.aggregate import SkippedRoundError
from igc.federation.engine import Reply, Request
from igc.federation.secure import crypto
from igc.federation.secure.client import byte_rows, words
from igc.federation.secure.crypto import SEALED_BYTES, SECRET_BYTES, Words
from igc.federation.secure.quantiser import Quantiser
from igc.federation.secure.settings import LOSS_MOST, STAGES, SecureSettings
from igc.messages import Agreement, Due, Kind, Message, MessageError, check_tensors, decode, encode
from igc.methods import Means, Turn

EXTRA: Final = 2  # numbers after the vector: the loss and the weight

Carry = Callable[[Sequence[Request]], Iterator[Reply]]  # replies with a payload; the others are accounted for already
Refuse = Callable[[str, str], None]  # client, why its reply was left out


class _GroupError(Exception):
    """A group's sum cannot be brought back."""


@dataclass
class _Member:
    """A client as the server knows it in one round."""

    turn: Turn
    position: int = -1
    keys: list[bytes] = field(default_factory=list)
    neighbours: list[int] = field(default_factory=list)
    sealed: dict[int, bytes] = field(default_factory=dict)  # by receiver; other than empty: it shared its secrets
    masked: bool = False


@dataclass
class _Group:
    """Clients whose uploads are summed."""

    members: list[_Member]
    total: Words | None = None
    seeds: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)  # position -> (holder's number, share)
    masks: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)

    @property
    def sharing(self) -> list[_Member]:
        return [m for m in self.members if m.sealed]

    @property
    def there(self) -> list[_Member]:
        return [m for m in self.members if m.masked]


class SecureRound:
    """One round of the protocol.

    Args:
        settings: as both sides have them.
        reach: the largest magnitude of a number of an upload.
        bound: the largest norm of an upload; None where noise makes it longer.
        numbers: d, of an upload's vector.
        agreement: the server's side of it.
        carry: sends requests, keeps the ledger, and yields the replies that came with a payload.
        refuse: is told whose reply cannot be used.
    """

    def __init__(
        self,
        settings: SecureSettings,
        reach: float,
        bound: float | None,
        numbers: int,
        agreement: Agreement,
        carry: Carry,
        refuse: Refuse,
    ) -> None:
        self._settings = settings
        self._reach = reach
        self._bound = bound
        self._numbers = numbers
        self._agreement = agreement
        self._carry = carry
        self._refuse = refuse
        self._round = 0

    def means(self, turns: Mapping[int, Sequence[Turn]], download: Callable[[Turn], dict[str, Tensor]]) -> Means | None:
        """The means of a round.

        Args:
            turns: group -> its clients' turns.
            download: the method's, for a client.

        Raises:
            SkippedRoundError: no group's sum could be brought back.
        """
        groups = {k: _Group([_Member(turn) for turn in part]) for k, part in sorted(turns.items())}
        self._round = next(turn.round for part in turns.values() for turn in part)
        self._collect_keys(groups)
        self._deal(groups)
        self._collect_masked(groups, download)
        self._collect_shares(groups)
        sums: dict[int, _Sum] = {}
        reason = "no upload came"
        for k, group in groups.items():
            try:
                sums[k] = self._sum(group)
            except _GroupError as error:
                reason = str(error)
                for member in group.there:
                    self._refuse(member.turn.client, reason)
        if not sums:
            raise SkippedRoundError(f"secure aggregation: {reason}")
        weight = sum(part.weight for part in sums.values())
        return Means(
            {k: torch.from_numpy(part.vector / weight).float() for k, part in sums.items()},
            sum(part.loss for part in sums.values()) / weight,
            tuple(member.turn.client for k in sums for member in groups[k].there),
        )

    def _ask(
        self,
        stage: int,
        asked: Mapping[str, dict[str, Tensor]],
        turns: Mapping[str, Turn],
        due: Mapping[str, dict[str, Due]],
    ) -> Iterator[tuple[str, Message]]:
        """Ask clients for a stage; yields the answers that are as they are due."""
        requests = []
        for client, tensors in asked.items():
            message = Message(Kind.DOWNLOAD, self._round, {"stage": torch.tensor(stage), **tensors})
            requests.append(Request(client, turns[client].position, encode(message, self._agreement)))
        for reply in self._carry(requests):
            assert reply.payload is not None
            try:
                answer = decode(reply.payload, self._agreement, Kind.UPLOAD, self._round, due[reply.client])
                check_tensors(answer, due[reply.client])
            except MessageError as error:
                self._refuse(reply.client, f"stage '{STAGES[stage]}': {error}")
            else:
                yield reply.client, answer

    def _collect_keys(self, groups: Mapping[int, _Group]) -> None:
        members = {m.turn.client: m for group in groups.values() for m in group.members}
        due = {"keys": Due((2, SECRET_BYTES // 4), whole=True)}
        turns = {client: m.turn for client, m in members.items()}
        asked = self._ask(0, {client: {} for client in members}, turns, dict.fromkeys(members, due))
        sent = {client: byte_rows(answer["keys"]) for client, answer in asked}
        owners = Counter(key for keys in sent.values() for key in keys)
        for client, keys in sent.items():
            # Handed on, they would make its neighbours refuse.
            if any(owners[key] > 1 for key in keys):
                self._refuse(client, "stage 'keys': its keys are alike, or another client's too")
            elif not all(map(crypto.is_public, keys)):
                self._refuse(client, "stage 'keys': what it sent is no public key that others can agree with")
            else:
                members[client].keys = keys
        for group in groups.values():
            group.members = [m for m in group.members if m.keys]
            for position, member in enumerate(group.members):
                member.position = position
                member.neighbours = self._settings.neighbours(position, len(group.members))

    def _deal(self, groups: Mapping[int, _Group]) -> None:
        asked: dict[str, dict[str, Tensor]] = {}
        due: dict[str, dict[str, Due]] = {}
        members: dict[str, _Member] = {}
        for group in groups.values():
            for m in group.members:
                if len(m.neighbours) + 1 < self._settings.quorum(len(m.neighbours) + 1):
                    continue  # it would refuse
                asked[m.turn.client] = {
                    "position": torch.tensor(m.position),
                    "peers": torch.tensor(m.neighbours),
                    "keys": words([key for p in m.neighbours for key in group.members[p].keys]),
                }
                due[m.turn.client] = {"sealed": Due((len(m.neighbours), SEALED_BYTES // 4), whole=True)}
                members[m.turn.client] = m
        for client, answer in self._ask(1, asked, {c: m.turn for c, m in members.items()}, due):
            member = members[client]
            member.sealed = dict(zip(member.neighbours, byte_rows(answer["sealed"]), strict=True))

    def _collect_masked(self, groups: Mapping[int, _Group], download: Callable[[Turn], dict[str, Tensor]]) -> None:
        asked: dict[str, dict[str, Tensor]] = {}
        found: dict[str, tuple[_Group, _Member]] = {}
        for group in groups.values():
            for m in group.sharing:
                senders = [p for p in m.neighbours if group.members[p].sealed]
                if len(senders) + 1 < self._settings.quorum(len(m.neighbours) + 1):
                    continue  # it would refuse
                sealed = words([group.members[p].sealed[m.position] for p in senders])
                whole = torch.tensor(senders, dtype=torch.int64)
                asked[m.turn.client] = {"senders": whole, "sealed": sealed, **download(m.turn)}
                found[m.turn.client] = group, m
        due = {"masked": Due((self._numbers + EXTRA,), whole=True)}
        turns = {client: m.turn for client, (_, m) in found.items()}
        for client, answer in self._ask(2, asked, turns, dict.fromkeys(asked, due)):
            group, member = found[client]
            numbers = answer["masked"].numpy().astype(np.uint32)
            group.total = numbers if group.total is None else group.total + numbers
            member.masked = True

    def _collect_shares(self, groups: Mapping[int, _Group]) -> None:
        asked: dict[str, dict[str, Tensor]] = {}
        due: dict[str, dict[str, Due]] = {}
        found: dict[str, tuple[_Group, _Member]] = {}
        lists: dict[str, tuple[list[int], list[int]]] = {}
        for group in groups.values():
            for m in group.there:
                around = sorted([*m.neighbours, m.position])
                there = [p for p in around if group.members[p].masked]
                gone = [p for p in around if group.members[p].sealed and not group.members[p].masked]
                if len(there) < self._settings.quorum(len(around)):
                    continue  # it would refuse
                lists[m.turn.client] = there, gone
                whole = {"there": there, "gone": gone}
                asked[m.turn.client] = {name: torch.tensor(ps, dtype=torch.int64) for name, ps in whole.items()}
                due[m.turn.client] = {"shares": Due((len(there) + len(gone), SECRET_BYTES // 4), whole=True)}
                found[m.turn.client] = group, m
        for client, answer in self._ask(3, asked, {c: m.turn for c, (_, m) in found.items()}, due):
            group, member = found[client]
            there, gone = lists[client]
            for index, (p, share) in enumerate(zip([*there, *gone], byte_rows(answer["shares"]), strict=True)):
                holders = sorted([*group.members[p].neighbours, p])
                kept = group.seeds if index < len(there) else group.masks
                kept.setdefault(p, []).append((holders.index(member.position), share))

    def _sum(self, group: _Group) -> _Sum:
        """What is left of a group's masked uploads when all masks are taken away."""
        there = group.there
        if group.total is None:
            raise _GroupError(
                f"{len(group.members)} clients sent keys, {len(group.sharing)} shared them, and no upload came"
            )
        total = group.total.copy()
        for m in there:
            total -= crypto.mask(self._bring_back(m, group.seeds), len(total))
        for m in group.sharing:
            if m.masked:
                continue
            others = [p for p in m.neighbours if group.members[p].masked]
            if not others:
                continue
            secret = self._bring_back(m, group.masks)
            if crypto.public(secret) != m.keys[1]:
                raise _GroupError(f"shares of the key of client '{m.turn.client}', which dropped out, are false")
            for p in others:
                between = crypto.mask(crypto.agree(secret, group.members[p].keys[1], "mask"), len(total))
                total -= between if p < m.position else -between
        return self._read(total, len(there))

    def _bring_back(self, member: _Member, shares: Mapping[int, list[tuple[int, bytes]]]) -> bytes:
        needed = self._settings.needed(len(member.neighbours) + 1)
        found = shares.get(member.position, [])
        if len(found) < needed:
            raise _GroupError(
                f"{len(found)} clients answered to the end where {needed} are needed to bring back the sum"
            )
        return crypto.combine(found[:needed])

    def _read(self, total: Words, count: int) -> _Sum:
        s = self._settings
        weight = int(total[-1])
        if not count <= weight <= count * s.max_weight:
            raise _GroupError(f"the weights of {count} clients add up to {weight:,}; some share or upload was false")
        vector = Quantiser(self._reach, s.levels).decode_sum(total[: self._numbers], count) * s.max_weight
        most = None if self._bound is None else weight * self._bound
        rounding = count * s.max_weight * Quantiser(self._reach, s.levels).step * len(vector) ** 0.5
        if most is not None and (length := float(np.linalg.norm(vector))) > most + rounding:
            raise _GroupError(
                f"the sum's norm is {length:.4g}, above the {most:.4g} that the bound leaves {count} clients"
            )
        loss = Quantiser(LOSS_MOST, s.levels).decode_sum(total[self._numbers : -1], count)
        return _Sum(vector, float(loss[0]) * s.max_weight, weight)


@dataclass(frozen=True)
class _Sum:
    """Of a group: the sum of weight times vector, of weight times loss, and of weights."""

    vector: NDArray[np.float64]
    loss: float
    weight: int
