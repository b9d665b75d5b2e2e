-- name: fence
-- First in every transaction that writes slot data. No row: this process may not write.
UPDATE writer SET last_rev = greatest(last_rev, %(last_rev)s)
WHERE generation = %(generation)s AND slots_seq = %(slots_seq)s
RETURNING 1

-- name: beat
-- Proves that this process is still the writer, and shows waiting processes that it lives.
UPDATE writer SET beat = beat + 1
WHERE generation = %(generation)s AND slots_seq = %(slots_seq)s
RETURNING 1

-- name: insert_likes
-- Likes of edges that occur once in the batch, of posts whose numbers are known. Those that were never seen are inserted and
-- counted; an edge that exists already is left alone. The fence is part of the statement: without it nothing is written, so the
-- statement may be a transaction of its own.
-- Posts are given once each, the likes by their places among them. Answers a row without a post when the fence held, with, only
-- if some edge existed, the positions (from 1) of the likes that were inserted; and one row per changed post.
WITH
-- with: fence,
numbers AS (SELECT %(numbers)s::integer[] AS numbers),
-- with: inserted,
-- with: likes,
-- with: counted
SELECT NULL::bytea AS post_id, NULL::bigint AS version, NULL::bigint AS like_count, NULL::integer AS post_no,
       CASE WHEN NOT complete THEN ARRAY(SELECT position FROM inserted) END AS positions
FROM fence CROSS JOIN likes
UNION ALL
SELECT post_id, version, like_count, post_no, NULL FROM counted

-- name: insert_likes_of_unknown_posts
-- As insert_likes, where some numbers are not known. Such a post is inserted with all its likes, if it is not there already:
-- that tells its number, without a look at any partition, each of which Postgres would have to prepare. Had one of those likes
-- existed, the count would be wrong: then the statement ends by a division by zero.
-- The planner thinks that few rows are wanted, and would join row by row: a full join it cannot do so.
WITH
-- with: fence,
wanted AS MATERIALIZED (
    SELECT * FROM unnest(%(post_ids)s::bytea[], %(slots)s::smallint[], %(numbers)s::integer[], %(next_numbers)s::integer[],
                         %(likes)s::integer[])
                  WITH ORDINALITY AS one (post_id, slot, post_no, next_no, likes, post)
), found AS (
    INSERT INTO posts AS post (version, like_count, post_no, slot, post_id)
    SELECT likes, likes, next_no, slot, post_id FROM wanted WHERE post_no IS NULL AND EXISTS (SELECT FROM fence)
    ON CONFLICT (post_id, slot) DO UPDATE
    SET version = post.version + excluded.version, like_count = post.like_count + excluded.like_count
    RETURNING post_id, version, like_count, post_no
), numbers AS MATERIALIZED (
    SELECT array_agg(coalesce(wanted.post_no, found.post_no) ORDER BY wanted.post) AS numbers
    FROM wanted FULL JOIN found USING (post_id)
),
-- with: inserted,
-- with: likes,
-- with: counted
SELECT NULL::bytea AS post_id,
       1 / (complete OR NOT EXISTS (
           SELECT FROM wanted WHERE post_no IS NULL AND likes <> (SELECT likes FROM likes)[post]
       ))::integer::bigint AS version,
       NULL::bigint AS like_count, NULL::integer AS post_no,
       CASE WHEN NOT complete THEN ARRAY(SELECT position FROM inserted) END AS positions
FROM fence CROSS JOIN likes
UNION ALL
SELECT post_id, version, like_count, post_no, NULL FROM found
UNION ALL
SELECT post_id, version, like_count, post_no, NULL FROM counted

-- part: fence
fence AS (
    UPDATE writer SET last_rev = greatest(last_rev, %(last_rev)s)
    WHERE generation = %(generation)s AND slots_seq = %(slots_seq)s
    RETURNING 1
)

-- part: inserted
inserted AS (
    INSERT INTO edges (rev, intent, post_no, slot, liked, user_id)
    SELECT %(base_rev)s::bigint + op.position, nullif(op.intent, %(base_rev)s::bigint + op.position),
           (SELECT numbers FROM numbers)[op.post], (%(slots)s::smallint[])[op.post], true, op.user_id
    FROM unnest(%(posts)s::integer[], %(user_ids)s::bytea[], %(intents)s::bigint[])
         WITH ORDINALITY AS op (post, user_id, intent, position)
    WHERE EXISTS (SELECT FROM fence)
    ON CONFLICT DO NOTHING
    RETURNING rev - %(base_rev)s::bigint AS position
)

-- part: counted
-- Posts whose number is known.
counted AS (
    INSERT INTO posts AS post (version, like_count, post_no, slot, post_id)
    SELECT likes, likes, post_no, slot, post_id FROM (
        SELECT *, (SELECT likes FROM likes)[post] AS likes
        FROM unnest(%(post_ids)s::bytea[], %(slots)s::smallint[], %(numbers)s::integer[])
             WITH ORDINALITY AS one (post_id, slot, post_no, post) OFFSET 0
    ) AS change
    WHERE likes > 0 AND post_no IS NOT NULL
    ON CONFLICT (post_id, slot) DO UPDATE
    SET version = post.version + excluded.version, like_count = post.like_count + excluded.like_count
    RETURNING post_id, version, like_count, NULL::integer AS post_no
)

