"""The certificate and its key, which somebody renews while the service runs.

They are two files, replaced one after the other: what does not belong together, or ends within a certificate, is never taken. Costs
reading some kilobytes at each look. Knows neither who listens nor Ray.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterable
from pathlib import Path

from raystore.errors import InvalidArguments

log = logging.getLogger("raystore.serve")

_BLOCK = re.compile(rb"-----BEGIN .+?-----END [^-]+-----", re.DOTALL)


class Pair:
    def __init__(self, certificate: Path, key: Path | None = None) -> None:
        """
        Args:
            certificate: of PEM, with its chain.
            key: of PEM; None where the certificate's file holds it too.
        """
        self._certificate, self._key = certificate, key
        self._files = (certificate,) if key is None else (certificate, key)
        self._last: tuple[bytes, ...] | None = None
        self._told = ""

    def read(self) -> tuple[bytes, ...]:
        """What each file holds now.

        Raises:
            InvalidArguments: a file cannot be read, or they are not a certificate and its key without a password.
        """
        tried: tuple[bytes, ...] | None = None
        try:
            # OpenSSL reads the files itself: they have to hold the same before and after. Given a password it asks nobody for one.
            while (found := tuple(file.read_bytes() for file in self._files)) not in (self._last, tried):
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key, password="")
                if any(content.count(b"-----BEGIN") != content.count(b"-----END") for content in found):
                    raise _refused(f"{self._named} end within a certificate or key")
                tried = found
        except ssl.SSLError as error:
            why = error.reason.replace("_", " ").lower() if error.reason else "not PEM, cut off, or with a password"
            raise _refused(f"{self._named} are no certificate and its key ({why})") from None
        except OSError as error:
            raise _refused(f"the file '{error.filename}' cannot be read ({error.strerror})") from None
        self._last = found
        return found

    @property
    def _named(self) -> str:
        return " and ".join(f"'{file}'" for file in self._files)

    def newest(self) -> tuple[bytes, ...] | None:
        """What each file holds now, or held when they last were a pair, None where they never were: the log says why, once."""
        told = ""
        try:
            self.read()
        except InvalidArguments as error:
            told = str(error)
            if told != self._told:
                log.warning("%s The certificate from before stays", told)
        self._told = told
        return self._last


def as_one(pair: Iterable[bytes]) -> str:
    """One PEM text, without an empty line and what is written between the blocks."""
    lines = (line for block in _BLOCK.findall(b"\n".join(pair)) for line in block.splitlines())
    return "".join(f"{line.decode('ascii')}\n" for line in lines if line.strip())


def _refused(problem: str) -> InvalidArguments:
    return InvalidArguments(call="serve over TLS", problems=[problem])
