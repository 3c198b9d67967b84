"""Bytes to messages and back, without I/O: messages, frames, the codec, the handshake."""

from __future__ import annotations

from asyncrpc.wire.codec import Codec, Hook
from asyncrpc.wire.exceptions import rebuild_exception, split_exception
from asyncrpc.wire.frame import (
    ABORT,
    BUFFERS,
    CHUNK_SIZE,
    DEDUP,
    EARLY,
    ERROR,
    FIRST,
    HEADER,
    LENGTH,
    REFERENCES,
    Frame,
    encode_frame,
)
from asyncrpc.wire.framing import FrameReader, new_scratch
from asyncrpc.wire.handshake import Handshake, HandshakeRefused
from asyncrpc.wire.headermap import HeaderMap, check_metadata
from asyncrpc.wire.hello import Hello, Purpose
from asyncrpc.wire.messages import CALLS, CONTROL, REPLIES, RESPONSE, MessageType
from asyncrpc.wire.registry import TypeRegistry, register_type, user_types
from asyncrpc.wire.state import Enclosure
from asyncrpc.wire.transfer import Show, Transfer, allocate_buffer

__all__ = (
    "ABORT",
    "BUFFERS",
    "CALLS",
    "CHUNK_SIZE",
    "CONTROL",
    "DEDUP",
    "EARLY",
    "ERROR",
    "FIRST",
    "HEADER",
    "LENGTH",
    "REFERENCES",
    "REPLIES",
    "RESPONSE",
    "Codec",
    "Enclosure",
    "Frame",
    "FrameReader",
    "Handshake",
    "HandshakeRefused",
    "HeaderMap",
    "Hello",
    "Hook",
    "MessageType",
    "Purpose",
    "Show",
    "Transfer",
    "TypeRegistry",
    "allocate_buffer",
    "check_metadata",
    "encode_frame",
    "new_scratch",
    "rebuild_exception",
    "register_type",
    "split_exception",
    "user_types",
)
