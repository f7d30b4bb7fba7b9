"""The features of a store: the headers that it accepts, and if its checksums can be trusted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from core.errors import StoreError
from storage.s3.errors import is_refusal

log = logging.getLogger(__name__)

PROBE_AGAIN_SECONDS = 60.0
# Of credentials, of a key, of a size: these refusals are never about a header.
NOT_OF_A_HEADER = {401, 403, 404, 409, 412, 413}
Answer = TypeVar("Answer")


class Way(NamedTuple):
    """The features of one kind of upload: accepted headers, and their effect."""

    checksum: bool = True
    """The headers `x-amz-checksum-*` may be sent."""
    condition: bool = True
    """`If-None-Match: *` may be sent."""
    disposition: bool = True
    """`Content-Disposition` may be sent."""
    verifies: bool = False
    """The store refuses bytes that have another checksum."""
    exclusive: bool = False
    """The store refuses to overwrite an object."""

    @property
    def headers(self) -> tuple[bool, bool, bool]:
        """The headers that the store accepts."""
        return self.checksum, self.condition, self.disposition


@dataclass(frozen=True)
class Features:
    """The known features of a store."""

    put: Way
    parts: Way
    head_checksum: bool = True
    """`x-amz-checksum-mode` may be sent with HEAD."""
    unsigned_payload: bool = True
    """Bodies may be sent without being hashed for the signature (`UNSIGNED-PAYLOAD`)."""
    is_probed: bool = False

    @property
    def headers(self) -> tuple[object, ...]:
        """The headers that the store accepts."""
        return self.put.headers, self.parts.headers, self.head_checksum, self.unsigned_payload

    @property
    def verifies(self) -> bool:
        """Returns True if the checksums that the store reports can be trusted."""
        return self.put.verifies and self.parts.verifies

    def summary(self) -> str:
        """Return the features in one line, for the operator."""
        ways = (("one request", self.put), ("parts", self.parts))
        said = [
            f"{name}: {'checksums are verified' if way.verifies else 'objects are read back'}"
            f"{'' if way.exclusive else ', overwriting is possible'}"
            for name, way in ways
        ]
        return "; ".join([*said, *(f"{header} is left out" for header in self.left_out())])

    def left_out(self) -> list[str]:
        """Return the headers that the store refuses, or that the settings leave out."""
        pairs = zip(self.put.headers, self.parts.headers, strict=True)
        names = ("x-amz-checksum-crc64nvme", "If-None-Match", "Content-Disposition")
        found = [name for name, both in zip(names, pairs, strict=True) if not all(both)]
        others = {"x-amz-checksum-mode": self.head_checksum, "UNSIGNED-PAYLOAD": self.unsigned_payload}
        return found + [name for name, is_sent in others.items() if not is_sent]


def initial(mode: str) -> Features:
    """Return the features that are assumed of a store before its probe.

    Args:
        mode: S3_CHECKSUM_MODE. `auto` believes no checksum yet, `crc64nvme` does, `readback` asks for none.
    """
    if mode == "readback":
        return Features(Way(checksum=False), Way(checksum=False), head_checksum=False)
    way = Way(verifies=mode == "crc64nvme")
    return Features(way, way)


class Capabilities:
    """The features of one store, probed once, and again when it refuses a header that it used to accept.

    Args:
        mode: S3_CHECKSUM_MODE.
        probe: finds the features of the store, of those that are wanted.
    """

    def __init__(self, mode: str, probe: Callable[[Features], Features]) -> None:
        self._mode = mode
        self._probe = probe
        self._wanted = initial(mode)
        self.current = self._wanted
        self._lock = threading.Lock()
        self._next_probe = 0.0

    def begin(self) -> None:
        """In mode `auto`, start a probe in the background. Until it ends, objects are read back."""
        if self._mode != "auto" or self.current.is_probed or self._next_probe > time.monotonic():
            return
        if not self._lock.locked():
            threading.Thread(target=self._learn, args=(self.current,), daemon=True, name="s3-probe").start()

    def known(self) -> Features:
        """Return the store's features, probed now if necessary; the assumed ones if S3 does not answer."""
        if not self.current.is_probed:
            self._learn(self.current)
        return self.current

    def attempt(self, call: Callable[[Features], Answer]) -> Answer:
        """Make a request; repeat it once without a header that the store turns out to refuse.

        Args:
            call: makes the request with what may be sent.

        Raises:
            StoreError: the store did not take it.
        """
        used = self.current
        try:
            return call(used)
        except StoreError as error:
            if not is_refusal(error) or error.s3_status in NOT_OF_A_HEADER or not self.learn(used):
                raise
        return call(self.current)

    def learn(self, used: Features) -> bool:
        """Probe the store for refused headers; at most once per minute.

        Args:
            used: the features that a refused request was made with.

        Returns:
            True if other headers are sent from now on.
        """
        self._learn(used)
        return self.current.headers != used.headers

    def _learn(self, used: Features) -> None:
        with self._lock:
            if self.current != used or self._next_probe > time.monotonic():
                return
            try:
                found = replace(self._probe(self._wanted), is_probed=True)
            except StoreError as error:
                log.warning("the store could not be probed: %s", error.detail)
            else:
                if self._mode == "crc64nvme":
                    found = replace(found, put=_trusted(found.put), parts=_trusted(found.parts))
                (log.warning if found.left_out() else log.info)("S3 store: %s", found.summary())
                self.current = found
            finally:
                self._next_probe = time.monotonic() + PROBE_AGAIN_SECONDS


def _trusted(way: Way) -> Way:
    return way._replace(verifies=way.checksum)
