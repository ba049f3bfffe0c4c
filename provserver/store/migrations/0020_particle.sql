-- Products of Particle's whose devices get a profile's static tokens through a ledger (docs/particle.md). Which device
-- has which token is in static_token.unit, as of every other unit: a Particle device's id is the unit's.

CREATE TABLE particle_product (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization ON DELETE CASCADE,
    profile_id      uuid NOT NULL UNIQUE REFERENCES device_profile ON DELETE CASCADE,
    url             text NOT NULL,           -- of the API
    org             text NOT NULL,           -- slug of the organization there; empty: a sandbox
    product         text NOT NULL,           -- id or slug there
    ledger          text NOT NULL,
    token_sealed    bytea NOT NULL,          -- the access token
    expires_at      timestamptz,             -- when that ends, as far as it was asked
    created_by      text NOT NULL,           -- the actor
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    revision        bigint NOT NULL DEFAULT 1,
    UNIQUE (organization_id, url, org, product, ledger)
);
