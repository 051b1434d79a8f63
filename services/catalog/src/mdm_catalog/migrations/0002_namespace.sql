-- Symbolic links; when the content of a file was last read.
ALTER TABLE entry
    ADD COLUMN link        text COLLATE "C" CHECK (octet_length(link) BETWEEN 1 AND 1023),
    ADD COLUMN access_time timestamptz,
    DROP CONSTRAINT entry_kind_check,
    ADD CONSTRAINT entry_kind CHECK (kind IN (1, 2, 3)),                    -- 1 directory, 2 file, 3 symbolic link
    ADD CONSTRAINT entry_link CHECK ((kind = 3) = (link IS NOT NULL));

-- What is in each directory, by ACL: sums over a subtree touch its directories, not its files. -1 stands for what holds the root.
CREATE TABLE directory_content (
    directory_id bigint NOT NULL,
    acl_id       uuid   NOT NULL,
    files        bigint NOT NULL,
    directories  bigint NOT NULL,
    links        bigint NOT NULL,
    defaults     bigint NOT NULL,       -- directories of which it is the default ACL only
    bytes        numeric NOT NULL,      -- a sum of bigints
    PRIMARY KEY (directory_id, acl_id)
) WITH (fillfactor = 70);
CREATE INDEX directory_content_acl ON directory_content (acl_id, directory_id);

-- What one entry adds to the directory that holds it.
CREATE FUNCTION entry_content(bigint, smallint, uuid, uuid, bigint) -- parent_id, kind, acl_id, default_acl_id, size
RETURNS TABLE (directory_id bigint, acl_id uuid, files bigint, directories bigint, links bigint, defaults bigint, bytes numeric)
LANGUAGE sql IMMUTABLE
AS $$
    SELECT coalesce($1, -1), $3, ($2 = 2)::int::bigint, ($2 = 1)::int::bigint, ($2 = 3)::int::bigint, 0::bigint, coalesce($5, 0)::numeric
    UNION ALL
    SELECT coalesce($1, -1), $4, 0, 0, 0, 1, 0 WHERE $4 <> $3
$$;

INSERT INTO directory_content
SELECT c.directory_id, c.acl_id, sum(c.files), sum(c.directories), sum(c.links), sum(c.defaults), sum(c.bytes)
FROM entry e CROSS JOIN LATERAL entry_content(e.parent_id, e.kind, e.acl_id, e.default_acl_id, e.size) c
GROUP BY 1, 2;

-- In order of the key, so that two transactions wait for each other in one direction.
CREATE FUNCTION count_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO directory_content AS d
    SELECT c.directory_id, c.acl_id, sum(c.files), sum(c.directories), sum(c.links), sum(c.defaults), sum(c.bytes)
    FROM new_rows e CROSS JOIN LATERAL entry_content(e.parent_id, e.kind, e.acl_id, e.default_acl_id, e.size) c
    GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (directory_id, acl_id) DO UPDATE SET
        files = d.files + excluded.files, directories = d.directories + excluded.directories, links = d.links + excluded.links,
        defaults = d.defaults + excluded.defaults, bytes = d.bytes + excluded.bytes;
    RETURN NULL;
END $$;

CREATE FUNCTION count_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO directory_content AS d
    SELECT c.directory_id, c.acl_id, -sum(c.files), -sum(c.directories), -sum(c.links), -sum(c.defaults), -sum(c.bytes)
    FROM old_rows e CROSS JOIN LATERAL entry_content(e.parent_id, e.kind, e.acl_id, e.default_acl_id, e.size) c
    GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (directory_id, acl_id) DO UPDATE SET
        files = d.files + excluded.files, directories = d.directories + excluded.directories, links = d.links + excluded.links,
        defaults = d.defaults + excluded.defaults, bytes = d.bytes + excluded.bytes;
    DELETE FROM directory_content d
    WHERE d.directory_id IN (SELECT coalesce(parent_id, -1) FROM old_rows)
      AND (d.files, d.directories, d.links, d.defaults) = (0, 0, 0, 0);
    RETURN NULL;
END $$;

CREATE FUNCTION count_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO directory_content AS d
    SELECT directory_id, acl_id, sum(files), sum(directories), sum(links), sum(defaults), sum(bytes) FROM (
        SELECT c.* FROM new_rows e
        CROSS JOIN LATERAL entry_content(e.parent_id, e.kind, e.acl_id, e.default_acl_id, e.size) c
        UNION ALL
        SELECT c.directory_id, c.acl_id, -c.files, -c.directories, -c.links, -c.defaults, -c.bytes FROM old_rows e
        CROSS JOIN LATERAL entry_content(e.parent_id, e.kind, e.acl_id, e.default_acl_id, e.size) c
    ) change
    GROUP BY 1, 2 HAVING (sum(files), sum(directories), sum(links), sum(defaults), sum(bytes)) <> (0, 0, 0, 0, 0) ORDER BY 1, 2
    ON CONFLICT (directory_id, acl_id) DO UPDATE SET
        files = d.files + excluded.files, directories = d.directories + excluded.directories, links = d.links + excluded.links,
        defaults = d.defaults + excluded.defaults, bytes = d.bytes + excluded.bytes;
    DELETE FROM directory_content d
    WHERE d.directory_id IN (SELECT coalesce(parent_id, -1) FROM old_rows)
      AND (d.files, d.directories, d.links, d.defaults) = (0, 0, 0, 0);
    RETURN NULL;
END $$;

CREATE TRIGGER count_inserted AFTER INSERT ON entry REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_inserted();
CREATE TRIGGER count_deleted AFTER DELETE ON entry REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_deleted();
CREATE TRIGGER count_updated AFTER UPDATE ON entry REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_updated();
