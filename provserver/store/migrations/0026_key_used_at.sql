-- When a provision key was last used, written with its uses: while they are counted.

ALTER TABLE provision_key ADD COLUMN used_at timestamptz;
