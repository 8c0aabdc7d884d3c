-- The number of the newest revocation.
ALTER TABLE store ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;

-- For questions about past decisions, of which a busy server has many other records between.
CREATE INDEX log_decisions ON log (log_index) WHERE kind = 'policy.decided';

-- Every version of every definition; the newest of a name is the one in force, unless it is retired.
CREATE TABLE definitions (
    name    TEXT    NOT NULL,
    version INTEGER NOT NULL,
    data    TEXT    NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;

-- The operators' policy: one row, or none while there is only the built-in one.
CREATE TABLE policy (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    data     TEXT    NOT NULL
) STRICT;

CREATE TABLE proposals (
    id   TEXT PRIMARY KEY,
    data TEXT NOT NULL
) STRICT;

-- A request and all that came of it.
CREATE TABLE tasks (
    id              TEXT    PRIMARY KEY,
    task            TEXT    NOT NULL, -- name of the definition
    workload        TEXT    NOT NULL, -- base SPIFFE ID
    idempotency_key TEXT    NOT NULL,
    is_live         INTEGER NOT NULL, -- 1: something can still happen to it
    has_window      INTEGER NOT NULL, -- 1: it has a window that is open or suspended
    changed_at      INTEGER NOT NULL,
    data            TEXT    NOT NULL
) STRICT;

CREATE UNIQUE INDEX tasks_live_key ON tasks (task, workload, idempotency_key) WHERE is_live = 1;

-- A workload may have many that wait to be settled, and few that are open.
CREATE INDEX tasks_with_window ON tasks (task, workload) WHERE has_window = 1;

CREATE INDEX tasks_over ON tasks (changed_at) WHERE is_live = 0;

-- Public keys of task SVIDs: each belongs to one window.
CREATE TABLE task_keys (
    public_key_sha256 TEXT    PRIMARY KEY,
    window_id         TEXT    NOT NULL,
    not_after         INTEGER NOT NULL
) STRICT;

CREATE INDEX task_keys_age ON task_keys (not_after);
