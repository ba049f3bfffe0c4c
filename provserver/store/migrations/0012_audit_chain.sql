-- The audit only grows, and each entry vouches for all before it.

ALTER TABLE audit
    ADD COLUMN seq bigint,  -- its place in the chain; null until the sequencer has come by, after the commit
    ADD COLUMN mac bytea,   -- a byte for the key's version, then HMAC-SHA256 over the mac before and this entry
    ADD CONSTRAINT audit_chained CHECK ((seq IS NULL) = (mac IS NULL));
CREATE UNIQUE INDEX audit_seq ON audit (seq) WHERE seq IS NOT NULL;
CREATE INDEX audit_unchained ON audit (id) WHERE seq IS NULL;

-- The end of the chain, signed, so that a chain that was cut off does not end where this says.
CREATE TABLE audit_head (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    seq       bigint NOT NULL,
    mac       bytea  NOT NULL,
    at        timestamptz NOT NULL,
    signature bytea  NOT NULL
);

-- The keys of the chain, each derived from a version of the digest key, which may be gone when it is still needed.
CREATE TABLE audit_key (
    version smallint PRIMARY KEY,
    sealed  bytea NOT NULL
);

-- Organizations that were deleted: what was done in them stays theirs, to be read above them.
CREATE TABLE former_organization (
    id   uuid PRIMARY KEY,
    path uuid[] NOT NULL
);
CREATE INDEX ON former_organization USING gin (path);
CREATE VIEW audited_organization AS
    SELECT id, path FROM organization UNION ALL SELECT id, path FROM former_organization;

-- Triggers, as an owner has every right that could be revoked.
CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    chained audit := NULL;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.seq IS NULL THEN
        chained := OLD;
        chained.seq := NEW.seq;
        chained.mac := NEW.mac;
        IF NEW.seq IS NOT NULL AND NEW IS NOT DISTINCT FROM chained THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit only grows: no entry is changed or removed' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER audit_stays BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
