CREATE TABLE users (
    -- The order of commits, which paging follows: SQLite has one writer, so no user appears before a page that
    -- was read already.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    -- Unique without regard to ASCII case: nobody has two mailboxes that differ in nothing else.
    email TEXT NOT NULL COLLATE NOCASE UNIQUE,
    -- Milliseconds since 1970.
    created_at INTEGER NOT NULL,
    idempotency_key TEXT UNIQUE
) STRICT;

CREATE TABLE outbox (
    id TEXT PRIMARY KEY,
    recipient TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    -- The trace in which the mail was caused, and in which it is sent.
    traceparent TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    -- Milliseconds since 1970; while leased, the end of the lease; NULL when given up.
    due_at INTEGER,
    -- Why the last attempt failed.
    reason TEXT
) STRICT;

CREATE INDEX outbox_due ON outbox (due_at) WHERE due_at IS NOT NULL;
