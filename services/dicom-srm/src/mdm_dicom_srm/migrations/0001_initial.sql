-- Registrations. Nothing here identifies a patient: tokens are keyed hashes, locator and header are sealed.
CREATE TABLE registration (
    guid         uuid PRIMARY KEY,
    study_token  bytea NOT NULL,                       -- HMAC of the Study Instance UID
    series_token bytea NOT NULL,                       -- HMAC of the Series Instance UID
    state        text COLLATE "C" NOT NULL CHECK (state IN
                     ('RECEIVED', 'KEYED', 'DESCRIBED', 'PUBLISHED', 'FILTERED', 'QUARANTINED', 'FAILED')),
    reason       text COLLATE "C" NOT NULL DEFAULT '',
    attempts     integer NOT NULL DEFAULT 0,           -- of the present step
    due_at       timestamptz NOT NULL DEFAULT now(),   -- not to be worked on before
    lease_id     uuid,                                 -- the worker's batch that holds it
    lease_until  timestamptz,
    locator      bytea NOT NULL,                       -- sealed original UIDs
    header       bytea,                                -- sealed; null once published or filtered
    created_at   timestamptz NOT NULL DEFAULT now(),
    modified_at  timestamptz NOT NULL DEFAULT now(),
    CHECK ((lease_id IS NULL) = (lease_until IS NULL)),
    CHECK (header IS NOT NULL OR state IN ('PUBLISHED', 'FILTERED'))
);

CREATE INDEX registration_due ON registration (due_at) WHERE state IN ('RECEIVED', 'KEYED', 'DESCRIBED');
CREATE INDEX registration_series ON registration (series_token);
CREATE INDEX registration_leased ON registration (series_token) WHERE lease_id IS NOT NULL;
CREATE INDEX registration_state ON registration (state, guid);
