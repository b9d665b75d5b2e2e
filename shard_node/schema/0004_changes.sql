-- What has changed after a revision, for the feed. An edge that was never changed again is in the first index only.
CREATE INDEX changes ON edges (rev);
CREATE INDEX first_likes ON edges (first_rev) WHERE first_rev <> rev;
