-- Devices of a network that uplinks or joins have told of, and that are none of ours.

CREATE TABLE network_sighting (
    id                uuid PRIMARY KEY,
    integration_id    uuid NOT NULL REFERENCES integration ON DELETE CASCADE,
    network_device_id text NOT NULL,
    dev_eui           text CHECK (dev_eui ~ '^[0-9A-F]{16}$'),
    join_eui          text CHECK (join_eui ~ '^[0-9A-F]{16}$'),
    obstacle          text,                                -- why it is not imported, where that is wanted
    times             bigint NOT NULL DEFAULT 1,           -- it was heard
    first_at          timestamptz NOT NULL DEFAULT now(),
    last_at           timestamptz NOT NULL DEFAULT now(),
    UNIQUE (integration_id, network_device_id)
);

-- A code of TR005 is looked up by the Profile ID that its maker has chosen.
CREATE INDEX ON integration (organization_id, lorawan_profile_id) WHERE onboarding;
