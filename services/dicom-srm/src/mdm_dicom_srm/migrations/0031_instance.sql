-- Several instances of dicom-srm serve one site. Here is what they must agree on.
CREATE TABLE srm_instance (
    name       text COLLATE "C" PRIMARY KEY,
    process    uuid NOT NULL,                    -- which process has the name
    host       text COLLATE "C" NOT NULL,        -- the machine it runs on
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at    timestamptz NOT NULL DEFAULT now(),
    lost       boolean NOT NULL DEFAULT false,   -- it was silent for too long: its requests have ended
    quota      bigint NOT NULL DEFAULT 0,        -- of its spool, in bytes, as of beat_at
    stored     bigint NOT NULL DEFAULT 0,
    pinned     bigint NOT NULL DEFAULT 0,
    reserved   bigint NOT NULL DEFAULT 0,
    files      bigint NOT NULL DEFAULT 0
);

-- Who answers for a request, and who stages and pins each of its files. Empty: of a version that had one instance.
ALTER TABLE stage_request ADD COLUMN instance text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE stage_file ADD COLUMN instance text COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX stage_file_held ON stage_file (instance) WHERE state IN ('REQUEST_QUEUED', 'REQUEST_INPROGRESS', 'FILE_PINNED');
CREATE INDEX stage_file_guid ON stage_file (guid) WHERE state IN ('REQUEST_QUEUED', 'REQUEST_INPROGRESS', 'FILE_PINNED');

-- Which instance stages, or has pinned, a file: others hand requests for it over.
CREATE TABLE stage_claim (
    guid     uuid PRIMARY KEY,
    instance text COLLATE "C" NOT NULL
);
CREATE INDEX stage_claim_instance ON stage_claim (instance);

-- Requests of which an instance is to look at the rows again.
CREATE TABLE stage_notice (
    instance text COLLATE "C" NOT NULL,
    digest   bytea NOT NULL REFERENCES stage_request ON DELETE CASCADE,
    PRIMARY KEY (instance, digest)
);

-- Files of which an instance is to remove its staged copy, because they changed or were removed.
CREATE TABLE stage_recall (
    instance text COLLATE "C" NOT NULL REFERENCES srm_instance ON DELETE CASCADE,
    guid     uuid NOT NULL,
    PRIMARY KEY (instance, guid)
);
