-- Who was where when sessions took over from each other; and requests that wait, by where they came from.

DELETE FROM clone_watch;  -- five minutes' worth
ALTER TABLE clone_watch
    DROP COLUMN address,
    DROP COLUMN take_overs,
    DROP COLUMN turns,
    DROP COLUMN since,
    ADD COLUMN places jsonb NOT NULL;  -- [seconds since the epoch, network, whether a session gave way there], in order

ALTER TABLE provision_approval ADD COLUMN network text NOT NULL DEFAULT '';  -- of who asked first
UPDATE provision_approval SET network = address;
CREATE INDEX ON provision_approval (profile_id, network) WHERE state = 'pending';