-- part: wanted
-- A part of the statements that look for edges by posts, which are given once each: their numbers, which are looked up where
-- the caller does not know them. OFFSET 0 keeps the planner from joining, which would hash whole partitions. "AND few unknown":
-- see queries.py.
wanted AS MATERIALIZED (
    SELECT one.post, one.post_id, one.slot, coalesce(one.post_no, found.post_no) AS post_no
    FROM unnest(%(post_ids)s::bytea[], %(slots)s::smallint[], %(numbers)s::integer[])
         WITH ORDINALITY AS one (post_id, slot, post_no, post)
    LEFT JOIN LATERAL (
        SELECT post_no FROM posts
        WHERE posts.post_id = one.post_id AND posts.slot = one.slot AND one.post_no IS NULL
      AND few unknown
        OFFSET 0
    ) AS found ON true
)

-- part: likes
-- How many likes of each post were inserted, in an array by the posts' places: as many as are given, unless some edges existed.
likes AS MATERIALIZED (
    SELECT complete, CASE WHEN complete THEN %(likes)s::integer[] ELSE ARRAY(
        SELECT sum(likes)::integer FROM (
            SELECT post, 0 AS likes FROM generate_subscripts(%(slots)s::smallint[], 1) AS post
            UNION ALL
            SELECT (%(posts)s::integer[])[position], 1 FROM inserted
        ) AS each GROUP BY post ORDER BY post
    ) END AS likes
    FROM (SELECT count(*) = %(operations)s AS complete FROM inserted OFFSET 0) AS all_inserted
)

-- name: read_edges
-- With their positions, from 1; by the numbers of their posts.
SELECT op.position, edge.rev, edge.intent, edge.first_rev, edge.liked_at, edge.liked
FROM unnest(%(edge_numbers)s::integer[], %(user_ids)s::bytea[], %(edge_slots)s::smallint[])
     WITH ORDINALITY AS op (post_no, user_id, slot, position)
-- with: edge

-- name: read_edges_of_unknown_posts
-- As read_edges, where some numbers are not known.
WITH
-- with: wanted,
numbers AS MATERIALIZED (SELECT array_agg(post_no ORDER BY post) AS numbers FROM wanted)
SELECT op.position, edge.rev, edge.intent, edge.first_rev, edge.liked_at, edge.liked
FROM
-- with: numbered
-- with: edge

-- part: numbered
-- What is asked for, with the numbers. Not once more for each partition, as without OFFSET 0.
(
    SELECT position, user_id, slot, (SELECT numbers FROM numbers)[post] AS post_no
    FROM unnest(%(posts)s::integer[], %(user_ids)s::bytea[], %(edge_slots)s::smallint[])
         WITH ORDINALITY AS one (post, user_id, slot, position)
    OFFSET 0
) AS op

-- part: edge
-- OFFSET 0 keeps the planner from joining, which would hash whole partitions. "AND few slots": see queries.py.
CROSS JOIN LATERAL (
    SELECT * FROM edges
    WHERE edges.post_no = op.post_no AND edges.user_id = op.user_id AND edges.slot = op.slot
      AND few slots
    OFFSET 0
) AS edge

-- name: write_edges
-- Edges as they are given, and what has become of their posts with them. Posts are given once each, with their changes; the edges
-- by their places among them. As in insert_likes, a post's number is told by the row that is written.
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest(%(post_ids)s::bytea[], %(slots)s::smallint[], %(next_numbers)s::integer[], %(changes)s::bigint[],
                         %(deltas)s::bigint[])
                  WITH ORDINALITY AS one (post_id, slot, next_no, changes, delta, post)
), counted AS (
    INSERT INTO posts AS post (version, like_count, post_no, slot, post_id)
    SELECT changes, delta, next_no, slot, post_id FROM wanted
    ON CONFLICT (post_id, slot) DO UPDATE
    SET version = post.version + excluded.version, like_count = post.like_count + excluded.like_count
    RETURNING post_id, version, like_count, post_no
), numbers AS MATERIALIZED (
    SELECT array_agg(counted.post_no ORDER BY wanted.post) AS numbers FROM wanted FULL JOIN counted USING (post_id)
), written AS (
    INSERT INTO edges (rev, intent, first_rev, liked_at, post_no, slot, liked, user_id)
    SELECT edge.rev, edge.intent, edge.first_rev, edge.liked_at, (SELECT numbers FROM numbers)[edge.post],
           (%(slots)s::smallint[])[edge.post], edge.liked, edge.user_id
    FROM unnest(%(posts)s::integer[], %(revs)s::bigint[], %(intents)s::bigint[], %(first_revs)s::bigint[],
                %(liked_at)s::bigint[], %(liked)s::boolean[], %(user_ids)s::bytea[])
         AS edge (post, rev, intent, first_rev, liked_at, liked, user_id)
    ON CONFLICT (post_no, user_id, slot) DO UPDATE
    SET rev = excluded.rev, intent = excluded.intent, first_rev = excluded.first_rev, liked_at = excluded.liked_at,
        liked = excluded.liked
)
SELECT post_id, version, like_count, post_no FROM counted

-- name: highest_numbers
SELECT wanted.slot, coalesce(last.post_no, 0)
FROM unnest(%(slots)s::smallint[]) AS wanted (slot)
CROSS JOIN LATERAL (
    SELECT max(post_no) AS post_no FROM posts
    WHERE posts.slot = wanted.slot
      AND few slots
) AS last

-- name: read_posts
SELECT post.post_id, post.version, post.like_count
FROM unnest(%(post_ids)s::bytea[], %(slots)s::smallint[]) AS wanted (post_id, slot)
CROSS JOIN LATERAL (
    SELECT * FROM posts
    WHERE posts.post_id = wanted.post_id AND posts.slot = wanted.slot
      AND few slots
    OFFSET 0
) AS post

