"""What the server sees tells nothing of one upload; and what a server must not ask for is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from igc.federation.protection import NormBound, Protection
from igc.federation.secure import crypto
from igc.federation.secure.client import Memory, byte_rows, respond, words
from igc.federation.secure.settings import SecureError, SecureSettings
from igc.messages import Kind, Message, decode
from igc.methods import Static, fedsgd
from support.federation import Federation

SETTINGS = SecureSettings(3)
REACH = 1.0


def test_masked_uploads_look_uniform_and_unlike_the_plain_ones() -> None:
    masked: list[np.ndarray[Any, Any]] = []
    plain: list[np.ndarray[Any, Any]] = []
    for secure in (SecureSettings(7, max_weight=10), None):
        made = Federation(
            lambda p, o: fedsgd(p.D, o), per_round=7, protection=Protection(bound=NormBound(5.0), secure=secure)
        )
        for _ in range(12):
            made.run(1)
        for _, _, payload in made.engine.up:
            upload = decode(payload, made.agreement, Kind.UPLOAD)
            if "masked" in upload:
                masked.append(upload["masked"].numpy()[:-2])
            elif "sketch" in upload:
                plain.append(upload["sketch"].double().numpy())
    assert len(masked) == len(plain) == 84
    top = np.concatenate(masked) >> 24
    assert chisquare(np.bincount(top, minlength=256)).pvalue > 1e-4
    low = np.concatenate(masked) & 255
    assert chisquare(np.bincount(low, minlength=256)).pvalue > 1e-4
    count = len(np.concatenate(plain))
    both = np.corrcoef(np.concatenate(masked).astype(float), np.concatenate(plain))
    assert abs(both[0, 1]) < 5 / count**0.5
    # and the plain levels, which is what is hidden, are far from uniform: the test can tell the difference
    levels = ((np.concatenate(plain) + 5.0) / 10.0 * 256).astype(int)
    assert chisquare(np.bincount(levels, minlength=256)).pvalue < 1e-9


def test_nothing_that_passes_the_server_holds_a_key_a_seed_or_a_share_in_the_clear() -> None:
    made = Federation(
        Static, per_round=7, protection=Protection(bound=NormBound(5.0), secure=SecureSettings(7, max_weight=10))
    )
    secrets: list[bytes] = []
    exchange = made.engine.exchange

    def spy(round: int, requests: Any) -> Any:
        for reply in exchange(round, requests):
            memory = made.engine.inner.memories[reply.client]
            secrets.extend(bytes.fromhex(text) for text in memory.secrets)
            yield reply

    made.engine.exchange = spy  # type: ignore[method-assign]
    made.run(1)
    seen = b"".join(payload for _, _, payload in [*made.engine.down, *made.engine.up])
    assert len(set(secrets)) == 7 * 3  # two secret keys and a seed each
    assert not any(secret in seen or secret[:16] in seen for secret in secrets)


def download(stage: int, **tensors: torch.Tensor) -> Message:
    return Message(Kind.DOWNLOAD, 0, {"stage": torch.tensor(stage), **tensors})


def upload(memory: Any, download: Message) -> tuple[Any, dict[str, torch.Tensor]]:
    return memory, {"sketch": torch.full((4,), 0.25), "weight": torch.tensor(1), "loss": torch.tensor(0.5)}


class Three:
    """Three clients, stage by stage, with a server that can do as it likes."""

    def __init__(self) -> None:
        self.memories: list[Memory] = [Memory()] * 3
        self.keys = [byte_rows(self.ask(i, download(0))["keys"]) for i in range(3)]

    def ask(self, i: int, message: Message) -> dict[str, torch.Tensor]:
        self.memories[i], tensors = respond(SETTINGS, REACH, self.memories[i], message, upload)
        return tensors

    def share(self, i: int) -> list[bytes]:
        others = [p for p in range(3) if p != i]
        keys = words([key for p in others for key in self.keys[p]])
        return byte_rows(
            self.ask(i, download(1, position=torch.tensor(i), peers=torch.tensor(others), keys=keys))["sealed"]
        )

    def mask(self, i: int, senders: list[int], sealed: list[bytes]) -> torch.Tensor:
        return self.ask(i, download(2, senders=torch.tensor(senders, dtype=torch.int64), sealed=words(sealed)))[
            "masked"
        ]

    def unmask(self, i: int, there: list[int], gone: list[int]) -> list[bytes]:
        lists = {"there": torch.tensor(there), "gone": torch.tensor(gone, dtype=torch.int64)}
        return byte_rows(self.ask(i, download(3, **lists))["shares"])


@pytest.fixture
def three() -> Three:
    return Three()


def to_the_end(three: Three) -> None:
    sealed = [three.share(i) for i in range(3)]
    three.mask(0, [1, 2], [sealed[1][0], sealed[2][0]])
    three.mask(1, [0, 2], [sealed[0][0], sealed[2][1]])
    three.mask(2, [0, 1], [sealed[0][1], sealed[1][1]])


def test_a_plain_upload_is_never_given() -> None:
    with pytest.raises(SecureError, match="outside of secure aggregation"):
        respond(SETTINGS, REACH, None, Message(Kind.DOWNLOAD, 0, {"sigma": torch.zeros(4)}), upload)


def test_stages_come_in_order_and_once(three: Three) -> None:
    with pytest.raises(SecureError, match="out of turn"):
        three.mask(0, [1, 2], [b"", b""])
    three.share(0)
    with pytest.raises(SecureError, match="out of turn"):
        three.share(0)


def test_a_server_cannot_have_both_shares_of_a_client(three: Three) -> None:
    to_the_end(three)
    with pytest.raises(SecureError, match="each once"):
        three.unmask(0, [0, 1, 2], [1])
    assert len(three.unmask(0, [0, 1, 2], [])) == 3
    with pytest.raises(SecureError, match="out of turn"):  # nor ask again with another story
        three.unmask(0, [0, 2], [1])


def test_a_server_cannot_pretend_that_nearly_everybody_is_gone(three: Three) -> None:
    to_the_end(three)
    with pytest.raises(SecureError, match="says too much of each"):
        three.unmask(0, [0], [1, 2])


def test_a_server_cannot_say_that_a_client_itself_is_gone(three: Three) -> None:
    to_the_end(three)
    with pytest.raises(SecureError, match="this one among them"):
        three.unmask(0, [1, 2], [0])


def test_a_server_cannot_play_all_the_neighbours_with_one_key(three: Three) -> None:
    key = [crypto.public(b"s" * 32)] * 4
    with pytest.raises(SecureError, match="same key"):
        three.ask(0, download(1, position=torch.tensor(0), peers=torch.tensor([1, 2]), keys=words(key)))


def test_changed_or_misdirected_shares_are_found_out(three: Three) -> None:
    sealed = [three.share(i) for i in range(3)]
    broken = bytes([sealed[1][0][0] ^ 1]) + sealed[1][0][1:]
    for first in (broken, sealed[1][1]):
        with pytest.raises(SecureError, match="changed on the way"):
            Three.mask(three, 0, [1, 2], [first, sealed[2][0]])


def test_a_lone_client_gives_nothing(three: Three) -> None:
    three.share(0)
    with pytest.raises(SecureError, match="are needed"):
        three.mask(0, [], [])


def test_a_round_is_masked_once_and_so_is_every_earlier_one() -> None:
    memory = Memory(round=4, stage=3, masked=4)
    for round in (0, 4):
        with pytest.raises(SecureError, match="has sent a masked upload for round 5 before"):
            respond(SETTINGS, REACH, memory, Message(Kind.DOWNLOAD, round, {"stage": torch.tensor(0)}), upload)
    begun, _ = respond(SETTINGS, REACH, memory, Message(Kind.DOWNLOAD, 5, {"stage": torch.tensor(0)}), upload)
    assert (begun.round, begun.masked) == (5, 4)
    keys = words([crypto.public(bytes([i]) * 32) for i in range(1, 5)])
    peers = {"position": torch.tensor(0), "peers": torch.tensor([1, 2]), "keys": keys}
    shared, _ = respond(SETTINGS, REACH, begun, Message(Kind.DOWNLOAD, 5, {"stage": torch.tensor(1), **peers}), upload)
    assert (shared.stage, shared.masked) == (1, 4)


def test_what_was_masked_is_remembered_through_all_stages(three: Three) -> None:
    assert [memory.masked for memory in three.memories] == [-1] * 3
    to_the_end(three)
    three.unmask(0, [0, 1, 2], [])
    assert [memory.masked for memory in three.memories] == [0] * 3
    for i in range(3):
        with pytest.raises(SecureError, match="has sent a masked upload for round 1 before"):
            three.ask(i, download(0))
