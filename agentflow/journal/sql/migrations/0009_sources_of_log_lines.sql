-- Where in the code a line was logged or printed.
ALTER TABLE log ADD COLUMN source TEXT NOT NULL DEFAULT '';
