-- Devices that come back: who is online, and word to every process of credentials that are good no more.

CREATE TABLE presence (
    device_id    uuid PRIMARY KEY,
    session_id   uuid,                  -- of its live MQTT session; null when it has none
    online_until timestamptz NOT NULL,  -- moved on while a session lives, so that a process that dies leaves no ghost
    last_seen_at timestamptz NOT NULL
);

-- Triggers, as no way of taking credentials away may forget to say so: not even an operator's own SQL.
-- They say `<digest in hex> <device id>`.
CREATE FUNCTION notify_credentials_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('revoked', encode(id_digest, 'hex') || ' ' || device_id) FROM gone;
    RETURN NULL;
END $$;
CREATE TRIGGER credentials_deleted AFTER DELETE ON credentials
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION notify_credentials_deleted();

CREATE FUNCTION notify_credentials_replaced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('revoked', encode(OLD.id_digest, 'hex') || ' ' || OLD.device_id);
    RETURN NULL;
END $$;
CREATE TRIGGER credentials_replaced AFTER UPDATE OF created_at ON credentials
    FOR EACH ROW WHEN (OLD.created_at IS DISTINCT FROM NEW.created_at) EXECUTE FUNCTION notify_credentials_replaced();
