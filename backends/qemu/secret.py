"""Proof that both ends of a connection have the same key; the key itself is never sent.

The end that accepts sends a fresh number; the end that connects answers with one of its own and
the HMAC-SHA256 of both, of who it is and what it wants; then the first proves the same.  What is
sent afterwards is neither encrypted nor signed: that is the network's task (docs/live.md).

A message is ``be16 length`` and a JSON object.  It is read byte by byte from the socket, so that
nothing of what follows is taken.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.qemu.errors import LiveError

SECRET_BYTES = (16, 4096)  # at least, at most
PROOF_LIMIT_S = 5.0
_NONCE_BYTES = 32
_MESSAGE_BYTES = 1024
_LENGTH = struct.Struct(">H")


class Refused(Exception):
    """The other end does not want us, or is not who it should be."""


def read_secret(path: Path) -> bytes:
    """What a secret's file holds, without white space around it; `LiveError`."""
    try:
        mode = path.stat().st_mode
        secret = path.read_bytes().strip() if path.is_file() else b""
    except OSError as error:
        raise LiveError(f"{path}: no secret can be read: {error.strerror}") from None
    if mode & 0o077:
        raise LiveError(f"{path}: others can read this secret; chmod 600 {path}")
    least, most = SECRET_BYTES
    if not least <= len(secret) <= most:
        right = f"{least} to {most} bytes would be right: head -c 32 /dev/urandom | base64"
        raise LiveError(f"{path}: a secret of {len(secret)} bytes; {right}")
    return secret


def derived(secret: bytes, *parts: str) -> bytes:
    """A key of its own for a purpose, which says nothing about the secret."""
    return hmac.digest(secret, json.dumps(["colosim", *parts]).encode(), "sha256")


async def prove(sock: socket.socket, speaker: str, wanted: str, key: bytes) -> None:
    """The end that connects: ``speaker`` wants the service ``wanted``; `Refused`, OSError."""
    theirs = _text(await _receive(sock), "nonce")
    ours = secrets.token_hex(_NONCE_BYTES)
    said = [speaker, wanted, theirs, ours]
    proof = _proof(key, "connects", said)
    await _send(sock, {"speaker": speaker, "wanted": wanted, "nonce": ours, "proof": proof})
    answer = await _receive(sock)
    if "why" in answer:
        raise Refused(_text(answer, "why"))
    if not hmac.compare_digest(_text(answer, "proof"), _proof(key, "accepts", said)):
        raise Refused("it does not have our secret")


async def challenge(
    sock: socket.socket, key_of: Callable[[str, str], bytes | None]
) -> tuple[str, str]:
    """The end that accepts: who speaks, and what it wants; `Refused` says why it was sent away.

    key_of(speaker, wanted) is None for what nobody may have.
    """
    ours = secrets.token_hex(_NONCE_BYTES)
    async with asyncio.timeout(PROOF_LIMIT_S):
        await _send(sock, {"nonce": ours})
        answer = await _receive(sock)
        speaker, wanted = _text(answer, "speaker"), _text(answer, "wanted")
        said = [speaker, wanted, ours, _text(answer, "nonce")]
        key = key_of(speaker, wanted)
        right = _proof(key or secrets.token_bytes(), "connects", said)
        if not hmac.compare_digest(_text(answer, "proof"), right) or key is None:
            why = "the secrets of the two sides are not the same"
            await _send(sock, {"why": why})
            raise Refused(why)
        await _send(sock, {"proof": _proof(key, "accepts", said)})
    return speaker, wanted


def _proof(key: bytes, side: str, said: list[str]) -> str:
    return hmac.new(key, json.dumps([side, *said]).encode(), "sha256").hexdigest()


async def _send(sock: socket.socket, message: dict[str, str]) -> None:
    body = json.dumps(message).encode()
    await asyncio.get_running_loop().sock_sendall(sock, _LENGTH.pack(len(body)) + body)


async def _receive(sock: socket.socket) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(await _exactly(sock, _LENGTH.size))
    if length > _MESSAGE_BYTES:
        raise Refused("it does not speak as colosim does")
    try:
        message = json.loads(await _exactly(sock, length))
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Refused("it does not speak as colosim does")
    return message


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise ConnectionResetError(0, "it closed the connection")
        data += piece
    return data


def _text(message: dict[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not value.isascii():
        raise Refused("it does not speak as colosim does")
    return value
