-- Erasing a user. While that is under way, each slot has a mark: a row whose post_id is behind all ids and behind the marks of
-- posts (see user_purge_marks.py), with the purge as purge_began. In the user's own slot it stays as the receipt.
-- A deleted edge has no revision to say that it has changed: its post's row says it.
ALTER TABLE posts ADD COLUMN erased_rev bigint; -- revision at which edges of the post were last erased with their users
