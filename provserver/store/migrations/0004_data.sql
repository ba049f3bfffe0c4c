-- What devices send: latest values, a recent history, claims; and the queue to the sink.

CREATE TABLE telemetry (
    device_id uuid   NOT NULL,
    key       text   COLLATE "C" NOT NULL,
    ts        bigint NOT NULL,  -- of the newest sample, milliseconds since the epoch
    value     jsonb  NOT NULL,
    samples   bigint NOT NULL,  -- that ever came: the next one's place in the history
    PRIMARY KEY (device_id, key)
) WITH (fillfactor = 80);

CREATE TABLE telemetry_history (
    device_id uuid    NOT NULL,
    key       text    COLLATE "C" NOT NULL,
    slot      integer NOT NULL,  -- a ring: a sample takes the place of the oldest, so nothing is ever pruned
    ts        bigint  NOT NULL,
    value     jsonb   NOT NULL,
    PRIMARY KEY (device_id, key, slot)
) WITH (fillfactor = 80);

CREATE TABLE claim (
    device_id     uuid PRIMARY KEY,
    secret_digest bytea NOT NULL,  -- keyed: of the device and what its claimer must present
    expires_at    timestamptz NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE sink_message (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- their order
    device_id   uuid NOT NULL,
    device_name text NOT NULL,
    kind        text NOT NULL,
    body        bytea NOT NULL,
    refusals    integer NOT NULL DEFAULT 0,
    not_before  timestamptz,  -- of one that was refused: the device's later ones wait with it
    created_at  timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX sink_message_refused ON sink_message (device_id, id) WHERE not_before IS NOT NULL;

-- Row by row, so that rows of other scopes, provisionState above all, cost no more than a comparison. An import says
-- nothing (`provserver.quiet`): nobody can be listening for devices that are only being made.
CREATE FUNCTION notify_attribute() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed attribute := coalesce(NEW, OLD);
BEGIN
    PERFORM pg_notify('attributes', changed.device_id || ' ' || jsonb_build_array(changed.key));
    RETURN NULL;
END $$;
CREATE TRIGGER attribute_written AFTER INSERT OR UPDATE ON attribute FOR EACH ROW
    WHEN (NEW.scope = 'SHARED' AND current_setting('provserver.quiet', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION notify_attribute();
CREATE TRIGGER attribute_deleted AFTER DELETE ON attribute FOR EACH ROW
    WHEN (OLD.scope = 'SHARED') EXECUTE FUNCTION notify_attribute();
