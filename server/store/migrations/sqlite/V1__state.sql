-- One row: what the database is, and the number of its newest commit.
CREATE TABLE store (
    only_row     INTEGER PRIMARY KEY CHECK (only_row = 1),
    history      TEXT    NOT NULL,
    trust_domain TEXT    NOT NULL,
    revision     INTEGER NOT NULL
) STRICT;

-- Records are kept whole in `data` (JSON); the other columns are those that guards ask for.
CREATE TABLE entries (
    id              TEXT    PRIMARY KEY,
    spiffe_id       TEXT    NOT NULL,
    parent_id       TEXT    NOT NULL,
    selectors_key   TEXT    NOT NULL, -- hex SHA-256 of the sorted set
    created_at      INTEGER NOT NULL,
    revision_number INTEGER NOT NULL,
    made_by_token   INTEGER NOT NULL, -- 1: the alias that came with a join token, goes with its agent
    data            TEXT    NOT NULL,
    UNIQUE (spiffe_id, parent_id, selectors_key)
) STRICT;

CREATE INDEX entries_made_by_token ON entries (parent_id) WHERE made_by_token = 1;

CREATE TABLE entry_federations (
    trust_domain TEXT NOT NULL,
    entry_id     TEXT NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    PRIMARY KEY (trust_domain, entry_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX entry_federations_entry ON entry_federations (entry_id);

-- The creation times of deleted entries, so that one that is created again under its old ID gets a later one.
CREATE TABLE entry_tombstones (
    id         TEXT    PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX entry_tombstones_age ON entry_tombstones (created_at);

CREATE TABLE agents (
    id   TEXT PRIMARY KEY,
    data TEXT NOT NULL
) STRICT;

CREATE TABLE tokens (
    hash       BLOB    PRIMARY KEY, -- SHA-256 of the token
    expires_at INTEGER NOT NULL,
    alias      TEXT    NOT NULL     -- another name for the agent that will use it; empty for none
) STRICT;

CREATE INDEX tokens_expiry ON tokens (expires_at);

CREATE TABLE authorities (
    id    TEXT PRIMARY KEY,
    class TEXT NOT NULL,
    state TEXT NOT NULL,
    data  TEXT NOT NULL
) STRICT;

CREATE TABLE bundles (
    trust_domain TEXT PRIMARY KEY,
    data         TEXT NOT NULL
) STRICT;

-- What watchers of an older revision must look at again. Old rows are pruned.
CREATE TABLE changes (
    position  INTEGER PRIMARY KEY,
    revision  INTEGER NOT NULL,
    kind      TEXT    NOT NULL CHECK (kind IN ('entry', 'agent', 'bundle')),
    subject   TEXT    NOT NULL,
    parent_id TEXT    NOT NULL, -- of entries; empty otherwise
    spiffe_id TEXT    NOT NULL  -- as well
) STRICT;

-- The evidence: the entries of the tile log, in canonical JSON. Only ever appended to.
CREATE TABLE log (
    log_index INTEGER PRIMARY KEY, -- from 0, without gaps
    kind      TEXT    NOT NULL,    -- as in the entry, to find by
    entry     TEXT    NOT NULL
) STRICT;

CREATE TRIGGER log_is_not_rewritten BEFORE UPDATE ON log
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;

CREATE TRIGGER log_is_not_shortened BEFORE DELETE ON log
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;

-- What entries only commit to: people, reasons, tickets, selectors, and what is too large. The one part that is erased.
CREATE TABLE private (
    commitment   TEXT PRIMARY KEY, -- hex SHA-256 of salt and value
    salt         TEXT NOT NULL,    -- hex
    value        TEXT NOT NULL,    -- canonical JSON
    value_sha256 TEXT NOT NULL     -- hex; to find by
) STRICT;

CREATE UNIQUE INDEX private_values ON private (value_sha256);