-- name: read_liked
-- Position (from 1) of those edges that are liked, and since when; by the numbers of their posts.
SELECT op.position, coalesce(edge.liked_at, edge.rev)
FROM unnest(%(edge_numbers)s::integer[], %(user_ids)s::bytea[], %(edge_slots)s::smallint[])
     WITH ORDINALITY AS op (post_no, user_id, slot, position)
-- with: edge
WHERE edge.liked

-- name: read_liked_of_unknown_posts
-- As read_liked, where some numbers are not known; and those numbers, by places of posts (from 1) below zero.
WITH
-- with: wanted,
numbers AS MATERIALIZED (SELECT array_agg(post_no ORDER BY post) AS numbers FROM wanted)
SELECT op.position, coalesce(edge.liked_at, edge.rev)
FROM
-- with: numbered
-- with: edge
WHERE edge.liked
UNION ALL
SELECT -post, post_no FROM wanted WHERE post_no IS NOT NULL

-- name: list_likers
-- A row without a user has version and count of the post; the others are likes below the place given, newest first. One
-- statement, so all of one moment.
WITH post AS MATERIALIZED (
    SELECT version, like_count, post_no FROM posts WHERE slot = %(slot)s AND post_id = %(post_id)s
)
SELECT NULL::bytea AS user_id, version, like_count FROM post
UNION ALL (
    SELECT user_id, coalesce(liked_at, rev), rev FROM edges
    WHERE slot = %(slot)s AND post_no = (SELECT post_no FROM post) AND liked
      AND like_place(coalesce(liked_at, rev), rev) < like_place(%(before_time)s, %(before)s)
    ORDER BY like_place(coalesce(liked_at, rev), rev) DESC LIMIT %(limit)s
)

-- name: claim_identity
INSERT INTO identity (cluster_id, slot_count, node_name)
VALUES (%(cluster_id)s, %(slot_count)s, %(node_name)s)
ON CONFLICT DO NOTHING

-- name: read_identity
SELECT cluster_id::text, slot_count, node_name, node_uuid::text FROM identity

-- name: read_writer
SELECT generation, slots_seq, last_rev, beat FROM writer

-- name: raise_generation
UPDATE writer SET generation = generation + 1 RETURNING generation, slots_seq, last_rev

-- name: synchronous_standby
-- Whether commits wait for a standby, and whether one that they wait for is there; NULL when this role may not see that.
SELECT current_setting('synchronous_standby_names') <> '',
       CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN
           EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum'))
       END

-- name: held_slots
SELECT slot, epoch, state, move, attempt, swept_intent FROM slots

-- name: add_slots
INSERT INTO slots (slot, epoch, state)
SELECT added.slot, added.epoch, 'owner'
FROM unnest(%(slots)s::smallint[], %(epochs)s::bigint[]) AS added (slot, epoch)

-- name: freeze_slot
-- Ends writes to a slot. Also when an earlier attempt, which is dead by now, has frozen it; a request of an earlier one
-- that comes late must not take the place of a later one, whose end would then be told by the wrong attempt.
UPDATE slots SET state = 'frozen', move = %(move)s, attempt = %(attempt)s
WHERE slot = %(slot)s AND epoch = %(epoch)s
  AND (state = 'owner' OR state = 'frozen' AND (move, attempt) < (%(move)s, %(attempt)s))
RETURNING 1

-- name: seal_slot
INSERT INTO seals (slot, move, attempt, probe, last_rev, swept_rev, swept_intent)
SELECT slot, %(move)s, %(attempt)s, 0, last_rev, swept_rev, swept_intent FROM writer CROSS JOIN slots WHERE slot = %(slot)s

-- name: read_seal
-- And the server's timeline, which the name of a WAL file begins with.
SELECT last_rev, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer FROM seals
WHERE slot = %(slot)s AND move = %(move)s AND attempt = %(attempt)s AND probe = 0

-- name: unfreeze_slot
-- Only the attempt that was looked at: another one may have frozen the slot since.
UPDATE slots SET state = 'owner', epoch = %(epoch)s, move = NULL, attempt = NULL
WHERE slot = %(slot)s AND state = 'frozen' AND move = %(move)s AND attempt = %(attempt)s

-- name: slot_moved
UPDATE slots SET state = 'moved' WHERE slot = %(slot)s AND state = 'frozen' AND move = %(move)s

-- name: retire_slot
-- The copy is gone. The row stays, or a topology restored from a backup could have the slot begun empty once more.
UPDATE slots SET move = NULL, attempt = NULL WHERE slot = %(slot)s AND state = 'moved' AND move = %(move)s

-- name: take_slot
-- From the end of the transaction on the slot is this database's. It may have been here before.
-- It may have been purged in up to what its revisions go on above. What was swept is said by its seal.
INSERT INTO slots (slot, epoch, state, purged_rev, swept_rev, swept_intent)
SELECT %(slot)s, %(epoch)s, 'owner', writer.last_rev, coalesce(seal.swept_rev, writer.last_rev), coalesce(seal.swept_intent, 0)
FROM writer
LEFT JOIN seals AS seal ON seal.slot = %(slot)s AND seal.move = %(move)s AND seal.attempt = %(attempt)s AND seal.probe = 0
ON CONFLICT (slot) DO UPDATE
SET epoch = excluded.epoch, state = 'owner', move = NULL, attempt = NULL, purged_rev = excluded.purged_rev,
    swept_rev = excluded.swept_rev, swept_intent = excluded.swept_intent, swept_to = 0
WHERE slots.state = 'moved' AND slots.epoch < excluded.epoch

