-- Likes in fewer bytes: ids are packed (see packed_ids.py), posts have numbers, and edges name their post by its number.

ALTER TABLE posts RENAME TO old_posts;
ALTER TABLE old_posts RENAME CONSTRAINT posts_pkey TO old_posts_pkey;
ALTER TABLE edges RENAME TO old_edges;
ALTER TABLE old_edges RENAME CONSTRAINT edges_pkey TO old_edges_pkey;
DROP INDEX likers, changes, first_likes;

-- One row per post that ever changed. Changed in the transaction that changes the edges. Other rows tell of purges: their
-- post_id is behind all ids (see purge_keys.py), and they have no number.
CREATE TABLE posts (
    version      bigint NOT NULL, -- number of changes that took effect
    like_count   bigint NOT NULL, -- number of its liked edges
    post_no      integer,         -- the post's number in its slot, for good
    slot         smallint NOT NULL,
    post_id      bytea NOT NULL,
    purge_began  bigint,          -- revision at which the purge that is under way began
    purge_erased bigint,          -- edges that the last purge has erased so far
    purged_rev   bigint,          -- revision at which the last purge ended
    erased_rev   bigint,          -- revision at which edges of the post were last erased with their users
    PRIMARY KEY (post_id, slot)
) PARTITION BY LIST (slot);
CREATE UNIQUE INDEX post_numbers ON posts (post_no, slot);

-- One row per edge (post, user) that was ever liked, or whose unlike must be remembered (a tombstone).
-- Times are in µs since 1970. NULL is what follows from the rest of the row (see edge_rows.py). Wide columns first: no
-- padding; and not more than eight: the bitmap of the NULLs takes no room.
CREATE TABLE edges (
    rev       bigint NOT NULL,  -- revision of the last change
    intent    bigint,           -- the newest intent time; NULL: that of the like, or the revision
    first_rev bigint,           -- revision of the first like, for good; NULL: of a like the revision, of a tombstone none
    liked_at  bigint,           -- since when, of a like that was brought in from elsewhere; NULL: since the revision
    post_no   integer NOT NULL,
    slot      smallint NOT NULL,
    liked     boolean NOT NULL,
    user_id   bytea NOT NULL,
    PRIMARY KEY (post_no, user_id, slot)
) PARTITION BY LIST (slot);
-- Who likes a post, newest first: by time, and by revision where the times are the same.
CREATE INDEX likers ON edges (post_no, coalesce(liked_at, rev), rev) WHERE liked;
-- What has changed after a revision, for the feed. An edge that was never changed again is in the first index only.
CREATE INDEX changes ON edges (rev);
CREATE INDEX first_likes ON edges (first_rev) WHERE first_rev <> rev;

-- As packed_ids.py does it. Not IMMUTABLE: it would be called for each row, instead of standing in the statement.
CREATE FUNCTION packed(id text) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN id ~ '^[1-9][0-9]{0,18}$' AND id::numeric < 9223372036854775808
            THEN ltrim(int8send(id::bigint), '\x00'::bytea)
        WHEN id ~ '^[1-9][0-9]{18,19}$' AND id::numeric < 18446744073709551616 -- of the upper half: as if negative
            THEN int8send((id::numeric - 18446744073709551616)::bigint)
        WHEN id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' AND id NOT LIKE '00%'
            THEN decode(replace(id, '-', ''), 'hex')
        ELSE '\x00'::bytea || convert_to(id, 'UTF8')
    END
$$;

-- As purge_keys.py does it, from what it did before: 33 times the highest character where there are now 17 bytes of 0xff,
-- and revisions as 19 digits.
CREATE FUNCTION packed_key(key text) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN starts_with(key, repeat(U&'\+10FFFF', 99))
            THEN decode(repeat('ff', 51), 'hex') || int8send(substr(key, 100, 19)::bigint)
                 || convert_to(substr(key, 119, 1), 'UTF8') || packed(substr(key, 120))
        WHEN starts_with(key, repeat(U&'\+10FFFF', 66)) THEN decode(repeat('ff', 34), 'hex') || packed(substr(key, 67))
        WHEN starts_with(key, repeat(U&'\+10FFFF', 33)) THEN decode(repeat('ff', 17), 'hex') || packed(substr(key, 34))
        ELSE packed(key)
    END
$$;

-- Slot by slot: rows first, and each table's indexes when it is attached.
DO $$
DECLARE
    held smallint;
BEGIN
    FOR held IN
        SELECT substring(relname FROM '_s(\d+)$')::smallint FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'old_posts'::regclass ORDER BY 1
    LOOP
        EXECUTE format('ALTER TABLE posts_s%s RENAME TO old_posts_s%s', held, held);
        EXECUTE format('ALTER TABLE edges_s%s RENAME TO old_edges_s%s', held, held);
        EXECUTE format('CREATE TABLE posts_s%s (LIKE posts) WITH (fillfactor = 80)', held);
        EXECUTE format('CREATE TABLE edges_s%s (LIKE edges)', held);
        -- An edge may have lost its post's row: then the post is known by it alone.
        EXECUTE format($sql$
            CREATE TEMPORARY TABLE numbered ON COMMIT DROP AS
            SELECT post_id, (row_number() OVER (ORDER BY post_id))::integer AS post_no FROM (
                SELECT post_id FROM old_posts_s%1$s WHERE NOT starts_with(post_id, repeat(U&'\+10FFFF', 33))
                UNION
                SELECT post_id FROM old_edges_s%1$s
            ) AS posts
        $sql$, held);
        EXECUTE format($sql$
            INSERT INTO posts_s%1$s (version, like_count, post_no, slot, post_id,
                                     purge_began, purge_erased, purged_rev, erased_rev)
            SELECT coalesce(version, 0), coalesce(like_count, 0), post_no, %1$s, packed_key(post_id),
                   purge_began, purge_erased, purged_rev, erased_rev
            FROM old_posts_s%1$s FULL JOIN numbered USING (post_id)
        $sql$, held);
        EXECUTE format($sql$
            INSERT INTO edges_s%1$s (rev, intent, first_rev, liked_at, post_no, slot, liked, user_id)
            SELECT rev, nullif(intent, coalesce(liked_at, rev)), CASE WHEN NOT liked OR first_rev <> rev THEN first_rev END,
                   liked_at, post_no, slot, liked, packed(user_id)
            FROM old_edges_s%1$s JOIN numbered USING (post_id)
        $sql$, held);
        DROP TABLE numbered;
        EXECUTE format('DROP TABLE old_posts_s%s, old_edges_s%s', held, held);
        EXECUTE format('ALTER TABLE posts ATTACH PARTITION posts_s%s FOR VALUES IN (%s)', held, held);
        EXECUTE format('ALTER TABLE edges ATTACH PARTITION edges_s%s FOR VALUES IN (%s)', held, held);
    END LOOP;
END $$;

DROP FUNCTION packed_key, packed;
DROP TABLE old_posts, old_edges;
