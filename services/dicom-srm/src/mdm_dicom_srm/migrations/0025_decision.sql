-- What persons decided about instances that waited or had failed; rows are only added. Nothing here identifies a patient.
CREATE TABLE decision (
    number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT now(),
    subject  text COLLATE "C" NOT NULL,                  -- DN of who decided
    action   text COLLATE "C" NOT NULL CHECK (action IN ('RELEASED', 'DROPPED', 'RETRIED')),
    guid     uuid NOT NULL,
    instance uuid NOT NULL,                              -- GUID of the instance's generation 0
    reason   text COLLATE "C" NOT NULL,                  -- why it waited or had failed
    digest   bytea,                                      -- of the header that was decided about
    note     text NOT NULL DEFAULT ''
);

CREATE INDEX decision_released ON decision (instance) WHERE action = 'RELEASED';
CREATE INDEX decision_guid ON decision (guid, number);
CREATE INDEX registration_quarantined ON registration (series_token, reason, guid) WHERE state = 'QUARANTINED';
