-- Certificate chains: the CAs that a profile trusts, and how it finds a device's name in a certificate.

ALTER TABLE device_profile
    ADD COLUMN name_from    text    NOT NULL DEFAULT 'cn' CHECK (name_from IN ('cn', 'san-dns', 'san-uri', 'san-email')),
    ADD COLUMN name_pattern text    NOT NULL DEFAULT '(.*)',  -- RE2; its first group is the name
    ADD COLUMN allow_create boolean NOT NULL DEFAULT true;

-- A CA is its subject and key, whatever its certificate is just now: it belongs to one profile at most.
CREATE TABLE certificate_authority (
    identity       bytea PRIMARY KEY,
    profile_id     uuid  NOT NULL REFERENCES device_profile ON DELETE CASCADE,
    subject_digest bytea NOT NULL,  -- of its name, by which the certificates that it issued name it
    certificate    bytea NOT NULL,  -- DER
    crl            bytea            -- DER; the newest
);
CREATE INDEX ON certificate_authority (subject_digest);
CREATE INDEX ON certificate_authority (profile_id);

-- Intermediates of chains that were verified: a resumed TLS session shows the device's own certificate alone.
CREATE TABLE chain_issuer (
    profile_id  uuid  NOT NULL REFERENCES device_profile ON DELETE CASCADE,
    fingerprint bytea NOT NULL,  -- SHA-256
    der         bytea NOT NULL,
    PRIMARY KEY (profile_id, fingerprint)
);

-- Word to every process, once a transaction, that a profile's CAs or their lists have changed: `<profile id>`.
CREATE FUNCTION notify_authority_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('profile', id::text) FROM unnest(ARRAY[OLD.profile_id, NEW.profile_id]) AS id WHERE id IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER authority_changed AFTER INSERT OR UPDATE OR DELETE ON certificate_authority
    FOR EACH ROW EXECUTE FUNCTION notify_authority_changed();
