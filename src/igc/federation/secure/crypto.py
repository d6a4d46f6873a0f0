"""The primitives of secure aggregation, all of them from `cryptography` and `pycryptodome`.

X25519 agrees on keys, HKDF-SHA256 parts them by purpose, ChaCha20-Poly1305 seals shares, ChaCha20's keystream is the masks,
Shamir's scheme over GF(2^128) shares secrets. Flower's SecAgg+ has the same parts, with one difference that matters: it
draws masks by NumPy's Mersenne Twister from a seed folded into 32 bits, which a server can try out.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from igc.federation.secure.settings import SecureError

SECRET_BYTES: Final = 32
SEALED_BYTES: Final = 2 * SECRET_BYTES + 16  # two shares and Poly1305's tag
_HALF: Final = 16  # what Shamir's scheme shares at once
_ADDRESS: Final = struct.Struct("<III")

Words = NDArray[np.uint32]


def public(secret: bytes) -> bytes:
    """The public key of a secret one, 32 bytes each."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def is_public(key: bytes) -> bool:
    """Whether others can agree with it: not where it is a point of low order, which makes zero of every secret key."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:
        return False
    return True


def agree(secret: bytes, other: bytes, purpose: str) -> bytes:
    """The 32 bytes that two parties have in common, each from its own secret key and the other's public one.

    Raises:
        SecureError: the other's is no key.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise SecureError("a client's public key is not one") from error
    return HKDF(SHA256(), SECRET_BYTES, salt=None, info=f"igc secure {purpose}".encode()).derive(shared)


def seal(key: bytes, content: bytes, round: int, sender: int, receiver: int) -> bytes:
    """Encrypt and authenticate; a key seals one content in each direction of one round, so its nonce is the sender."""
    return ChaCha20Poly1305(key).encrypt(_nonce(sender), content, _ADDRESS.pack(round, sender, receiver))


def unseal(key: bytes, sealed: bytes, round: int, sender: int, receiver: int) -> bytes:
    """What was sealed.

    Raises:
        SecureError: it was sealed by another key, for another address, or changed since.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_nonce(sender), sealed, _ADDRESS.pack(round, sender, receiver))
    except InvalidTag:
        raise SecureError(f"the shares of client number {sender} were changed on the way") from None


def mask(key: bytes, count: int) -> Words:
    """``count`` uniform numbers below 2^32 that a key determines; a key makes one mask."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * count))
    return np.frombuffer(stream, dtype="<u4").astype(np.uint32)


def split(secret: bytes, needed: int, count: int) -> list[bytes]:
    """Shares of 32 bytes, of which any ``needed`` bring the secret back; share i is for holder i."""
    halves = [Shamir.split(needed, count, secret[begin : begin + _HALF], ssss=False) for begin in (0, _HALF)]
    return [low + high for (_, low), (_, high) in zip(*halves, strict=True)]


def combine(shares: Sequence[tuple[int, bytes]]) -> bytes:
    """The secret of shares, each with the number of its holder; as many as `split` was told are needed."""
    parts = [[(holder + 1, share[begin : begin + _HALF]) for holder, share in shares] for begin in (0, _HALF)]
    return b"".join(Shamir.combine(part, ssss=False) for part in parts)


def _nonce(sender: int) -> bytes:
    return sender.to_bytes(12, "little")
