"""The application as Serve's own deployers ask for it: what they may say, and what of a cluster does not go with the file."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from raystore.errors import InvalidArguments
from raystore.serve.run.build import Cluster, build, misfits, read_arguments
from raystore.serve.spec.app import AppSpec
from raystore.session import INLINE_CALL_BYTES, INLINE_CALLS

FITTING = Cluster(
    host="0.0.0.0",
    port=8000,
    certificate=(None, None),
    nodes=frozenset({"10.0.0.10", "10.0.0.11"}),
    system=INLINE_CALLS,
    balanced=True,
    replicas_balanced=True,
    narrowed=True,
    paired=False,
    most=128,
)
SPEC = AppSpec(host="0.0.0.0")


def cluster(**changes: object) -> Cluster:
    return replace(FITTING, **changes)  # type: ignore[arg-type]


def said(spec: AppSpec = SPEC, **changes: object) -> list[str]:
    return list(misfits(spec, cluster(**changes)))


def test_a_cluster_as_the_manifests_describe_it_fits() -> None:
    assert said() == []
    assert said(balanced=None) == []
    assert said(balanced=False, replicas_balanced=False) == []


def test_another_address_than_serves_is_refused() -> None:
    assert said(host="127.0.0.1", port=9000) == [
        "Serve answers at 127.0.0.1:9000, and the file says 0.0.0.0:8000: write http_options: {host: 0.0.0.0, port: 8000} into "
        "Serve's configuration, and start Serve anew"
    ]


def test_loopback_is_refused_where_there_are_several_machines() -> None:
    spec = AppSpec()
    assert said(spec, host="127.0.0.1") == [
        "host is 127.0.0.1, where nodes cannot reach each other's replicas: write host: 0.0.0.0"
    ]
    assert said(spec, host="127.0.0.1", nodes=frozenset({"127.0.0.1"})) == []


def test_a_ray_that_would_keep_bodies_in_its_object_store_is_refused() -> None:
    for system, least in (({}, 102_400), ({"max_direct_call_object_size": INLINE_CALL_BYTES}, 10_485_760)):
        assert said(system=system) == [
            f"this Ray puts what is over {least} bytes of a call into its object store, where request bodies must not be: "
            'start its head with --system-config=\'{"max_direct_call_object_size": 67108864, '
            '"task_rpc_inlined_bytes_limit": 67108864}\''
        ]


@pytest.mark.parametrize(
    ("balanced", "with_it", "without"), [(True, "Serve's controller", "here"), (False, "here", "Serve's controller")]
)
def test_haproxy_that_half_of_the_cluster_knows_of_is_refused(balanced: bool, with_it: str, without: str) -> None:
    assert said(balanced=balanced, replicas_balanced=not balanced) == [
        f"RAY_SERVE_ENABLE_HA_PROXY=1 is set for {with_it} and not for {without}: "
        "set it where every node is started, before 'ray start'"
    ]


def test_haproxy_is_started_by_its_door_alone() -> None:
    assert said(narrowed=False) == [
        "HAProxy would show its statistics to every network: set RAY_SERVE_HAPROXY_BINARY_PATH where every node is started, to a "
        "script as in cluster/Dockerfile"
    ]
    assert said(narrowed=False, balanced=False, replicas_balanced=False) == []


def test_haproxy_that_lets_through_more_or_fewer_requests_than_the_file_says_is_refused() -> None:
    sentence = "limits.max_requests is 128, and HAProxy, which refuses what is more, was {}: "
    remedy = "set RAYSTORE_MAX_REQUESTS=128 where every node is started, before 'ray start'"
    assert said(most=64) == [sentence.format("told 64") + remedy]
    assert said(most=None) == [sentence.format("not told") + remedy]
    assert said(most=None, balanced=False, replicas_balanced=False) == []


def test_tls_stands_in_the_file_and_where_it_is_spoken() -> None:
    spec = AppSpec.model_validate({"host": "0.0.0.0", "tls": {"certificate": "/c.pem", "key": "/k.pem"}})
    assert said(spec, paired=True) == []
    assert said(spec) == [
        "tls: HAProxy finds no tls.pem, certificate and key in one file, in the folder of its configuration"
    ]
    assert said(paired=True) == ["HAProxy finds tls.pem and answers by TLS alone, and the file has no tls:"]
    unbalanced = {"balanced": False, "replicas_balanced": False}
    assert said(spec, **unbalanced, certificate=("/c.pem", "/k.pem")) == []
    named = ["tls: the file and http_options (ssl_certfile, ssl_keyfile) of Serve's configuration name different files"]
    assert said(spec, **unbalanced) == named
    assert said(**unbalanced, certificate=("/c.pem", "/k.pem")) == named


def test_everything_that_does_not_fit_is_named_at_once() -> None:
    assert len(said(AppSpec(), port=9000, system={}, balanced=False)) == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "build: args: expected one of file and spec."),
        ({"file": "/a.yaml", "spec": {}}, "build: args: expected one of file and spec."),
        ({"file": "a.yaml"}, "build: args.file: expected an absolute path: nodes share no working folder."),
        ({"fil": "/a.yaml"}, "build: args.fil is not as expected: known are file, spec, store, revision."),
    ],
)
def test_arguments_that_make_no_sense_are_refused(args: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        read_arguments(args)
    assert str(refused.value) == message


def test_the_file_is_read_with_its_mistakes_named(tmp_path: Path) -> None:
    file = tmp_path / "triage.yaml"
    file.write_text("prot: 80\n", encoding="utf-8")
    with pytest.raises(InvalidArguments) as refused:
        build({"file": str(file)})
    assert str(refused.value) == f"serve '{file}': the file has the unknown key 'prot': did you mean 'port'?"


def test_a_store_without_an_absolute_path_is_refused() -> None:
    for spec in ({}, {"store": "./store"}):
        with pytest.raises(InvalidArguments) as refused:
            build({"spec": spec})
        assert str(refused.value) == (
            "build: store: expected the absolute path of the store, in the arguments or in the file: nodes share no working folder."
        )


def test_a_process_outside_of_a_cluster_is_told_what_to_run(tmp_path: Path) -> None:
    program = """
        import sys
        from raystore.errors import InvalidArguments
        from raystore.serve.run.build import build
        try:
            build({"spec": {}, "store": sys.argv[1]})
        except InvalidArguments as refused:
            print(refused)
    """  # a process of its own: in this one another test may have started Ray
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == "build: Serve calls this in a cluster; on a machine of your own run 'raystore serve FILE'.\n"
