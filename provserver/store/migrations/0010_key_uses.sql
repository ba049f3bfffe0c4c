-- How often a provision key may be used, in all and in a minute; null: any number of times.

ALTER TABLE provision_key
    ADD COLUMN uses       bigint NOT NULL DEFAULT 0,  -- counted while max_uses bounds it
    ADD COLUMN max_uses   bigint CHECK (max_uses > 0),
    ADD COLUMN per_minute integer CHECK (per_minute > 0);
