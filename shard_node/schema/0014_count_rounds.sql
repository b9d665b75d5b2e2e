-- How far the counts of each slot have been compared with its likes (see admin/count_rounds.py). Times in µs since 1970.
CREATE TABLE count_rounds (
    slot        smallint PRIMARY KEY,
    epoch       bigint NOT NULL,  -- the slot's; at another one nothing of this is true
    verified_at bigint NOT NULL,  -- all counts were compared then or later; before the first time, when the slot came
    drifted     boolean NOT NULL, -- the last time some were wrong
    began       bigint,           -- of the comparison that is under way; NULL: there is none
    post_no     integer NOT NULL  -- which has come up to the post of this number
);
