-- Moves of slots from node to node. Their progress stands outside the cluster's version: only what changes an owner
-- raises it.

-- What operators set at run time. One row.
CREATE TABLE move_limits (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    paused boolean NOT NULL DEFAULT false,             -- no move begins, and none freezes its slot
    slots_at_once integer NOT NULL DEFAULT 2 CHECK (slots_at_once BETWEEN 1 AND 64), -- per node, as source and as target
    rows_per_second integer NOT NULL DEFAULT 20000 CHECK (rows_per_second >= 0),     -- copied by a node; 0: no limit
    pause_budget_ms integer NOT NULL DEFAULT 100 CHECK (pause_budget_ms >= 1),       -- longest freeze before it is aborted
    grace_seconds integer NOT NULL DEFAULT 900 CHECK (grace_seconds >= 0)            -- how long the source keeps its copy
);
INSERT INTO move_limits DEFAULT VALUES;

-- One per plan that was applied.
CREATE TABLE resizes (
    resize bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    plan jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One per slot of a resize. Every transition is a compare-and-set on (state, attempt).
CREATE TABLE moves (
    move bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    resize bigint NOT NULL REFERENCES resizes,
    slot integer NOT NULL REFERENCES slots,
    source text NOT NULL,                  -- names of nodes, for good: also of nodes that were removed since
    target text NOT NULL,
    epoch bigint NOT NULL,                 -- of the slot when the move was planned: the source's
    attempt integer NOT NULL DEFAULT 1,
    state text NOT NULL DEFAULT 'planned' CHECK (state IN (
        'planned', 'copying', 'catching_up', 'freezing', 'aborted', 'committed', 'activating', 'active', 'moved',
        'verified', 'retired', 'cancelled', 'reverted')),
    state_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- What the node that works on it says, besides the transitions.
    rows_total bigint NOT NULL DEFAULT 0,  -- to copy, as estimated
    rows_copied bigint NOT NULL DEFAULT 0,
    lag_us bigint,                         -- how long the last probe took from source to target
    pause_us bigint,                       -- source's freeze until the target's first possible write
    last_rev bigint,                       -- the source's last revision of the slot
    waits_for text NOT NULL DEFAULT '',    -- why it does not go on
    waits_since timestamptz,
    last_error text NOT NULL DEFAULT '',
    word_at timestamptz NOT NULL DEFAULT clock_timestamp() -- when a node last said something about it
);
CREATE UNIQUE INDEX moves_one_per_slot ON moves (slot) WHERE state NOT IN ('verified', 'retired', 'cancelled', 'reverted');
CREATE INDEX moves_unsettled ON moves (move) WHERE state NOT IN ('retired', 'cancelled', 'reverted');

-- What happened, for good: a row per transition.
CREATE TABLE move_events (
    move bigint NOT NULL REFERENCES moves,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempt integer NOT NULL,
    state text NOT NULL,
    who text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX move_events_by_move ON move_events (move, at);
