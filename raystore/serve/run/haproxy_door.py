"""What Ray Serve starts in place of the HAProxy binary: narrows its configuration, then becomes HAProxy.

Serve's template lets two more listeners stand open to every network, statistics and metrics; they are moved to
sockets in HAProxy's own folder. Requests are marked as short. Where the folder holds a certificate, the front takes TLS
alone. Where it says how many requests a replica takes, HAProxy itself refuses what is more, and counts it: that costs it some 20 us,
and a replica half a millisecond of the time in which it answers others. Serve would say 500 where no replica could be reached; here it
is 503, which says that asking again helps. Headers that do not come end their connection, of which there are 4,096 for everybody: a
body has the replica's own deadlines. And the process asks the kernel to end with its parent, so that a Ray that was killed leaves
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
COPIED_FROM = (
    "from-certificate",
    "from-key",
)  # links beside it, where it is a copy, to its two files: `balancer.py` reads them
MOST = "max_requests"  # how many requests a replica takes at once, in HAProxy's own folder
MOST_ENV = "RAYSTORE_MAX_REQUESTS"  # the same, where nobody wrote that file yet
SHED = "raystore_shed"  # HAProxy's table of what it refused, by path: `balancer.py` reads it

_PR_SET_PDEATHSIG = 1
_WIDE = re.compile(r"^(frontend prometheus|listen stats)\n(\s*)bind [*]?:\d+", re.MULTILINE)
# A replica then waits for the answer alone and not, in two more tasks, for a client that might leave: 0.3 ms a request.
_SHORT = "http-request set-header x-request-disconnect-disabled ?1"
# A replica's Serve repeats the caller's id, whatever it holds, beside raystore's own header.
_OWN_ID = "{ req.fhdr_cnt(x-request-id) eq 1 } { req.fhdr(x-request-id) -m reg ^[A-Za-z0-9._-]{1,64}$ }"
_ONE_ID = (
    f"http-request del-header x-request-id unless {_OWN_ID}",
    "http-response set-header x-request-id %[res.fhdr(x-request-id)] if { res.fhdr_cnt(x-request-id) gt 1 }",
)
_FRONT = re.compile(r"^(frontend http_frontend\n\s*bind \S+)$", re.MULTILINE)
_ERRORS = re.compile(r"^(\s*errorfile 50[234]) \S+$", re.MULTILINE)
_SERVERS = re.compile(r"^(\s*)(http-check expect status 200\n\s*default-server .*)$", re.MULTILINE)
_UNREACHED = "503.http"
_HEADERS_S = 10  # until a request's headers are whole, from its first byte on, or from the connection's begin
_IDLE_S = 90  # of a connection between two requests: as long as clients commonly keep one
# What the application puts on its own answers (door/middleware.py).
_HEADERS = {
    "retry-after": "1",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_TLS_HEADERS = {"strict-transport-security": "max-age=31536000"}
_MESSAGES = {
    "Overloaded": "This service is at its limit of requests under way. Ask again later.",
    "Unavailable": "No replica of this service could be reached. Ask again later.",
}
# What HAProxy itself finds wrong in a request that it has begun to hand on. What is none from the start (no HTTP, headers too long or
# too late) it answers in words of its own, 400 or 408 as text/html, which nothing but an empty answer can replace (its mux_h1.c).
_OWN = {
    400: ("Bad Request", "InvalidRequest", "The body of this request is not what its headers say, or it ended too soon."),
    408: ("Request Timeout", "RequestTimeout", "The body of this request did not come in time. Send it again, at once."),
    500: ("Internal Server Error", "InternalServerError", "The balancer could not handle this request. Ask its operator."),
}  # fmt: skip
_BODY = '{{"error":{{"type":"{type}","message":"{message}","request_id":"{id}","retry_after_s":1}}}}'
_OWN_BODY = '{{"error":{{"type":"{type}","message":"{message}","request_id":""}}}}'
_ID = "%[var(txn.raystore_id)]"


def narrowed(config: str, folder: str, certificate: str | None = None, most: int | None = None) -> str:
    """The configuration with the two wide listeners moved to sockets in `folder`, the front behind the certificate, and no more than
    `most` requests at once for each replica."""
    config = _ERRORS.sub(lambda m: f"{m[1]} {folder}/{_UNREACHED}", config)
    rules = "".join(f"\n    {line}" for line in _refusals(most is not None, certificate is not None))
    bound = f" maxconn {most}" if most is not None else ""
    config, backends = _SERVERS.subn(lambda m: f"{m[1]}{m[2]}{bound}{rules}", config)
    if backends:
        config += f"backend {SHED}\n    stick-table type string len 128 size 1k store gpc0\n"
    config = _WIDE.sub(lambda m: f"{m[1]}\n{m[2]}bind unix@{folder}/{m[1].split()[1]}.sock mode 600", config)
    tls = f" ssl crt {certificate} ssl-min-ver TLSv1.2 alpn h2,http/1.1" if certificate else ""
    front = "\n    ".join((*_front(folder), _SHORT, *_ONE_ID))
    return _FRONT.sub(lambda m: f"{m[1]}{tls}\n    {front}", config)


def _front(folder: str) -> list[str]:
    """What the front waits for, and what it says by itself. A connection on which nothing came ends without an answer: who opened it
    ahead of need would take that for the answer to what it sends next."""
    waits = [f"timeout http-request {_HEADERS_S}s", f"timeout http-keep-alive {_IDLE_S}s", "option http-ignore-probes"]
    return [*waits, *(f"errorfile {status} {folder}/own-{status}.http" for status in _OWN)]


def _refusals(bounded: bool, tls: bool) -> list[str]:
    """The rules by which HAProxy answers by itself, in the one shape of errors: nobody is there, or all that are have enough to do.

    Without a usable server no connection is free either, so that is asked first.
    """
    why, refused, id_ = "var(txn.raystore_why)", "{ var(txn.raystore_why) -m found }", "x-request-id"
    headers = {**_HEADERS, **(_TLS_HEADERS if tls else {}), id_: _ID}
    said = " ".join(f'hdr {name} "{value}"' for name, value in headers.items())
    rules = ["http-request set-var(txn.raystore_why) str(Unavailable) if { nbsrv eq 0 }"]
    if bounded:
        full = "{ path_beg /v1/ } { nbsrv gt 0 } { be_conn_free le 0 }"
        rules.append(f"http-request set-var(txn.raystore_why) str(Overloaded) if {full}")
    rules += [
        f"http-request set-var(txn.raystore_id) req.fhdr({id_}) if {refused} {_OWN_ID}",
        f"http-request set-var(txn.raystore_id) uuid if {refused} !{{ var(txn.raystore_id) -m found }}",
        f"http-request track-sc1 path,field(3,/,2) table {SHED} if {{ {why} -m str Overloaded }}",
        f"http-request sc-inc-gpc0(1) if {{ {why} -m str Overloaded }}",
    ]
    for type_, message in _MESSAGES.items():
        body = _BODY.format(type=type_, message=message, id=_ID)
        rules.append(
            f"http-request return status 503 content-type application/json {said} lf-string '{body}' if {{ {why} -m str {type_} }}"
        )
    return rules


def error_files(tls: bool) -> dict[str, str]:
    """By the files' names what HAProxy answers where it has no request to make an answer from, so without a request's id: it ended
    within its body, or a replica was chosen for it and could not be reached."""
    body = _BODY.format(type="Unavailable", message=_MESSAGES["Unavailable"], id="")
    files = {_UNREACHED: _file("503 Service Unavailable", _HEADERS, body, tls)}
    headers = {name: value for name, value in _HEADERS.items() if name != "retry-after"}
    for status, (phrase, type_, message) in _OWN.items():
        files[f"own-{status}.http"] = _file(
            f"{status} {phrase}", headers, _OWN_BODY.format(type=type_, message=message), tls
        )
    return files


def _file(status: str, headers: dict[str, str], body: str, tls: bool) -> str:
    headers = {"content-type": "application/json", **headers, **(_TLS_HEADERS if tls else {}), "connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.0 {status}\r\n{lines}\r\n{body}"


def certificate_of(folder: Path) -> str | None:
    """The certificate for HAProxy's folder."""
    return str(found) if (found := _shared(folder, CERTIFICATE)) else None


def most_of(folder: Path) -> int | None:
    """How many requests a replica takes at once, for HAProxy's folder; None where nobody said."""
    found = _shared(folder, MOST)
    said = found.read_text(encoding="ascii") if found else os.environ.get(MOST_ENV)
    return int(said) if said else None


def _shared(folder: Path, name: str) -> Path | None:
    """The file lies in HAProxy's folder, or in the one above, which all nodes' folders of this machine share."""
    return next((each / name for each in (folder, *folder.parents[:2]) if (each / name).is_file()), None)


def main(binary: str, arguments: list[str]) -> None:
    path = Path(arguments[arguments.index("-f") + 1])
    certificate = certificate_of(path.parent)
    for name, content in error_files(certificate is not None).items():
        (path.parent / name).write_text(content, encoding="ascii", newline="")
    config = narrowed(path.read_text(encoding="utf-8"), str(path.parent), certificate, most_of(path.parent))
    path.write_text(config, encoding="utf-8")
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)
    os.execv(binary, [binary, *arguments])  # noqa: S606 - no shell; Serve chose the arguments


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
