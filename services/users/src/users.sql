CREATE TABLE users (
    -- The order of commits, which paging follows: there is one writer, so nobody appears on a page that was
    -- given already.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    -- Unique whatever the case of ASCII letters: nobody keeps two mailboxes apart by that.
    email TEXT NOT NULL COLLATE NOCASE UNIQUE,
    -- Milliseconds since 1970.
    created_at INTEGER NOT NULL,
    idempotency_key TEXT UNIQUE
) STRICT;
