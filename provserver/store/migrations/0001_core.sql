-- Organizations, profiles, devices, credentials, attributes, attempts, outbox.
-- Keys are time-ordered UUIDs made by the server. Few foreign keys on the hot tables: the statements that
-- write them keep them whole (services delete what hangs on a device in the same transaction).

CREATE TABLE server_key (
    purpose text     NOT NULL CHECK (purpose IN ('digest', 'sealing')),
    version smallint NOT NULL,
    proof   bytea    NOT NULL,  -- shows that the keys outside are the ones this database was written with
    PRIMARY KEY (purpose, version)
);

CREATE TABLE organization (
    id         uuid PRIMARY KEY,
    number     integer GENERATED ALWAYS AS IDENTITY UNIQUE,  -- what QR payloads carry
    parent_id  uuid REFERENCES organization,
    name       text NOT NULL CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (parent_id, name)
);

CREATE TABLE device_profile (
    id                 uuid PRIMARY KEY,
    organization_id    uuid NOT NULL REFERENCES organization,
    name               text NOT NULL CHECK (name <> ''),
    template_id        text NOT NULL UNIQUE,
    strategy           text NOT NULL CHECK (strategy IN ('ALLOW_CREATE_NEW_DEVICES',
                           'CHECK_PRE_PROVISIONED_DEVICES', 'X509_CERTIFICATE_CHAIN', 'DISABLED')),
    reprovision_policy text NOT NULL CHECK (reprovision_policy IN
                           ('deny', 'until_first_use', 'return_same', 'rotate')),
    metadata_fields    jsonb NOT NULL DEFAULT '[]',
    datastreams        jsonb NOT NULL DEFAULT '[]',
    revision           bigint NOT NULL DEFAULT 1,  -- changes with the profile and its keys: guards cached copies
    created_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, name)
);

CREATE TABLE provision_key (
    key           text PRIMARY KEY,
    profile_id    uuid NOT NULL REFERENCES device_profile ON DELETE CASCADE,
    secret_digest bytea NOT NULL,
    secret_sealed bytea NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON provision_key (profile_id);

CREATE TABLE device (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL,
    profile_id      uuid NOT NULL,
    name            text NOT NULL,
    gateway         boolean NOT NULL DEFAULT false,
    rearmed         boolean NOT NULL DEFAULT false,  -- the operator allows one more provisioning
    revision        bigint NOT NULL DEFAULT 1,       -- changes with the device, its credentials and provisionState
    nonce_digest    bytea,
    request_digest  bytea,                           -- null once the nonce is spent
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, name)
);
CREATE UNIQUE INDEX device_nonce ON device (profile_id, nonce_digest) WHERE nonce_digest IS NOT NULL;

CREATE TABLE credentials (
    id_digest     bytea PRIMARY KEY,  -- of the credentials id: unique across everything
    device_id     uuid NOT NULL,
    type          text NOT NULL CHECK (type IN ('ACCESS_TOKEN', 'X509_CERTIFICATE', 'MQTT_BASIC')),
    origin        text NOT NULL CHECK (origin IN ('generated', 'supplied', 'imported')),
    pending       boolean NOT NULL DEFAULT false,  -- takes over from the others at its first use
    sealed        bytea NOT NULL,
    first_used_at timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX credentials_device ON credentials (device_id);

CREATE TABLE attribute (
    device_id  uuid NOT NULL,
    scope      text NOT NULL CHECK (scope IN ('CLIENT', 'SHARED', 'SERVER')),
    key        text NOT NULL,
    value      jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device_id, scope, key)
);

CREATE TABLE attempt (
    id          uuid PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    transport   text NOT NULL,
    address     text NOT NULL,
    outcome     text NOT NULL,
    reason      text,           -- for the operator; null when provisioned
    detail      text,
    profile_id  uuid,           -- null when no key was recognised: what was sent instead may be a secret
    device_id   uuid,
    device_name text
);

CREATE TABLE outbox (
    id         uuid PRIMARY KEY,
    device_id  uuid,
    type       text NOT NULL,
    payload    jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
