-- What LFC knew of a replica. Replicas from before are primary and count as added now.
ALTER TABLE replica
    ADD COLUMN type         smallint NOT NULL DEFAULT 1 CHECK (type IN (1, 2)),         -- 1 primary, 2 secondary
    ADD COLUMN set_name     text COLLATE "C" NOT NULL DEFAULT '' CHECK (octet_length(set_name) <= 255),
    ADD COLUMN create_time  timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN access_time  timestamptz,
    ADD COLUMN access_count bigint NOT NULL DEFAULT 0 CHECK (access_count >= 0),
    ADD COLUMN rev          bigint NOT NULL DEFAULT 1;

-- Listing by set and by host, in order of SURL.
CREATE INDEX replica_set ON replica (set_name, surl) WHERE set_name <> '';
CREATE INDEX replica_host ON replica (host, surl);
