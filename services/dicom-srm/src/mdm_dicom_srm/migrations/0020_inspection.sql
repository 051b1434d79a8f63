-- Scans and inspections: what the PACS has is compared with the registry. Nothing here identifies a patient: tokens and digests are keyed
-- hashes, scopes, UIDs and facts are sealed. AE titles name machines.
ALTER TABLE registration
    ADD COLUMN listing       bytea,                             -- keyed digest of what the PACS lists of it; null: not known
    ADD COLUMN facts         bytea,                             -- sealed: what scopes and policies look at; null: an earlier version's
    ADD COLUMN calling_ae    text COLLATE "C" NOT NULL DEFAULT '', -- who sent it; empty: it was retrieved
    ADD COLUMN policy        bytea,                             -- digest of the site policy that it was last decided under
    ADD COLUMN rule          text COLLATE "C" NOT NULL DEFAULT '', -- of SITE_POLICY: the rule that leaves it out
    ADD COLUMN missing_since timestamptz,                       -- an inspection did not find it then, nor has one since
    ADD COLUMN removal       text COLLATE "C" NOT NULL DEFAULT '', -- why it was removed
    ADD COLUMN removed_by    text COLLATE "C",                  -- who unregistered it: scans leave it out from then on
    ADD COLUMN removal_note  text COLLATE "C" NOT NULL DEFAULT '';

CREATE INDEX registration_lfn ON registration (lfn) WHERE lfn IS NOT NULL;
CREATE INDEX registration_rule ON registration (rule) WHERE rule <> '';

CREATE TABLE scan (
    id           uuid PRIMARY KEY,
    action       text COLLATE "C" NOT NULL CHECK (action IN ('REGISTER', 'UNREGISTER')),
    scope        bytea NOT NULL,                                -- sealed
    dry_run      boolean NOT NULL,
    requested_by text COLLATE "C" NOT NULL,                     -- a DN; empty: by schedule
    note         text COLLATE "C" NOT NULL DEFAULT '',
    state        text COLLATE "C" NOT NULL DEFAULT 'LISTING' CHECK (state IN
                     ('LISTING', 'INSPECTING', 'DONE', 'CANCELLED', 'FAILED')),
    reason       text COLLATE "C" NOT NULL DEFAULT '',
    attempts     integer NOT NULL DEFAULT 0,
    due_at       timestamptz NOT NULL DEFAULT now(),
    lease_id     uuid,
    lease_until  timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    modified_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX scan_open ON scan (due_at) WHERE state IN ('LISTING', 'INSPECTING');

-- A study to be looked at. Those of a scan stay as its progress; others go when they are done.
CREATE TABLE inspection (
    id          uuid PRIMARY KEY,
    scan_id     uuid REFERENCES scan ON DELETE CASCADE,
    study_token bytea NOT NULL,
    study       bytea,                                          -- sealed Study Instance UID; null once done
    version     integer NOT NULL DEFAULT 0,                     -- grows with every trigger
    attempts    integer NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT now(),
    lease_id    uuid,
    lease_until timestamptz,
    outcome     text COLLATE "C" NOT NULL DEFAULT '' CHECK (outcome IN ('', 'DONE', 'FAILED')),
    reason      text COLLATE "C" NOT NULL DEFAULT '',
    counts      jsonb NOT NULL DEFAULT '{}'
);

CREATE UNIQUE INDEX inspection_of_scan ON inspection (scan_id, study_token) WHERE scan_id IS NOT NULL;
CREATE UNIQUE INDEX inspection_of_study ON inspection (study_token) WHERE scan_id IS NULL;
CREATE INDEX inspection_due ON inspection ((scan_id IS NOT NULL), due_at) WHERE outcome = '';

-- The cursor of scans by schedule.
CREATE TABLE scan_schedule (
    kind       text COLLATE "C" PRIMARY KEY CHECK (kind IN ('RECENT', 'ALL')),
    scan_id    uuid REFERENCES scan ON DELETE SET NULL,
    started_at timestamptz NOT NULL
);