-- name: raise_slots_seq
-- The fence of a transaction that changes the slots: ends it, by a division by zero, unless this process may write.
WITH raised AS (
    UPDATE writer SET slots_seq = slots_seq + 1, last_rev = greatest(last_rev, %(last_rev)s)
    WHERE generation = %(generation)s AND slots_seq = %(slots_seq)s
    RETURNING slots_seq, last_rev
)
SELECT (SELECT slots_seq FROM raised), (SELECT last_rev FROM raised), 1 / (SELECT count(*) FROM raised)

-- name: try_leadership
SELECT pg_try_advisory_lock(%(key)s)

-- name: end_leader
-- Ends the session that holds the leadership of this database, whatever it is doing.
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid = (%(key)s::bigint >> 32)::int::oid AND objid = (%(key)s::bigint & 4294967295)::oid AND granted

-- name: system_identifier
SELECT system_identifier::text FROM pg_control_system()

-- name: schema_version
SELECT max(version) FROM schema_migrations

-- name: slot_sizes
-- Rows and bytes of each slot's tables, by the statistics: those of the last ANALYZE, or of the rows written since.
SELECT substring(relname FROM '_s(\d+)$')::integer AS slot,
       sum(greatest(reltuples, pg_stat_get_live_tuples(oid)))::bigint,
       sum(pg_total_relation_size(oid))::bigint
FROM pg_class
WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND relname ~ '^(edges|posts|user_likes)_s\d+$'
GROUP BY 1

-- name: count_rows
SELECT coalesce(sum(greatest(reltuples, pg_stat_get_live_tuples(oid))), 0)::bigint FROM pg_class
WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND relname ~ '^edges_s\d+$'

-- name: read_changes
-- Changes of each slot after a position, all of one moment: per slot a row without a post, with its epoch (as rev), whether it
-- is owned (as liked), the highest revision issued (as place), one above which nothing was purged (as first_rev) and one above
-- which nothing was swept (as like_time); then, by place, edges that changed there last, edges first liked there that have
-- changed since, and, in read_changes_and_purges, purges that were done there, of a post (with an empty user) or of a user (with
-- an empty post).
-- The limits as numbers tell the planner that an index is the way; the parameter is what is wanted. "AND few slots": see queries.py.
SELECT slots.slot, writer.last_rev AS place, slots.epoch AS rev, slots.purged_rev AS first_rev, slots.state = 'owner' AS liked,
       NULL::bytea AS post_id, NULL::bytea AS user_id, NULL::bigint AS version, NULL::bigint AS like_count,
       slots.swept_rev AS like_time
FROM slots CROSS JOIN writer WHERE slots.slot = ANY (%(slots)s::smallint[]) AND slots.state <> 'moved'
UNION ALL
SELECT wanted.slot, edge.place, edge.rev, edge.first_rev, edge.liked, coalesce(post.post_id, ''), edge.user_id,
       coalesce(post.version, 0), coalesce(post.like_count, 0), coalesce(edge.liked_at, edge.rev)
FROM unnest(%(slots)s::smallint[], %(positions)s::bigint[]) AS wanted (slot, position)
CROSS JOIN LATERAL (
    (SELECT * FROM (
        SELECT rev AS place, rev, coalesce(first_rev, CASE WHEN liked THEN rev END) AS first_rev, liked, post_no, user_id,
               liked_at
        FROM edges
        WHERE edges.slot = wanted.slot AND edges.rev > wanted.position
      AND few slots
        ORDER BY edges.rev LIMIT 2000
    ) AS changed LIMIT %(limit)s)
    UNION ALL
    (SELECT * FROM (
        SELECT first_rev AS place, rev, first_rev, liked, post_no, user_id, liked_at FROM edges
        WHERE edges.slot = wanted.slot AND edges.first_rev > wanted.position AND edges.first_rev <> edges.rev
      AND few slots
        ORDER BY edges.first_rev LIMIT 2000
    ) AS liked_before LIMIT %(limit)s)
    AND purges
) AS edge
LEFT JOIN LATERAL (
    SELECT post_id, version, like_count FROM posts
    WHERE posts.post_no = edge.post_no AND posts.slot = wanted.slot
      AND few slots
    OFFSET 0
) AS post ON true

-- part: purges
-- A part of read_changes_and_purges: see queries.py.
    UNION ALL
    (SELECT place, place, NULL, false, CASE WHEN kind = 'p' THEN (
            SELECT post_no FROM posts WHERE posts.slot = wanted.slot AND posts.post_id = purged.id
      AND few slots
        ) END, CASE WHEN kind = 'u' THEN id ELSE '' END, NULL
    FROM (
        SELECT purged_rev AS place, substr(post_id, %(kind_at)s, 1) AS kind, substr(post_id, %(kind_at)s + 1) AS id FROM posts
        WHERE posts.slot = wanted.slot
          AND posts.post_id > %(places)s::bytea || int8send(wanted.position) || '\xff' -- behind those of the position itself
      AND few slots
        ORDER BY posts.post_id LIMIT 2000
    ) AS purged LIMIT %(limit)s)

