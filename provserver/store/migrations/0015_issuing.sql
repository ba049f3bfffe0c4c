-- The life of credentials: when they end, and the CAs that profiles issue certificates with.

-- Null: they do not. Certificates end by their notAfter in any case.
ALTER TABLE credentials ADD COLUMN expires_at timestamptz;

-- How long credentials are good that the server makes; null: tokens for ever.
ALTER TABLE device_profile
    ADD COLUMN credentials_lifetime interval CHECK (credentials_lifetime >= interval '1 minute');

CREATE TABLE issuing_ca (
    profile_id   uuid PRIMARY KEY REFERENCES device_profile ON DELETE CASCADE,
    certificates bytea[]     NOT NULL CHECK (cardinality(certificates) > 0),  -- DER: its own, then those above it
    key_sealed   bytea       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);

-- Of those that end, to find whose end is near: other rows are not in it, and cost nothing.
CREATE INDEX credentials_end ON credentials (expires_at) WHERE expires_at IS NOT NULL;
