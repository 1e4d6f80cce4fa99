-- The newest version of each order, from its events. Money is integer minor units. Collation "C" is the order of the
-- bytes: the order in which the platform's own tables hold the keys, so that both sides can be compared row by row.
CREATE TABLE orders (
    order_uid           text        COLLATE "C" PRIMARY KEY,
    version             integer     NOT NULL CHECK (version > 0),
    status              text        NOT NULL,
    customer_id         text        NOT NULL,
    placed_at           timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    updated_by          text        NOT NULL, -- the command_id of the last change
    cancel_reason       text,
    track_number        text        NOT NULL,
    delivery_service    text        NOT NULL,
    provider            text        NOT NULL,
    currency            text        NOT NULL,
    amount_minor        bigint      NOT NULL,
    goods_total_minor   bigint      NOT NULL,
    delivery_cost_minor bigint      NOT NULL,
    custom_fee_minor    bigint      NOT NULL,
    document            jsonb       NOT NULL -- as it was received, with what is unknown to us
);
CREATE INDEX orders_by_customer ON orders (customer_id, placed_at DESC);
CREATE INDEX orders_by_time ON orders (placed_at DESC);

CREATE TABLE order_items (
    order_uid         text    COLLATE "C" NOT NULL,
    line_no           integer NOT NULL, -- from 1, in the order of the document
    chrt_id           bigint  NOT NULL,
    nm_id             bigint  NOT NULL,
    rid               text    NOT NULL,
    track_number      text    NOT NULL,
    name              text    NOT NULL,
    brand             text    NOT NULL,
    size              text    NOT NULL,
    status            bigint  NOT NULL,
    price_minor       bigint  NOT NULL,
    sale_percent      bigint  NOT NULL,
    total_price_minor bigint  NOT NULL,
    PRIMARY KEY (order_uid, line_no)
);

-- Every event and refusal, where it stands in the log, and what caused it.
CREATE TABLE order_events (
    event_id    uuid        PRIMARY KEY,
    type        text        NOT NULL,
    order_uid   text        COLLATE "C" NOT NULL,
    version     integer     NOT NULL,
    occurred_at timestamptz NOT NULL,
    caused_by   text        NOT NULL,
    reason      text,
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    "offset"    bigint      NOT NULL,
    payload     jsonb       NOT NULL,
    UNIQUE (topic, partition, "offset")
);
CREATE INDEX order_events_by_order ON order_events (order_uid, version);
