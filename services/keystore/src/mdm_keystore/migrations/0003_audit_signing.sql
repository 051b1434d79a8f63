-- Which chain this is and the seed of the Ed25519 key that signs its heads, sealed as shares are. The id is drawn when the database is
-- made, so that a chain begun anew is told from the one before.
CREATE TABLE audit_identity (
    single   boolean PRIMARY KEY DEFAULT true CHECK (single),
    chain_id uuid NOT NULL DEFAULT gen_random_uuid(),
    sealed   bytea CHECK (octet_length(sealed) = 12 + 32 + 16),                            -- none until the first start
    kek_id   text COLLATE "C",
    CONSTRAINT audit_identity_seal CHECK ((sealed IS NULL) = (kek_id IS NULL))
);

INSERT INTO audit_identity DEFAULT VALUES;

-- Heads of other keystores' chains that this one has countersigned.
CREATE TABLE witnessed_head (
    number            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    share_index       smallint NOT NULL,
    chain_id          uuid NOT NULL,
    seq               bigint NOT NULL,
    hash              bytea NOT NULL CHECK (octet_length(hash) = 32),
    time              timestamptz NOT NULL,
    signature         bytea NOT NULL CHECK (octet_length(signature) = 64),
    signing_key       bytea NOT NULL CHECK (octet_length(signing_key) = 32),
    witness_signature bytea NOT NULL CHECK (octet_length(witness_signature) = 64),
    witness_key       bytea NOT NULL CHECK (octet_length(witness_key) = 32)
);

CREATE INDEX witnessed_head_chain ON witnessed_head (share_index, chain_id, number);

CREATE TRIGGER witnessed_head_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON witnessed_head
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
