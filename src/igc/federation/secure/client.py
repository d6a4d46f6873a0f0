"""The client's four answers; what it remembers from one to the next is part of its memory.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017; neighbours as in Bell et
al., "Secure single-server aggregation with (poly)logarithmic overhead", CCS 2020 (SecAgg+). `igc.federation.secure.server`
has the whole exchange.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from igc.federation.secure import crypto
from igc.federation.secure.crypto import SEALED_BYTES, SECRET_BYTES, Words
from igc.federation.secure.quantiser import Quantiser
from igc.federation.secure.settings import LOSS_MOST, STAGES, SecureError, SecureSettings
from igc.messages import Message
from igc.records import record

Upload = Callable[[Any, Message], tuple[Any, Mapping[str, Tensor]]]


@record
class Memory:
    """What a client remembers.

    Attributes:
        inner: for the method.
        round: that is under way.
        stage: number of the stage that it answered last; 3: all of them, and the secrets are gone.
        secrets: what it keeps to itself until then; byte strings in hexadecimal.
        position: its place in its group.
        quorum: how many uploads of its neighbourhood, its own included, a sum must have.
        peers: neighbour -> its public key for masks, in hexadecimal.
        boxes: neighbour -> the key that seals what the two send each other.
        shares: holder's own number -> the shares of that client's secrets, mask key and seed, in hexadecimal.
        masked: the latest round for which it sent a masked upload; -1: none yet.
    """

    inner: Any = None
    round: int = 0
    stage: int = 3
    secrets: tuple[str, ...] = ()
    position: int = 0
    quorum: int = 0
    peers: dict[str, str] = field(default_factory=dict)
    boxes: dict[str, str] = field(default_factory=dict)
    shares: dict[str, str] = field(default_factory=dict)
    masked: int = -1


def respond(
    settings: SecureSettings, reach: float, memory: Memory | None, download: Message, upload: Upload
) -> tuple[Memory, dict[str, Tensor]]:
    """A client's answer to one stage, and its new memory.

    Args:
        settings: as both sides have them.
        reach: the largest magnitude of a number of its upload.
        memory: what it remembers; None before its first round.
        download: names the stage.
        upload: from the method's memory and the download to the method's new memory and upload, clipped already.

    Raises:
        SecureError: the stage is not the next one, or would give its upload away.
    """
    memory = memory or Memory()
    stage = _stage(download)
    if stage == 0:
        return _keys(memory, download.round)
    if download.round != memory.round or stage != memory.stage + 1:
        raise SecureError(
            f"asked for stage '{STAGES[stage]}' of round {download.round + 1} out of turn; each is answered once"
        )
    if stage == 1:
        return _shares(settings, memory, download)
    if stage == 2:
        return _masked(settings, reach, memory, download, upload)
    return _unmask(memory, download)


def _keys(memory: Memory, round: int) -> tuple[Memory, dict[str, Tensor]]:
    """Fresh keys, one pair to seal shares, one to agree on masks; of a round that it masked an upload for, none again.

    The difference of two sums of one round, over all clients and over all but one, is that one's upload. A server that was
    killed and goes on from before the round asks for just that.
    """
    if round <= memory.masked:
        raise SecureError(
            f"it has sent a masked upload for round {memory.masked + 1} before, and begins no round up to that one again:"
            " two sums of a round could give an upload away"
        )
    box, mask = secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(SECRET_BYTES)
    tensors = {"keys": words([crypto.public(box), crypto.public(mask)])}
    return Memory(memory.inner, round, 0, (box.hex(), mask.hex()), masked=memory.masked), tensors


def _shares(settings: SecureSettings, memory: Memory, download: Message) -> tuple[Memory, dict[str, Tensor]]:
    """Shares of the mask key and of the seed of a mask of its own, one sealed pair for each neighbour."""
    position = int(download["position"])
    neighbours = [int(p) for p in download["peers"]]
    keys = byte_rows(download["keys"])
    if position in neighbours or len(set(neighbours)) != len(neighbours) or len(keys) != 2 * len(neighbours):
        raise SecureError("the list of neighbours is malformed")
    box, mask = (bytes.fromhex(text) for text in memory.secrets)
    if len({*keys, crypto.public(box), crypto.public(mask)}) != len(keys) + 2:
        raise SecureError("two neighbours have the same key")
    seed = secrets.token_bytes(SECRET_BYTES)
    holders = sorted([*neighbours, position])
    needed, quorum = settings.needed(len(holders)), settings.quorum(len(holders))
    if len(holders) < quorum:
        raise SecureError(f"{len(holders)} clients in its neighbourhood, and {quorum} are needed")
    pairs = zip(crypto.split(mask, needed, len(holders)), crypto.split(seed, needed, len(holders)), strict=True)
    dealt = {holder: low + high for holder, (low, high) in zip(holders, pairs, strict=True)}
    boxes = {p: crypto.agree(box, keys[2 * i], "box") for i, p in enumerate(neighbours)}
    sealed = [crypto.seal(boxes[p], dealt[p], download.round, position, p) for p in neighbours]
    after = Memory(
        memory.inner,
        memory.round,
        1,
        (mask.hex(), seed.hex()),
        position,
        quorum,
        {str(p): keys[2 * i + 1].hex() for i, p in enumerate(neighbours)},
        {str(p): key.hex() for p, key in boxes.items()},
        {str(position): dealt[position].hex()},
        memory.masked,
    )
    return after, {"sealed": words(sealed)}


def _masked(
    settings: SecureSettings, reach: float, memory: Memory, download: Message, upload: Upload
) -> tuple[Memory, dict[str, Tensor]]:
    """The upload, weighted, quantised, and hidden under one mask of its own and one for each neighbour."""
    senders = [int(p) for p in download["senders"]]
    sealed = byte_rows(download["sealed"])
    if len(set(senders)) != len(senders) or not {str(p) for p in senders} <= memory.peers.keys():
        raise SecureError("shares come from clients that are no neighbours")
    if len(sealed) != len(senders) or any(len(row) != SEALED_BYTES for row in sealed):
        raise SecureError("the sealed shares are malformed")
    if len(senders) + 1 < memory.quorum:
        raise SecureError(f"{len(senders) + 1} clients of its neighbourhood are left, and {memory.quorum} are needed")
    shares = dict(memory.shares)
    for p, row in zip(senders, sealed, strict=True):
        key = bytes.fromhex(memory.boxes[str(p)])
        shares[str(p)] = crypto.unseal(key, row, download.round, p, memory.position).hex()
    inner, tensors = upload(memory.inner, download)
    mask, seed = (bytes.fromhex(text) for text in memory.secrets)
    hidden = _levels(settings, reach, tensors)
    hidden += crypto.mask(seed, len(hidden))
    for p in senders:
        between = crypto.mask(crypto.agree(mask, bytes.fromhex(memory.peers[str(p)]), "mask"), len(hidden))
        hidden += between if memory.position < p else -between
    peers = {str(p): memory.peers[str(p)] for p in senders}
    after = Memory(inner, memory.round, 2, (), memory.position, memory.quorum, peers, {}, shares, memory.round)
    return after, {"masked": torch.from_numpy(hidden.astype(np.int64))}


def _unmask(memory: Memory, download: Message) -> tuple[Memory, dict[str, Tensor]]:
    """Of each client one share: of its own mask's seed if its upload came, of its mask key if it did not; never both."""
    there, gone = ([int(p) for p in download[name]] for name in ("there", "gone"))
    everybody = [*there, *gone]
    if sorted(map(str, everybody)) != sorted(memory.shares) or str(memory.position) not in map(str, there):
        raise SecureError("the clients to unmask are not those whose shares came, each once, this one among them")
    if len(there) < memory.quorum:
        raise SecureError(f"{len(there)} uploads came, and a sum of fewer than {memory.quorum} says too much of each")
    pairs = {p: bytes.fromhex(memory.shares[str(p)]) for p in everybody}
    rows = [pairs[p][SECRET_BYTES:] for p in there] + [pairs[p][:SECRET_BYTES] for p in gone]
    return Memory(memory.inner, memory.round, 3, masked=memory.masked), {"shares": words(rows)}


