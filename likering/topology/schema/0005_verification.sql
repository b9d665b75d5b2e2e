-- How fast each node compares its counts with its likes, in rows a second; 0: not at all.
ALTER TABLE move_limits
    ADD COLUMN verify_rows_per_second integer NOT NULL DEFAULT 20000 CHECK (verify_rows_per_second >= 0);
