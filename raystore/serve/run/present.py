"""What runs already: the application as Serve has it, whoever deployed it, and the cluster under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raystore.serve.run.graph import INGRESS
from raystore.serve.spec.app import AppSpec

APPLICATION = "raystore"


@dataclass(frozen=True)
class Wanted:
    """How the application is placed. `served` are the deployments it answers, of the store `root`."""

    spec: AppSpec
    threads: int
    env: Mapping[str, str]
    served: frozenset[str] = frozenset()
    root: str = ""


def present_app() -> Wanted | None:
    """How the application runs now, whoever deployed it; None where it does not run."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    details = client.get_serve_details()["applications"].get(APPLICATION) if client is not None else None
    if details is None or INGRESS not in details["deployments"]:
        return None
    config = details["deployments"][INGRESS]["deployment_config"]
    told, env = config["user_config"], dict(config["ray_actor_options"]["runtime_env"]["env_vars"])
    threads = int(env.pop("OMP_NUM_THREADS"))
    return Wanted(AppSpec.model_validate(told["spec"]), threads, env, frozenset(told["records"]), told["root"])


def balanced() -> bool | None:
    """Whether Serve answers by HAProxy; None: no proxy is up yet."""
    import ray
    from ray.serve.context import _get_global_client

    proxies = ray.get(_get_global_client()._controller.get_proxies.remote())
    kinds = {handle._ray_actor_creation_function_descriptor.class_name for handle in proxies.values()}
    return "HAProxyManager" in kinds if kinds else None


def alone(ray: Any) -> bool:
    """True where this machine is the whole cluster: only then can files here tell Serve what to do."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return len(alive) == 1 and alive[0]["NodeManagerAddress"] == ray.util.get_node_ip_address()
