//! A service's data in one SQLite file (feature `sqlite`), which all its replicas on a machine share, and a
//! transactional outbox in the same file.
//!
//! What was committed is on the disk, whatever is killed afterwards. There is one writer at a time, and everybody
//! else reads meanwhile (a write-ahead log). The file must be on a local disk: the log needs memory that its
//! users share.

mod outbox;

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use humantime_serde::re::humantime;
use sqlx::{
    AssertSqlSafe, Connection, Sqlite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::time::{self, Instant};

pub use outbox::{Deliver, OUTBOX, Queued, StoredOutbox};

use crate::Error;

/// How long a writer waits for those before it, in this process or in another replica.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to the file. Clones share them.
#[derive(Clone, Debug)]
pub struct Database {
    read: SqlitePool,
    /// A single connection: there is one writer, and a pool's queue is fairer than SQLite's busy handler.
    write: SqlitePool,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder could not be made.
    #[error("the folder of the database could not be made")]
    Folder(#[source] io::Error),
    /// SQLite said no.
    #[error("the database could not be opened and brought up to date")]
    Database(#[from] sqlx::Error),
}

impl Database {
    /// Opens the file at `path`, which is made with its folder if it is not there, and applies those of
    /// `migrations` that were not applied before: SQL scripts, of which a released one is never changed, moved or
    /// removed. Several replicas may do so at once.
    pub async fn open(path: &Path, migrations: &[&'static str]) -> Result<Self, OpenError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(OpenError::Folder)?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            // One fsync per commit: what was acknowledged survives a power cut as it survives SIGKILL.
            .synchronous(SqliteSynchronous::Full);
        migrate(&options, migrations).await?;
        let pool = SqlitePoolOptions::new()
            .acquire_timeout(BUSY_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None);
        let write = pool.clone().max_connections(1);
        Ok(Self {
            read: pool
                .max_connections(4)
                .connect_with(options.clone())
                .await?,
            write: write.connect_with(options).await?,
        })
    }

    /// For statements that only read.
    pub fn read(&self) -> &SqlitePool {
        &self.read
    }

    /// Begins a transaction that may write. It is the only one on this file until it ends; dropping it rolls
    /// back.
    pub async fn write(&self) -> sqlx::Result<Transaction<'static, Sqlite>> {
        // Not deferred: a transaction that reads first and then wants to write fails if another has written.
        self.write.begin_with("BEGIN IMMEDIATE").await
    }

    /// Whether the file answers; for readiness.
    pub async fn ping(&self) -> sqlx::Result<()> {
        sqlx::query("SELECT count(*) FROM sqlite_schema")
            .execute(&self.read)
            .await?;
        Ok(())
    }
}

async fn migrate(options: &SqliteConnectOptions, migrations: &[&'static str]) -> sqlx::Result<()> {
    let wal = options.clone().journal_mode(SqliteJournalMode::Wal);
    let give_up = Instant::now() + BUSY_TIMEOUT;
    let mut connection = loop {
        // The switch to the write-ahead log, which stays in the file, needs the file alone and, unlike all else,
        // does not wait for it.
        match SqliteConnection::connect_with(&wal).await {
            Err(error) if is_busy(&error) && Instant::now() < give_up => {
                time::sleep(Duration::from_millis(20)).await;
            }
            connected => break connected?,
        }
    };
    // Replicas take turns, and the later ones find nothing left to do. (sqlx's own migrator takes no lock on
    // SQLite.)
    let mut alone = connection.begin_with("BEGIN IMMEDIATE").await?;
    let applied: u32 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *alone)
        .await?;
    // A file that a later version has migrated further is left as it is.
    for (migration, version) in migrations.iter().zip(1..).skip(applied as usize) {
        sqlx::raw_sql(*migration).execute(&mut *alone).await?;
        let set_version = AssertSqlSafe(format!("PRAGMA user_version = {version}"));
        sqlx::query(set_version).execute(&mut *alone).await?;
    }
    alone.commit().await?;
    connection.close().await
}

/// Whether other writers kept the file for themselves for too long.
fn is_busy(error: &sqlx::Error) -> bool {
    const SQLITE_BUSY: i32 = 5;
    let code = error.as_database_error().and_then(|error| error.code());
    // The upper bytes say more, and it is the same error.
    code.and_then(|code| code.parse::<i32>().ok())
        .is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

/// A busy database is [`Code::Unavailable`](crate::Code::Unavailable), anything else is internal. A violated
/// constraint that says something to the caller must be told apart before.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if is_busy(&error) || matches!(error, sqlx::Error::PoolTimedOut) {
            Self::unavailable("the database is busy").with_source(error)
        } else {
            Self::internal(error)
        }
    }
}

/// Now, as a number for the database: milliseconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    millis(since.expect("the clock is set to some time after 1970"))
}

/// A duration as a number for the database.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A moment in the database as people write it: RFC 3339, in UTC, to the millisecond.
pub fn rfc3339(millis: i64) -> String {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const SCHEMA: &str = "CREATE TABLE things (name TEXT NOT NULL UNIQUE) STRICT;";

    async fn names(database: &Database) -> Vec<String> {
        sqlx::query_scalar("SELECT name FROM things ORDER BY name")
            .fetch_all(database.read())
            .await
            .unwrap()
    }

    async fn insert(database: &Database, name: &str) -> sqlx::Result<()> {
        let mut transaction = database.write().await?;
        sqlx::query("INSERT INTO things VALUES (?)")
            .bind(name)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }

    async fn insert_more(database: &Database) -> sqlx::Result<()> {
        let mut transaction = database.write().await?;
        sqlx::query("INSERT INTO more VALUES (1)")
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }

    #[tokio::test]
    async fn replicas_may_make_the_same_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/things.db");
        let mut replicas = JoinSet::new();
        for replica in 0..8 {
            let path = path.clone();
            replicas.spawn(async move {
                let database = Database::open(&path, &[SCHEMA, OUTBOX]).await.unwrap();
                insert(&database, &replica.to_string()).await.unwrap();
            });
        }
        replicas.join_all().await;
        let database = Database::open(&path, &[SCHEMA, OUTBOX]).await.unwrap();
        assert_eq!(names(&database).await.len(), 8);
    }

    #[tokio::test]
    async fn a_later_version_adds_to_the_schema_and_keeps_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("things.db");
        let database = Database::open(&path, &[SCHEMA]).await.unwrap();
        insert(&database, "old").await.unwrap();
        drop(database);
        let more = "CREATE TABLE more (x INTEGER);";
        let database = Database::open(&path, &[SCHEMA, more]).await.unwrap();
        assert_eq!(names(&database).await, ["old"]);
        insert_more(&database).await.unwrap();
        // The earlier version may still be running, and may be started again.
        let earlier = Database::open(&path, &[SCHEMA]).await.unwrap();
        insert_more(&earlier).await.unwrap();
    }

    #[tokio::test]
    async fn a_migration_is_applied_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("things.db");
        let wrong = "CREATE TABLE more (x INTEGER); CREATE TABLE more (x INTEGER);";
        let error = Database::open(&path, &[SCHEMA, wrong]).await.unwrap_err();
        assert!(matches!(error, OpenError::Database(_)), "{error:?}");
        let right = "CREATE TABLE more (x INTEGER);";
        let database = Database::open(&path, &[SCHEMA, right]).await.unwrap();
        insert_more(&database).await.unwrap();
    }

    #[tokio::test]
    async fn a_dropped_transaction_leaves_nothing_and_readers_do_not_wait_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("a.db"), &[SCHEMA])
            .await
            .unwrap();
        let mut transaction = database.write().await.unwrap();
        sqlx::query("INSERT INTO things VALUES ('a')")
            .execute(&mut *transaction)
            .await
            .unwrap();
        assert!(names(&database).await.is_empty());
        drop(transaction);
        insert(&database, "b").await.unwrap();
        assert_eq!(names(&database).await, ["b"]);
        database.ping().await.unwrap();
    }

    #[tokio::test]
    async fn a_commit_reaches_the_disk_before_it_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("a.db"), &[])
            .await
            .unwrap();
        let mut transaction = database.write().await.unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        assert_eq!((journal.as_str(), synchronous), ("wal", 2));
    }

    #[test]
    fn a_moment_is_written_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }
}
