-- The name that the glossary has for it.
ALTER TABLE trial RENAME TO validation;
ALTER INDEX trial_collection RENAME TO validation_collection;
