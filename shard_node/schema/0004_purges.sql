-- Erasing a post's likes. What is known of it is in the post's own row, so it goes wherever the slot goes.
-- While a purge is under way, there is a second row of it, whose post_id is behind all ids (see purge_marks.py): it is found
-- by the primary key, so that no index has to be kept for what is there hardly ever.
ALTER TABLE posts ADD COLUMN purge_began bigint;  -- revision at which the purge that is under way began
ALTER TABLE posts ADD COLUMN purge_erased bigint; -- edges that the last purge has erased so far
ALTER TABLE posts ADD COLUMN purged_rev bigint;   -- revision at which the last purge ended