-- name: verify_counts
-- Posts behind a given number whose count is not their number of liked edges, up to the post in which the given number of
-- posts or of likes is reached; then a row without a count: that last post's number (none: it was all), posts and likes looked
-- at. One statement, so all of one moment: a like changes both sides of the comparison, or neither.
WITH bound AS MATERIALIZED (
    SELECT least(
        (SELECT post_no FROM posts WHERE slot = %(slot)s AND post_no > %(after)s
         ORDER BY post_no OFFSET %(limit)s - 1 LIMIT 1),
        (SELECT post_no FROM edges WHERE slot = %(slot)s AND post_no > %(after)s AND liked
         ORDER BY post_no OFFSET %(limit)s - 1 LIMIT 1)
    ) AS post_no
), stored AS MATERIALIZED (
    SELECT post_no, post_id, version, like_count FROM posts
    WHERE slot = %(slot)s AND post_no > %(after)s
      AND post_no <= coalesce((SELECT post_no FROM bound), %(highest)s)
), counted AS MATERIALIZED (
    SELECT post_no, count(*) AS likes FROM edges
    WHERE slot = %(slot)s AND post_no > %(after)s AND liked
      AND post_no <= coalesce((SELECT post_no FROM bound), %(highest)s)
    GROUP BY post_no
)
SELECT post_no, post_id, coalesce(like_count, 0) AS stored_count, coalesce(likes, 0) AS counted, coalesce(version, 0) AS version
FROM stored FULL JOIN counted USING (post_no)
WHERE coalesce(like_count, 0) <> coalesce(likes, 0)
UNION ALL
SELECT (SELECT post_no FROM bound), NULL, NULL, (SELECT count(*) FROM stored),
       (SELECT coalesce(sum(likes), 0)::bigint FROM counted)

-- name: read_count_rounds
SELECT slot, epoch, verified_at, drifted, began, post_no FROM count_rounds

-- name: write_count_rounds
INSERT INTO count_rounds (slot, epoch, verified_at, drifted, began, post_no)
SELECT * FROM unnest(%(slots)s::smallint[], %(epochs)s::bigint[], %(verified_at)s::bigint[], %(drifted)s::boolean[],
                     %(began)s::bigint[], %(post_nos)s::integer[])
ON CONFLICT (slot) DO UPDATE
SET epoch = excluded.epoch, verified_at = excluded.verified_at, drifted = excluded.drifted, began = excluded.began,
    post_no = excluded.post_no

-- name: count_drifts
-- By how much the counts of these posts are too high, where they are not right, and when the post was last purged.
SELECT post_id, drift, purged_rev FROM (
    SELECT post.post_id, post.purged_rev, post.like_count - (
        SELECT count(*) FROM edges WHERE slot = %(slot)s AND edges.post_no = post.post_no AND liked
    ) AS drift
    FROM unnest(%(post_ids)s::bytea[]) AS wanted (post_id)
    CROSS JOIN LATERAL (
        SELECT * FROM posts WHERE slot = %(slot)s AND posts.post_id = wanted.post_id OFFSET 0
    ) AS post
) AS compared
WHERE drift <> 0

-- name: mend_counts
-- Not of a post that is being purged, or was since: its count is that of the purge. All of them exist; inserting them again is
-- how they are found by the index, whatever the planner thinks.
INSERT INTO posts AS post (version, like_count, post_no, slot, post_id, purged_rev)
SELECT 1, -mend.drift, stored.post_no, %(slot)s, mend.post_id, mend.purged_rev
FROM unnest(%(post_ids)s::bytea[], %(drifts)s::bigint[], %(purged_revs)s::bigint[]) AS mend (post_id, drift, purged_rev)
CROSS JOIN LATERAL (
    SELECT post_no FROM posts WHERE slot = %(slot)s AND posts.post_id = mend.post_id OFFSET 0
) AS stored
ON CONFLICT (post_id, slot) DO UPDATE
SET version = post.version + 1, like_count = post.like_count + excluded.like_count
WHERE post.purge_began IS NULL AND post.purged_rev IS NOT DISTINCT FROM excluded.purged_rev
RETURNING post_id, version, like_count

-- name: purging
-- The marks of posts and of users. What is not under way any more is the receipt of a user.
SELECT post_id, slot, purge_began FROM posts
WHERE post_id > %(behind)s AND post_id < %(before)s AND purge_began IS NOT NULL
      AND few slots
      AND slot = ANY(%(slots)s::smallint[])

-- name: read_purge
-- One row: of the post's row, which may be missing, and whether there is anything to erase.
SELECT coalesce(post.version, 0), coalesce(post.like_count, 0), post.purge_began, coalesce(post.purge_erased, 0),
       post.purged_rev, EXISTS (SELECT FROM edges WHERE slot = %(slot)s AND edges.post_no = post.post_no)
FROM (SELECT) AS one
LEFT JOIN (SELECT * FROM posts WHERE slot = %(slot)s AND post_id = %(post_id)s) AS post ON true

-- name: count_edges
SELECT count(*) FILTER (WHERE liked), count(*) FROM edges
WHERE slot = %(slot)s AND post_no = (SELECT post_no FROM posts WHERE slot = %(slot)s AND post_id = %(post_id)s)

-- name: begin_purge
-- One that is under way goes on.
WITH begun AS (
    INSERT INTO posts AS post (version, like_count, post_no, slot, post_id, purge_began, purge_erased)
    SELECT 0, 0, coalesce(max(post_no), 0) + 1, %(slot)s, %(post_id)s, %(rev)s, 0 FROM posts WHERE slot = %(slot)s
    ON CONFLICT (post_id, slot) DO UPDATE
    SET purge_erased = CASE WHEN post.purge_began IS NULL THEN 0 ELSE post.purge_erased END,
        purge_began = coalesce(post.purge_began, excluded.purge_began)
    RETURNING purge_began
), marked AS (
    INSERT INTO posts (version, like_count, slot, post_id, purge_began)
    SELECT 0, 0, %(slot)s, %(mark)s, purge_began FROM begun
    ON CONFLICT DO NOTHING
)
SELECT purge_began FROM begun

-- name: list_likes_to_end
SELECT user_id, rev FROM edges
WHERE slot = %(slot)s AND post_no = (SELECT post_no FROM posts WHERE slot = %(slot)s AND post_id = %(post_id)s)
  AND liked AND rev > %(after)s
ORDER BY rev LIMIT %(limit)s

