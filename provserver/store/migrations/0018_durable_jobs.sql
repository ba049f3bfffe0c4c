-- Jobs that outlive their process: whichever has room takes them, and another when that one is gone.

ALTER TABLE job
    DROP CONSTRAINT job_state_check,
    ADD CONSTRAINT job_state_check CHECK (state IN ('waiting', 'running', 'done', 'failed', 'cancelled')),
    ADD COLUMN durable     boolean NOT NULL DEFAULT false,  -- else it is a matter of the process that began it
    ADD COLUMN subject_id  uuid,     -- what it is about: a device, an integration
    ADD COLUMN input       jsonb,    -- of its kind; never a secret
    ADD COLUMN key         text,     -- at most one live job of a kind has it
    ADD COLUMN lane        text,     -- jobs of one lane share limits; null: nobody has looked at it yet
    ADD COLUMN due_at      timestamptz,                     -- of one that waits; null: at once
    ADD COLUMN tries       integer NOT NULL DEFAULT 0,
    ADD COLUMN faults      integer NOT NULL DEFAULT 0,      -- tries that ended in a fault of ours, one after the other
    ADD COLUMN since       timestamptz NOT NULL DEFAULT now(),  -- when it was asked for, or asked for again
    ADD COLUMN step        text,     -- the one begun last
    ADD COLUMN ending      text CHECK (ending IN ('failed', 'cancelled')),  -- what it is once all it did is undone
    ADD COLUMN remedy      text,     -- what a person does about the error
    ADD COLUMN holder      uuid,     -- the process that runs it
    ADD COLUMN lease_until timestamptz;                     -- when another may take it, unless that one goes on
CREATE INDEX job_waiting ON job (lane, id) WHERE state = 'waiting';
CREATE INDEX job_running ON job (lane) WHERE state = 'running';
CREATE INDEX job_subject ON job (subject_id, id) WHERE subject_id IS NOT NULL;
CREATE UNIQUE INDEX job_live ON job (kind, key) WHERE key IS NOT NULL AND state IN ('waiting', 'running');

CREATE TABLE job_step (
    job_id   uuid   NOT NULL REFERENCES job ON DELETE CASCADE,
    name     text   NOT NULL,
    number   bigint GENERATED ALWAYS AS IDENTITY,  -- their order
    state    text   NOT NULL CHECK (state IN ('begun', 'done', 'failed', 'undone')),
    tries    integer NOT NULL DEFAULT 1,
    result   jsonb,
    begun_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    PRIMARY KEY (job_id, name)
);

-- Lanes that were told to wait, each until when.
CREATE TABLE job_lane (
    lane        text PRIMARY KEY,
    rests_until timestamptz NOT NULL
);
