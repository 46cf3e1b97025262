"""What Ray Serve starts in place of the HAProxy binary: narrows its configuration, then becomes HAProxy.

Serve's template lets two more listeners stand open to every network, statistics and metrics; they are moved to
sockets in HAProxy's own folder. Requests are marked as short. Where the folder holds a certificate, the front takes TLS
alone. Where it says how many requests a replica takes, HAProxy itself refuses what is more: that costs it some 20 us, and a
replica half a millisecond of the time in which it answers others. Serve would say 500 where no replica could be reached; here it is
503, which says that asking again helps. And the process asks the kernel to end with its parent, so that a Ray that was killed leaves
no proxy holding the port. Runs on the standard library alone, in some 20 ms.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

CERTIFICATE = "tls.pem"  # certificate and key, in the folder that holds every node's
MOST = "max_requests"  # how many requests a replica takes at once, in the same folder

_PR_SET_PDEATHSIG = 1
_WIDE = re.compile(r"^(frontend prometheus|listen stats)\n(\s*)bind [*]?:\d+", re.MULTILINE)
# A replica then waits for the answer alone and not, in two more tasks, for a client that might leave: 0.3 ms a request.
_SHORT = "http-request set-header x-request-disconnect-disabled ?1"
_FRONT = re.compile(r"^(frontend http_frontend\n\s*bind \S+)$", re.MULTILINE)
_ERRORS = re.compile(r"^(\s*errorfile 50[234]) \S+$", re.MULTILINE)
_SERVERS = re.compile(r"^(\s*)(http-check expect status 200\n\s*default-server .*)$", re.MULTILINE)
_UNREACHED = "503.http"
_BUSY = (
    '{"error":{"type":"Overloaded","message":"This service is at its limit of requests under way. Ask again later.",'
    '"request_id":"%[uuid()]","retry_after_s":1}}'
)
_SHED = (
    "http-request return status 503 content-type application/json hdr retry-after 1 hdr cache-control no-store "
    "hdr x-content-type-options nosniff lf-string '" + _BUSY + "' if { path_beg /v1/ } { be_conn_free le 0 }"
)
_NOBODY = (
    '{"error":{"type":"Unavailable","message":"No replica of this service could be reached. Ask again later.",'
    '"request_id":"","retry_after_s":1}}'
)
_NOBODY_SAID = (
    "HTTP/1.0 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\ncache-control: no-store\r\n"
    f"x-content-type-options: nosniff\r\nconnection: close\r\n\r\n{_NOBODY}"
)


def narrowed(config: str, folder: str, certificate: str | None = None, most: int | None = None) -> str:
    """The configuration with the two wide listeners moved to sockets in `folder`, the front behind the certificate, and no more than
    `most` requests at once for each replica."""
    config = _ERRORS.sub(lambda m: f"{m[1]} {folder}/{_UNREACHED}", config)
    if most is not None:
        config = _SERVERS.sub(lambda m: f"{m[1]}{m[2]} maxconn {most}\n    {_SHED}", config)
    config = _WIDE.sub(lambda m: f"{m[1]}\n{m[2]}bind unix@{folder}/{m[1].split()[1]}.sock mode 600", config)
    tls = f" ssl crt {certificate} ssl-min-ver TLSv1.2 alpn h2,http/1.1" if certificate else ""
    return _FRONT.sub(lambda m: f"{m[1]}{tls}\n    {_SHORT}", config)


def certificate_of(folder: Path) -> str | None:
    """The certificate for HAProxy's folder."""
    return str(found) if (found := _shared(folder, CERTIFICATE)) else None


def _shared(folder: Path, name: str) -> Path | None:
    """The file lies in HAProxy's folder, or in the one above, which all nodes' folders of this machine share."""
    return next((each / name for each in (folder, *folder.parents[:2]) if (each / name).is_file()), None)


def main(binary: str, arguments: list[str]) -> None:
    path = Path(arguments[arguments.index("-f") + 1])
    (path.parent / _UNREACHED).write_text(_NOBODY_SAID, encoding="ascii", newline="")
    said = _shared(path.parent, MOST)
    most = int(said.read_text(encoding="ascii")) if said else None
    config = narrowed(path.read_text(encoding="utf-8"), str(path.parent), certificate_of(path.parent), most)
    path.write_text(config, encoding="utf-8")
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)
    os.execv(binary, [binary, *arguments])  # noqa: S606 - no shell; Serve chose the arguments


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