-- name: list_edges_to_erase
SELECT user_id FROM edges
WHERE slot = %(slot)s AND post_no = (SELECT post_no FROM posts WHERE slot = %(slot)s AND post_id = %(post_id)s)
  AND user_id > %(after)s
ORDER BY user_id LIMIT %(limit)s

-- name: erase_edges
-- By row address: whatever the planner thinks of the post, it fetches these rows and no others.
WITH erased AS (
    DELETE FROM edges WHERE slot = %(slot)s AND ctid = ANY (ARRAY(
        SELECT edge.address
        FROM unnest(%(user_ids)s::bytea[]) AS wanted (user_id)
        CROSS JOIN LATERAL (
            SELECT ctid AS address FROM edges
            WHERE edges.slot = %(slot)s AND edges.user_id = wanted.user_id
              AND edges.post_no = (SELECT post_no FROM posts WHERE slot = %(slot)s AND post_id = %(post_id)s)
              AND NOT liked AND rev <= %(consumed)s
            OFFSET 0
        ) AS edge
    ))
    RETURNING 1
)
UPDATE posts SET purge_erased = purge_erased + (SELECT count(*) FROM erased)
WHERE slot = %(slot)s AND post_id = %(post_id)s
RETURNING (SELECT count(*) FROM erased)

-- name: end_purge
-- The count is 0 already, but for one that was wrong before.
WITH unmarked AS (
    DELETE FROM posts WHERE slot = %(slot)s AND post_id = %(mark)s
), placed AS (
    INSERT INTO posts (version, like_count, slot, post_id, purged_rev) VALUES (0, 0, %(slot)s, %(place)s, %(rev)s)
), noted AS (
    UPDATE slots SET purged_rev = %(rev)s WHERE slot = %(slot)s
)
UPDATE posts
SET purge_began = NULL, purged_rev = %(rev)s, like_count = 0, version = version + (like_count <> 0)::int
WHERE slot = %(slot)s AND post_id = %(post_id)s
RETURNING version, like_count

-- name: read_user_chunks
-- For each search (see user_chunks.py) the chunk that holds the place, and those from a place on in which the key is. A chunk
-- may come more than once.
SELECT wanted.user_id, chunk.since, chunk.entries
FROM unnest(%(slots)s::smallint[], %(user_ids)s::bytea[], %(places)s::bytea[], %(keys)s::bytea[], %(behind)s::bytea[])
     AS wanted (slot, user_id, place, key, behind)
CROSS JOIN LATERAL (
    (SELECT since, entries FROM user_likes
    WHERE user_likes.slot = wanted.slot AND user_likes.user_id = wanted.user_id AND since <= wanted.place
      AND few slots
    ORDER BY since DESC LIMIT 1)
    UNION ALL
    (SELECT since, entries FROM user_likes
    WHERE user_likes.slot = wanted.slot AND user_likes.user_id = wanted.user_id
      AND since >= wanted.behind AND position(wanted.key IN entries) > 0
      AND few slots
    OFFSET 0)
) AS chunk

-- name: write_user_chunks
-- A row when the fence held; without it nothing is written, so the statement may be a transaction of its own.
WITH fence AS (
    UPDATE writer SET beat = beat + 1
    WHERE generation = %(generation)s AND slots_seq = %(slots_seq)s
    RETURNING 1
), written AS (
    INSERT INTO user_likes (slot, user_id, since, entries)
    SELECT chunk.slot, chunk.user_id, chunk.since, chunk.entries
    FROM unnest(%(slots)s::smallint[], %(user_ids)s::bytea[], %(sinces)s::bytea[], %(chunks)s::bytea[])
         AS chunk (slot, user_id, since, entries)
    WHERE EXISTS (SELECT FROM fence)
    ON CONFLICT (user_id, since, slot) DO UPDATE SET entries = excluded.entries
)
SELECT 1 FROM fence

-- name: delete_user_chunk
DELETE FROM user_likes WHERE slot = %(slot)s AND user_id = %(user_id)s AND since = %(since)s

-- name: list_user_chunks
-- A user's chunks that begin before a place, newest first.
SELECT since, entries FROM user_likes
WHERE slot = %(slot)s AND user_id = %(user_id)s AND since < %(before)s
ORDER BY since DESC LIMIT %(limit)s

-- name: read_user_changes
-- As read_changes, for those who want edges as they are by now and nothing else: per slot a row without a post, then edges.
SELECT slots.slot, writer.last_rev AS rev, slots.epoch, slots.state = 'owner' AS liked, NULL::boolean AS was_liked,
       NULL::bytea AS post_id, NULL::bytea AS user_id, NULL::bigint AS like_time, NULL::boolean AS first
FROM slots CROSS JOIN writer WHERE slots.slot = ANY (%(slots)s::smallint[]) AND slots.state <> 'moved'
UNION ALL
SELECT wanted.slot, edge.rev, NULL, edge.liked, edge.liked OR edge.first_rev IS NOT NULL, post.post_id, edge.user_id,
       coalesce(edge.liked_at, edge.rev), coalesce(edge.first_rev, CASE WHEN edge.liked THEN edge.rev END) IS NOT DISTINCT FROM edge.rev
FROM unnest(%(slots)s::smallint[], %(positions)s::bigint[]) AS wanted (slot, position)
CROSS JOIN LATERAL (
    SELECT * FROM (
        SELECT rev, first_rev, liked, post_no, user_id, liked_at FROM edges
        WHERE edges.slot = wanted.slot AND edges.rev > wanted.position
      AND few slots
        ORDER BY edges.rev LIMIT 2000
    ) AS changed LIMIT %(limit)s
) AS edge
CROSS JOIN LATERAL (
    SELECT post_id FROM posts
    WHERE posts.post_no = edge.post_no AND posts.slot = wanted.slot
      AND few slots
    OFFSET 0
) AS post

