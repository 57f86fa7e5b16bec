CREATE TABLE mails (
    id TEXT PRIMARY KEY,
    recipient TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    -- Milliseconds since 1970; the Date of the mail, so that it is the same mail however often it is written.
    created_at INTEGER NOT NULL,
    idempotency_key TEXT UNIQUE,
    status TEXT NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'sent', 'failed')),
    -- Why it was not sent, or not yet.
    reason TEXT
) STRICT;
