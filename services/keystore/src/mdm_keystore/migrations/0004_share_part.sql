-- What the helpers of a round have sent to this keystore, until it adds the parts up; sealed as shares are. Unlogged: a round whose
-- parts are lost is begun again, and they reach neither the write-ahead log nor replicas.
CREATE UNLOGGED TABLE share_part (
    round_id uuid NOT NULL,
    helper   smallint NOT NULL,
    number   bigint GENERATED ALWAYS AS IDENTITY,                                          -- the order of arrival
    sealed   bytea NOT NULL,
    kek_id   text COLLATE "C" NOT NULL,
    PRIMARY KEY (round_id, helper)
);
