-- The curators' desk. Kinds of images that wait and rules that were drawn say what made images, which is sealed as headers are; DNs are
-- those of curators.
CREATE TABLE waiting_kind (
    guid   uuid PRIMARY KEY REFERENCES registration ON DELETE CASCADE,
    digest bytea,                                       -- of the header that was read; null: none was kept
    kind   bytea NOT NULL,                              -- keyed hash of maker, model, modality, SOP class and size
    facts  bytea NOT NULL                               -- sealed: these
);
CREATE INDEX waiting_kind_kind ON waiting_kind (kind, guid);

-- Rows are only added, and ended once.
CREATE TABLE pixel_rule (
    number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id       uuid NOT NULL UNIQUE,                      -- what `content` is bound to
    at       timestamptz NOT NULL DEFAULT now(),
    subject  text COLLATE "C" NOT NULL,                 -- DN of who drew it
    kind     bytea NOT NULL,
    content  bytea NOT NULL,                            -- sealed: kind, regions, reasons that it clears
    note     text NOT NULL DEFAULT '',
    ended_at timestamptz,
    ended_by text COLLATE "C",                          -- DN of who ended it
    CHECK ((ended_at IS NULL) = (ended_by IS NULL))
);
CREATE INDEX pixel_rule_open ON pixel_rule (number) WHERE ended_at IS NULL;

-- What was found in one image by the search for text, for the header that it had.
CREATE TABLE found_text (
    instance uuid NOT NULL,                             -- GUID of the instance's generation 0
    digest   bytea NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    outcome  text COLLATE "C" NOT NULL CHECK (outcome IN ('NONE', 'FOUND', 'NOT_CHECKED')),
    policy   text COLLATE "C" NOT NULL,                 -- of the site at that time
    blanked  boolean NOT NULL,                          -- the regions are blanked whenever the image leaves
    clears   text[] NOT NULL DEFAULT '{}',              -- reasons that this answers
    regions  jsonb NOT NULL DEFAULT '[]',               -- left, top, right, bottom; positions, not words
    PRIMARY KEY (instance, digest)
);
CREATE INDEX found_text_blanked ON found_text (instance) WHERE blanked;
