-- Since when the user likes the post, in µs since 1970, for a like that was brought in from elsewhere; else NULL: since
-- its revision.
ALTER TABLE edges ADD COLUMN liked_at bigint;

-- By time, and by revision where the times are the same.
DROP INDEX likers;
CREATE INDEX likers ON edges (post_id, coalesce(liked_at, rev), rev) WHERE liked;
