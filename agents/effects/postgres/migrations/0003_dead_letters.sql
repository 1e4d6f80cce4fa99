-- Records that could not be applied, with the original bytes. The id is where the original stands: topic-partition-offset.
CREATE TABLE dead_letters (
    id               text        PRIMARY KEY,
    kind             text        NOT NULL, -- poison: cannot be decoded or validated; failed: a fault of the platform
    reason           text        NOT NULL,
    faults           jsonb       NOT NULL, -- [{"path": "$.payment.amount", "message": "…"}]
    agent            text        NOT NULL,
    attempt          integer     NOT NULL,
    origin_topic     text        NOT NULL,
    origin_partition integer     NOT NULL,
    origin_offset    bigint      NOT NULL,
    origin_at        timestamptz NOT NULL,
    key              bytea,
    value            bytea,
    headers          jsonb       NOT NULL, -- of the original: [{"name", "value"}], or {"name", "base64"} if it is not text
    topic            text        NOT NULL, -- where the dead letter itself stands
    partition        integer     NOT NULL,
    "offset"         bigint      NOT NULL,
    redriven_at      timestamptz,
    UNIQUE (topic, partition, "offset")
);
CREATE INDEX dead_letters_by_reason ON dead_letters (kind, reason);

-- Markers of redrives. One may be read before its dead letter is (they stand in different partitions), hence a table.
CREATE TABLE dead_letter_redrives (
    id          text        PRIMARY KEY,
    redriven_at timestamptz NOT NULL
);
