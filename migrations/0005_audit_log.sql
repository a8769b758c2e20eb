-- What administrators and owners of keys did: append-only, and each row sealed together with the seal before it.

CREATE TABLE audit_log (
    seq bigint PRIMARY KEY,
    content text NOT NULL,
    seal text NOT NULL,
    at text GENERATED ALWAYS AS (content::jsonb ->> 'at') STORED,
    action text GENERATED ALWAYS AS (content::jsonb ->> 'action') STORED,
    subject text GENERATED ALWAYS AS (content::jsonb ->> 'subject') STORED,
    owner text GENERATED ALWAYS AS (content::jsonb ->> 'owner') STORED
);
CREATE INDEX audit_log_subject ON audit_log (subject, seq);
CREATE INDEX audit_log_owner ON audit_log (owner, seq);

CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END $$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();
CREATE TRIGGER audit_log_not_emptied BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
