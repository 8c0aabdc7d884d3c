-- The register of exceptions, those that are over too. Of an identity, the one that was granted last is the one that counts.
CREATE TABLE exceptions (
    number   INTEGER PRIMARY KEY, -- in the order of granting
    id       TEXT    NOT NULL UNIQUE,
    identity TEXT    NOT NULL,    -- a SPIFFE ID, or the ID of an entry
    data     TEXT    NOT NULL
) STRICT;

CREATE INDEX exceptions_of_identity ON exceptions (identity, number);
