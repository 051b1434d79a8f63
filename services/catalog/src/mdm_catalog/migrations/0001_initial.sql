-- The name space is a tree of (parent, name): a rename touches one row, whatever lies below. No path is stored.
CREATE TABLE entry (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parent_id      bigint REFERENCES entry (id),
    name           text COLLATE "C" NOT NULL,
    kind           smallint NOT NULL CHECK (kind IN (1, 2)),            -- 1 directory, 2 file
    guid           uuid,
    size           bigint CHECK (size >= 0),
    sha256         bytea CHECK (octet_length(sha256) = 32),
    comment        text NOT NULL DEFAULT '' CHECK (octet_length(comment) <= 255),
    acl_id         uuid NOT NULL REFERENCES acl (id),
    default_acl_id uuid REFERENCES acl (id),
    create_time    timestamptz NOT NULL DEFAULT now(),
    modify_time    timestamptz NOT NULL DEFAULT now(),
    rev            bigint NOT NULL DEFAULT 1,
    CONSTRAINT entry_parent_name_key UNIQUE (parent_id, name),
    CONSTRAINT entry_root CHECK ((id = 0) = (parent_id IS NULL)),
    CONSTRAINT entry_name CHECK (octet_length(name) <= 255 AND (name = '') = (id = 0) AND strpos(name, '/') = 0),
    CONSTRAINT entry_file CHECK ((kind = 2) = (guid IS NOT NULL)),
    CONSTRAINT entry_directory CHECK ((kind = 1) = (default_acl_id IS NOT NULL))
);

CREATE UNIQUE INDEX entry_guid_key ON entry (guid) WHERE guid IS NOT NULL;
-- Walks down the tree touch directories only, so their cost does not depend on the number of files.
CREATE INDEX entry_directories ON entry (parent_id, name) WHERE kind = 1;
CREATE INDEX entry_acl ON entry (acl_id);
CREATE INDEX entry_default_acl ON entry (default_acl_id) WHERE default_acl_id IS NOT NULL;

CREATE TABLE replica (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry_id bigint NOT NULL REFERENCES entry (id) ON DELETE CASCADE,
    surl     text COLLATE "C" NOT NULL CONSTRAINT replica_surl_key UNIQUE,
    status   smallint NOT NULL CHECK (status IN (1, 2, 3)),             -- 1 available, 2 populating, 3 deleting
    host     text COLLATE "C" NOT NULL
);

CREATE INDEX replica_entry ON replica (entry_id);
