-- Who likes a post, newest first.
CREATE INDEX likers ON edges (post_id, rev) WHERE liked;
