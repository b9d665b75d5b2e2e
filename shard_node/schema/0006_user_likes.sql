-- Who likes what, by user: what the owners of the posts have told of their edges. It follows them after some moments.
CREATE TABLE user_likes (
    rev     bigint NOT NULL,   -- the edge's revision; those of different posts may be of different nodes' clocks
    slot    smallint NOT NULL, -- of the user
    liked   boolean NOT NULL,  -- an unlike stays: an older like may be told again
    user_id text COLLATE "C" NOT NULL,
    post_id text COLLATE "C" NOT NULL,
    liked_at bigint,           -- since when the user likes the post, in µs since 1970; NULL: since the revision
    PRIMARY KEY (user_id, post_id, slot)
) PARTITION BY LIST (slot);
CREATE INDEX liked_posts ON user_likes (user_id, coalesce(liked_at, rev)) WHERE liked;

DO $$
DECLARE held smallint;
BEGIN
    FOR held IN SELECT slot FROM slots WHERE state <> 'moved' LOOP
        EXECUTE format('CREATE TABLE user_likes_s%s PARTITION OF user_likes FOR VALUES IN (%s)', held, held);
    END LOOP;
END $$;

-- How far the changes of a slot's posts have been told: node → the revision up to which it has accepted all that concern
-- the users of its slots. "routes" is a digest of which node that was for which user.
CREATE TABLE user_feeds (
    slot   smallint PRIMARY KEY,
    routes bigint NOT NULL,
    marks  jsonb NOT NULL
);
