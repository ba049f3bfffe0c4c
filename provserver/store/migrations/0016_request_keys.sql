-- The keys that devices seal their requests to (docs/sealed.md): X25519, HPKE.

CREATE TABLE request_key (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization ON DELETE CASCADE,
    key_id          text NOT NULL UNIQUE,  -- what requests name it by, made of the public key
    public_key      bytea NOT NULL CHECK (length(public_key) = 32),
    sealed          bytea NOT NULL,        -- the private key
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON request_key (organization_id);
