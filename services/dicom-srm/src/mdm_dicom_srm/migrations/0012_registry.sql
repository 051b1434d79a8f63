-- The registry follows the PACS. An instance has one live registration; those of earlier generations stay, so that their GUIDs do.
-- Nothing here identifies a patient: tokens and digests are keyed hashes, what else comes from a header is sealed, LFNs and keys of
-- metadata entries are pseudonymous.
ALTER TABLE registration
    ADD COLUMN instance          uuid,                              -- GUID of the instance's generation 0
    ADD COLUMN generation        integer NOT NULL DEFAULT 0,
    ADD COLUMN digest            bytea,                             -- of the header; null: registered by an earlier version
    ADD COLUMN size              bigint CHECK (size >= 0),          -- bytes of the file, as the PACS has it or, once staged, as users get it
    ADD COLUMN version           integer NOT NULL DEFAULT 0,        -- grows with every header
    ADD COLUMN lease_version     integer,                           -- the version that the lease is for
    ADD COLUMN keyed             boolean NOT NULL DEFAULT false,    -- its key was made: if it is missing, it was destroyed
    ADD COLUMN changed           boolean NOT NULL DEFAULT false,    -- what the grid has is of an earlier header
    ADD COLUMN restoring         boolean NOT NULL DEFAULT false,    -- what the grid has may be incomplete
    ADD COLUMN patient_token     bytea,                             -- it is of the study's patient, of whom this is the keyed hash
    ADD COLUMN against           bytea,                             -- it is not of the study's patient, who was this then
    ADD COLUMN lfn               text COLLATE "C",                  -- its name in the catalog
    ADD COLUMN patient_key       text COLLATE "C",                  -- keys of the metadata entries that it supports
    ADD COLUMN study_key         text COLLATE "C",
    ADD COLUMN series_key        text COLLATE "C",
    ADD COLUMN patient_statement bytea,                             -- what it states of each: digests of `statement`
    ADD COLUMN study_statement   bytea,
    ADD COLUMN series_statement  bytea;

UPDATE registration SET instance = guid, keyed = state IN ('KEYED', 'DESCRIBED', 'PUBLISHED');

ALTER TABLE registration
    ALTER COLUMN instance SET NOT NULL,
    DROP CONSTRAINT registration_state_check,
    DROP CONSTRAINT IF EXISTS registration_check1,
    ADD CONSTRAINT registration_state_check CHECK (state IN
        ('RECEIVED', 'KEYED', 'DESCRIBED', 'PUBLISHED', 'FILTERED', 'QUARANTINED', 'FAILED', 'REMOVING', 'REMOVED')),
    ADD CONSTRAINT registration_generation UNIQUE (instance, generation);

CREATE UNIQUE INDEX registration_live ON registration (instance) WHERE state NOT IN ('REMOVING', 'REMOVED');
DROP INDEX registration_due;
CREATE INDEX registration_due ON registration (due_at) WHERE state IN ('RECEIVED', 'KEYED', 'DESCRIBED', 'REMOVING');
CREATE INDEX registration_patient_key ON registration (patient_key) WHERE patient_statement IS NOT NULL;
CREATE INDEX registration_study_key ON registration (study_key) WHERE study_statement IS NOT NULL;
CREATE INDEX registration_series_key ON registration (series_key) WHERE series_statement IS NOT NULL;

-- Of whom a study is: decided once, and again only when no instance of that patient is left.
CREATE TABLE study (
    token         bytea PRIMARY KEY,
    patient_token bytea NOT NULL,
    patient       bytea NOT NULL,                        -- sealed Patient ID and issuer
    modified_at   timestamptz NOT NULL DEFAULT now()
);

-- What instances state of their patient, study or series; equal statements once.
CREATE TABLE statement (
    level   text COLLATE "C" NOT NULL CHECK (level IN ('patients', 'studies', 'series')),
    key     text COLLATE "C" NOT NULL,
    digest  bytea NOT NULL,
    content bytea NOT NULL,                              -- sealed
    PRIMARY KEY (level, key, digest)
);

-- The metadata entries that instances share. One is to be written again while `revision` is ahead of `written_revision`.
CREATE TABLE shared_entry (
    level            text COLLATE "C" NOT NULL CHECK (level IN ('patients', 'studies', 'series')),
    key              text COLLATE "C" NOT NULL,
    revision         bigint NOT NULL DEFAULT 1,
    written_revision bigint NOT NULL DEFAULT 0,
    written          bytea,                              -- keyed digest of what was written last; null: to be written whatever it is
    conflicts        text[] NOT NULL DEFAULT '{}',       -- attributes of which instances state different values
    modified_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (level, key)
);

CREATE INDEX shared_entry_due ON shared_entry (modified_at) WHERE written_revision < revision;
CREATE INDEX shared_entry_conflicting ON shared_entry (level, key) WHERE conflicts <> '{}';
