-- What the change feed tells of purges are rows behind all ids in posts (see purge_keys.py). Whether there can be any behind a
-- consumer's position is said here, so that it need not be looked for in each slot at each look.
ALTER TABLE slots ADD COLUMN purged_rev bigint NOT NULL DEFAULT 0; -- no purge was done in the slot at a later revision
UPDATE slots SET purged_rev = (SELECT last_rev FROM writer);
