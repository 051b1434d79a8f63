-- Collections in a tree. Paths are compared in folded form, by bytes.
CREATE TABLE collection (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parent_id bigint REFERENCES collection,
    path text NOT NULL,
    folded_path text COLLATE "C" NOT NULL UNIQUE,
    acl_id uuid NOT NULL REFERENCES acl,
    default_acl_id uuid NOT NULL REFERENCES acl,
    sensitive boolean NOT NULL DEFAULT false,
    CHECK ((parent_id IS NULL) = (folded_path = '/'))
);
CREATE INDEX collection_parent ON collection (parent_id);
CREATE INDEX collection_acl ON collection (acl_id);
CREATE INDEX collection_default_acl ON collection (default_acl_id);

-- The schema. `slot` is the name under which values are stored: a letter for the type and a number; see the end of this file.
CREATE TABLE attribute (
    collection_id bigint NOT NULL REFERENCES collection ON DELETE CASCADE,
    position integer NOT NULL,
    slot text COLLATE "C" NOT NULL,
    name text NOT NULL,
    type smallint NOT NULL CHECK (type BETWEEN 1 AND 9),
    length integer NOT NULL DEFAULT 0,
    unit text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    not_null boolean NOT NULL DEFAULT false,
    indexed boolean NOT NULL DEFAULT false,
    is_unique boolean NOT NULL DEFAULT false,
    PRIMARY KEY (collection_id, slot)
);
CREATE UNIQUE INDEX attribute_name ON attribute (collection_id, lower(name));

-- All entries of all collections: one table, however many collections there are.
CREATE TABLE entry (
    collection_id bigint NOT NULL REFERENCES collection ON DELETE CASCADE,
    key text COLLATE "C" NOT NULL,
    acl_id uuid NOT NULL REFERENCES acl,
    attributes jsonb NOT NULL,
    PRIMARY KEY (collection_id, key)
);
CREATE INDEX entry_acl ON entry (acl_id, collection_id);

-- Values of unique attributes, by the SHA-256 of their normal form.
CREATE TABLE unique_value (
    collection_id bigint NOT NULL,
    slot text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    key text COLLATE "C" NOT NULL,
    PRIMARY KEY (collection_id, slot, digest),
    FOREIGN KEY (collection_id, key) REFERENCES entry ON DELETE CASCADE
);
CREATE UNIQUE INDEX unique_value_entry ON unique_value (collection_id, key, slot);

-- The first slots of each letter are indexed, for all collections together: an attribute is indexed by being given such a slot, so that the number
-- of indexes does not grow with the number of collections. An index holds only entries that have a value.
DO $$
DECLARE
    kind record;
    slot text;
    expression text;
BEGIN
    FOR kind IN
        SELECT * FROM (VALUES
            ('t', 16, '(attributes->>%L) COLLATE "C"'),
            ('i', 6, '((attributes->>%L)::bigint)'),
            ('f', 3, '((attributes->>%L)::double precision)'),
            ('n', 1, '((attributes->>%L)::numeric)'),
            ('d', 3, '(date ''1970-01-01'' + (attributes->>%L)::integer)'),
            ('z', 2, 'to_timestamp((attributes->>%L)::double precision / 1000000)'),
            ('u', 3, '((attributes->>%L)::uuid)'),
            ('b', 1, '((attributes->>%L)::boolean)')
        ) AS kinds (letter, slots, template)
    LOOP
        FOR number IN 1..kind.slots LOOP
            slot := kind.letter || number;
            expression := format(kind.template, slot);
            EXECUTE format('CREATE INDEX entry_%s ON entry (collection_id, %s) WHERE (%s) IS NOT NULL', slot, expression, expression);
            -- The planner takes no statistics from partial indexes.
            EXECUTE format('CREATE STATISTICS entry_%s_values ON (%s) FROM entry', slot, expression);
        END LOOP;
    END LOOP;
END
$$;
