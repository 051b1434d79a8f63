-- Bounds on what one row costs the database. Of the entries that are there nothing is asked until they are changed.
ALTER TABLE entry ADD CONSTRAINT entry_size CHECK (pg_column_size(attributes) <= 1048576) NOT VALID;
-- What CAST makes of a text; NaN and infinities are greater than everything, and allowed.
CREATE DOMAIN bounded_numeric AS numeric CHECK (
    VALUE IN ('NaN', 'Infinity', '-Infinity') OR (abs(VALUE) < 1e301 AND scale(VALUE) <= 1000)
);
