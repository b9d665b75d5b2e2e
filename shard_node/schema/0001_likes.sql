-- One shard node's database: who may write, which slots it owns, who likes what.

-- Which node this database belongs to. One row, written once.
CREATE TABLE identity (
    one_row    boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    cluster_id uuid NOT NULL,
    slot_count integer NOT NULL,
    node_name  text NOT NULL,
    node_uuid  uuid NOT NULL DEFAULT gen_random_uuid()
);

-- The fence. Every transaction that writes slot data begins with an UPDATE of this row that names the generation
-- and the slots_seq that its process knows; when it finds no row, another process has taken over or a slot has moved.
CREATE TABLE writer (
    one_row    boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    generation bigint NOT NULL, -- grows by one with each take-over
    slots_seq  bigint NOT NULL, -- grows by one with each change of slots
    last_rev   bigint NOT NULL, -- the highest revision ever issued
    beat       bigint NOT NULL  -- grows while the writer is alive and idle
) WITH (fillfactor = 10); -- updated by every commit: leave room for the row's next versions in its own page
INSERT INTO writer (generation, slots_seq, last_rev, beat) VALUES (0, 0, 0, 0);

-- The slots that this database holds.
CREATE TABLE slots (
    slot  smallint PRIMARY KEY,
    epoch bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('owner'))
);

-- One row per edge (post, user) that was ever liked, or whose unlike must be remembered (a tombstone).
-- Times are in µs since 1970. Wide columns first: no padding.
CREATE TABLE edges (
    rev       bigint NOT NULL,  -- revision of the last change
    intent    bigint NOT NULL,  -- the newest intent time, or the revision where none was given
    first_rev bigint,           -- revision of the first like, for good
    slot      smallint NOT NULL,
    liked     boolean NOT NULL,
    post_id   text COLLATE "C" NOT NULL,
    user_id   text COLLATE "C" NOT NULL,
    PRIMARY KEY (post_id, user_id, slot)
) PARTITION BY LIST (slot);

-- One row per post that ever changed. Changed in the transaction that changes the edges.
CREATE TABLE posts (
    version    bigint NOT NULL, -- number of changes that took effect
    like_count bigint NOT NULL, -- number of its liked edges
    slot       smallint NOT NULL,
    post_id    text COLLATE "C" NOT NULL,
    PRIMARY KEY (post_id, slot)
) PARTITION BY LIST (slot);