def _levels(settings: SecureSettings, reach: float, tensors: Mapping[str, Tensor]) -> Words:
    """The upload as whole numbers: its vector times its weight, its loss times its weight, and the weight itself."""
    weight = min(int(tensors["weight"]), settings.max_weight)
    share = weight / settings.max_weight
    vector = Quantiser(reach, settings.levels).encode(tensors["sketch"].double().numpy() * share)
    loss = Quantiser(LOSS_MOST, settings.levels).encode(np.array([float(tensors["loss"]) * share]))
    return np.concatenate([vector, loss, np.array([weight], dtype=np.uint32)])


def _stage(download: Message) -> int:
    if "stage" not in download or download["stage"].dim() or not 0 <= int(download["stage"]) < len(STAGES):
        raise SecureError("asked for an upload outside of secure aggregation, by which the recipe says to send it")
    stage = int(download["stage"])
    due = ((), ("position", "peers", "keys"), ("senders", "sealed"), ("there", "gone"))[stage]
    for name in due:
        if name not in download or download[name].is_floating_point():
            raise SecureError(f"stage '{STAGES[stage]}' came without its tensor '{name}'")
        if download[name].dim() != (0 if name == "position" else 2 if name in ("keys", "sealed") else 1):
            raise SecureError(f"the tensor '{name}' of stage '{STAGES[stage]}' has another shape")
    return stage


def words(rows: Sequence[bytes]) -> Tensor:
    """Byte strings of one length, a multiple of four, as rows of uint32 (held as int64)."""
    if not rows:
        return torch.zeros((0, 1), dtype=torch.int64)
    table = np.frombuffer(b"".join(rows), dtype="<u4").reshape(len(rows), -1)
    return torch.from_numpy(table.astype(np.int64))


def byte_rows(table: Tensor) -> list[bytes]:
    """What `words` made a table of."""
    return [row.tobytes() for row in table.numpy().astype("<u4")]
