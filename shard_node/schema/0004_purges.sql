-- Erasing a post's likes. The mark is in the post's own row, so it goes wherever the slot goes.
ALTER TABLE posts ADD COLUMN purge_began bigint;  -- revision at which the purge that is under way began
ALTER TABLE posts ADD COLUMN purge_erased bigint; -- edges that the last purge has erased so far
ALTER TABLE posts ADD COLUMN purged_rev bigint;   -- revision at which the last purge ended

-- What is under way, for a process that takes a slot up. Empty nearly always.
CREATE INDEX purging ON posts (slot) WHERE purge_began IS NOT NULL;
