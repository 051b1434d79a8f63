-- SRM v2.2: what was asked for, from when and for how long, and how its creator finds it again.
ALTER TABLE stage_request
    ADD COLUMN kind             text COLLATE "C" NOT NULL DEFAULT 'GET',     -- GET, BRING_ONLINE
    ADD COLUMN start_at         timestamptz NOT NULL DEFAULT to_timestamp(0), -- work begins, if later than created_at
    ADD COLUMN seconds          double precision NOT NULL DEFAULT 3600,      -- how long it is worked on
    ADD COLUMN suspended        boolean NOT NULL DEFAULT false,
    ADD COLUMN token            bytea,                                       -- sealed; null: made by an earlier version
    ADD COLUMN description      bytea,                                       -- sealed
    ADD COLUMN description_hash bytea;                                       -- HMAC-SHA-256 under a key of the site secret

ALTER TABLE stage_file ADD COLUMN name bytea;                               -- sealed SURL of a file that was asked for by name

CREATE INDEX stage_request_owner ON stage_request (owner, created_at DESC);
