-- Who likes a post in fewer bytes: one column for the place of a like, instead of two for its time and its revision.

-- The place of a like among those of its post, as bytes that sort like places: by time (its sign is turned, or times before 1970
-- would come last), and by revision where times are the same. The time of a like that was made here is its revision, so that one
-- needs no second number; and it comes before likes from elsewhere that have its time.
-- What stands in indexes was computed by it: a place of another form needs a function of another name.
CREATE FUNCTION like_place(like_time bigint, rev bigint) RETURNS bytea IMMUTABLE PARALLEL SAFE
RETURN int8send(like_time # (1::bigint << 63)) || CASE WHEN like_time = rev THEN ''::bytea ELSE int8send(rev) END;

DROP INDEX likers;
-- Who likes a post, newest first.
CREATE INDEX likers ON edges (post_no, like_place(coalesce(liked_at, rev), rev)) WHERE liked;
