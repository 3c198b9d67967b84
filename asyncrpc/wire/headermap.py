"""The header map of a call: what rides beside its arguments, on the few calls that need it.

Sans-IO: values to msgpack and back. A plain call has none, so it costs nothing. Keys are small
ints; one that is not known here is passed over, so that later versions can add some.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgpack import packb, unpackb

from asyncrpc.errors import RemoteProtocolError

__all__ = ("HeaderMap", "check_metadata")

_ATTEMPT = 1
_CONTEXT = 2
_TRACE = 3
_METADATA = 4
_WINDOW = 5
_REFERENCE = 6
_LONE = bytes((0x81, _REFERENCE, 0xC4))  # a map of one entry: a reference, its length in a byte
_MOST = 16 * 1024  # bytes of the user's metadata, encoded
_MOST_ITEMS = 128  # entries of those
_MOST_TEXT = 255  # characters of a context's id and of a trace, which are far shorter
_MOST_OTHERS = 4 * 1024  # bytes of all the rest, so that metadata that were let in always fit


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderMap:
    """What a call carries beside its function and arguments.

    Args:
        attempt: how many sends of this call may have reached the callee before this one.
        context: id of the call context it is made in, empty for none.
        trace: W3C ``traceparent`` of the caller's span, empty for none.
        metadata: the user's own entries, added by interceptors.
        window: items that a stream may send before more room is granted, 0 for other calls.
        reference: ids of the remote references that the call is about, empty for none.
    """

    attempt: int = 0
    context: str = ""
    trace: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    window: int = 0
    reference: bytes = b""

    @staticmethod
    def encode_reference(reference: bytes) -> bytes:
        """Return the bytes of a map that holds a reference, up to 255 bytes, and nothing else."""
        return _LONE + bytes((len(reference),)) + reference

    @staticmethod
    def find_reference(data: memoryview) -> bytes:
        """Return the reference of a map that holds nothing else, empty if it holds more."""
        if data[:3] == _LONE and data.nbytes > 3 and data[3] == data.nbytes - 4:
            return bytes(data[4:])
        return b""

    def encode(self) -> bytes:
        """Return the map's bytes, empty if there is nothing in it.

        Raises:
            ValueError: the metadata cannot travel, see `check_metadata`.
        """
        items = {
            _ATTEMPT: self.attempt,
            _CONTEXT: self.context,
            _TRACE: self.trace,
            _WINDOW: self.window,
            _REFERENCE: self.reference,
        }
        packed = {key: value for key, value in items.items() if value}
        if self.metadata:
            packed[_METADATA] = check_metadata(self.metadata)
        if not packed:
            return b""
        data: bytes = packb(packed)
        return data

    @classmethod
    def decode(cls, data: memoryview) -> HeaderMap:
        """Read a map.

        Raises:
            RemoteProtocolError: these bytes are none.
        """
        try:
            if data.nbytes > _MOST + _MOST_OTHERS:
                raise ValueError(f"it has {data.nbytes} bytes")
            found = unpackb(data, strict_map_key=False)
            attempt, window = found.get(_ATTEMPT, 0), found.get(_WINDOW, 0)
            context, trace = found.get(_CONTEXT, ""), found.get(_TRACE, "")
            reference, metadata = found.get(_REFERENCE, b""), found.get(_METADATA)
            if not (type(attempt) is type(window) is int and type(context) is type(trace) is str):
                raise ValueError("an entry is of a wrong type")
            if type(reference) is not bytes:
                raise ValueError("a reference must be bytes")
            if max(len(context), len(trace), len(reference)) > _MOST_TEXT:
                raise ValueError("an entry is too long")
            return cls(
                attempt=attempt,
                context=context,
                trace=trace,
                metadata={} if metadata is None else check_metadata(metadata),
                window=window,
                reference=reference,
            )
        except Exception as error:  # whatever a peer's bytes make of it
            raise RemoteProtocolError(f"header map makes no sense: {error}") from error


def check_metadata(metadata: object) -> dict[str, str]:
    """Return the user's entries, if they can travel.

    Raises:
        ValueError: they are no strings, too many, or too large.
    """
    if not isinstance(metadata, dict) or len(metadata) > _MOST_ITEMS:
        raise ValueError(f"metadata must be a dict of at most {_MOST_ITEMS} entries")
    for key, value in metadata.items():
        if type(key) is not str or type(value) is not str:
            raise ValueError(f"metadata must map str to str, got {key!r:.50}: {value!r:.50}")
    size = len(packb(metadata))
    if size > _MOST:
        raise ValueError(f"metadata of a call must have at most {_MOST} bytes, got {size}")
    return metadata
