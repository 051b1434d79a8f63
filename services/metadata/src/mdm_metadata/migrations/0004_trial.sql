-- Changes of schemas that are not done yet: constraints that hold for writers already and are being tried on all entries, an index being built.
-- Who does it holds the advisory lock of `number`; where nobody does, a crash left it, and any process of the service ends it.
CREATE TABLE trial (
    number bigint PRIMARY KEY,
    collection_id bigint NOT NULL REFERENCES collection ON DELETE CASCADE,
    -- Of the attribute, which may be gone meanwhile; NULL for a check.
    position integer,
    check_name text COLLATE "C",
    -- Of `required`, `unique`, `references`.
    constraints text[] NOT NULL
);
CREATE INDEX trial_collection ON trial (collection_id);
