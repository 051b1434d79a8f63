-- Registrations are counted by study for those who wait for one.
CREATE INDEX registration_study ON registration (study_token);
