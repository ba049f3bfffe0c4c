-- WiFi sessions: tries of people to get one device onto WiFi with a token of ours. Until the device comes with that token
-- and says of which profile it is, the session stands for it; the device gets the session's id and token.

CREATE TABLE wifi_session (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization ON DELETE CASCADE,  -- that is to have the device
    owner_id        uuid REFERENCES "user" ON DELETE SET NULL,                -- who is to own it
    requester       text NOT NULL,         -- the actor
    client          text NOT NULL,         -- with what it was asked for
    device_id       uuid NOT NULL,         -- the session's own id, unless the device was there before
    again           boolean NOT NULL,      -- it was: the token is among its credentials, pending
    issued_at       timestamptz,           -- and was issued then
    profile_id      uuid REFERENCES device_profile ON DELETE SET NULL,  -- null: nobody knows yet
    device_name     text,                  -- null: made from the profile's
    state           text NOT NULL DEFAULT 'WAITING'
                    CHECK (state IN ('WAITING', 'CONNECTED', 'SUCCESS', 'FAILED', 'CANCELED', 'EXPIRED')),
    error           text,                  -- the last one, a word
    log             jsonb NOT NULL DEFAULT '[]',
    made            boolean NOT NULL DEFAULT false,  -- the device came of it, and is there
    id_digest       bytea UNIQUE,          -- as `credentials.id_digest`; null: the device was there
    sealed          bytea,                 -- as `credentials.sealed`; null once the session is over
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at      timestamptz NOT NULL,
    ended_at        timestamptz
);
CREATE INDEX ON wifi_session (organization_id, id);
CREATE INDEX ON wifi_session (device_id);
CREATE INDEX ON wifi_session (profile_id) WHERE profile_id IS NOT NULL;
CREATE INDEX ON wifi_session (owner_id) WHERE owner_id IS NOT NULL;
CREATE INDEX wifi_session_open ON wifi_session (organization_id, expires_at) WHERE ended_at IS NULL;
CREATE INDEX wifi_session_over ON wifi_session (ended_at) WHERE ended_at IS NOT NULL AND NOT made;

-- A device that is made of a session takes its row over as it is, as one of a static token does.
CREATE OR REPLACE FUNCTION refuse_old_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'credentials' THEN
        IF EXISTS (SELECT FROM static_token t WHERE t.id = NEW.device_id AND t.id_digest = NEW.id_digest)
            OR EXISTS (SELECT FROM wifi_session w WHERE w.id = NEW.device_id AND w.id_digest = NEW.id_digest) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the keys of the server were rotated meanwhile' USING ERRCODE = 'operator_intervention';
END $$;
