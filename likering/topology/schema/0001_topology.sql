-- One cluster per database. Whoever changes anything locks this one row and raises the version.
CREATE TABLE cluster (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    cluster_id uuid NOT NULL,
    slot_count integer NOT NULL CHECK (slot_count BETWEEN 1 AND 16384 AND (slot_count & (slot_count - 1)) = 0),
    version bigint NOT NULL CHECK (version >= 1),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE nodes (
    name text PRIMARY KEY,
    uuid uuid NOT NULL UNIQUE,
    address text NOT NULL,
    weight integer NOT NULL CHECK (weight BETWEEN 1 AND 1000),
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining')),
    generation bigint NOT NULL CHECK (generation >= 0),
    system_identifier text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- A row per slot from the beginning; the epoch counts the owners that the slot has had.
CREATE TABLE slots (
    slot integer PRIMARY KEY,
    owner text REFERENCES nodes (name),
    epoch bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    CHECK ((owner IS NULL) = (epoch = 0))
);
