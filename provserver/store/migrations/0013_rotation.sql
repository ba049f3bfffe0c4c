-- Versions of the server's keys come and go; every process that works with them says which it knows.

-- new: known, and not written with yet. current: written with. old: what is sealed under it is being converted.
-- settled: only what has no sealed copy may be under it. retired: nothing is.
ALTER TABLE server_key
    ADD COLUMN state text NOT NULL DEFAULT 'current' CHECK (state IN ('new', 'current', 'old', 'settled', 'retired')),
    ADD COLUMN since timestamptz NOT NULL DEFAULT now();

CREATE TABLE server_process (
    id      uuid PRIMARY KEY,
    host    text NOT NULL,
    pid     integer NOT NULL,
    known   smallint[] NOT NULL,
    writes  smallint NOT NULL,
    settled boolean NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now()  -- who was not seen for a while is dead, or refuses nobody until it is
);

-- Which version their digests are under, as they have no sealed copy that tells.
ALTER TABLE api_key ADD COLUMN key_version smallint NOT NULL DEFAULT 1;
ALTER TABLE user_session ADD COLUMN key_version smallint NOT NULL DEFAULT 1;
ALTER TABLE one_time_link ADD COLUMN key_version smallint NOT NULL DEFAULT 1;

-- What triggers `key_version_…` call, which a rotation puts on every table with a sealed column, for rows whose first
-- byte says an older version than the current one. They make the change from one version to the next one moment for all
-- processes. A device that is made of a static token takes its row over as it is, under whatever version that is.
CREATE FUNCTION refuse_old_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'credentials' THEN
        IF EXISTS (SELECT FROM static_token t WHERE t.id = NEW.device_id AND t.id_digest = NEW.id_digest) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the keys of the server were rotated meanwhile' USING ERRCODE = 'operator_intervention';
END $$;

-- Which credentials went: `<device id> <when they were issued, microseconds>`, as their digest changes with the keys.
CREATE OR REPLACE FUNCTION notify_credentials_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('revoked', device_id || ' ' || (extract(epoch FROM created_at) * 1000000)::bigint) FROM gone;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION notify_credentials_replaced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('revoked', OLD.device_id || ' ' || (extract(epoch FROM OLD.created_at) * 1000000)::bigint);
    RETURN NULL;
END $$;
