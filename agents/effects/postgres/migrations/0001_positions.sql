-- Where the sink stands in each partition. A write names the position that it expects here, locks it and moves it in the
-- transaction that writes its rows: so no record is written twice, and a replaced writer can write nothing.
CREATE TABLE sink_positions (
    topic             text    NOT NULL,
    partition         integer NOT NULL,
    next_offset       bigint  NOT NULL CHECK (next_offset >= 0),
    last_offset       bigint, -- of the last record written, which must still stand there when the sink goes on:
    last_timestamp_ms bigint, -- otherwise this is not the log that the rows came from
    PRIMARY KEY (topic, partition)
);

-- Records that could not become rows, with the reason. The sink goes on without them; an operator looks here.
CREATE TABLE refused_rows (
    topic      text        NOT NULL,
    partition  integer     NOT NULL,
    "offset"   bigint      NOT NULL,
    record_at  timestamptz NOT NULL, -- the record's own timestamp
    key        bytea,
    value      bytea,
    headers    jsonb       NOT NULL,
    error      text        NOT NULL,
    PRIMARY KEY (topic, partition, "offset")
);
