\set serial random(1, 9223372036854775807)
BEGIN;
SELECT p.id AS profile, p.organization_id AS organization, uuidv7() AS device, 'pgbench-' || lpad(to_hex(:serial::bigint), 16, '0') AS name FROM provision_key k JOIN device_profile p ON p.id = k.profile_id WHERE k.key = 'bench-key' \gset
INSERT INTO device (id, organization_id, profile_id, name) VALUES (:device, :organization, :profile, :name) ON CONFLICT DO NOTHING;
INSERT INTO credentials (id_digest, device_id, type, origin, sealed) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), :device, 'ACCESS_TOKEN', 'generated', decode(repeat('5a', 100), 'hex'));
INSERT INTO attribute (device_id, scope, key, value) VALUES (:device, 'SERVER', 'provisionState', '"provisioned"');
INSERT INTO attempt (id, transport, address, outcome, profile_id, device_id, device_name) VALUES (uuidv7(), 'HTTP', '127.0.0.1', 'success', :profile, :device, :name);
INSERT INTO outbox (id, device_id, type, payload) VALUES (uuidv7(), :device, 'device.provisioned', jsonb_build_object('deviceId', :device::text, 'deviceName', :name::text, 'profileId', :profile::text, 'credentialsType', 'ACCESS_TOKEN', 'transport', 'HTTP'));
COMMIT;
