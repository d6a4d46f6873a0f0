"""Secure aggregation from end to end: the plain mean comes out, whoever drops out, and the ledger is true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from igc.federation import Reply, Request
from igc.federation.engine import DROPPED
from igc.federation.protection import NormBound, Protection
from igc.federation.secure.client import words
from igc.federation.secure.quantiser import Quantiser
from igc.federation.secure.settings import SecureSettings
from igc.messages import Kind, Message, decode, encode
from igc.methods import KSubspace, LocalSteps, Static, TimeVarying, fedsgd
from support.federation import Federation, Maker

LIMIT = 5.0
CLIENTS = 7

MAKERS: dict[str, Maker] = {
    "static": Static,
    "time-varying": lambda p, o: TimeVarying(Static(p, o), rounds_per_epoch=2),
    "k-subspace": lambda p, o: KSubspace(p, o, subspaces=2),
    "fedsgd": lambda p, o: fedsgd(p.D, o),
    "local": lambda p, o: LocalSteps(Static(p, o), 0.05, epochs=2),
}


@dataclass
class Stages:
    """An engine that knows the stage of a request, loses replies, and keeps what the server sees."""

    inner: Any
    lose: dict[int, set[str]] = field(default_factory=dict)  # stage -> clients that have gone when it is asked for
    seen: list[tuple[int, str, dict[str, Tensor]]] = field(default_factory=list)
    agreement: Any = None
    tamper: Any = None

    def exchange(self, round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        for request in requests:
            stage = int(decode(request.payload, self.agreement, Kind.DOWNLOAD)["stage"])
            if any(request.client in gone for at, gone in self.lose.items() if at <= stage):
                yield Reply(request.client, request.position, None, DROPPED)
                continue
            (reply,) = self.inner.exchange(round, [request])
            if self.tamper is not None:
                reply = self.tamper(stage, reply)
            if reply.payload is not None:
                upload = decode(reply.payload, self.agreement, Kind.UPLOAD)
                self.seen.append((stage, reply.client, dict(upload.tensors)))
            yield reply

    def close(self) -> None:
        self.inner.close()


def federation(make: Maker = Static, *, secure: bool = True, per_round: int = CLIENTS, **settings: Any) -> Federation:
    weights = settings.pop("weights", "examples")
    most = 10 if weights == "examples" else 1
    groups = 2 if make is MAKERS["k-subspace"] else 1
    how = SecureSettings(per_round, max_weight=most, groups=groups, **settings) if secure else None
    protection = Protection(bound=NormBound(LIMIT), secure=how)
    made = Federation(make, per_round=per_round, weights=weights, protection=protection)
    made.engine = Stages(made.engine, agreement=made.agreement)  # type: ignore[assignment]
    return made


def stages(made: Federation) -> Stages:
    assert isinstance(made.engine, Stages)
    return made.engine


def plain(make: Maker, rounds: int, **settings: Any) -> Federation:
    made = Federation(make, per_round=CLIENTS, protection=Protection(bound=NormBound(LIMIT)), **settings)
    made.run(rounds)
    return made


def step(bits: int | None = None) -> float:
    """How far the mean of uploads may be off: half a step each, the smallest weight of a client being 4 of 10."""
    levels = SecureSettings(CLIENTS, bits=bits).levels
    return Quantiser(LIMIT, levels).step / 2 * 10 / 4


@pytest.mark.parametrize("name", MAKERS)
def test_the_run_is_the_plain_one_to_the_quantisers_step(name: str) -> None:
    made, expected = federation(MAKERS[name]), plain(MAKERS[name], 5)
    results = made.run(5)
    assert all(r.clients == CLIENTS and not r.rejected and not r.skipped for r in results)
    torch.testing.assert_close(made.position(), expected.position(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bits", [None, 12, 8])
def test_the_mean_is_off_by_half_a_step_at_most(bits: int | None) -> None:
    made, expected = federation(bits=bits), plain(Static, 1)
    made.run(1)
    error = (made.server.state.sigma - expected.server.state.sigma).abs().max() / 0.05  # the learning rate
    assert float(error) <= step(bits) + 1e-6
    if bits is not None:
        assert float(error) > 0  # the quantiser is there


def test_the_loss_is_that_of_the_plain_run() -> None:
    (secure,) = federation().run(1)
    (reference,) = Federation(Static, per_round=CLIENTS, protection=Protection(bound=NormBound(LIMIT))).run(1)
    assert secure.loss == pytest.approx(reference.loss, abs=1e-6)


@pytest.mark.parametrize("shares", [None, 5])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_clients_may_drop_out_before_any_stage(stage: int, shares: int | None) -> None:
    """The mean is over those whose masked upload came; those who are lost after that still count."""
    gone = {"c2", "c5"} if shares is None else {"c2"}
    made = federation(shares=shares, threshold=0.51 if shares is None else 0.6)
    stages(made).lose = {stage: gone}
    counted = set(made.clients) - (gone if stage < 3 else set())
    (result,) = made.run(1)
    assert not result.skipped, result.skipped
    assert set(result.dropped) == gone and result.clients == len(counted) and result.asked == CLIENTS
    reference = Federation(Static, per_round=CLIENTS, protection=Protection(bound=NormBound(LIMIT)))
    reference.engine.tamper = lambda _, r: r if r.client in counted else r._replace(payload=None, error=DROPPED)
    reference.run(1)
    torch.testing.assert_close(made.server.state.sigma, reference.server.state.sigma, atol=1e-6, rtol=0)


def test_drop_outs_before_all_stages_at_once() -> None:
    made = federation(threshold=0.51)
    stages(made).lose = {1: {"c0"}, 2: {"c4"}, 3: {"c6"}}
    (result,) = made.run(1)
    assert not result.skipped and result.clients == 5 and set(result.dropped) == {"c0", "c4", "c6"}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_below_the_threshold_a_round_is_skipped_and_training_goes_on(stage: int) -> None:
    made, start = federation(), federation().server.state.sigma
    stages(made).lose = {stage: {"c0", "c1", "c2", "c3", "c4"}}
    (result,) = made.run(1)
    assert result.skipped.startswith("secure aggregation: ") and result.clients == 0 and result.loss is None
    assert torch.equal(made.server.state.sigma, start)
    stages(made).lose = {}
    (result,) = made.run(1)
    assert result.round == 1 and not result.skipped and result.clients == CLIENTS


def test_a_subspace_below_the_threshold_leaves_the_others_alone() -> None:
    made = federation(MAKERS["k-subspace"])
    order = made.server.cohort(0)
    stages(made).lose = {2: {order[0], order[2], order[4]}}  # of subspace 0, which has four clients
    (result,) = made.run(1)
    assert not result.skipped and result.clients == 3
    assert not made.server.state.sigma[0].any() and made.server.state.sigma[1].any()


def test_the_ledger_has_every_byte_of_all_stages() -> None:
    made = federation()
    sizes = {"up": 0, "down": 0}
    inner = stages(made).exchange

    def count(round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        sizes["down"] += sum(len(request.payload) for request in requests)
        for reply in inner(round, requests):
            sizes["up"] += len(reply.payload or b"")
            yield reply

    made.engine.exchange = count  # type: ignore[method-assign]
    (result,) = made.run(1)
    assert (result.bytes_up, result.bytes_down) == (sizes["up"], sizes["down"])
    # All stages together are what one upload and one download would be, which comparisons with the model's length count.
    assert all(account.uploads == account.downloads == 1 for account in made.server.ledger.accounts.values())


def test_what_a_client_remembers_after_the_round_is_no_secret() -> None:
    made = federation()
    made.run(1)
    for memory in stages(made).inner.inner.memories.values():
        assert memory.stage == 3 and not (memory.secrets or memory.shares or memory.peers or memory.boxes)


def test_a_malformed_answer_is_left_out_and_named() -> None:
    made = federation(threshold=0.51)

    def tamper(stage: int, reply: Reply) -> Reply:
        if stage != 2 or reply.client != "c3" or reply.payload is None:
            return reply
        short = Message(Kind.UPLOAD, 0, {"masked": torch.zeros(3, dtype=torch.int64)})
        return reply._replace(payload=encode(short, made.agreement))

    stages(made).tamper = tamper
    (result,) = made.run(1)
    assert result.clients == CLIENTS - 1 and "stage 'masked': 'masked' has shape (3,)" in result.rejected["c3"]


def test_a_false_share_of_a_seed_is_found_out_by_the_norm_of_the_sum() -> None:
    made = federation()

    def tamper(stage: int, reply: Reply) -> Reply:
        if stage != 3 or reply.client != made.server.cohort(0)[0] or reply.payload is None:
            return reply
        upload = decode(reply.payload, made.agreement, Kind.UPLOAD)
        false = {"shares": upload["shares"] ^ 1}
        return reply._replace(payload=encode(Message(Kind.UPLOAD, 0, false), made.agreement))

    stages(made).tamper = tamper
    (result,) = made.run(1)
    assert result.skipped and not made.server.state.sigma.any()


def test_a_client_that_does_not_clip_cannot_carry_the_sum_past_the_bound_unseen() -> None:
    """Its numbers are cut to the quantiser's reach by an honest client; one that sends anything is the server's to see."""
    made = federation(weights="uniform")

    def tamper(stage: int, reply: Reply) -> Reply:
        if stage != 2 or reply.client != "c1" or reply.payload is None:
            return reply
        masked = decode(reply.payload, made.agreement, Kind.UPLOAD)["masked"].clone()
        masked[:-1] = (masked[:-1] + 2**31) % 2**32
        return reply._replace(payload=encode(Message(Kind.UPLOAD, 0, {"masked": masked}), made.agreement))

    stages(made).tamper = tamper
    (result,) = made.run(1)
    assert "the sum's norm" in result.skipped


def resumed(made: Federation, round: int, state: Any) -> None:
    """The server is killed, and goes on from a checkpoint; clients, which are elsewhere, remember what they did."""
    made.server.round, made.server.state = round, state


def test_a_server_that_runs_a_round_again_gets_no_second_sum_and_training_goes_on() -> None:
    """The difference of two sums of one round, with and without a client, would be its upload."""
    made = federation()
    made.run(1)
    checkpoint = made.server.state
    made.run(2)  # rounds 1 and 2 are lost with the server
    assert not torch.equal(made.server.state.sigma, checkpoint.sigma)
    resumed(made, 1, checkpoint)
    stages(made).lose = {0: {"c2"}}
    seen = len(stages(made).seen)
    for round in (1, 2):
        (result,) = made.run(1)
        assert result.round == round and result.clients == 0 and result.loss is None
        assert result.skipped.startswith("secure aggregation: 0 clients sent keys")
        assert result.dropped == ("c2",) and result.rejected.keys() == set(made.clients) - {"c2"}
        assert all("it has sent a masked upload for round 3 before" in reason for reason in result.rejected.values())
    assert len(stages(made).seen) == seen  # not even keys
    assert torch.equal(made.server.state.sigma, checkpoint.sigma)
    stages(made).lose = {}
    for result in made.run(3):
        assert not result.skipped and not result.rejected and result.clients == CLIENTS
    assert not torch.equal(made.server.state.sigma, checkpoint.sigma)


def test_clients_that_sent_no_masked_upload_begin_a_round_again() -> None:
    """Keys alone give nothing away: who dropped out of a round before its upload can take part when it comes again."""
    made, start = federation(threshold=0.51), federation().server.state
    stages(made).lose = {2: {"c0", "c1", "c3", "c4", "c5", "c6"}}
    made.run(1)
    resumed(made, 0, start)
    stages(made).lose = {}
    (result,) = made.run(1)
    assert not result.skipped and result.clients == CLIENTS - 1 and result.rejected.keys() == {"c2"}


LOW_ORDER = (  # RFC 7748 and Bernstein, "Curve25519", 2006: all points of order 1, 2, 4 and 8, and their other encodings
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    2**255 - 20,
    2**255 - 19,
    2**255 - 18,
)


@pytest.mark.parametrize(
    "fault", ["box is mask", "mask is zero", "keys of two", *(f"low order {i}" for i in range(len(LOW_ORDER)))]
)
def test_who_sends_no_proper_keys_is_left_out_alone_and_named(fault: str) -> None:
    made = federation()
    copied: list[Tensor] = []

    def tamper(stage: int, reply: Reply) -> Reply:
        if stage != 0 or reply.payload is None or reply.client not in ("c1", "c3"):
            return reply
        keys = decode(reply.payload, made.agreement, Kind.UPLOAD)["keys"].clone()
        if fault == "keys of two":
            copied.append(keys)
            keys = copied[0]  # the two of them have agreed on it
        elif reply.client == "c3":
            if fault == "box is mask":
                keys[0] = keys[1]
            elif fault == "mask is zero":
                keys[1] = 0
            else:
                point = LOW_ORDER[int(fault.rsplit(maxsplit=1)[-1])].to_bytes(32, "little")
                keys[1] = words([point])[0]
        return reply._replace(payload=encode(Message(Kind.UPLOAD, 0, {"keys": keys}), made.agreement))

    stages(made).tamper = tamper
    (result,) = made.run(1)
    guilty = {"c1", "c3"} if fault == "keys of two" else {"c3"}
    assert not result.skipped and result.clients == CLIENTS - len(guilty)
    assert result.rejected.keys() == guilty and all("stage 'keys'" in reason for reason in result.rejected.values())
