"""Bytes to messages and back, without I/O: messages, frames, the codec, the handshake."""

from __future__ import annotations

from asyncrpc.wire.codec import Codec
from asyncrpc.wire.exceptions import rebuild_exception, split_exception
from asyncrpc.wire.frame import (
    ABORT,
    BUFFERS,
    CHUNK_SIZE,
    DEDUP,
    ERROR,
    FIRST,
    HEADER,
    Frame,
    encode_frame,
)
from asyncrpc.wire.framing import FrameReader
from asyncrpc.wire.handshake import Handshake, HandshakeRefused
from asyncrpc.wire.hello import Hello, Purpose
from asyncrpc.wire.messages import MessageType
from asyncrpc.wire.registry import TypeRegistry
from asyncrpc.wire.transfer import Transfer, allocate_buffer

__all__ = (
    "ABORT",
    "BUFFERS",
    "CHUNK_SIZE",
    "DEDUP",
    "ERROR",
    "FIRST",
    "HEADER",
    "Codec",
    "Frame",
    "FrameReader",
    "Handshake",
    "HandshakeRefused",
    "Hello",
    "MessageType",
    "Purpose",
    "Transfer",
    "TypeRegistry",
    "allocate_buffer",
    "encode_frame",
    "rebuild_exception",
    "split_exception",
)
