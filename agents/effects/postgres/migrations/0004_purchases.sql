-- Orders that were bought here, as their events left them: sums in minor units of `currency`, pieces by line. `state` is
-- the whole of it, into which the next event is folded, in the transaction that moves the sink's position. It is json, not
-- jsonb: kept as it was written, whatever characters a name or an address may have.
CREATE TABLE purchases (
    order_uid        text        COLLATE "C" PRIMARY KEY,
    version          integer     NOT NULL CHECK (version > 0),
    status           text        NOT NULL,
    user_id          text        NOT NULL,
    outlet_id        text,       -- null until a line has its stock
    order_number     text,
    payment_method   text        NOT NULL,
    currency         text,
    total_minor      bigint,     -- null until all prices are known
    authorised_minor bigint      NOT NULL,
    capture_minor    bigint      NOT NULL, -- asked to be captured, and what came
    captured_minor   bigint      NOT NULL,
    refund_minor     bigint      NOT NULL, -- asked back, and what went back
    refunded_minor   bigint      NOT NULL,
    lost_minor       bigint      NOT NULL, -- owed for goods that are kept, and will not come
    ended            text,       -- why nothing will leave
    placed_at        timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    updated_by       text        NOT NULL, -- the command_id of the last change
    state            json        NOT NULL
);
CREATE INDEX purchases_by_user ON purchases (user_id, placed_at DESC);
CREATE INDEX purchases_by_time ON purchases (placed_at DESC);

CREATE TABLE purchase_lines (
    order_uid   text    COLLATE "C" NOT NULL,
    line_no     integer NOT NULL, -- from 1; those behind the cart's own take the place of what came back
    item_id     text    NOT NULL,
    name        text,
    outlet_id   text,
    price_minor bigint,
    asked       bigint  NOT NULL,
    reserved    bigint  NOT NULL, -- all that was ever set aside; the other quantities are parts of it
    cancelled   bigint  NOT NULL,
    shipped     bigint  NOT NULL,
    delivered   bigint  NOT NULL,
    returned    bigint  NOT NULL,
    exchanged   bigint  NOT NULL,
    refused     text,
    replaces    integer,
    PRIMARY KEY (order_uid, line_no)
);
CREATE INDEX purchase_lines_by_item ON purchase_lines (item_id);

CREATE TABLE payments (
    order_uid        text        COLLATE "C" PRIMARY KEY,
    version          integer     NOT NULL CHECK (version > 0),
    status           text        NOT NULL,
    user_id          text        NOT NULL,
    method           text        NOT NULL,
    currency         text        NOT NULL,
    amount_minor     bigint      NOT NULL,
    authorised_minor bigint      NOT NULL,
    captured_minor   bigint      NOT NULL,
    refunding_minor  bigint      NOT NULL,
    refunded_minor   bigint      NOT NULL,
    reason           text,       -- of a decline or a void
    attempts         integer     NOT NULL,
    requested_at     timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    state            json        NOT NULL
);
CREATE INDEX payments_by_user ON payments (user_id, requested_at DESC);

-- Every event and refusal of both, where it stands in the log, and what caused it: of a payment its attempts.
CREATE TABLE purchase_events (
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
    payload     json        NOT NULL,
    UNIQUE (topic, partition, "offset")
);
CREATE INDEX purchase_events_by_order ON purchase_events (order_uid, version);
CREATE TABLE payment_attempts (LIKE purchase_events INCLUDING ALL);
