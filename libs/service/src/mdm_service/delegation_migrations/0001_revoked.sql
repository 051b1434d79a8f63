-- Delegations that their users have ended before their time; a row may go when the token would have expired.
CREATE TABLE revoked_delegation (
    user_dn text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    expire_time timestamptz NOT NULL,
    PRIMARY KEY (user_dn, id)
);
CREATE INDEX revoked_delegation_expire_time ON revoked_delegation (expire_time);