-- name: read_user_feeds
SELECT slot, routes, marks FROM user_feeds WHERE slot = ANY (%(slots)s::smallint[])

-- name: write_user_feeds
-- A row when the fence held, as in write_user_chunks.
WITH fence AS (
    UPDATE writer SET beat = beat + 1
    WHERE generation = %(generation)s AND slots_seq = %(slots_seq)s
    RETURNING 1
), written AS (
    INSERT INTO user_feeds (slot, routes, marks)
    SELECT one.slot, %(routes)s, one.marks::jsonb
    FROM unnest(%(slots)s::smallint[], %(marks)s::text[]) AS one (slot, marks)
    WHERE EXISTS (SELECT FROM fence)
    ON CONFLICT (slot) DO UPDATE SET routes = excluded.routes, marks = excluded.marks
)
SELECT 1 FROM fence

-- name: forget_user_feed
DELETE FROM user_feeds WHERE slot = %(slot)s

-- name: set_user_feed
-- In the transaction that takes the slot. What is here is of an earlier time.
INSERT INTO user_feeds (slot, routes, marks) VALUES (%(slot)s, %(routes)s, %(marks)s::text::jsonb)
ON CONFLICT (slot) DO UPDATE SET routes = excluded.routes, marks = excluded.marks

-- name: import_likes
-- Likes from elsewhere: as insert_likes, in a transaction that has passed the fence. An edge that exists, be it by the same
-- statement, is left alone: that is nothing rare here, so posts are looked up first. The time of a like is its intent too.
WITH
-- with: wanted,
numbers AS MATERIALIZED (
    SELECT array_agg(coalesce(post_no, (%(next_numbers)s::integer[])[post]) ORDER BY post) AS numbers FROM wanted
), inserted AS (
    INSERT INTO edges (rev, liked_at, post_no, slot, liked, user_id)
    SELECT %(base_rev)s::bigint + op.position, op.liked_at,
           (SELECT numbers FROM numbers)[op.post], (%(slots)s::smallint[])[op.post], true, op.user_id
    FROM unnest(%(posts)s::integer[], %(user_ids)s::bytea[], %(times)s::bigint[])
         WITH ORDINALITY AS op (post, user_id, liked_at, position)
    ON CONFLICT DO NOTHING
    RETURNING rev - %(base_rev)s::bigint AS position
),
-- with: likes,
counted AS (
    INSERT INTO posts AS post (version, like_count, post_no, slot, post_id)
    SELECT now_liked, now_liked, number, slot, post_id FROM (
        SELECT *, (SELECT likes FROM likes)[post] AS now_liked, (SELECT numbers FROM numbers)[post] AS number
        FROM wanted OFFSET 0
    ) AS change
    WHERE now_liked > 0
    ON CONFLICT (post_id, slot) DO UPDATE
    SET version = post.version + excluded.version, like_count = post.like_count + excluded.like_count
    RETURNING post_id, version, like_count, post_no
)
SELECT NULL::bytea AS post_id, NULL::bigint AS version, NULL::bigint AS like_count, NULL::integer AS post_no,
       CASE WHEN NOT complete THEN ARRAY(SELECT position FROM inserted) END AS positions
FROM likes
UNION ALL
SELECT post_id, version, like_count, post_no, NULL FROM counted

-- name: export_likes
-- Likes behind a place, in the order of their index; and a row with the id of each of their posts.
WITH page AS MATERIALIZED (
    SELECT post_no, user_id, coalesce(liked_at, rev) AS like_time, rev FROM edges
    WHERE slot = %(slot)s AND liked
      AND (post_no, like_place(coalesce(liked_at, rev), rev)) > (%(after_post_no)s, like_place(%(after_time)s, %(after_rev)s))
    ORDER BY post_no, like_place(coalesce(liked_at, rev), rev) LIMIT %(limit)s
)
SELECT post.post_no, post.post_id AS id, NULL::bigint AS like_time, NULL::bigint AS rev
FROM (SELECT DISTINCT post_no FROM page) AS named
CROSS JOIN LATERAL (
    SELECT post_no, post_id FROM posts WHERE slot = %(slot)s AND posts.post_no = named.post_no OFFSET 0
) AS post
UNION ALL
(SELECT post_no, user_id, like_time, rev FROM page ORDER BY post_no, like_place(like_time, rev))

-- name: user_edges
-- The user's edges of the next posts behind a given number, as many posts as the limit; then a row without a post: the number
-- of the last of them, and how many. It goes from post to post, not over the edges of all users.
WITH seen AS MATERIALIZED (
    SELECT post_no, post_id FROM posts WHERE slot = %(slot)s AND post_no > %(after)s ORDER BY post_no LIMIT %(limit)s
)
SELECT seen.post_id, edge.liked, edge.rev, NULL::integer AS last, NULL::bigint AS posts
FROM seen CROSS JOIN LATERAL (
    SELECT * FROM edges
    WHERE edges.slot = %(slot)s AND edges.post_no = seen.post_no AND edges.user_id = %(user_id)s
    OFFSET 0
) AS edge
UNION ALL
SELECT NULL, NULL, NULL, (SELECT max(post_no) FROM seen), (SELECT count(*) FROM seen)

-- name: begin_user_purge
-- In the user's own slot one that is under way goes on; any other slot is marked for the latest that it has heard of.
INSERT INTO posts AS mark (version, like_count, slot, post_id, purge_began, purge_erased)
VALUES (0, 0, %(slot)s, %(mark)s, %(purge)s, 0)
ON CONFLICT (post_id, slot) DO UPDATE
SET purge_erased = CASE WHEN mark.purge_began IS NULL THEN 0 ELSE mark.purge_erased END,
    purge_began = CASE WHEN %(own)s THEN coalesce(mark.purge_began, excluded.purge_began)
                       ELSE greatest(mark.purge_began, excluded.purge_began) END
