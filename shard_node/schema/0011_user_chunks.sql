-- What a user likes in chunks (see user_chunks.py): a row for some dozens of likes instead of one, and two entries of indexes,
-- for each.

ALTER TABLE user_likes RENAME TO old_user_likes;
ALTER TABLE old_user_likes RENAME CONSTRAINT user_likes_pkey TO old_user_likes_pkey;

CREATE TABLE user_likes (
    slot    smallint NOT NULL, -- of the user
    user_id bytea NOT NULL,    -- packed, as in packed_ids.py
    since   bytea NOT NULL,    -- the chunk holds the places from here on, up to the user's next chunk
    entries bytea NOT NULL,    -- newest first
    PRIMARY KEY (user_id, since, slot)
) PARTITION BY LIST (slot);
-- A chunk is never too long for its page, and short enough as it is: there is nothing to be moved out or compressed.
ALTER TABLE user_likes
    ALTER user_id SET STORAGE PLAIN, ALTER since SET STORAGE PLAIN, ALTER entries SET STORAGE PLAIN;

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

DO $$
DECLARE
    held smallint;
    gone text;
BEGIN
    FOR held IN
        SELECT substring(relname FROM '_s(\d+)$')::smallint FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'old_user_likes'::regclass ORDER BY 1
    LOOP
        EXECUTE format('ALTER TABLE user_likes_s%s RENAME TO old_user_likes_s%s', held, held);
        EXECUTE format('CREATE TABLE user_likes_s%s (LIKE user_likes INCLUDING STORAGE)', held);
        EXECUTE format($sql$
            INSERT INTO user_likes_s%1$s (slot, user_id, since, entries)
            SELECT %1$s, user_id,
                   CASE WHEN chunk = 0 THEN '' ELSE (array_agg(place ORDER BY place))[1] END,
                   string_agg(entry, ''::bytea ORDER BY place DESC)
            FROM (
                SELECT user_id, place, entry,
                       (sum(length(entry)) OVER (PARTITION BY user_id ORDER BY place) - length(entry)) / 800 AS chunk
                FROM (
                    SELECT user_id, int8send(liked_at) || convert_to(post_id, 'UTF8') AS place,
                           set_byte('\x00', 0, length(post)) || post
                           || substr(int8send(rev * 4 + 2 * (liked_at <> rev)::integer + liked::integer), 2)
                           || CASE WHEN liked_at <> rev THEN int8send(liked_at) ELSE '' END AS entry
                    FROM (
                        SELECT packed(user_id) AS user_id, post_id, packed(post_id) AS post, rev, liked,
                               coalesce(liked_at, rev) AS liked_at
                        FROM old_user_likes_s%1$s OFFSET 0
                    ) AS packed
                ) AS encoded
            ) AS placed
            GROUP BY user_id, chunk
        $sql$, held);
        EXECUTE format('DROP TABLE old_user_likes_s%s', held);
        EXECUTE format('ALTER TABLE user_likes ATTACH PARTITION user_likes_s%s FOR VALUES IN (%s)', held, held);
    END LOOP;
    -- Copies that are kept of slots that have moved away have no other use than to be compared with what they have become.
    FOR gone IN
        SELECT relname FROM pg_class
        WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND relname ~ '^user_likes_s\d+_m\d+'
    LOOP
        EXECUTE format('DROP TABLE %I', gone);
    END LOOP;
END $$;

DROP FUNCTION packed;
DROP TABLE old_user_likes;
