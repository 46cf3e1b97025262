"""What a replica does to its own process: where it listens, how much memory it may take; and what stands before it."""

from __future__ import annotations

import logging
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

from raystore.access import is_loopback
from raystore.serve.run.balancer import Balancer
from raystore.serve.run.proxy import ADMIN_ENV

log = logging.getLogger("raystore.serve")

_NICENESS = 19


def keep_calls_on_loopback() -> None:
    """Let the replica's server for calls between deployments, which unpickles what it is sent, listen where its node does.

    Serve 2.60 opens it on every network, on a loopback node too.
    """
    import ray
    from ray.serve._private import replica

    if not is_loopback(ray.util.get_node_ip_address()):
        return
    opened = getattr(replica, "add_port_to_grpc_server", None)
    if opened is None:
        log.error(
            "Ray %s opens this replica's server for calls elsewhere than it did: it may listen on every network. "
            "Keep the machine's ports closed, and run raystore with the Ray it was tested with",
            ray.__version__,
        )
        return
    replica.add_port_to_grpc_server = lambda server, address: opened(server, address.replace("[::]", "127.0.0.1"))


def take_turns_quickly() -> None:
    """Let a thread that waits for Python's lock have it after 0.5 ms.

    At Python's 5 ms an encoder that is done waits for the event loop, with a core idle: 8 clients got 262 answers a second, and 289 so.
    """
    sys.setswitchinterval(5e-4)


def let_others_first() -> None:
    """Every thread of this process, and those they start, give way to other processes.

    On Linux each thread has a niceness of its own, and `os.nice` changes the caller's: Ray's own threads, which read what is sent to a
    replica, would stay as they were.
    """
    threads = Path("/proc/self/task")
    if not threads.is_dir():
        os.nice(_NICENESS)
        return
    for thread in threads.iterdir():
        with suppress(ProcessLookupError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, int(thread.name), _NICENESS)


def find_balancer() -> Balancer | None:
    """The HAProxy of this replica's node; None where Serve answers without it."""
    admin = os.environ.get(ADMIN_ENV)
    if admin is None or os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        return None
    import ray

    path = Path(admin)
    return Balancer(path.parent / ray.get_runtime_context().get_node_id() / path.name)


def limit_memory(more_mb: int) -> None:
    """Let this process take so much more memory than it has; beyond it allocations fail here, and nowhere else."""
    status = Path("/proc/self/status")
    if not status.is_file():  # not on Linux
        return
    held = next(
        int(line.split()[1]) for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmData")
    )
    resource.setrlimit(resource.RLIMIT_DATA, (held * 1024 + more_mb * 2**20, resource.RLIM_INFINITY))
