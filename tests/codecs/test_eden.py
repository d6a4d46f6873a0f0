"""EDEN and its quantiser, against scipy, dense matrices and a second decoder written from docs/messages.md."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard
from scipy.stats import norm
from torch import Tensor, nn

from igc.codecs import CODECS, Codec, CodecError, NotFiniteScaleError, eden
from igc.codecs.eden import BUCKET, POSITIVE_CENTROIDS, Eden
from igc.codecs.rotation import rotate, rotate_back
from igc.projection import BlockedHadamard, make_projection
from igc.projection.kernels import names, using
from support.noise import errors, normalised_error, standard_errors
from support.strategies import vector
from vectors.specification import COLUMN_SIGNS, ROW_SIGNS, block, sign

BITS = (1, 2, 3, 4)
GAUSSIAN_ERROR = {1: 0.571, 2: 0.133, 3: 0.0358, 4: 0.0096}
EDENS = {name: codec for name, codec in CODECS.items() if isinstance(codec, Eden)}
each = pytest.mark.parametrize("codec", EDENS.values(), ids=EDENS.keys())
Matrix = npt.NDArray[np.float64]


# ---------------------------------------------------------------------------------------------------- the quantiser


@pytest.mark.parametrize("bits", BITS)
def test_centroids_are_the_means_of_what_is_nearest_to_them(bits: int) -> None:
    centroids = np.array([-c for c in reversed(POSITIVE_CENTROIDS[bits])] + list(POSITIVE_CENTROIDS[bits]))
    edges = np.concatenate(([-np.inf], (centroids[1:] + centroids[:-1]) / 2, [np.inf]))
    share = np.diff(norm.cdf(edges))
    means = (norm.pdf(edges[:-1]) - norm.pdf(edges[1:])) / share
    np.testing.assert_allclose(centroids, means, rtol=0, atol=1e-11)
    error = 1 - float((share * centroids**2).sum())
    assert error / (1 - error) == pytest.approx(GAUSSIAN_ERROR[bits], rel=2e-3)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["eden", "lloyd"])
def test_the_error_on_normal_numbers_is_the_known_one(name: str, bits: int) -> None:
    value = vector(2**17, bits) * 1e-4
    assert normalised_error(CODECS[f"{name}-{bits}"], value) == pytest.approx(GAUSSIAN_ERROR[bits], rel=0.02)


@pytest.mark.parametrize("bits", BITS)
def test_after_a_rotation_so_it_is_on_any_numbers(bits: int) -> None:
    lognormal = (2 * vector(2**16, 0)).exp()
    sparse = torch.zeros(2**16)
    sparse[::500] = vector(sparse[::500].numel(), 1)
    layers = vector(2**16, 2) * torch.logspace(-6, 3, 16).repeat_interleave(2**12)
    for value in (lognormal, sparse, layers):
        assert normalised_error(CODECS[f"eden-{bits}"], value) == pytest.approx(GAUSSIAN_ERROR[bits], rel=0.05)
    assert normalised_error(CODECS[f"lloyd-{bits}"], lognormal) > 2 * GAUSSIAN_ERROR[bits]


# ------------------------------------------------------------------------------------------------------ on the wire


def test_lloyd_by_hand() -> None:
    # Mean square 1, so z = x; the scale is 4 / (4 sqrt(2 / pi)) = sqrt(pi / 2), and sqrt(pi / 2) sqrt(2 / pi) = 1.
    value = torch.tensor([1.0, -1.0, 1.0, 1.0])
    assert CODECS["lloyd-1"].encode(value) == struct.pack("<f", math.sqrt(math.pi / 2)) + b"\x0d"
    torch.testing.assert_close(CODECS["lloyd-1"].decode(CODECS["lloyd-1"].encode(value), (4,)), value)
    # z = x / sqrt(2.5): 1.26 is beyond the boundary at 0.98, 0.63 is not. Codes 3 2 1 0.
    value = torch.tensor([2.0, 1.0, -1.0, -2.0])
    scale = 10 / (2 * (2 * 1.510417608 + 0.452780035))
    data = CODECS["lloyd-2"].encode(value)
    assert data[4:] == b"\x1b"
    assert struct.unpack("<f", data[:4])[0] == pytest.approx(scale, rel=1e-6)
    found = CODECS["lloyd-2"].decode(data, (4,))
    torch.testing.assert_close(found, scale * torch.tensor([1.510417608, 0.452780035, -0.452780035, -1.510417608]))
    # Codes 5 2 (z = 0.89, -1.10) of three bits: boundaries at 0, 0.50, 1.05, 1.75 and their negatives.
    data = CODECS["lloyd-3"].encode(torch.tensor([0.8, -1.0]))
    assert data[4:] == bytes([5 | 1 << 3])


def test_the_seed_is_a_digest_of_the_numbers() -> None:
    value = vector(10, 0)
    octets = struct.pack("<10f", *value.tolist())
    assert CODECS["eden-2"].encode(value)[:4] == hashlib.blake2b(octets, digest_size=4, person=b"igc-codec").digest()


def test_the_example_of_the_docs() -> None:
    assert CODECS["lloyd-1"].encode(torch.tensor([1.0, -1.0, 1.0, 1.0])) == bytes.fromhex("99 6c a0 3f 0d")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 100])
def test_one_bit_is_drive(size: int) -> None:
    # DRIVE, equation of its algorithm 1: R^T sign(R x) ||x||^2 / ||R x||_1.
    value = vector(size, size)
    data = CODECS["eden-1"].encode(value)
    R = rotation(size, int.from_bytes(data[:4], "little"))
    z = R @ value.double().numpy()
    drive = R.T @ np.where(z >= 0, 1, -1) * (z @ z) / np.abs(z).sum()
    np.testing.assert_allclose(CODECS["eden-1"].decode(data, (size,)), drive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [1, 7, 32, 64, 77])
def test_a_second_decoder_reads_the_same(bits: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket_size = 32  # a dense matrix of 4096 takes its time
    monkeypatch.setattr(eden, "BUCKET", bucket_size)
    value = (vector(size, bits) * 2).exp()
    data = CODECS[f"eden-{bits}"].encode(value)
    buckets = [range(start, min(start + bucket_size, size)) for start in range(0, size, bucket_size)]
    seed = int.from_bytes(data[:4], "little")
    scales = struct.unpack_from(f"<{len(buckets)}f", data, 4)
    stream = int.from_bytes(data[4 + 4 * len(buckets) :], "little")
    half = list(POSITIVE_CENTROIDS[bits])
    centroids = [-c for c in reversed(half)] + half
    expected = []
    for scale, bucket in zip(scales, buckets, strict=True):
        c = np.array([centroids[stream >> bits * i & 2**bits - 1] for i in bucket])
        expected.append(scale * (rotation(len(bucket), seed, bucket.start).T @ c))
    found = CODECS[f"eden-{bits}"].decode(data, (size,)).double().numpy()
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=1e-5 * max(scales))


def rotation(width: int, seed: int, start: int = 0) -> Matrix:
    """The dense matrix that docs/messages.md describes."""
    n = 1 << (width.bit_length() - 1)
    matrix = np.eye(width)
    for stream in (ROW_SIGNS, COLUMN_SIGNS):
        if stream == COLUMN_SIGNS and n < width:
            keys = [(w[0] >> 1) << 31 | w[1] >> 1 for w in (block(seed, 6, i) for i in range(width))]
            matrix = matrix[sorted(range(width), key=lambda i: (keys[i], i))]
        for first, signs in ((0, start), (width - n, 2**40 + start)) if n < width else ((0, start),):
            matrix = np.array([[sign(seed, stream, signs + i)] for i in range(width)]) * matrix
            matrix[first : first + n] = hadamard(n) @ matrix[first : first + n] / math.sqrt(n)
    return matrix


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 70), seed=st.integers(0, 2**32 - 1), start=st.integers(0, 2**40))
def test_the_rotation_is_the_dense_matrix_and_orthogonal(width: int, seed: int, start: int) -> None:
    rows = vector(width, width).view(1, -1)
    R = rotation(width, seed, start)
    np.testing.assert_allclose(R @ R.T, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(rotate(rows.clone(), seed, start)[0], R @ rows[0].double().numpy(), atol=1e-5)
    torch.testing.assert_close(rotate_back(rotate(rows.clone(), seed, start), seed, start), rows, rtol=0, atol=1e-5)


@each
@pytest.mark.parametrize("size", [300, BUCKET, 5 * BUCKET + 100])
def test_every_kernel_sends_and_reads_the_same_bytes(codec: Eden, size: int) -> None:
    value = vector(size, 3)
    data = codec.encode(value)
    found = codec.decode(data, (size,))
    for kernel in names():
        with using(kernel):
            assert codec.encode(value) == data
            assert torch.equal(codec.decode(data, (size,)), found)


@pytest.mark.parametrize("name", ["eden-3", "lloyd-1", "int4"])
def test_a_long_tensor_is_the_sum_of_its_buckets(name: str) -> None:
    value = torch.zeros(2**18 + 5)  # more than is worked on at a time
    value[2**18 - 1], value[2**18], value[-1] = 3.0, 5.0, -5.0
    found = CODECS[name].decode(CODECS[name].encode(value), (len(value),))
    start = (2**18 - 1) // BUCKET * BUCKET
    assert torch.equal(found[:start], torch.zeros(start))
    assert float(found[start : 2**18] @ value[start : 2**18]) == pytest.approx(9.0, rel=1e-4)
    assert float(found[2**18 :] @ value[2**18 :]) == pytest.approx(50.0, rel=1e-4)


@each
def test_a_scale_that_is_none_is_refused(codec: Eden) -> None:
    data = codec.encode(vector(BUCKET + 1, 0))
    at = 4 if codec.rotated else 0
    for scale, error in ((math.nan, NotFiniteScaleError), (math.inf, NotFiniteScaleError), (-1.0, CodecError)):
        with pytest.raises(error, match="scale 1 is"):
            codec.decode(data[: at + 4] + struct.pack("<f", scale) + data[at + 8 :], (BUCKET + 1,))


# ---------------------------------------------------------------------------------------------------------- no bias


@pytest.mark.parametrize(("bits", "size"), [(1, 64), (1, 100), (2, 64), (3, 64), (4, 100)])
def test_a_rotation_leaves_no_bias(bits: int, size: int) -> None:
    dense = vector(size, 5).exp()
    found = errors(CODECS[f"eden-{bits}"], dense, 250)
    assert float(standard_errors(found).abs().max()) < 4
    # The mean of 250 has 1 / 250 of the square, give or take what a sum of ``size`` squares varies by.
    ratio = 250 * float(found.mean(0).square().sum() / found.square().sum(1).mean())
    assert abs(ratio - 1) < 4 * (2 / size) ** 0.5


@pytest.mark.parametrize("size", [100, 512])
def test_a_second_round_serves_sparse_tensors(size: int) -> None:
    # After one round this comes back as (5/4, 0) under every seed: a bias of 0.5 times the norm.
    value = torch.zeros(size)
    value[0], value[1] = 1.0, 0.5
    found = errors(CODECS["eden-1"], value, 250)
    assert float(found.mean(0)[:2].norm() / value.norm()) < 0.06


@pytest.mark.parametrize("width", [64, 65, 66, 97, 127, 129, 1025, 1034, 1100, 3000])
def test_one_number_is_spread_like_a_normal_one(width: int) -> None:
    rows = torch.zeros(40, 1, width)
    rows[:, 0, width // 3] = width**0.5
    spread = torch.cat([rotate(row, seed, 0) for seed, row in enumerate(rows)])
    fourth = float(spread.pow(4).mean())  # 3 of a normal number; 88 where the transforms of width 1025 nearly cancel
    assert fourth == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize("width", [65, 129, 1025])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_width_beyond_a_power_of_two_has_no_bias(bits: int, width: int) -> None:
    value = torch.zeros(width)
    value[width // 3], value[-1] = 1.0, -0.5
    found = errors(CODECS[f"eden-{bits}"], value, 250)
    mean = found.mean(0)[[width // 3, -1]]
    noise = (found[:, [width // 3, -1]].std(0) / 250**0.5).norm()
    assert float(mean.norm()) < 4 * float(noise) + 0.02
    assert float(found.square().sum(1).mean() / value.square().sum()) < 1.2 * GAUSSIAN_ERROR[bits]


@pytest.mark.parametrize(
    "numbers", [[3, *[1] * 7], [1, 0.5, *[0] * 14], [1, 0.5, *[0] * 62]], ids=["8", "two of 16", "two of 64"]
)
@pytest.mark.parametrize("bits", [1, 2])
def test_ties_are_no_bias(bits: int, numbers: list[float]) -> None:
    # Sums of few signs are often zero but for rounding, which has the same sign every time: by it, the first would come
    # back from one bit with a bias of 0.2 times the norm.
    value = torch.tensor(numbers, dtype=torch.float32)
    codec = CODECS[f"eden-{bits}"]
    copies = [value * (1 + k / 2**18) for k in range(1000)]  # of the same direction, under other seeds
    found = torch.stack([codec.decode(codec.encode(copy), value.shape).double() - copy.double() for copy in copies])
    noise = float((found.square().sum(1).mean() / 1000).sqrt() / value.norm())
    assert float(found.mean(0).norm() / value.norm()) < 3 * noise


@pytest.mark.parametrize(("size", "most"), [(2, 0.36), (4, 0.45)])
def test_of_fewer_than_eight_numbers_a_bias_stays(size: int, most: float) -> None:
    # Signs and transforms of so few numbers make few rotations; what falls between two centroids does so under many.
    value = torch.zeros(size)
    value[0], value[1] = 1.0, 0.5
    found = errors(CODECS["eden-1"], value, 1000)
    assert most - 0.1 < float(found.mean(0).norm() / value.norm()) < most


@pytest.mark.parametrize("codec", [CODECS["lloyd-1"], CODECS["lloyd-4"]], ids=["lloyd-1", "lloyd-4"])
def test_without_a_rotation_the_same_tensor_errs_the_same_way(codec: Codec) -> None:
    assert not codec.unbiased
    found = errors(codec, vector(500, 5), 20)
    assert float(found.mean(0).norm()) > 0.99 * float(found.norm(dim=1).mean())


@pytest.mark.parametrize("bits", [1, 2])
def test_without_a_rotation_the_bias_goes_in_the_mean_over_subspaces(bits: int) -> None:
    codec = CODECS[f"lloyd-{bits}"]
    g = vector(700, 0)
    found = []
    for seed in range(600):
        A = BlockedHadamard(D=700, d=64, seed=seed)
        s = A.project(g)
        found.append(A.expand(codec.decode(codec.encode(s), (64,))).double() - g.double())
    assert float(standard_errors(torch.stack(found)).abs().max()) < 4.5  # of 700


# -------------------------------------------------------------------------------------- sketches are rotated already


def gradient() -> Tensor:
    """A small network's, of 7,617 weights: tensors of very different sizes, and units that are dead."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(96, 64), (96,), (14, 96), (14,)]
    w1, b1, w2, b2 = (nn.Parameter(torch.randn(s, generator=generator) * s[-1] ** -0.5) for s in shapes)
    x = torch.randn(8, 64, generator=generator).relu()
    scores = torch.relu(x @ w1.T + b1) @ w2.T + b2
    loss = nn.functional.cross_entropy(scores, torch.arange(8) % 14)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, (w1, b1, w2, b2))])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("family", ["blocked-hadamard", "fastfood"])
def test_a_projected_gradient_needs_no_second_rotation(family: str, bits: int) -> None:
    g = gradient()
    sketches = [make_projection(family, D=g.numel(), d=1024, seed=seed).project(g) for seed in range(30)]
    plain = [normalised_error(CODECS[f"lloyd-{bits}"], s) for s in sketches]
    assert sum(plain) / len(plain) == pytest.approx(GAUSSIAN_ERROR[bits], rel=0.05)
    # Sent without a projection, the same gradient does need one.
    assert normalised_error(CODECS[f"lloyd-{bits}"], g) > 1.5 * GAUSSIAN_ERROR[bits]
    assert normalised_error(CODECS[f"eden-{bits}"], g) == pytest.approx(GAUSSIAN_ERROR[bits], rel=0.08)
