"""panels as data -> Grafana dashboards as JSON: `python deploy/grafana/dashboards.py` writes `dashboards/*.json` anew.

The JSON is committed because Grafana reads it; a test holds it equal to this file. To add a panel: one line below.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

DIRECTORY = Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT = 8, 8


class Panel(NamedTuple):
    """A title, what it tells, its unit, and its series: (PromQL, legend)."""

    title: str
    tells: str
    unit: str
    series: tuple[tuple[str, str], ...]
    kind: str = "timeseries"


def quantiles(metric: str, by: str = "") -> tuple[tuple[str, str], ...]:
    """p50, p95 and p99 of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    rate = f"sum by ({labels}) (rate({metric}_bucket[$__rate_interval]))"
    return tuple((f"histogram_quantile({q}, {rate})", f"p{q * 100:g}{legend}") for q in (0.5, 0.95, 0.99))


ORDERSTREAM: dict[str, tuple[Panel, ...]] = {
    "At a glance": (
        Panel("Workers up", "Workers that Prometheus reaches.", "none", (('sum(up{job="orderstream"})', ""),), "stat"),
        Panel("Records per second", "Taken into committed batches.", "ops",
              (("sum(rate(streams_records_total[$__rate_interval]))", ""),), "stat"),
        Panel("Records waiting", "In the input partitions of all tasks.", "short",
              (("sum(streams_lag_records)", ""),), "stat"),
        Panel("Dead letters, last hour", "Records that could not be applied.", "short",
              (("sum(increase(streams_dead_letters_total[1h])) or vector(0)", ""),), "stat"),
        Panel("Sink behind", "Offsets between PostgreSQL and the log.", "short",
              (("sum(streams_sink_lag_records)", ""),), "stat"),
        Panel("Sinks connected", "Workers whose sink reaches PostgreSQL.", "none",
              (("sum(streams_sink_connected)", ""),), "stat"),
    ),
    "Throughput": (
        Panel("Records by topic", "Committed per second, by the topic they came from.", "ops",
              (("sum by (topic) (rate(streams_records_total[$__rate_interval]))", "{{topic}}"),)),
        Panel("Records by worker", "How evenly the work is shared.", "ops",
              (("sum by (instance) (rate(streams_records_total[$__rate_interval]))", "{{instance}}"),)),
        Panel("Transactions", "Commits per second: fewer and larger under load.", "ops",
              (("sum by (instance) (rate(streams_commits_total[$__rate_interval]))", "{{instance}}"),)),
        Panel("Records per transaction", "Batches grow when work waits; the limit is ORDERSTREAM_BATCH_MAX_RECORDS.",
              "short", quantiles("streams_batch_records")),
        Panel("HTTP requests", "Answered per second, by status.", "reqps",
              (("sum by (status) (rate(http_requests_total[$__rate_interval]))", "{{status}}"),)),
        Panel("Reads of state", "Reads of tables by outcome; `elsewhere` was forwarded to the owner.", "ops",
              (("sum by (outcome) (rate(streams_reads_total[$__rate_interval]))", "{{outcome}}"),)),
    ),
    "Latency": (
        Panel("End to end", "From the oldest record of a batch to its commit.", "s",
              quantiles("streams_end_to_end_seconds")),
        Panel("Commit", "From begin to end of the Kafka transaction.", "s", quantiles("streams_commit_seconds")),
        Panel("HTTP", "From a request to its answer, 99th percentile by route.", "s",
              (("histogram_quantile(0.99, sum by (le, route) (rate(http_request_seconds_bucket[$__rate_interval])))",
                "{{route}}"),)),
    ),
    "Lag and tasks": (
        Panel("Records waiting by partition", "One line that grows alone: a task that stands still, or a hot key.",
              "short", (("sum by (topic, partition) (streams_lag_records)", "{{topic}}-{{partition}}"),)),
        Panel("Inputs that are not read", "Offsets deleted before a task took them; partitions added to an input.",
              "short",
              (("sum by (topic) (streams_skipped_offsets_total)", "{{topic}}: offsets deleted unread"),
               ("max by (topic) (streams_added_partitions)", "{{topic}}: partitions added"))),
        Panel("Tasks by state", "All but `running` should pass within seconds.", "short",
              (("sum by (state) (streams_tasks)", "{{state}}"),)),
        Panel("Rebalances and failures", "Per minute. Fenced: a newer owner took a task over, which is how it must be.",
              "short", (("sum(increase(streams_rebalances_total[1m]))", "rebalances"),
                        ("sum by (reason) (increase(streams_task_failures_total[1m]))", "failed: {{reason}}"),
                        ("sum(increase(streams_fenced_total[1m]))", "fenced"))),
        Panel("Workers of the live version", "Those of other versions stand by; none: a switch is under way.", "short",
              (("sum by (version) (streams_version_live)", "version {{version}}"),)),
    ),
    "Recovery": (
        Panel("Still to restore", "Changelog records until a store is whole, by task.", "short",
              (("sum by (group, partition) (streams_restore_remaining_records)", "{{group}}-{{partition}}"),)),
        Panel("Still to replay", "Input records until the past is taken again after a reset, by task.", "short",
              (("sum by (group, partition) (streams_replay_remaining_records)", "{{group}}-{{partition}}"),)),
        Panel("Restored", "Changelog records copied per second, by worker; standby copies are among them.", "ops",
              (("sum by (instance) (rate(streams_restore_records_total[$__rate_interval]))", "{{instance}}"),)),
        Panel("Duration of restores", "How long tasks took to be whole.", "s", quantiles("streams_restore_seconds")),
        Panel("Damaged stores", "Moved aside and rebuilt, in the last day.", "short",
              (("sum(increase(streams_store_damaged_total[1d]))", ""),), "stat"),
        Panel("Audit", "Slices of tables held against their changelogs, per hour.", "short",
              (("sum by (instance) (increase(streams_audit_slices_total[1h]))", "{{instance}}"),
               ("sum(increase(streams_audit_differences_total[1h]))", "differ"))),
        Panel("Age of the audit's last whole pass", "Since all tables of a worker had been looked at.", "s",
              (("time() - (streams_audit_whole_pass_timestamp_seconds > 0)", "{{instance}}"),)),
        Panel("Deadlines", "Tasks that have a deadline waiting.", "short",
              (("sum by (group) (streams_deadlines_pending)", "{{group}}"),)),
    ),
    "Dead letters": (
        Panel("Dead letters by topic", "Per minute. Poison cannot be decoded or validated; failed is a bug of ours.",
              "short", (("sum by (topic, kind) (increase(streams_dead_letters_total[1m]))", "{{topic}}: {{kind}}"),)),
        Panel("Share of poison", "Of all records taken, by topic.", "percentunit",
              (('sum by (topic) (rate(streams_dead_letters_total{kind="poison"}[5m])) '
                "/ sum by (topic) (rate(streams_records_total[5m]))", "{{topic}}"),)),
    ),
    "Sink": (
        Panel("Behind, by partition", "Offsets between PostgreSQL and the log.", "short",
              (("sum by (topic, partition) (streams_sink_lag_records)", "{{topic}}-{{partition}}"),)),
        Panel("Rows written", "Per second, by table.", "ops",
              (("sum by (table) (rate(streams_sink_rows_total[$__rate_interval]))", "{{table}}"),)),
        Panel("Duration of writes", "One PostgreSQL transaction, from the move of the positions to the commit.", "s",
              quantiles("streams_sink_write_seconds")),
        Panel("Records per write", "Writes grow when rows wait.", "short",
              (("sum(rate(streams_sink_records_total[$__rate_interval])) "
                "/ sum(rate(streams_sink_batches_total[$__rate_interval]))", "records"),)),
        Panel("Errors", "Per minute, by reason. Each is followed by a wait and a new try; orders flow on.", "short",
              (("sum by (reason) (increase(streams_sink_errors_total[1m]))", "{{reason}}"),
               ("sum(increase(streams_sink_conflicts_total[1m]))", "another writer was ahead"))),
        Panel("Refused and skipped", "Records set aside in refused_rows; offsets that the log deleted unread.", "short",
              (("sum(increase(streams_sink_refused_total[1h]))", "refused"),
               ("sum(increase(streams_sink_skipped_offsets_total[1h]))", "skipped"))),
        Panel("Since the last answer", "Seconds since PostgreSQL last took a write or told its positions.", "s",
              (("time() - streams_sink_last_success_timestamp_seconds", "{{instance}}"),)),
    ),
    "Payment provider": (
        Panel("Requests", "By what came of them; `no_answer` is an attempt that failed and is made again.", "ops",
              (("sum by (outcome) (rate(orderstream_provider_calls_total[$__rate_interval]))", "{{outcome}}"),)),
        Panel("Time of a request", "Until the answer, or until it was given up.", "s",
              quantiles("orderstream_provider_call_seconds")),
        Panel("Effects", "Records read and not done, done per second, and sessions that failed.", "short",
              (("sum by (effect) (streams_effect_open_records)", "open, {{effect}}"),
               ("sum by (effect) (rate(streams_effect_records_total[$__rate_interval]))", "done, {{effect}}"),
               ("sum by (effect) (increase(streams_effect_errors_total[1m]))", "failed, {{effect}}"))),
    ),
    "Webhooks": (
        Panel("Attempts", "By what came of them; all but `delivered` are made again.", "ops",
              (("sum by (outcome) (rate(orderstream_webhook_attempts_total[$__rate_interval]))", "{{outcome}}"),)),
        Panel("Time of an attempt", "Until the target's answer, or until it was given up.", "s",
              quantiles("orderstream_webhook_attempt_seconds")),
    ),
}  # fmt: skip

