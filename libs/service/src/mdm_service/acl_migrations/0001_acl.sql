CREATE TABLE acl (
    id uuid PRIMARY KEY,
    owner text COLLATE "C" NOT NULL,
    rev bigint NOT NULL DEFAULT 1
);
CREATE INDEX acl_owner ON acl (owner);

CREATE TABLE acl_entry (
    acl_id uuid NOT NULL REFERENCES acl ON DELETE CASCADE,
    principal text COLLATE "C" NOT NULL,
    permissions integer NOT NULL CHECK (permissions BETWEEN 1 AND 255),
    PRIMARY KEY (acl_id, principal)
);
CREATE INDEX acl_entry_principal ON acl_entry (principal, acl_id) INCLUDE (permissions);

-- What a caller may do under one ACL: everything for the owner, else the union of all entries that name one of its principals.
CREATE FUNCTION acl_permissions(wanted_acl uuid, caller_dn text, principals text[]) RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM acl WHERE acl.id = wanted_acl AND acl.owner = caller_dn) THEN 255
           ELSE coalesce((SELECT bit_or(permissions) FROM acl_entry WHERE acl_entry.acl_id = wanted_acl AND principal = ANY (principals)), 0)
           END
$$;

-- Every ACL under which a caller holds all wanted permissions.
CREATE FUNCTION acls_granting(caller_dn text, principals text[], wanted integer) RETURNS SETOF uuid
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT id FROM acl WHERE owner = caller_dn
    UNION
    SELECT acl_id FROM acl_entry WHERE principal = ANY (principals)
    GROUP BY acl_id HAVING bit_or(permissions) & wanted = wanted
$$;
