"""Codecs at work: what crosses the wire under each, and where training still goes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from igc.codecs import CODECS
from igc.experiments.settings import CodecName
from igc.federation import Reply
from igc.messages import Kind, Message, decode, encode
from support.federation import METHODS, Federation

REAL = [name for name in CODECS if name != "uint32"]


def test_recipes_know_every_codec_of_real_numbers() -> None:
    assert list(get_args(CodecName)) == REAL


@pytest.mark.parametrize("codec", REAL)
def test_each_way_has_its_codec_and_single_numbers_are_exact(codec: str) -> None:
    f = Federation(METHODS["k-subspace"], up=codec, down=codec)
    f.run(2)
    plain = Federation(METHODS["k-subspace"])
    plain.run(2)
    for way, (kind, name, shape) in {
        "down": (Kind.DOWNLOAD, "sigma", (3, 8)),
        "up": (Kind.UPLOAD, "sketch", (8,)),
    }.items():
        ours, theirs = getattr(f.engine, way), getattr(plain.engine, way)
        saved = CODECS["float32"].length(shape) - CODECS[codec].length(shape)
        assert {len(p) for _, _, p in ours} == {len(p) - saved for _, _, p in theirs}
        for number, _, payload in ours:
            message = decode(payload, f.agreement, kind, number)
            assert tuple(message[name].shape) == shape
    first, reference = (decode(e.engine.up[0][2], e.agreement, Kind.UPLOAD) for e in (f, plain))
    assert float(first["loss"]) == float(reference["loss"])  # sigma is zero at first, under every codec
    assert int(first["weight"]) == int(reference["weight"])


@pytest.mark.parametrize("codec", REAL)
def test_the_server_steps_on_the_mean_of_what_was_decoded(codec: str) -> None:
    f = Federation(METHODS["static"], learning_rate=0.5, up=codec)
    f.run(1)
    uploads = [decode(payload, f.agreement, Kind.UPLOAD) for _, _, payload in f.engine.up]
    weights = torch.tensor([int(upload["weight"]) for upload in uploads], dtype=torch.float64)
    mean = (torch.stack([upload["sketch"].double() for upload in uploads]) * weights[:, None]).sum(0) / weights.sum()
    torch.testing.assert_close(f.server.state.sigma.double(), -0.5 * mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("codec", REAL)
def test_a_lossy_codec_hides_no_nan(codec: str) -> None:
    f = Federation(METHODS["static"], up=codec)
    victim = f.sampler.sample(0)[1]

    def poison(number: int, reply: Reply) -> Reply:
        if reply.client != victim or reply.payload is None:
            return reply
        tensors = dict(decode(reply.payload, f.agreement, Kind.UPLOAD).tensors)
        tensors["sketch"] = torch.full_like(tensors["sketch"], torch.nan)
        return reply._replace(payload=encode(Message(Kind.UPLOAD, number, tensors), f.agreement))

    f.engine.tamper = poison
    result = f.run(1)[0]
    assert list(result.rejected) == [victim]
    assert "NaN" in result.rejected[victim]