MACHINES: dict[str, tuple[Panel, ...]] = {
    "Workers": (
        Panel("Memory", "Resident memory by worker.", "bytes",
              (('process_resident_memory_bytes{job="orderstream"}', "{{instance}}"),)),
        Panel("CPU", "Cores in use by worker; a worker's Python uses one at most.", "short",
              (('rate(process_cpu_seconds_total{job="orderstream"}[$__rate_interval])', "{{instance}}"),)),
        Panel("Open files", "RocksDB keeps its files open; the limit is nofile.", "short",
              (('process_open_fds{job="orderstream"}', "{{instance}}"),
               ('process_max_fds{job="orderstream"}', "limit of {{instance}}"))),
    ),
    "Kafka": (
        Panel("Brokers", "Brokers that the exporter sees.", "none", (("kafka_brokers", ""),), "stat"),
        Panel("Under-replicated partitions", "Anything above 0 is a broker that is away or slow.", "none",
              (("sum(kafka_topic_partition_under_replicated_partition)", ""),), "stat"),
        Panel("Lag by group", "As committed to Kafka. The sink is not among them: PostgreSQL holds its positions.",
              "short", (("sum by (consumergroup) (kafka_consumergroup_lag)", "{{consumergroup}}"),)),
        Panel("Records written", "Per second by topic, commit markers included.", "ops",
              (("sum by (topic) (rate(kafka_topic_partition_current_offset[$__rate_interval]))", "{{topic}}"),)),
    ),
    "PostgreSQL": (
        Panel("Up", "1 while the exporter can log in.", "none", (("pg_up", ""),), "stat"),
        Panel("Size", "Of the database.", "bytes",
              (('pg_database_size_bytes{datname="orderstream"}', "{{datname}}"),)),
        Panel("Transactions", "Per second.", "ops",
              (('sum(rate(pg_stat_database_xact_commit{datname="orderstream"}[$__rate_interval]))', "committed"),
               ('sum(rate(pg_stat_database_xact_rollback{datname="orderstream"}[$__rate_interval]))', "rolled back"))),
    ),
}  # fmt: skip


