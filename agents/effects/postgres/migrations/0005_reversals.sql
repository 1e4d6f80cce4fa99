-- Captured money that the provider took back without a request of the platform: dashboard refunds and chargebacks.
-- Rows that are there have none, so the defaults are right for them and for rows that an older worker writes.
ALTER TABLE payments
    ADD COLUMN unrequested_refund_minor bigint  NOT NULL DEFAULT 0,
    ADD COLUMN charged_back_minor       bigint  NOT NULL DEFAULT 0,
    ADD COLUMN unresolved_reversals     integer NOT NULL DEFAULT 0;
CREATE INDEX payments_unresolved ON payments (order_uid) WHERE unresolved_reversals > 0;
