-- One share of each key. The share's value stands here only sealed; the key that seals it is outside the database.
CREATE TABLE key_share (
    guid        uuid PRIMARY KEY,
    epoch       bigint NOT NULL CHECK (epoch BETWEEN 0 AND 4294967295),
    x           smallint NOT NULL,
    threshold   smallint NOT NULL,
    total       smallint NOT NULL,
    commitments bytea NOT NULL CHECK (octet_length(commitments) = 32 * threshold),     -- lowest degree first
    sealed      bytea NOT NULL CHECK (octet_length(sealed) = 12 + 32 + 16),            -- nonce, value, tag
    kek_id      text COLLATE "C" NOT NULL,
    state       smallint NOT NULL CHECK (state IN (1, 2)),                              -- 1 pending, 2 confirmed
    creator     text COLLATE "C" NOT NULL,
    acl_id      uuid NOT NULL REFERENCES acl (id),
    create_time timestamptz NOT NULL DEFAULT now(),
    expire_time timestamptz,
    CONSTRAINT key_share_parameters CHECK (2 <= threshold AND threshold <= total AND total <= 16 AND x BETWEEN 1 AND total),
    CONSTRAINT key_share_expiry CHECK ((state = 1) = (expire_time IS NOT NULL))
);

CREATE INDEX key_share_acl ON key_share (acl_id, guid);
CREATE INDEX key_share_expire_time ON key_share (expire_time) WHERE state = 1;

-- Who did what to which key. hash = SHA-256 over the previous hash and this entry, so no entry can be changed or taken out unseen.
CREATE TABLE audit_entry (
    seq     bigint PRIMARY KEY,
    time    timestamptz NOT NULL,
    who     text COLLATE "C" NOT NULL,
    action  text COLLATE "C" NOT NULL,
    guid    uuid NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    hash    bytea NOT NULL CHECK (octet_length(hash) = 32)
);

CREATE INDEX audit_entry_guid ON audit_entry (guid, seq);

-- The end of the chain; its row lock puts all appends, and with them all changes, in one order.
CREATE TABLE audit_head (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    seq    bigint NOT NULL,
    hash   bytea NOT NULL
);

INSERT INTO audit_head (seq, hash) VALUES (0, decode(repeat('00', 32), 'hex'));

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;

CREATE TRIGGER audit_entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
