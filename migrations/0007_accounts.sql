-- Who a user is beyond an address: a role of any name, a plan, whether calls are paid before they are made, and teams,
-- whose keys are paid by the team. What a `payer` is: `user:<id>` or `team:<id>`.

ALTER TABLE users DROP CONSTRAINT users_role_check;
ALTER TABLE users
    ADD COLUMN name text NOT NULL DEFAULT '',
    ADD COLUMN plan text NOT NULL DEFAULT '',
    ADD COLUMN prepaid boolean NOT NULL DEFAULT false,
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE api_keys DROP CONSTRAINT api_keys_role_check;

CREATE TABLE teams (
    id text PRIMARY KEY,
    name text NOT NULL,
    plan text NOT NULL DEFAULT '',
    prepaid boolean NOT NULL DEFAULT false,
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    changed_n bigint NOT NULL DEFAULT 0
);
CREATE INDEX teams_changed ON teams (changed_n);

CREATE TABLE team_members (
    team_id text NOT NULL REFERENCES teams (id),
    user_id text NOT NULL REFERENCES users (id),
    role text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'member')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (team_id, user_id)
);
CREATE INDEX team_members_user ON team_members (user_id);

ALTER TABLE api_keys ADD COLUMN team_id text REFERENCES teams (id);
CREATE INDEX api_keys_team ON api_keys (team_id) WHERE team_id IS NOT NULL;
