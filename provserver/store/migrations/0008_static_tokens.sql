-- Static tokens: access tokens made before their devices are, each with a QR token that claims the device.
-- A static token and the device that comes of it have one id, so the sealed token is good for both.

CREATE TABLE static_token (
    id              uuid PRIMARY KEY,
    number          bigint GENERATED ALWAYS AS IDENTITY UNIQUE,  -- for people
    organization_id uuid  NOT NULL,                              -- that made it
    profile_id      uuid  NOT NULL REFERENCES device_profile,
    id_digest       bytea NOT NULL UNIQUE,                       -- as `credentials.id_digest`
    sealed          bytea NOT NULL,                              -- as `credentials.sealed`
    qr_digest       bytea NOT NULL UNIQUE,
    qr_sealed       bytea NOT NULL,
    status          text  NOT NULL DEFAULT 'UNCLAIMED' CHECK (status IN ('UNCLAIMED', 'CLAIMED')),
    claimed_at      timestamptz,
    name            text,                                        -- the device's to be; null: made from the number
    metadata        jsonb NOT NULL DEFAULT '{}',                 -- values by field, as texts
    used_at         timestamptz,                                 -- first connected with, claimed, shown or exported:
                                                                 -- it may be in a unit, so it is free for none
    unit            text,                                        -- the unit it was written to, or is being written to
    unit_state      text CHECK (unit_state IN ('reserved', 'written', 'failed')),
    unit_at         timestamptz,
    revision        bigint NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON static_token (organization_id, id);
CREATE INDEX ON static_token (profile_id, id);
CREATE INDEX static_token_free ON static_token (profile_id, id) WHERE unit IS NULL AND used_at IS NULL;  -- to reserve one for a unit
CREATE UNIQUE INDEX ON static_token (organization_id, name) WHERE name IS NOT NULL;
CREATE UNIQUE INDEX ON static_token (profile_id, unit) WHERE unit_state IN ('reserved', 'written');

-- Values of metadata fields that no two tokens of a profile may share.
CREATE TABLE static_token_value (
    profile_id uuid NOT NULL,
    field      text NOT NULL,
    value      text NOT NULL,
    token_id   uuid NOT NULL REFERENCES static_token ON DELETE CASCADE,
    PRIMARY KEY (profile_id, field, value)
);
CREATE INDEX ON static_token_value (token_id);

ALTER TABLE device_profile
    ADD COLUMN two_sided_claim boolean NOT NULL DEFAULT false;  -- a claim waits for the device's word

-- A claim that waits for the device to confirm it.
CREATE TABLE pending_claim (
    device_id       uuid PRIMARY KEY,
    organization_id uuid NOT NULL,  -- of who claims
    user_id         uuid,
    actor           text NOT NULL,
    expires_at      timestamptz NOT NULL
);
