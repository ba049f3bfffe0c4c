-- Who operates: the tree of organizations, their users and API keys, what they did; who holds a device.

ALTER TABLE organization
    ADD COLUMN path         uuid[],  -- its ancestors and itself, the root first: who is above whom
    ADD COLUMN revision     bigint  NOT NULL DEFAULT 1,
    ADD COLUMN device_quota integer CHECK (device_quota >= 0),  -- of it and all below; null: none
    ADD COLUMN token_quota  integer CHECK (token_quota >= 0),
    ADD COLUMN sign_up      boolean NOT NULL DEFAULT false;     -- whoever likes may make a client organization below it
UPDATE organization SET path = ARRAY[id] WHERE parent_id IS NULL;
ALTER TABLE organization ALTER COLUMN path SET NOT NULL;
CREATE INDEX organization_path ON organization USING gin (path);

CREATE TABLE "user" (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization,
    email           text NOT NULL,
    name            text NOT NULL DEFAULT '',
    role            text NOT NULL CHECK (role IN ('admin', 'staff', 'user')),
    password_hash   text,         -- argon2id; null until the invitation is accepted
    activated_at    timestamptz,  -- has signed in: may own devices
    revision        bigint NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX user_email ON "user" (lower(email));
CREATE INDEX ON "user" (organization_id);

-- Links that are good once: to set the server up, to accept an invitation, to choose a new password.
CREATE TABLE one_time_link (
    digest     bytea PRIMARY KEY,
    purpose    text NOT NULL CHECK (purpose IN ('setup', 'invitation', 'password')),
    user_id    uuid REFERENCES "user" ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE user_session (
    digest       bytea PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES "user" ON DELETE CASCADE,
    expires_at   timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON user_session (user_id);

CREATE TABLE api_key (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organization ON DELETE CASCADE,
    name            text NOT NULL CHECK (name <> ''),
    digest          bytea NOT NULL UNIQUE,
    hint            text NOT NULL,  -- its first characters, to tell it by
    permissions     text[] NOT NULL,
    created_by      text NOT NULL,  -- the actor
    expires_at      timestamptz,
    last_used_at    timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, name)
);

-- What was done, by whom, in whose organization; written by the transaction that does it.
CREATE TABLE audit (
    id              uuid PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT now(),
    organization_id uuid NOT NULL,
    actor           text NOT NULL,  -- `user:<id>`, `key:<id>`, `device:<id>`, or `operator`: who has the database
    action          text NOT NULL,  -- `static_token.claimed`
    subject_id      text NOT NULL,
    detail          jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX ON audit (organization_id, id);
CREATE INDEX ON audit (subject_id, id);

-- Answers to requests that create something, by the key that the client chose for the request.
CREATE TABLE idempotency_key (
    actor          text  NOT NULL,
    key            text  NOT NULL,
    request_digest bytea NOT NULL,
    status         smallint,  -- null while the request is under way
    answer         bytea,     -- sealed: it may show a secret once
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (actor, key)
);

-- Work that takes longer than a request should.
CREATE TABLE job (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL,
    kind            text NOT NULL,
    actor           text NOT NULL,
    state           text NOT NULL CHECK (state IN ('running', 'done', 'failed', 'cancelled')),
    done            bigint NOT NULL DEFAULT 0,
    total           bigint,
    result          jsonb,
    error           text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz
);
CREATE INDEX ON job (organization_id, id);

-- A device stays its maker's (`organization_id`: its name is unique there, its profile is from there) whoever holds it.
ALTER TABLE device
    ADD COLUMN holder_id uuid,  -- the organization that has it now; null: its maker
    ADD COLUMN owner_id  uuid;  -- the user who claimed it
CREATE INDEX device_holder ON device (holder_id, id) WHERE holder_id IS NOT NULL;
CREATE INDEX device_owner ON device (owner_id) WHERE owner_id IS NOT NULL;
