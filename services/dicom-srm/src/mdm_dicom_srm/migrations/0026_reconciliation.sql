-- Reconciliations of the site: when, and what differed, by kind. GUIDs and pseudonymous keys only.
CREATE TABLE reconciliation (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at  timestamptz NOT NULL DEFAULT now(),
    differences jsonb                                    -- null while it runs, and where it broke off
);
CREATE INDEX reconciliation_started ON reconciliation (started_at);
