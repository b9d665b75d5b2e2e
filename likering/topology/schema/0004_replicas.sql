-- Who answers stale reads of a node from a copy of its database.
CREATE TABLE replicas (
    address text PRIMARY KEY, -- host:port
    node text NOT NULL REFERENCES nodes (name) ON DELETE CASCADE,
    registered_at timestamptz NOT NULL DEFAULT now()
);
