-- Reports of Storage Commitment that their callers have not taken yet. What they say names instances of the PACS, so it is sealed.
CREATE TABLE commitment (
    id         uuid PRIMARY KEY,
    calling_ae text COLLATE "C" NOT NULL,                 -- names a machine
    content    bytea NOT NULL,                            -- sealed: the transaction, and the instances that are committed or not
    attempts   integer NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX commitment_due ON commitment (due_at);

-- What is sealed cannot be compressed, and trying costs more than storing.
ALTER TABLE registration
    ALTER COLUMN header SET STORAGE EXTERNAL,
    ALTER COLUMN judgement SET STORAGE EXTERNAL,
    ALTER COLUMN facts SET STORAGE EXTERNAL,
    ALTER COLUMN locator SET STORAGE EXTERNAL;
ALTER TABLE statement ALTER COLUMN content SET STORAGE EXTERNAL;
