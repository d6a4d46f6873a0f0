"""The client: bytes in, bytes out, the same on every engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from igc.federation.protection import UNPROTECTED, Protection
from igc.messages import Agreement, Kind, Message, decode, encode
from igc.methods import Method, Worker


def respond(
    method: Method[Any, Any],
    agreement: Agreement,
    memory: Any,
    payload: bytes,
    worker_for: Callable[[int], Worker],
    protection: Protection = UNPROTECTED,
    client: str = "",
) -> tuple[Any, bytes]:
    """A client's answer to a download.

    Args:
        method: the method, as both sides have it.
        agreement: this side of it.
        memory: what the client remembers; None before its first round.
        payload: the download.
        worker_for: round -> the client's worker.
        protection: what is done to the upload before it is sent.
        client: its id; simulated noise depends on it.

    Returns:
        The new memory and the upload.

    Raises:
        MessageError: the download must not be used.
        MissedError: the download builds on an epoch that the memory lacks.
        NonFiniteError: the loss or the gradient is NaN or infinite.
        RefusedError: the server asks for what would give an upload away, or tell more than the client's budget allows.
    """
    download = decode(payload, agreement, Kind.DOWNLOAD)

    def upload(memory: Any, download: Message) -> tuple[Any, dict[str, Any]]:
        account = protection.on_answer(memory, download.round)
        before = memory if account is None else account.inner
        before = method.client_init() if before is None else before
        after, tensors = method.upload(before, download, worker_for(download.round))
        after = after if account is None else dataclasses.replace(account, inner=after)
        return after, protection.on_client(tensors, download.round, client)

    if protection.secure is None:
        memory, tensors = upload(memory, download)
    else:
        from igc.federation.secure import client as secure  # noqa: PLC0415 (the extra `secure`)

        memory, tensors = secure.respond(protection.secure, protection.reach, memory, download, upload)
    return memory, encode(Message(Kind.UPLOAD, download.round, tensors), agreement)
