-- Networks that devices are onboarded into (docs/lorawan.md): one application of a network serves one profile, that of
-- whoever has first shown an API key that may make devices in it; anybody can name an application.

CREATE TABLE integration (
    id                 uuid PRIMARY KEY,
    organization_id    uuid NOT NULL REFERENCES organization ON DELETE CASCADE,
    profile_id         uuid NOT NULL UNIQUE REFERENCES device_profile ON DELETE CASCADE,
    network            text NOT NULL,            -- things-stack, chirpstack
    host               text NOT NULL,            -- of the server that has the application: host, or host:port
    application_id     text NOT NULL,
    settings           jsonb NOT NULL,           -- core/integration.py
    key_sealed         bytea NOT NULL,           -- the API key
    webhook_sealed     bytea,                    -- the secret that uplinks come with; NULL: none come by webhook
    verified           boolean NOT NULL DEFAULT false,  -- its API key has had all rights: the application is its own
    onboarding         boolean NOT NULL CHECK (verified OR NOT onboarding),
    auto_import        boolean NOT NULL,
    lorawan_profile_id text CHECK (lorawan_profile_id ~ '^[0-9A-F]{8}$'),
    claim_proof        text NOT NULL,            -- beside a TR005 code: none, owner_token, device
    status             text NOT NULL DEFAULT 'unchecked',  -- unchecked, connected, broken
    error              text,
    checked_at         timestamptz,              -- when the status was last found out
    created_by         text NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    revision           bigint NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX integration_application ON integration (network, host, application_id) WHERE verified;
CREATE INDEX ON integration (organization_id);

-- What we know of a device there. It may be there before the device is here: a static token has the id of its device,
-- so there is no foreign key.
CREATE TABLE network_device (
    device_id         uuid PRIMARY KEY,
    integration_id    uuid NOT NULL REFERENCES integration ON DELETE CASCADE,
    network_device_id text NOT NULL,
    dev_eui           text NOT NULL CHECK (dev_eui ~ '^[0-9A-F]{16}$'),
    join_eui          text CHECK (join_eui ~ '^[0-9A-F]{16}$'),  -- NULL: it came by an uplink that did not say
    state             text NOT NULL,             -- waiting, onboarding, onboarded, failed, removing, removed, imported
    made              jsonb NOT NULL DEFAULT '[]',  -- the steps whose components we have created there
    error             text,
    remedy            text,
    job_id            uuid,
    last_join_at      timestamptz,
    last_uplink_at    timestamptz,
    rssi              real,                      -- dBm, of the gateway that heard the last uplink best
    snr               real,                      -- dB
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);
-- What failed and has left nothing there, and what is removed, stands in nobody's way.
CREATE UNIQUE INDEX network_device_id_taken ON network_device (integration_id, network_device_id)
    WHERE state <> 'removed' AND (state <> 'failed' OR made <> '[]');
CREATE UNIQUE INDEX network_device_eui_taken ON network_device (integration_id, dev_eui)
    WHERE state <> 'removed' AND (state <> 'failed' OR made <> '[]');
CREATE INDEX ON network_device (integration_id, device_id);
