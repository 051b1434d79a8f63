-- Results that users put: reserved, uploaded, verified, published. The bytes are in the result space.
CREATE TABLE result (
    guid          uuid PRIMARY KEY,
    digest        bytea NOT NULL,                -- SHA-256 of the request's token
    position      integer NOT NULL,
    owner         text COLLATE "C" NOT NULL,     -- who puts it
    charged       text COLLATE "C" NOT NULL,     -- whose quota counts: a group, or the owner
    state         text COLLATE "C" NOT NULL CHECK (state IN ('UPLOADING', 'STORED', 'PUBLISHED', 'REMOVING')),
    name_hash     bytea UNIQUE,                  -- HMAC of its name, until it is published: two cannot put the same
    about         bytea NOT NULL,                -- sealed: name, access list, description, checksums
    size          bigint NOT NULL,               -- of the ciphertext, in bytes
    place         text COLLATE "C" NOT NULL DEFAULT '', -- what the result space calls the upload
    expires_at    timestamptz NOT NULL,          -- an upload without progress ends then
    missing_since timestamptz                    -- since when the catalog has no name for it
);

CREATE INDEX result_digest ON result (digest);
CREATE INDEX result_charged ON result (charged);
CREATE INDEX result_pending ON result (state) WHERE state <> 'PUBLISHED';

-- Who translated a result back to original identifiers. Rows are only added.
CREATE TABLE reidentification (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    curator text COLLATE "C" NOT NULL,
    result  text COLLATE "C" NOT NULL,  -- its SOP Instance UID
    images  uuid[] NOT NULL             -- the images that it refers to
);
