"""what the engine counts -> one Prometheus registry per application. No label holds an id."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


class Metrics:
    """Each attribute is one family; their names are part of the interface (dashboards and alerts use them)."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        by_task = ["group", "partition"]
        self.records = Counter(
            "streams_records_total", "Records taken into committed batches.", ["topic"], registry=registry
        )
        self.commits = Counter("streams_commits_total", "Committed transactions.", registry=registry)
        self.commit_seconds = Histogram(
            "streams_commit_seconds", "From begin to the end of the commit.", buckets=_SECONDS, registry=registry
        )
        self.batch_records = Histogram(
            "streams_batch_records", "Records per committed batch.", buckets=_RECORDS, registry=registry
        )
        self.end_to_end_seconds = Histogram(
            "streams_end_to_end_seconds",
            "From the timestamp of a batch's oldest record to its commit.",
            buckets=(*_SECONDS, 300, 3600),
            registry=registry,
        )
        self.lag_records = Gauge(
            "streams_lag_records", "Records waiting in an input partition.", ["topic", "partition"], registry=registry
        )
        self.tasks = Gauge("streams_tasks", "Tasks of this worker by state.", ["state"], registry=registry)
        self.restore_records = Counter(
            "streams_restore_records_total", "Changelog records copied into stores.", registry=registry
        )
        self.restore_remaining = Gauge(
            "streams_restore_remaining_records", "Changelog records still to be copied.", by_task, registry=registry
        )
        self.replay_remaining = Gauge(
            "streams_replay_remaining_records", "Input records to take again after a reset.", by_task, registry=registry
        )
        self.restore_seconds = Histogram(
            "streams_restore_seconds",
            "Duration of a task's restore.",
            buckets=(*_SECONDS, 300, 3600),
            registry=registry,
        )
        self.rebalances = Counter("streams_rebalances_total", "Assignments received from the group.", registry=registry)
        self.task_failures = Counter(
            "streams_task_failures_total", "Tasks that stopped and were started again.", ["reason"], registry=registry
        )
        self.fenced = Counter(
            "streams_fenced_total", "Times that a newer owner fenced a task of this worker.", registry=registry
        )
        self._of_state(registry)
        self._of_unread_inputs(registry)
        self._of_versions(registry)
        self._of_the_audit(registry)

    def _of_state(self, registry: CollectorRegistry) -> None:
        self.dead_letters = Counter(
            "streams_dead_letters_total", "Records sent to the dead letters.", ["topic", "kind"], registry=registry
        )
        self.store_damaged = Counter(
            "streams_store_damaged_total", "Local stores found damaged, moved aside and rebuilt.", registry=registry
        )
        self.deadlines_pending = Gauge(
            "streams_deadlines_pending",
            "1 when a deadline waits in this task.",
            ["group", "partition"],
            registry=registry,
        )
        self.reads = Counter(
            "streams_reads_total", "Reads of committed state by outcome.", ["outcome"], registry=registry
        )

    def _of_unread_inputs(self, registry: CollectorRegistry) -> None:
        self.added_partitions = Gauge(
            "streams_added_partitions",
            "Partitions of an input beyond the declared count, which no task reads.",
            ["topic"],
            registry=registry,
        )
        self.skipped_offsets = Counter(
            "streams_skipped_offsets_total",
            "Offsets of inputs that were deleted before their task had taken them.",
            ["topic", "partition"],
            registry=registry,
        )

    def _of_versions(self, registry: CollectorRegistry) -> None:
        self.live = Gauge(
            "streams_version_live",
            "1 while the version that this worker runs is the live one, 0 while it stands by.",
            ["version"],
            registry=registry,
        )

    def _of_the_audit(self, registry: CollectorRegistry) -> None:
        self.audit_slices = Counter(
            "streams_audit_slices_total", "Slices of tables that were held against their changelogs.", registry=registry
        )
        self.audit_differences = Counter(
            "streams_audit_differences_total", "Slices that differed from their changelogs.", registry=registry
        )
        self.audit_whole_pass = Gauge(
            "streams_audit_whole_pass_timestamp_seconds",
            "When the audit had last gone through all tables here, or had begun to; 0 while it is off.",
            registry=registry,
        )
