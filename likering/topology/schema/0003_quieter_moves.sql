-- A move is told of when its target serves, not when it commits: whoever is told wakes up, and the slot's writes wait.

ALTER TABLE moves ADD COLUMN topology_version bigint; -- of the topology that its commit made

-- Two moves at once are not faster on a machine that they fill, and their pauses are longer.
ALTER TABLE move_limits ALTER COLUMN slots_at_once SET DEFAULT 1;
UPDATE move_limits SET slots_at_once = 1 WHERE slots_at_once = 2;
