CREATE TABLE outbox (
    id TEXT PRIMARY KEY,
    -- JSON.
    payload TEXT NOT NULL,
    -- The trace in which the message was caused, and in which it is delivered.
    traceparent TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    -- Milliseconds since 1970; while leased, the end of the lease; NULL when given up.
    due_at INTEGER,
    -- Why the last attempt failed.
    reason TEXT
) STRICT;

CREATE INDEX outbox_due ON outbox (due_at) WHERE due_at IS NOT NULL;