def dashboard(uid: str, title: str, rows: dict[str, tuple[Panel, ...]]) -> dict[str, Any]:
    """A whole dashboard: each entry of `rows` under its heading, panels from left to right."""
    panels: list[dict[str, Any]] = []
    top = 0
    for heading, members in rows.items():
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": heading, "gridPos": {"h": 1, "w": 24, "x": 0, "y": top}}
        )
        top += 1
        width, height = (4, 4) if all(panel.kind == "stat" for panel in members) else (WIDTH, HEIGHT)
        for number, panel in enumerate(members):
            down, across = divmod(number * width, 24)
            place = {"h": height, "w": width, "x": across, "y": top + down * height}
            panels.append(_panel(len(panels) + 1, panel, place))
        top += -(-len(members) * width // 24) * height
    return {
        "uid": uid,
        "title": title,
        "tags": ["orderstream"],
        "timezone": "utc",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "schemaVersion": 41,
        "editable": False,
        "panels": panels,
    }


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend or "__auto"}
        for index, (expr, legend) in enumerate(panel.series)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def dashboards() -> dict[str, str]:
    """File name -> its JSON."""
    made = {
        "orderstream.json": dashboard("orderstream", "Orderstream", ORDERSTREAM),
        "machines.json": dashboard("orderstream-machines", "Orderstream: workers, Kafka, PostgreSQL", MACHINES),
    }
    return {name: json.dumps(content, indent=1, ensure_ascii=False) + "\n" for name, content in made.items()}


if __name__ == "__main__":
    for name, content in dashboards().items():
        (DIRECTORY / name).write_text(content, encoding="utf-8")
        print(f"wrote {name}")
