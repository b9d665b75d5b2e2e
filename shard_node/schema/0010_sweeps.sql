-- Unlikes are remembered for a while, as edges that are not liked; then they are swept. What may have gone with them:
ALTER TABLE slots ADD COLUMN swept_rev bigint NOT NULL DEFAULT 0;    -- no edge of a later revision was swept
ALTER TABLE slots ADD COLUMN swept_intent bigint NOT NULL DEFAULT 0; -- no edge of a later intent was swept
ALTER TABLE slots ADD COLUMN swept_to bigint NOT NULL DEFAULT 0;     -- the sweeper has come up to this revision

-- They go with the slot, in its seal.
ALTER TABLE seals ADD COLUMN swept_rev bigint;
ALTER TABLE seals ADD COLUMN swept_intent bigint;
