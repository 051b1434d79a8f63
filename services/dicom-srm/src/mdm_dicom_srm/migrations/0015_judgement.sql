-- What all of an instance led to, with the header that it would leave with; sealed, as the header is. Null where it is not known:
-- the instance is then retrieved from the PACS and judged again. So is one whose header is no longer kept.
ALTER TABLE registration ADD COLUMN judgement bytea;
ALTER TABLE registration DROP CONSTRAINT IF EXISTS registration_check1;
