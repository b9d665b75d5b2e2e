"""The light caller: unary gRPC calls over HTTP/2 at a small part of the CPU that grpcio's own client needs.

On a machine that client and servers share, a client that costs as much as the server it measures hides what is being
measured. This one does what a load generator needs and nothing else: unary calls, many per connection, a callback per
call instead of a task. It keeps to the server's limits (streams, windows, frame size), and a lost connection is opened
again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from hpack import Decoder, Encoder

Done = Callable[[int, bytes, str], None]
"""``done(code, response, message)``: the gRPC status code, the serialised response (empty on failure), the message."""

UNAVAILABLE: Final = 14
DEADLINE_EXCEEDED: Final = 4
INTERNAL: Final = 13
UNKNOWN: Final = 2
CANCELLED: Final = 1
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
PERMISSION_DENIED: Final = 7
UNAUTHENTICATED: Final = 16

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    0,
    1,
    3,
    4,
    6,
    7,
    8,
    9,
)
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 3, 4, 5

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW = 2**31 - 1
_REFILL = 2**30
_MAX_STREAM_ID = 2**31 - 1

# What a missing grpc-status means, by HTTP status (the gRPC specification's table) and by the code of RST_STREAM.
_BY_HTTP_STATUS = {
    "400": INTERNAL, "401": UNAUTHENTICATED, "403": PERMISSION_DENIED, "404": UNIMPLEMENTED,
    "429": UNAVAILABLE, "502": UNAVAILABLE, "503": UNAVAILABLE, "504": UNAVAILABLE,
}  # fmt: skip
_REFUSED_STREAM = 7
_BY_RESET = {8: CANCELLED, 11: RESOURCE_EXHAUSTED, 12: PERMISSION_DENIED}


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


class PendingCall(NamedTuple):
    """A call without an answer; ``deadline`` is of the monotonic clock."""

    deadline: float
    method: str
    request: bytes
    done: Done


class _Stream:
    __slots__ = ("body", "call", "http_status")

    def __init__(self, call: PendingCall) -> None:
        self.call = call
        self.body = b""
        self.http_status = "200"


class Http2Connection(asyncio.Protocol):
    """One connection: unary calls of one authority, in the order of ``call``."""

    def __init__(
        self,
        authority: str,
        timeout: float,
        freed: Callable[[], None],
        refused: Callable[[PendingCall], None],
        *,
        scheme: str = "http",
        token: str = "",
    ) -> None:
        """``timeout`` (seconds) is every call's deadline: it is sent to the server, and enforced here too.

        ``freed()`` is called when streams may have become free, ``refused(call)`` when the server has turned a call
        away without looking at it (it had no stream left after all): it may be made again. ``scheme`` is https where
        the transport speaks TLS; ``token`` goes with each call, if there is one.
        """
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()
        self.free_streams = 100  # until the server's settings say
        self.open = False
        self._authority = authority
        self._freed = freed
        self._refused = refused
        self._headers = [
            (":method", "POST"),
            (":scheme", scheme),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", f"{round(timeout * 1000)}m"),
            ("user-agent", "likering-bench"),
            *([("authorization", f"Bearer {token}")] if token else []),
        ]
        self._transport: asyncio.Transport
        self._streams: dict[int, _Stream] = {}
        self._next_stream = 1
        self._received = b""
        self._out: list[bytes] = []
        self._flush_is_due = False
        self._encoder = Encoder()
        self._blocks: dict[str, bytes] = {}
        self._decoder = Decoder()
        self._decoded: dict[bytes, list[tuple[str, str]]] = {}
        self._header_fragment = b""
        self._max_streams = 100
        self._send_window = 65535
        self._stream_window = 65535
        self._max_frame = 16384
        self._blocked: deque[tuple[int, memoryview]] = deque()
        self._blocked_windows: dict[int, int] = {}
        self._unacknowledged = 0

    def __repr__(self) -> str:
        state = "open" if self.open else "closed"
        return f"<Http2Connection {self._authority} {state} {len(self._streams)} calls>"

    # -- calls

    def call(self, call: PendingCall) -> None:
        """Starts a call of ``/package.Service/Method``; its ``done`` is called once, later, unless it is refused."""
        method, request = call.method, call.request
        stream = self._next_stream
        self._next_stream += 2
        if self._next_stream > _MAX_STREAM_ID:
            self.open = False
        self._streams[stream] = _Stream(call)
        self.free_streams -= 1
        block = self._blocks.get(method) or self._encode(method)
        self._out.append(
            len(block).to_bytes(3) + b"\x01\x04" + stream.to_bytes(4) + block,
        )
        length = len(request) + 5
        if (
            self._blocked
            or length > self._send_window
            or length > self._stream_window
            or length > self._max_frame
        ):
            self._blocked.append((stream, memoryview(b"\0" + len(request).to_bytes(4) + request)))
            self._blocked_windows[stream] = self._stream_window
            self._send_blocked()
        else:
            self._send_window -= length
            self._out.append(
                length.to_bytes(3)
                + b"\x00\x01"
                + stream.to_bytes(4)
                + b"\0"
                + len(request).to_bytes(4)
                + request
            )
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _encode(self, method: str) -> bytes:
        before = len(self._encoder.header_table.dynamic_entries)
        block = self._encoder.encode([(":path", method), *self._headers])
        if len(self._encoder.header_table.dynamic_entries) == before:
            self._blocks[method] = block  # only references to the table: good until the table changes
        else:
            self._blocks.clear()
        return block

    def _send_blocked(self) -> None:
        while self._blocked:
            stream, rest = self._blocked[0]
            if stream not in self._streams:
                self._blocked.popleft()
                self._blocked_windows.pop(stream, None)
                continue
            length = min(len(rest), self._send_window, self._blocked_windows[stream], self._max_frame)
            if length <= 0:
                return
            self._send_window -= length
            self._blocked_windows[stream] -= length
            last = length == len(rest)
            self._out.append(_frame(_DATA, _END_STREAM if last else 0, stream, bytes(rest[:length])))
            if last:
                self._blocked.popleft()
                del self._blocked_windows[stream]
            else:
                self._blocked[0] = (stream, rest[length:])

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def expire(self, now: float) -> None:
        """Ends the calls whose deadline has passed."""
        late = [number for number, stream in self._streams.items() if stream.call.deadline <= now]
        for number in late:
            self._out.append(_frame(_RST_STREAM, 0, number, (8).to_bytes(4)))
            self._finish(number, DEADLINE_EXCEEDED, "no answer within the deadline")
        self._flush()

    def close(self) -> None:
        """Closes the connection; calls without an answer end as UNAVAILABLE."""
        self.open = False
        self._transport.close()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = _INITIAL_WINDOW_SIZE.to_bytes(2) + _WINDOW.to_bytes(4)
        transport.write(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, (_WINDOW - 65535).to_bytes(4))
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("the server closed the connection before its settings"))
        for number in list(self._streams):
            self._finish(number, UNAVAILABLE, "connection lost")
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        if self._received:
            data = self._received + data
        position, end = 0, len(data)
        while end - position >= 9:
            length = int.from_bytes(data[position : position + 3])
            following = position + 9 + length
            if following > end:
                break
            kind, flags = data[position + 3], data[position + 4]
            stream = int.from_bytes(data[position + 5 : position + 9]) & 0x7FFFFFFF
            self._frame_received(kind, flags, stream, data[position + 9 : following])
            position = following
        self._received = data[position:]
        self._freed()
        self._flush()

    # -- frames

    def _frame_received(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == _HEADERS:
            if flags & (_PADDED | _PRIORITY):
                payload = _unpadded(payload, flags)
            if flags & _END_HEADERS:
                self._headers_received(number, payload, bool(flags & _END_STREAM))
            else:
                self._header_fragment = bytes((flags,)) + payload
        elif kind == _DATA:
            self._unacknowledged += len(payload)
            if self._unacknowledged > _REFILL:
                self._out.append(_frame(_WINDOW_UPDATE, 0, 0, self._unacknowledged.to_bytes(4)))
                self._unacknowledged = 0
            if flags & _PADDED:
                payload = _unpadded(payload, flags & _PADDED)
            stream = self._streams.get(number)
            if stream is not None:
                stream.body = stream.body + payload if stream.body else payload
                if flags & _END_STREAM:
                    self._finish(number, UNKNOWN, "the answer has no status")
        elif kind == _CONTINUATION:
            self._header_fragment += payload
            if flags & _END_HEADERS:
                ends = bool(self._header_fragment[0] & _END_STREAM)
                self._headers_received(number, self._header_fragment[1:], ends)
        elif kind == _WINDOW_UPDATE:
            increment = int.from_bytes(payload) & 0x7FFFFFFF
            if number == 0:
                self._send_window += increment
            elif number in self._blocked_windows:
                self._blocked_windows[number] += increment
            self._send_blocked()
        elif kind == _PING:
            if not flags & _ACK:
                self._out.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._settings_received(payload)
        elif kind == _RST_STREAM:
            self._reset_received(number, int.from_bytes(payload))
        elif kind == _GOAWAY:
            self.open = False  # what was begun below the last stream is still answered
            last = int.from_bytes(payload[:4]) & 0x7FFFFFFF
            for unseen in [stream for stream in self._streams if stream > last]:
                self._finish(unseen, UNAVAILABLE, "the server is going away")

    def _headers_received(self, number: int, block: bytes, ends: bool) -> None:
        headers = self._decoded.get(block)
        if headers is None:
            before = self._decoder.header_table.dynamic_entries
            first = before[0] if before else None
            count = len(before)
            headers = [
                (_text(name), _text(value)) for name, value, *_ in self._decoder.decode(block, raw=True)
            ]
            entries = self._decoder.header_table.dynamic_entries
            if len(entries) != count or (entries[0] if entries else None) is not first:
                self._decoded.clear()  # references to the table mean something else from now on
            elif len(self._decoded) < 1000:
                self._decoded[block] = headers
        stream = self._streams.get(number)
        if stream is None:
            return
        status = message = None
        for name, value in headers:
            if name == "grpc-status":
                status = value
            elif name == "grpc-message":
                message = value
            elif name == ":status":
                stream.http_status = value
        if ends:
            if status is not None:
                self._finish(number, int(status), unquote(message) if message else "")
            else:
                code = _BY_HTTP_STATUS.get(stream.http_status, UNKNOWN)
                self._finish(number, code, f"HTTP status {stream.http_status}")

    def _reset_received(self, number: int, code: int) -> None:
        if code == _REFUSED_STREAM and number in self._streams:
            self.free_streams += 1
            self._refused(self._streams.pop(number).call)
        else:
            self._finish(
                number, _BY_RESET.get(code, INTERNAL), f"the server reset the stream with code {code}"
            )

    def _settings_received(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            setting, value = int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6])
            if setting == _MAX_CONCURRENT_STREAMS:
                self.free_streams += value - self._max_streams
                self._max_streams = value
            elif setting == _INITIAL_WINDOW_SIZE:
                for number in self._blocked_windows:
                    self._blocked_windows[number] += value - self._stream_window
                self._stream_window = value
            elif setting == _MAX_FRAME_SIZE:
                self._max_frame = value
            elif setting == _HEADER_TABLE_SIZE:
                # The table may be smaller than the server allows, never larger; ours needs a few hundred bytes.
                self._encoder.header_table_size = min(value, 4096)
                self._blocks.clear()
        self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
        self._send_blocked()
        if not self.ready.done():
            self.open = True
            self.ready.set_result(None)

    def _finish(self, number: int, code: int, message: str) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        self.free_streams += 1
        body = stream.body
        if code == 0 and (len(body) < 5 or body[0] != 0 or len(body) != 5 + int.from_bytes(body[1:5])):
            code, message = INTERNAL, "the answer is not one uncompressed message"
        stream.call.done(code, body[5:], message)


def _unpadded(payload: bytes, flags: int) -> bytes:
    start, end = 0, len(payload)
    if flags & _PADDED:
        start, end = 1, end - payload[0]
    if flags & _PRIORITY:
        start += 5
    return payload[start:end]


def _text(raw: Any) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
