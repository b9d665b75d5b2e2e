"""HTTP/2 frames by hand, for connections that do what no client library would."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from hpack import Encoder

from likering.dev.authority import CertificateFiles

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
END_STREAM, END_HEADERS = 0x1, 0x4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


class RawConnection:
    """An open connection; what the server sends is read and thrown away."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = Encoder()
        self._stream = -1

    @property
    def ended(self) -> bool:
        """Whether the server has hung up."""
        return self._reader.at_eof()

    async def begin(self) -> None:
        """The preface of HTTP/2."""
        await self.send(PREFACE + frame(SETTINGS, 0, 0, b""))

    async def send(self, data: bytes) -> None:
        """Any bytes."""
        self._writer.write(data)
        await self._writer.drain()

    def headers(self, method: str) -> tuple[int, bytes]:
        """Of a new call: its stream, and the frame that opens it."""
        self._stream += 2
        block = self._encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method),
                (":authority", "likering"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ]
        )
        return self._stream, frame(HEADERS, END_HEADERS, self._stream, block)

    async def reset_calls(self, method: str, message: bytes, calls: int) -> int:
        """Begins so many calls and resets each at once; how many before the server hung up."""
        body = b"\0" + len(message).to_bytes(4) + message
        for number in range(calls):
            stream, opening = self.headers(method)
            data = frame(DATA, END_STREAM, stream, body)
            reset = frame(RST_STREAM, 0, stream, (8).to_bytes(4))
            try:
                await self.send(opening + data + reset)
            except OSError:
                return number
            if not number % 100:
                await asyncio.sleep(0)  # for what the server says
            if self.ended:
                return number
        return calls


@asynccontextmanager
async def raw_connection(address: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawConnection]:
    """Opens a connection to host:port."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    reading = asyncio.create_task(_drained(reader))
    try:
        yield RawConnection(reader, writer)
    finally:
        reading.cancel()
        writer.transport.abort()
        with suppress(asyncio.CancelledError, OSError):
            await reading


def tls_context(files: CertificateFiles, *, show: bool) -> ssl.SSLContext:
    """Of a client of HTTP/2 that trusts the authority, and ``show``s the certificate."""
    context = ssl.create_default_context(cafile=files.ca)
    context.set_alpn_protocols(["h2"])
    if show:
        context.load_cert_chain(files.certificate, files.key)
    return context


async def _drained(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass
