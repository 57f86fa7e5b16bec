CREATE TABLE bugs (
    -- The order of commits, which paging follows: there is one writer, so no bug appears on a page that was given
    -- already.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    reporter TEXT NOT NULL,
    assignee TEXT,
    status TEXT NOT NULL CHECK (status IN ('open', 'in_progress', 'resolved', 'closed')),
    -- Milliseconds since 1970, as all times here.
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE INDEX bugs_by_status ON bugs (status, seq);
CREATE INDEX bugs_by_reporter ON bugs (reporter, seq);
CREATE INDEX bugs_by_assignee ON bugs (assignee, seq);

CREATE TABLE comments (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    bug TEXT NOT NULL REFERENCES bugs (id),
    author TEXT NOT NULL,
    text TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX comments_by_bug ON comments (bug, seq);

-- Requests that came with an idempotency key, and what they made.
CREATE TABLE requests (
    idempotency_key TEXT PRIMARY KEY,
    -- JSON, to tell another request with the same key apart.
    request TEXT NOT NULL,
    made TEXT NOT NULL
) STRICT;
