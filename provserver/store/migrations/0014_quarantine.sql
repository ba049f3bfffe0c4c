-- Clones: what speaks for them, devices in quarantine, and requests that wait for an operator.

ALTER TABLE device_profile
    ADD COLUMN clone_policy text    NOT NULL DEFAULT 'report' CHECK (clone_policy IN ('ignore', 'report', 'quarantine')),
    ADD COLUMN approval     boolean NOT NULL DEFAULT false;  -- whoever asks anew waits for an operator

ALTER TABLE credentials ADD COLUMN quarantined boolean NOT NULL DEFAULT false;  -- they let nobody in until the release

-- As with those that are gone: nobody who can do this may forget to say so.
CREATE TRIGGER credentials_quarantined AFTER UPDATE OF quarantined ON credentials
    FOR EACH ROW WHEN (NEW.quarantined AND NOT OLD.quarantined) EXECUTE FUNCTION notify_credentials_replaced();

CREATE TABLE device_quarantine (
    device_id uuid PRIMARY KEY,
    reason    text NOT NULL,
    actor     text NOT NULL,  -- `provserver` when it was the profile's policy
    since     timestamptz NOT NULL DEFAULT now()
);

-- What speaks for a device being there twice: one row of a kind.
CREATE TABLE clone_sign (
    device_id  uuid NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('name', 'nonce', 'sessions')),
    count      bigint NOT NULL,
    first_at   timestamptz NOT NULL DEFAULT now(),
    last_at    timestamptz NOT NULL DEFAULT now(),
    told_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device_id, kind)
);

-- Of devices whose sessions take over from each other: since when, how often, and how often from another address.
CREATE TABLE clone_watch (
    device_id  uuid PRIMARY KEY,
    address    text NOT NULL,  -- of the session that was taken over last
    take_overs integer NOT NULL,
    turns      integer NOT NULL,
    since      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE provision_approval (
    id             uuid PRIMARY KEY,
    profile_id     uuid  NOT NULL REFERENCES device_profile ON DELETE CASCADE,
    digest         bytea NOT NULL,  -- keyed: of the name, nonce and credentials that were asked with
    state          text  NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'accepted', 'rejected')),
    device_name    text,            -- null: the server is to choose one
    transport      text  NOT NULL,
    address        text  NOT NULL,
    credentials    text,            -- their type, where the device brings its own
    asks           bigint NOT NULL DEFAULT 1,
    first_asked_at timestamptz NOT NULL DEFAULT now(),
    last_asked_at  timestamptz NOT NULL DEFAULT now(),
    decided_by     text,
    decided_at     timestamptz,
    expires_at     timestamptz NOT NULL,
    UNIQUE (profile_id, digest)
);
