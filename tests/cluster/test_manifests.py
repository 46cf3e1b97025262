"""What lies in cluster/ is read by the tools it is for, as far as they read without a cluster, and says the same everywhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystore import __version__
from raystore.serve.run.build import HAPROXY, misfits, read_arguments
from raystore.serve.run.haproxy_door import MOST_ENV
from raystore.serve.run.proxy import ProxyFolder
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.read import load_spec
from raystore.session import INLINE_CALLS
from tests.cluster.test_build import cluster

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "cluster"
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def serve_configs() -> dict[str, dict[str, Any]]:
    return {
        "serve-config.yaml": documents("serve-config.yaml")[0],
        "rayservice.yaml": yaml.safe_load(documents("rayservice.yaml")[0]["spec"]["serveConfigV2"]),
    }


def starts() -> dict[str, list[str]]:
    """The words of the line that starts the head, as its shell reads them."""
    service = documents("rayservice.yaml")[0]["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]
    launched = documents("ray-cluster.yaml")[0]["head_start_ray_commands"][-1]
    return {
        "rayservice.yaml": shlex.split(" ".join(f"--{name}={value}" for name, value in service.items())),
        "ray-cluster.yaml": shlex.split(launched),
    }


@pytest.mark.parametrize("name", ["serve-config.yaml", "rayservice.yaml"])
def test_serve_reads_its_configuration_and_it_goes_with_the_deployment_file(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    read = ServeDeploySchema.model_validate(serve_configs()[name])
    [application] = read.applications
    assert (application.name, application.route_prefix) == ("raystore", "/")
    assert application.import_path == "raystore.serve.run.build:build"
    asked = read_arguments(application.args)
    spec = load_spec(FOLDER / "triage.yaml")
    assert (asked.file, spec.store) == ("/store/triage.yaml", "/store")
    found = cluster(host=read.http_options.host, port=read.http_options.port, nodes=frozenset({"10.0.0.10", "10.0.0.11"}))
    assert list(misfits(spec, found)) == []


def test_both_configurations_of_serve_say_the_same() -> None:
    one, other = serve_configs().values()
    assert one == other


@pytest.mark.parametrize("name", ["rayservice.yaml", "ray-cluster.yaml"])
def test_the_head_keeps_request_bodies_out_of_the_object_store(name: str) -> None:
    [given] = [word.partition("=")[2] for word in starts()[name] if word.startswith("--system-config=")]
    assert json.loads(given) == INLINE_CALLS


@pytest.mark.parametrize("name", ["rayservice.yaml", "ray-cluster.yaml"])
def test_every_option_that_starts_the_head_is_one_of_ray_start(name: str) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    options = [word.partition("=")[0] for word in starts()[name] if word.startswith("--")]
    assert options
    assert set(options) <= known


def test_the_cluster_launcher_accepts_its_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(documents("ray-cluster.yaml")[0])
    validate_config(prepared)
    assert prepared["max_workers"] == len(prepared["provider"]["worker_ips"])


def test_pods_run_as_a_user_without_privileges_and_only_http_is_open_to_others() -> None:
    service, policy = documents("rayservice.yaml")
    cluster_ = service["spec"]["rayClusterConfig"]
    pods = [group["template"] for group in (cluster_["headGroupSpec"], *cluster_["workerGroupSpecs"])]
    for pod in pods:
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        [container] = pod["spec"]["containers"]
        assert container["image"] == f"raystore:{__version__}"
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert cluster_["authOptions"] == {"mode": "token"}
    to_all = [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule]
    assert to_all == [[{"port": load_spec(FOLDER / "triage.yaml").port}]]


def test_the_image_sets_what_serve_reads_and_nothing_that_nobody_reads() -> None:
    from ray.serve._private import constants

    given = dict(re.findall(r"\b(RAY_SERVE_\w+)=(\S+)", DOCKERFILE))
    folder = ProxyFolder("/bin/true")
    folder.remove()
    ours = set(folder.env) - {"RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"}
    assert set(given) == ours | {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"}
    assert given[HAPROXY] == "1"
    source = Path(constants.__file__).read_text(encoding="utf-8")
    assert [name for name in given if f'"{name}"' not in source] == []


def test_the_image_says_how_many_requests_a_replica_takes_as_the_deployment_file_does() -> None:
    given = dict(re.findall(r"\b(RAYSTORE_\w+)=(\S+)", DOCKERFILE))
    assert int(given[MOST_ENV]) == load_spec(FOLDER / "triage.yaml").limits.max_requests


def test_the_image_installs_the_tested_versions() -> None:
    import ray

    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in constraints if "==" in line)
    assert re.findall(r"torch==([\d.]+)", DOCKERFILE) == [pinned["torch"]]
    installs = [line for line in DOCKERFILE.splitlines() if "pip install" in line]
    assert [line for line in installs if "-c /tmp/build/constraints.txt" not in line or "--no-cache-dir" not in line] == []
    assert documents("rayservice.yaml")[0]["spec"]["rayClusterConfig"]["rayVersion"] == pinned["ray"] == ray.__version__
    [base] = re.findall(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11-slim-\w+", base)


def test_the_image_runs_as_a_user_and_carries_no_secret() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["ray"]
    assert DOCKERFILE.rindex("USER ray") > DOCKERFILE.rindex("RUN ")
    copied = [word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert set(copied) == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "raystore"}
    assert re.findall(r"(?i)(token|secret|passw|index-url|://)", DOCKERFILE) == []


def test_the_deployment_file_is_one_for_several_nodes() -> None:
    spec: AppSpec = load_spec(FOLDER / "triage.yaml")
    assert (spec.host, spec.port, spec.colocate) == ("0.0.0.0", 8000, False)
    assert all("@" in each.head.name and not each.head.name[-1].isdecimal() for each in spec.deployments.values())
