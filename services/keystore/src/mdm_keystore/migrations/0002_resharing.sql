-- A key's scalar and public key stay for ever; its shares may be replaced. `version` counts the sharings of one key.
ALTER TABLE key_share
    ADD COLUMN version bigint NOT NULL DEFAULT 0 CHECK (version BETWEEN 0 AND 4294967295),
    ADD COLUMN round_id uuid;                                                              -- the round that made this share

-- Shares that a round has made and that are not yet decided upon. Never released. `base` is what they were made from.
CREATE TABLE share_prepared (
    guid        uuid PRIMARY KEY,
    epoch       bigint NOT NULL,
    x           smallint NOT NULL,
    threshold   smallint NOT NULL,
    total       smallint NOT NULL,
    commitments bytea NOT NULL CHECK (octet_length(commitments) = 32 * threshold),
    sealed      bytea NOT NULL CHECK (octet_length(sealed) = 12 + 32 + 16),
    kek_id      text COLLATE "C" NOT NULL,
    version     bigint NOT NULL CHECK (version BETWEEN 0 AND 4294967295),
    creator     text COLLATE "C" NOT NULL,
    acl_id      uuid NOT NULL REFERENCES acl (id),
    create_time timestamptz NOT NULL,
    round_id    uuid NOT NULL,
    coordinator smallint NOT NULL,                                                         -- the keystore that decides the round
    base        bytea NOT NULL
);

CREATE INDEX share_prepared_round ON share_prepared (round_id);

-- The share before the present one, until every keystore has its new one. Released together with the present one.
CREATE TABLE share_previous (
    guid        uuid PRIMARY KEY REFERENCES key_share (guid) ON DELETE CASCADE,
    threshold   smallint NOT NULL,
    total       smallint NOT NULL,
    commitments bytea NOT NULL CHECK (octet_length(commitments) = 32 * threshold),
    sealed      bytea NOT NULL CHECK (octet_length(sealed) = 12 + 32 + 16),
    kek_id      text COLLATE "C" NOT NULL,
    version     bigint NOT NULL CHECK (version BETWEEN 0 AND 4294967295)
);

-- Jobs that this keystore drives.
CREATE TABLE resharing (
    id          uuid PRIMARY KEY,
    number      bigint GENERATED ALWAYS AS IDENTITY,
    kind        smallint NOT NULL CHECK (kind IN (1, 2, 3)),                               -- 1 refresh, 2 repair, 3 re-share
    state       smallint NOT NULL CHECK (state IN (1, 2, 3, 4)),                           -- 1 running, 2 cancelling, 3 done, 4 cancelled
    threshold   smallint NOT NULL,
    total       smallint NOT NULL,
    lost        smallint[] NOT NULL,
    begun_by    text COLLATE "C" NOT NULL,
    begin_time  timestamptz NOT NULL DEFAULT now(),
    end_time    timestamptz,
    cursor      uuid,                                                                      -- every key up to here was taken up
    keys_done   bigint NOT NULL DEFAULT 0,
    keys_failed bigint NOT NULL DEFAULT 0,
    message     text NOT NULL DEFAULT '',
    CONSTRAINT resharing_end CHECK ((state IN (3, 4)) = (end_time IS NOT NULL))
);

CREATE UNIQUE INDEX resharing_one_at_a_time ON resharing ((true)) WHERE state IN (1, 2);

CREATE TABLE resharing_failure (
    resharing_id uuid NOT NULL REFERENCES resharing (id),
    guid         uuid NOT NULL,
    reason       text COLLATE "C" NOT NULL,
    PRIMARY KEY (resharing_id, guid)
);

-- Batches under way. One that is not decided is given up and begun again under another id; one that is decided is carried through.
CREATE TABLE resharing_round (
    id           uuid PRIMARY KEY,
    resharing_id uuid NOT NULL REFERENCES resharing (id),
    number       bigint GENERATED ALWAYS AS IDENTITY,
    state        smallint NOT NULL CHECK (state IN (1, 2, 3)),                             -- 1 dealing, 2 committing, 3 retiring
    attempt      smallint NOT NULL,
    guids        uuid[] NOT NULL,
    total        smallint NOT NULL,                                                        -- n of the new sharing, once decided
    gone         uuid[] NOT NULL DEFAULT '{}'                                              -- deleted by their users meanwhile
);