RETURNING purge_began, purge_erased

-- name: erase_user_edges
-- As erase_edges, of a user.
WITH erased AS (
    DELETE FROM edges WHERE slot = %(slot)s AND ctid = ANY (ARRAY(
        SELECT edge.address
        FROM unnest(%(post_ids)s::bytea[]) AS wanted (post_id)
        CROSS JOIN LATERAL (
            SELECT post_no FROM posts WHERE slot = %(slot)s AND posts.post_id = wanted.post_id OFFSET 0
        ) AS post
        CROSS JOIN LATERAL (
            SELECT ctid AS address FROM edges
            WHERE edges.slot = %(slot)s AND edges.post_no = post.post_no AND edges.user_id = %(user_id)s
              AND NOT liked AND rev <= %(consumed)s
            OFFSET 0
        ) AS edge
    ))
    RETURNING post_no
), noted AS (
    UPDATE posts SET erased_rev = %(rev)s WHERE slot = %(slot)s AND post_no = ANY (ARRAY(SELECT post_no FROM erased))
)
UPDATE posts SET purge_erased = purge_erased + (SELECT count(*) FROM erased)
WHERE slot = %(slot)s AND post_id = %(mark)s
RETURNING (SELECT count(*) FROM erased), purge_erased

-- name: erase_user_chunks
DELETE FROM user_likes WHERE slot = %(slot)s AND ctid = ANY (ARRAY(
    SELECT ctid FROM user_likes WHERE slot = %(slot)s AND user_id = %(user_id)s ORDER BY since LIMIT %(limit)s
))
RETURNING entries

-- name: end_user_purge
-- In the user's own slot the row stays, as the receipt.
WITH ended AS (
    UPDATE posts SET purge_began = NULL, purged_rev = %(rev)s WHERE slot = %(slot)s AND post_id = %(mark)s
    RETURNING purge_erased
), noted AS (
    UPDATE slots SET purged_rev = %(rev)s WHERE slot = %(slot)s AND EXISTS (SELECT FROM ended WHERE purge_erased > 0)
)
INSERT INTO posts (version, like_count, slot, post_id, purged_rev)
SELECT 0, 0, %(slot)s, %(place)s, %(rev)s FROM ended WHERE purge_erased > 0

-- name: remove_user_mark
WITH ended AS (
    DELETE FROM posts WHERE slot = %(slot)s AND post_id = %(mark)s RETURNING purge_erased
), noted AS (
    UPDATE slots SET purged_rev = %(rev)s WHERE slot = %(slot)s AND EXISTS (SELECT FROM ended WHERE purge_erased > 0)
)
INSERT INTO posts (version, like_count, slot, post_id, purged_rev)
SELECT 0, 0, %(slot)s, %(place)s, %(rev)s FROM ended WHERE purge_erased > 0

-- name: read_user_purge
SELECT coalesce(purged_rev, 0) FROM posts WHERE slot = %(slot)s AND post_id = %(mark)s

-- name: replayed_until
-- Of a replica: the time of the last commit that it has replayed, in µs since 1970, NULL when it has not replayed any
-- since it began. No row: it is no replica.
SELECT (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint WHERE pg_is_in_recovery()

-- name: slots_among
SELECT slot, epoch, state FROM slots WHERE slot = ANY (%(slots)s::smallint[])

-- name: slots_to_sweep
-- Of a slot that has a seal, or a probe, a move has not ended: its copies are still to be compared.
SELECT slot, epoch, swept_to FROM slots
WHERE state = 'owner' AND NOT EXISTS (SELECT FROM seals WHERE seals.slot = slots.slot) ORDER BY slot

-- name: tombstones
-- One row: of the next edges of a slot by revision, how many there are and the last of them, which are tombstones that may
-- be swept, and the first of those that may not because of their intents. The limit as a number: see read_changes.
SELECT count(*), coalesce(max(rev), 0), coalesce(array_agg(rev) FILTER (WHERE NOT liked AND due), '{}'),
       min(rev) FILTER (WHERE NOT liked AND NOT due)
FROM (
    SELECT rev, liked, coalesce(intent, rev) <= %(latest_intent)s AS due FROM edges
    WHERE edges.slot = %(slot)s AND edges.rev > %(after)s AND edges.rev <= %(until)s
    ORDER BY edges.rev LIMIT 5000
) AS page

-- name: sweep
-- Those that are still as they were found. By row address: see erase_edges.
WITH swept AS (
    DELETE FROM edges WHERE slot = %(slot)s AND ctid = ANY (ARRAY(
        SELECT edge.address
        FROM unnest(%(revs)s::bigint[]) AS wanted (rev)
        CROSS JOIN LATERAL (
            SELECT ctid AS address FROM edges
            WHERE edges.slot = %(slot)s AND edges.rev = wanted.rev
              AND NOT liked AND coalesce(intent, rev) <= %(latest_intent)s
            OFFSET 0
        ) AS edge
    ))
    RETURNING rev, coalesce(intent, rev) AS intent
)
UPDATE slots
SET swept_rev = greatest(swept_rev, (SELECT max(rev) FROM swept)),
    swept_intent = greatest(swept_intent, (SELECT max(intent) FROM swept)), swept_to = greatest(swept_to, %(to)s)
WHERE slot = %(slot)s
RETURNING (SELECT count(*) FROM swept), swept_intent
