"""Files that are read again when they change: certificates, keys, roles and tokens are renewed without a restart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Final, Generic, TypeAlias, TypeVar

import structlog

from likering.security.errors import SecurityError

_log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two looks at the files."""

T = TypeVar("T")

_Signature: TypeAlias = tuple[tuple[int, int, int], ...]


class Reloaded(Generic[T]):
    """What some files say together. They are looked at when ``value`` is asked for, once in a second at most.

    Files that cannot be read, or that do not fit together because only some of them were replaced yet, change nothing:
    the value stays what it was, and a log line says why. Thread-safe: gRPC asks from threads of its own.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        load: Callable[[Sequence[bytes]], T],
        *,
        what: str,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``load`` makes the value of the files' contents, or raises SecurityError, as this does at the start."""
        self._paths = tuple(paths)
        self._load = load
        self._what = what
        self._clock = clock
        self._lock = threading.Lock()
        self._version = 1
        self._looked_at = clock()
        self._signature = self._stat()
        self._value = self._read()

    def __repr__(self) -> str:
        return f"<Reloaded {self._what}, version {self._version}>"

    @property
    def value(self) -> T:
        """As the files are now, or were a second ago."""
        self._look()
        return self._value

    @property
    def version(self) -> int:
        """Grows with each change of the value."""
        self._look()
        return self._version

    def _look(self) -> None:
        if self._clock() - self._looked_at < LOOK_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked_at = self._clock()
            signature = self._stat()
            if signature == self._signature:
                return
            # Remembered even if they are no good: so one state of the files is complained of once.
            self._signature = signature
            self._value = self._read()
            self._version += 1
            _log.info("files read again", what=self._what)
        except SecurityError as error:
            _log.error("files changed, but are not used", what=self._what, reason=str(error))
        finally:
            self._lock.release()

    def _stat(self) -> _Signature:
        """Tells apart what is behind the paths, links followed: Kubernetes swaps a link."""
        found = []
        for path in self._paths:
            try:
                status = path.stat()
            except OSError:  # what is wrong with it is said when it is read
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)

    def _read(self) -> T:
        contents = []
        for path in self._paths:
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise SecurityError(f"{self._what}: {path} cannot be read: {error.strerror}") from error
        try:
            return self._load(contents)
        except SecurityError as error:
            raise SecurityError(f"{self._what} ({', '.join(map(str, self._paths))}): {error}") from error
