-- Moves of slots between nodes.

-- A slot is the node's own, or frozen for an attempt of a move, or it has moved away and its copy is kept for a while.
ALTER TABLE slots DROP CONSTRAINT slots_state_check;
ALTER TABLE slots ADD CHECK (state IN ('owner', 'frozen', 'moved'));
ALTER TABLE slots ADD COLUMN move bigint;
ALTER TABLE slots ADD COLUMN attempt integer;

-- Goes the way of a slot's rows, after all of them. Probe 0 is the seal, written in the transaction that freezes the
-- slot: whoever sees it has everything. The others only show how long that way takes.
CREATE TABLE seals (
    slot     smallint NOT NULL,
    move     bigint NOT NULL,
    attempt  integer NOT NULL,
    probe    bigint NOT NULL,
    last_rev bigint NOT NULL,
    PRIMARY KEY (slot, move, attempt, probe)
);
