-- What looking for devices, and at what happened to one, needs of indices; what is made on the hot path is in none of them.

-- Names in the order of their bytes: the unique index then finds a beginning, whatever the database's collation is.
ALTER TABLE device ALTER COLUMN name TYPE text COLLATE "C";

-- The attempt that made a device has its id, and is found by it. These are the others: of a device that was there, and of
-- a name that came to nothing.
CREATE INDEX attempt_device ON attempt (device_id, id) WHERE device_id <> id;
CREATE INDEX attempt_name ON attempt (device_name, id) WHERE device_id IS NULL AND device_name IS NOT NULL;
