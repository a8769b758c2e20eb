-- Roles belong to users: a key never has more than its owner. Whoever holds an administrator's key is one.

UPDATE users SET role = 'admin', updated_at = now()
WHERE role = 'user' AND id IN (SELECT user_id FROM api_keys WHERE role = 'admin' AND revoked_at IS NULL);
UPDATE change_counter SET n = n + 1;
UPDATE users SET changed_n = (SELECT n FROM change_counter) WHERE role = 'admin';

CREATE INDEX users_role ON users (role) WHERE role <> 'user';
CREATE INDEX users_made ON users (created_at, id);

-- Who was asked to join a team and has not answered: an address, so that asking does not tell who has an account.
CREATE TABLE team_invitations (
    team_id text NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    email text NOT NULL,
    role text NOT NULL DEFAULT 'member' CHECK (role IN ('admin', 'member')),
    invited_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX team_invitations_one ON team_invitations (team_id, lower(email));
CREATE INDEX team_invitations_email ON team_invitations (lower(email));

-- What a user's calls were, by time.
CREATE INDEX call_records_user ON call_records (user_id, seq);
