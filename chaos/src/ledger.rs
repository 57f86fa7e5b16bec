//! What was acknowledged, to be held against what is there.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::Result;
use sqlx::{Row, sqlite::SqliteConnectOptions};

/// The writes that a service said it has done, by the id that it gave them.
#[derive(Debug, Default)]
pub struct Ledger {
    acknowledged: Mutex<BTreeMap<String, String>>,
}

impl Ledger {
    /// Notes that `value` was acknowledged under `id`.
    pub fn acknowledge(&self, id: String, value: String) {
        let mut acknowledged = self
            .acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        acknowledged.insert(id, value);
    }

    /// One of the ids, to ask for; `None` while there is none. The same number gives the same id while nothing is added.
    pub fn pick(&self, number: usize) -> Option<(String, String)> {
        let acknowledged = self
            .acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let index = number.checked_rem(acknowledged.len())?;
        let (id, value) = acknowledged.iter().nth(index)?;
        Some((id.clone(), value.clone()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether nothing was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the pairs of id and value that `query` finds in an SQLite file, and compares.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn audit(&self, database: &Path, query: &'static str) -> Result<Audit> {
        let options = SqliteConnectOptions::new()
            .filename(database)
            .read_only(true);
        let pool = sqlx::SqlitePool::connect_with(options).await?;
        let rows = sqlx::query(query).fetch_all(&pool).await?;
        pool.close().await;
        let mut found = Vec::new();
        for row in rows {
            found.push((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
        }
        let acknowledged = self
            .acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut values = BTreeMap::<_, u64>::new();
        for (_, value) in &found {
            *values.entry(value.clone()).or_default() += 1;
        }
        Ok(Audit {
            missing: acknowledged
                .iter()
                .filter(|(id, value)| !found.iter().any(|row| row.0 == **id && row.1 == **value))
                .map(|(id, value)| format!("{id} {value}"))
                .collect(),
            doubled: values
                .into_iter()
                .filter_map(|(value, count)| (count > 1).then_some(value))
                .collect(),
            stored: found.len(),
        })
    }
}

/// What a comparison showed.
#[derive(Debug)]
pub struct Audit {
    /// Acknowledged, and not there.
    pub missing: Vec<String>,
    /// There more than once.
    pub doubled: Vec<String>,
    /// How many are there in all; one that was not acknowledged may be.
    pub stored: usize,
}
