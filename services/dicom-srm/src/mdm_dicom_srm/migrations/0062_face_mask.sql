-- Masks of faces: one or more for a series, each for the images that it was made from. Nothing is changed, so an image keeps its mask.
CREATE TABLE face_series (
    series  bytea PRIMARY KEY,                          -- keyed hash of study and series
    listing bytea NOT NULL,                             -- keyed hash of the instances that the PACS has of it
    since   timestamptz NOT NULL DEFAULT now(),         -- has had them since
    refused text COLLATE "C" NOT NULL DEFAULT ''        -- why no mask can be made from them; '': not tried, or made
);
CREATE TABLE face_mask (
    number  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id      uuid NOT NULL UNIQUE,                       -- what `content` is bound to
    series  bytea NOT NULL,
    content bytea NOT NULL                              -- sealed: where the face is, digests of the images
);
CREATE INDEX face_mask_series ON face_mask (series, number);
