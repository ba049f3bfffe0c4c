-- When and from where a provision key is good; null: always, from anywhere.

ALTER TABLE provision_key
    ADD COLUMN not_before timestamptz,
    ADD COLUMN not_after  timestamptz,
    ADD COLUMN networks   cidr[] CHECK (networks <> '{}');
