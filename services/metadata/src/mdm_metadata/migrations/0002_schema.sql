-- Schemas that change: `rev` counts the changes of a collection's schema, `next_number` gives attributes stored names that were never used before.
ALTER TABLE collection
    ADD COLUMN rev bigint NOT NULL DEFAULT 1,
    ADD COLUMN next_number integer NOT NULL DEFAULT 1001,
    ADD COLUMN min_cell integer NOT NULL DEFAULT 0 CHECK (min_cell >= 0);

-- `moving_to`: values are being copied there, and what is written goes to both. `reference_id`: values are keys of that collection.
ALTER TABLE attribute
    ADD COLUMN moving_to text COLLATE "C",
    ADD COLUMN reference_id bigint REFERENCES collection;
CREATE INDEX attribute_reference ON attribute (reference_id) WHERE reference_id IS NOT NULL;
CREATE UNIQUE INDEX attribute_position ON attribute (collection_id, position);

-- Stored names whose values are still to be erased.
CREATE TABLE retired_slot (
    collection_id bigint NOT NULL REFERENCES collection ON DELETE CASCADE,
    slot text COLLATE "C" NOT NULL,
    PRIMARY KEY (collection_id, slot)
);

-- Conditions, in the query language, that every entry of a collection fulfils.
CREATE TABLE check_constraint (
    collection_id bigint NOT NULL REFERENCES collection ON DELETE CASCADE,
    name text COLLATE "C" NOT NULL,
    condition text NOT NULL,
    PRIMARY KEY (collection_id, name)
);

CREATE TABLE sequence (
    collection_id bigint NOT NULL REFERENCES collection ON DELETE CASCADE,
    name text COLLATE "C" NOT NULL,
    next bigint NOT NULL,
    step bigint NOT NULL CHECK (step <> 0),
    PRIMARY KEY (collection_id, name)
);

-- A view is a row of `collection` without entries of its own. Without a definer it is a link: the caller's own rights decide.
CREATE TABLE view (
    collection_id bigint PRIMARY KEY REFERENCES collection ON DELETE CASCADE,
    target_id bigint NOT NULL REFERENCES collection,
    definer text COLLATE "C",
    condition text,
    with_key boolean NOT NULL
);
CREATE INDEX view_target ON view (target_id);

-- The attributes a view shows, by the target's `position`, which a rename or a new index does not change.
CREATE TABLE view_attribute (
    collection_id bigint NOT NULL REFERENCES view ON DELETE CASCADE,
    name text NOT NULL,
    target_position integer NOT NULL,
    position integer NOT NULL,
    PRIMARY KEY (collection_id, position)
);
