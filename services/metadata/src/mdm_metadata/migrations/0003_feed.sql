-- The change feed. What is below one of these paths is published, unless it is sensitive.
CREATE TABLE feed_subtree (
    folded_path text COLLATE "C" PRIMARY KEY
);

ALTER TABLE collection
    ADD COLUMN published boolean NOT NULL DEFAULT false,
    ADD COLUMN replica boolean NOT NULL DEFAULT false;

-- One row: the number of the last change set, and of the last one that was thrown away.
CREATE TABLE feed_head (
    value bigint NOT NULL,
    trimmed bigint NOT NULL
);
INSERT INTO feed_head VALUES (0, 0);

-- What one statement changed in one collection: entries (kind 1), the collection itself (2), or an ACL (3). `seq` is given at the commit.
CREATE TABLE change_set (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seq bigint UNIQUE,
    kind smallint NOT NULL,
    collection_id bigint,
    folded_path text COLLATE "C",
    acl_id uuid,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX change_set_made_at ON change_set (made_at);

CREATE TABLE change (
    set_id bigint NOT NULL REFERENCES change_set ON DELETE CASCADE,
    key text COLLATE "C" NOT NULL,
    PRIMARY KEY (set_id, key)
);

-- Numbers are given when a transaction commits, one transaction after another: they have no gaps, and their order is that of the commits.
CREATE FUNCTION number_change_set() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE feed_head SET value = value + 1;
    UPDATE change_set SET seq = (SELECT value FROM feed_head) WHERE id = NEW.id;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER change_set_number AFTER INSERT ON change_set
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION number_change_set();

CREATE FUNCTION record_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed record;
    made bigint;
BEGIN
    FOR changed IN
        SELECT c.id, c.folded_path FROM collection AS c WHERE c.published AND c.id IN (SELECT DISTINCT rows.collection_id FROM rows)
    LOOP
        INSERT INTO change_set (kind, collection_id, folded_path) VALUES (1, changed.id, changed.folded_path) RETURNING id INTO made;
        INSERT INTO change SELECT made, rows.key FROM rows WHERE rows.collection_id = changed.id;
    END LOOP;
    RETURN NULL;
END
$$;
CREATE TRIGGER entry_inserted AFTER INSERT ON entry REFERENCING NEW TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION record_entries();
CREATE TRIGGER entry_updated AFTER UPDATE ON entry REFERENCING NEW TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION record_entries();
CREATE TRIGGER entry_deleted AFTER DELETE ON entry REFERENCING OLD TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION record_entries();

CREATE FUNCTION publish_collection() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.published := NOT NEW.sensitive AND NOT NEW.replica AND EXISTS (
        SELECT FROM feed_subtree AS s WHERE NEW.folded_path = s.folded_path OR starts_with(NEW.folded_path, rtrim(s.folded_path, '/') || '/')
    );
    RETURN NEW;
END
$$;
CREATE TRIGGER collection_published BEFORE INSERT ON collection FOR EACH ROW EXECUTE FUNCTION publish_collection();

CREATE FUNCTION record_collection() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed collection := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    IF changed.published OR (TG_OP = 'UPDATE' AND OLD.published) THEN
        INSERT INTO change_set (kind, collection_id, folded_path) VALUES (2, changed.id, changed.folded_path);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER collection_changed AFTER INSERT OR UPDATE OR DELETE ON collection FOR EACH ROW EXECUTE FUNCTION record_collection();

CREATE FUNCTION record_acl() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM feed_subtree) THEN
        INSERT INTO change_set (kind, acl_id) VALUES (3, NEW.id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER acl_changed AFTER UPDATE ON acl FOR EACH ROW EXECUTE FUNCTION record_acl();

-- Read-only copies of other sites' subtrees: how far each is, and which collection here is which there.
CREATE TABLE replica (
    origin text COLLATE "C" NOT NULL,
    subtree text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL DEFAULT 0,
    copying boolean NOT NULL DEFAULT true,
    copied_path text COLLATE "C" NOT NULL DEFAULT '',
    copied_key text COLLATE "C" NOT NULL DEFAULT '',
    head bigint NOT NULL DEFAULT 0,
    current_at timestamptz,
    problem text NOT NULL DEFAULT '',
    PRIMARY KEY (origin, subtree)
);
CREATE TABLE replica_collection (
    origin text COLLATE "C" NOT NULL,
    origin_id bigint NOT NULL,
    collection_id bigint NOT NULL UNIQUE REFERENCES collection ON DELETE CASCADE,
    PRIMARY KEY (origin, origin_id)
);
