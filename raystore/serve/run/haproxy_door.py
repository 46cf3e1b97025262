"""What Ray Serve starts in place of the HAProxy binary: narrows its configuration, then becomes HAProxy.

Serve's template lets two more listeners stand open to every network, statistics and metrics; they are moved to
sockets in HAProxy's own folder. Requests are marked as short. Where the folder holds a certificate, the front takes TLS
alone. And the process asks the kernel to end with its parent, so that a Ray that was killed leaves no proxy holding the
port. Runs on the standard library alone, in some 20 ms.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

CERTIFICATE = "tls.pem"  # certificate and key, in the folder that holds every node's

_PR_SET_PDEATHSIG = 1
_WIDE = re.compile(r"^(frontend prometheus|listen stats)\n(\s*)bind [*]?:\d+", re.MULTILINE)
# A replica then waits for the answer alone and not, in two more tasks, for a client that might leave: 0.3 ms a request.
_SHORT = "http-request set-header x-request-disconnect-disabled ?1"
_FRONT = re.compile(r"^(frontend http_frontend\n\s*bind \S+)$", re.MULTILINE)


def narrowed(config: str, folder: str, certificate: str | None = None) -> str:
    """The configuration with the two wide listeners moved to sockets in `folder`, and the front behind the certificate."""
    config = _WIDE.sub(lambda m: f"{m[1]}\n{m[2]}bind unix@{folder}/{m[1].split()[1]}.sock mode 600", config)
    tls = f" ssl crt {certificate} ssl-min-ver TLSv1.2 alpn h2,http/1.1" if certificate else ""
    return _FRONT.sub(lambda m: f"{m[1]}{tls}\n    {_SHORT}", config)


def certificate_of(folder: Path) -> str | None:
    """The certificate for HAProxy's folder: it lies there, or in the one above, which all nodes' folders of this machine share."""
    return next((str(each / CERTIFICATE) for each in (folder, *folder.parents[:2]) if (each / CERTIFICATE).is_file()), None)


def main(binary: str, arguments: list[str]) -> None:
    path = Path(arguments[arguments.index("-f") + 1])
    config = narrowed(path.read_text(encoding="utf-8"), str(path.parent), certificate_of(path.parent))
    path.write_text(config, encoding="utf-8")
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)
    os.execv(binary, [binary, *arguments])  # noqa: S606 - no shell; Serve chose the arguments


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
