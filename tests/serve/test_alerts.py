"""The dashboard and the alerts ask for metrics that exist, every metric has a panel, and alerts fire when they should and not else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystore.serve.watch.table import TABLE, Histogram, Metric

CLUSTER = Path(__file__).parents[2] / "cluster"
ALERTS = CLUSTER / "prometheus" / "alerts.yaml"
BOARD = json.loads((CLUSTER / "grafana" / "raystore.json").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
SERIES: dict[str, Metric] = {metric.full_name: metric for metric in TABLE} | {
    metric.full_name + part: metric
    for metric in TABLE
    if isinstance(metric, Histogram)
    for part in ("_bucket", "_sum", "_count")
}
EXPRESSIONS = [(rule["alert"], rule["expr"]) for rule in RULES] + [
    (panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]
]

_NAME = re.compile(r"\braystore_\w+")
_SELECTED = re.compile(r"\b(\w+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        assert os.environ.get("CI") != "true", "CI has promtool: apt-get install prometheus"
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_an_expression_names_metrics_and_labels_that_exist(title: str, expression: str) -> None:
    named = _NAME.findall(expression)
    assert [name for name in named if name not in SERIES] == []
    labels = {label for name in named for label in SERIES[name].labels}
    if any(name.endswith("_bucket") for name in named):
        labels.add("le")
    for name, inside in _SELECTED.findall(expression):
        selected = set(_MATCHER.findall(inside))
        assert selected <= ({"job"} if name == "up" else set(SERIES[name].labels)), f"{title}: {name}"
    for inside in _GROUPED.findall(expression):
        assert {label.strip() for label in inside.split(",")} <= labels, title


def test_a_histogram_is_asked_for_by_its_parts() -> None:
    whole = {metric.full_name for metric in TABLE if isinstance(metric, Histogram)}
    assert [title for title, expression in EXPRESSIONS if whole & set(_NAME.findall(expression))] == []


def test_every_metric_has_a_panel() -> None:
    shown = {SERIES[name] for _, expression in EXPRESSIONS[len(RULES) :] for name in _NAME.findall(expression)}
    assert [metric.full_name for metric in TABLE if metric not in shown] == []


def test_every_metric_and_every_alert_is_on_the_page() -> None:
    page = (CLUSTER.parent / "docs" / "watch.md").read_text(encoding="utf-8")
    assert [metric.full_name for metric in TABLE if f"`{metric.full_name}`" not in page] == []
    assert [rule["alert"] for rule in RULES if rule["alert"] not in page] == []


def test_a_legend_names_labels_that_its_expression_keeps() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            grouped = _GROUPED.findall(target["expr"])
            named = _NAME.findall(target["expr"])
            kept = {g.strip() for inside in grouped for g in inside.split(",")} or {
                la for n in named for la in SERIES[n].labels
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


# --- the dashboard ------------------------------------------------------------------------------------------------------


def test_the_dashboard_has_a_row_for_each_question() -> None:
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == [
        "Traffic and errors",
        "Latency by stage",
        "Batches and queues",
        "Predictions and abstentions",
        "Shadows",
        "Drift and golden vectors",
        "Logs and drops",
    ]


def test_panels_have_ids_and_places_of_their_own() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    taken = [cell for panel in BOARD["panels"] for cell in _cells(**panel["gridPos"])]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def _cells(x: int, y: int, w: int, h: int) -> Iterator[tuple[int, int]]:
    yield from ((column, line) for column in range(x, x + w) for line in range(y, y + h))


def test_every_panel_reads_the_chosen_data_source() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert BOARD["schemaVersion"] >= 39
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource", "deployment"]
    assert all(panel["datasource"] == chosen for panel in PANELS)
    assert all(target["datasource"] == chosen for panel in PANELS for target in panel["targets"])


def test_prometheus_parses_every_expression_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    shown = [e.replace("$__rate_interval", "5m").replace("$deployment", ".+") for _, e in EXPRESSIONS[len(RULES) :]]
    rules = [{"record": f"panel:{i}", "expr": expression} for i, expression in enumerate(shown)]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    assert f"SUCCESS: {len(rules)} rules found" in run(promtool, "check", "rules", path)


# --- the alerts ---------------------------------------------------------------------------------------------------------


def test_every_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["annotations"]["summary"].endswith(".")
        assert "{{" not in rule["annotations"]["description"]


def test_prometheus_takes_the_configuration_and_the_alerts(promtool: str, tmp_path: Path) -> None:
    for path in (CLUSTER / "prometheus").iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "raystore.key").write_text("a key", encoding="utf-8")
    out = run(promtool, "check", "config", tmp_path / "prometheus.yaml")
    assert f"SUCCESS: {len(RULES)} rules found" in out


UP = {'up{job="raystore", instance="127.0.0.1:8000"}': "1x120"}
_OK = 'raystore_requests_total{route="/v1/predict/{deployment}", deployment="triage", status="200"}'
_BUCKET = 'raystore_request_seconds_bucket{route="/v1/predict/{deployment}", deployment="triage", le="%s"}'
# What is well: each series as promtool writes them, from +step x times, a minute apart.
WELL = {
    **UP,
    _OK: "0+600x120",
    _OK.replace("200", "500"): "0+1x120",
    _OK.replace("200", "503"): "0+5x120",
    _OK.replace("200", "504"): "0+5x120",
    _BUCKET % "0.1": "0+600x120",
    _BUCKET % "1": "0+601x120",
    _BUCKET % "+Inf": "0+601x120",
    'raystore_deployment_failed{deployment="triage", number="3"}': "1x10 stale",
    'raystore_hooks_failed_total{deployment="triage", rule="vip"}': "7x120",
    "raystore_in_flight{}": "40x120",
    "raystore_in_flight_limit{}": "64x120",
    'raystore_queue_depth{queue="recording"}': "100x120",
    'raystore_queue_limit{queue="recording"}': "1000x120",
    'raystore_log_dropped_total{collection="tickets", reason="full"}': "7x120",
    'raystore_shadow_dropped_total{deployment="triage", reason="full"}': "0+6x120",
    'raystore_recording_dropped_total{deployment="triage", reason="full"}': "7x120",
    'raystore_review_left_out_total{deployment="triage"}': "7x120",
    'raystore_golden_cosine{encoder="minilm@5f3c"}': "0.99995x120",
    'raystore_golden_tolerance{encoder="minilm@5f3c"}': "0.9999x120",
    'raystore_golden_checked_timestamp_seconds{encoder="minilm@5f3c"}': "0+60x120",
    'raystore_drift_psi{deployment="triage", of="labels"}': "0.2x120",
    'raystore_drift_auc{deployment="triage"}': "0.7x120",
    'raystore_predictions_total{deployment="triage", head="refunds@2", label="card"}': "0+600x120",
    'raystore_abstentions_total{deployment="triage", why="threshold"}': "0+30x60 1800+54x60",
    'raystore_drift_measured_timestamp_seconds{deployment="triage"}': "0+60x120",
    'raystore_drift_measured_timestamp_seconds{deployment="gone"}': "0+60x10 stale",
    'raystore_deployment_info{deployment="triage", number="1", head="refunds@2", encoder="minilm@5f3c"}': "1x120",
}
# Of each alert: what is not well, what its summary says then, and the labels it carries.
ILL: dict[str, tuple[dict[str, str], str, dict[str, str]]] = {
    "RaystoreDown": (
        {next(iter(UP)): "1x5 0x115"},
        "raystore at 127.0.0.1:8000 does not answer /metrics.",
        {"job": "raystore", "instance": "127.0.0.1:8000"},
    ),
    "RaystoreNotScraped": ({next(iter(UP)): "1x5 stale"}, "No raystore target is scraped.", {"job": "raystore"}),
    "RaystoreErrors": (
        {_OK.replace("200", "500"): "0+195x120"},
        "24.22% of the requests of triage fail.",
        {"deployment": "triage"},
    ),
    "RaystoreStuck": (
        {_OK.replace("200", "504"): "0+606x120"},
        "50% of the requests of triage are not answered in time.",
        {"deployment": "triage"},
    ),
    "RaystoreDeadlines": (
        {_OK.replace("200", "504"): "0+199x120"},
        "24.72% of the requests of triage miss their deadline.",
        {"deployment": "triage"},
    ),
    "RaystoreRefusing": (
        {_OK.replace("200", "503"): "0+199x120"},
        "24.72% of the requests of triage are refused as too many.",
        {"deployment": "triage"},
    ),
    "RaystoreSlow": (
        {_BUCKET % "1": "0+590x120", _BUCKET % "0.1": "0+100x120"},
        "One request in a hundred to triage takes over 1s.",
        {"deployment": "triage"},
    ),
    "RaystoreNoRequests": (
        {
            _OK: "0+600x60 36000x60",
            _OK.replace("200", "500"): "0x120",
            _OK.replace("200", "503"): "0x120",
            _OK.replace("200", "504"): "0x120",
        },
        "Nobody has asked triage for 15 minutes, and somebody did before.",
        {"deployment": "triage"},
    ),
    "RaystoreNotTakenUp": (
        {'raystore_deployment_failed{deployment="triage", number="3"}': "1x120"},
        "Number 3 of triage is not taken up.",
        {"deployment": "triage", "number": "3"},
    ),
    "RaystoreHooksFailed": (
        {'raystore_hooks_failed_total{deployment="triage", rule="vip"}': "7+1x120"},
        "The hook of rule vip of triage fails.",
        {"deployment": "triage", "rule": "vip"},
    ),
    "RaystoreBusy": ({"raystore_in_flight{}": "62x120"}, "The replicas are at 96.88% of the requests they take.", {}),
    "RaystoreQueueFull": (
        {'raystore_queue_depth{queue="recording"}': "950x120"},
        "The queue recording is at 95%.",
        {"queue": "recording"},
    ),
    "RaystoreLogDropped": (
        {'raystore_log_dropped_total{collection="tickets", reason="full"}': "7+1x120"},
        "Rows for collection tickets were not logged (full).",
        {"collection": "tickets", "reason": "full"},
    ),
    "RaystoreShadowDropped": (
        {'raystore_shadow_dropped_total{deployment="triage", reason="full"}': "0+303x120"},
        "The shadows of triage miss 49.59% of its requests.",
        {"deployment": "triage"},
    ),
    "RaystoreRecordingDropped": (
        {'raystore_recording_dropped_total{deployment="triage", reason="full"}': "0+9x120"},
        "Predictions of triage are not kept (full).",
        {"deployment": "triage", "reason": "full"},
    ),
    "RaystoreReviewFull": (
        {'raystore_review_left_out_total{deployment="triage"}': "7x60 8x60"},
        "Items for review of triage found its queue full.",
        {"deployment": "triage"},
    ),
    "RaystoreEncoderMoved": (
        {'raystore_golden_cosine{encoder="minilm@5f3c"}': "0.98x120"},
        "Encoder minilm@5f3c no longer encodes what it did (cosine 0.980000).",
        {"encoder": "minilm@5f3c"},
    ),
    "RaystoreGoldenNotChecked": (
        {'raystore_golden_checked_timestamp_seconds{encoder="minilm@5f3c"}': "0x120"},
        "Encoder minilm@5f3c was last checked 1h 30m 0s ago.",
        {"encoder": "minilm@5f3c"},
    ),
    "RaystoreDriftIndex": (
        {'raystore_drift_psi{deployment="triage", of="labels"}': "0.3x120"},
        "The labels of triage drifted from its head's snapshot (PSI 0.30).",
        {"deployment": "triage", "of": "labels"},
    ),
    "RaystoreDriftTold": (
        {'raystore_drift_auc{deployment="triage"}': "0.9x120"},
        "A classifier tells what triage sees from its head's snapshot (AUC 0.90).",
        {"deployment": "triage"},
    ),
    "RaystoreAbstaining": (
        {'raystore_abstentions_total{deployment="triage", why="threshold"}': "0+30x60 1980+180x60"},
        "triage abstains from 30% of its predictions, far more than in the hour before.",
        {"deployment": "triage"},
    ),
    "RaystoreDriftNotMeasured": (
        {'raystore_drift_measured_timestamp_seconds{deployment="triage"}': "0+60x10 stale"},
        "The drift of triage was last measured 1h 20m 0s ago.",
        {"deployment": "triage"},
    ),
}


def test_every_alert_is_tried() -> None:
    assert list(ILL) == [rule["alert"] for rule in RULES]


def test_a_service_that_is_well_raises_no_alert(promtool: str, tmp_path: Path) -> None:
    silent = [{"eval_time": "90m", "alertname": rule["alert"], "exp_alerts": []} for rule in RULES]
    _try(promtool, tmp_path, WELL, silent)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_raised_when_it_should(rule: dict[str, Any], promtool: str, tmp_path: Path) -> None:
    changed, summary, labels = ILL[rule["alert"]]
    expected = {
        "exp_labels": {"severity": rule["labels"]["severity"], **labels},
        "exp_annotations": {"summary": summary, "description": rule["annotations"]["description"]},
    }
    assert set(changed) <= set(WELL)
    _try(promtool, tmp_path, WELL | changed, [{"eval_time": "90m", "alertname": rule["alert"], "exp_alerts": [expected]}])


def test_rows_that_are_lost_in_one_burst_are_told_though_nothing_was_lost_before(promtool: str, tmp_path: Path) -> None:
    """The first burst makes the series, at its full height: increase() of it is nothing."""
    name = 'raystore_log_dropped_total{collection="tickets", reason="DiskFull"}'
    [rule] = [rule for rule in RULES if rule["alert"] == "RaystoreLogDropped"]
    expected = {
        "exp_labels": {"severity": "warning", "collection": "tickets", "reason": "DiskFull"},
        "exp_annotations": {
            "summary": "Rows for collection tickets were not logged (DiskFull).",
            "description": rule["annotations"]["description"],
        },
    }
    looks = [("58m", []), ("61m", [expected]), ("75m", [])]
    tried = [{"eval_time": at, "alertname": rule["alert"], "exp_alerts": alerts} for at, alerts in looks]
    _try(promtool, tmp_path, {name: "_x59 58x60"}, tried)


def test_a_hook_that_fails_once_is_told_though_none_failed_before(promtool: str, tmp_path: Path) -> None:
    name = 'raystore_hooks_failed_total{deployment="triage", rule="vip"}'
    told = _told("RaystoreHooksFailed", "The hook of rule vip of triage fails.", deployment="triage", rule="vip")
    looks = [("58m", []), ("61m", [told]), ("75m", [])]
    tried = [{"eval_time": at, "alertname": "RaystoreHooksFailed", "exp_alerts": alerts} for at, alerts in looks]
    _try(promtool, tmp_path, {name: "_x59 1x60"}, tried)


@pytest.mark.parametrize(
    ("abstained", "predicted", "share"),
    [
        ("_x59 1+180x60", "0+600x120", "30%"),  # it never abstained before
        ("0+300x60 18540+540x60", "0+600x120", "90%"),  # from half of them to most
        ("0+300x60 18360+360x60", "0+600x120", None),  # from half of them to three fifths
        ("_x59 1+2x60", "0+6x120", None),  # of 90 predictions a third
        ("_x59 1+180x60", "_x59 1+600x60", None),  # nobody asked in the hour before
    ],
)
def test_a_share_of_abstentions_is_held_against_that_of_the_hour_before(
    abstained: str, predicted: str, share: str | None, promtool: str, tmp_path: Path
) -> None:
    series = {
        'raystore_abstentions_total{deployment="triage", why="vip"}': abstained,
        'raystore_predictions_total{deployment="triage", head="refunds@2", label="card"}': predicted,
    }
    said = f"triage abstains from {share} of its predictions, far more than in the hour before."
    alerts = [_told("RaystoreAbstaining", said, deployment="triage")] if share is not None else []
    _try(promtool, tmp_path, series, [{"eval_time": "85m", "alertname": "RaystoreAbstaining", "exp_alerts": alerts}])


def _told(alert: str, summary: str, **labels: str) -> dict[str, Any]:
    """What the alert says, as promtool expects it."""
    [rule] = [rule for rule in RULES if rule["alert"] == alert]
    return {
        "exp_labels": {"severity": rule["labels"]["severity"], **labels},
        "exp_annotations": {"summary": summary, "description": rule["annotations"]["description"]},
    }


def _try(promtool: str, folder: Path, series: dict[str, str], alerts: list[dict[str, Any]]) -> None:
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    tried = {"interval": "1m", "input_series": inputs, "alert_rule_test": alerts}
    path = folder / "tried.yaml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [tried]}), encoding="utf-8"
    )
    assert "SUCCESS" in run(promtool, "test", "rules", path)
