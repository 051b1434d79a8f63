-- Staging requests, so that they outlive a restart. A file is known by its GUID alone; SURLs that are not ours are not kept.
CREATE TABLE stage_request (
    digest      bytea PRIMARY KEY CHECK (octet_length(digest) = 32), -- SHA-256 of the token
    owner       text COLLATE "C" NOT NULL,                           -- who may use it
    pin_seconds bigint NOT NULL,
    created_at  timestamptz NOT NULL,
    aborted     boolean NOT NULL DEFAULT false
);

CREATE TABLE stage_file (
    digest    bytea NOT NULL REFERENCES stage_request ON DELETE CASCADE,
    position  integer NOT NULL,
    guid      uuid,                                                  -- null: not a file of ours, or not for this caller
    state     text COLLATE "C" NOT NULL,
    reason    text COLLATE "C" NOT NULL DEFAULT '',
    size      bigint NOT NULL DEFAULT 0,
    pin_until timestamptz NOT NULL DEFAULT to_timestamp(0),
    PRIMARY KEY (digest, position)
);
