//! What users does.

use kit::{Context, Error, outbox::Wake, sqlite::Database};

use crate::{
    api::{User, UserId, UserPage, Users},
    outbox::Mail,
    store::{self, Created},
};

/// How many users a page has when nobody says.
const PAGE: u32 = 50;
/// How many users a page has at most.
const LARGEST_PAGE: u32 = 1000;

/// Answers calls out of the database.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    /// Where users are.
    pub(crate) database: Database,
    /// Tells that a mail waits.
    pub(crate) wake: Wake,
}

impl Users for Registry {
    async fn create(&self, ctx: Context, email: String) -> Result<User, Error> {
        match store::create(&self.database, &ctx, email, welcome).await? {
            Created::New(user) => {
                self.wake.wake();
                tracing::info!(user_id = user.id.0, email = user.email, "user created");
                Ok(user)
            }
            Created::Before(user) => Ok(user),
        }
    }

    async fn get(&self, _: Context, id: UserId) -> Result<User, Error> {
        let user = store::get(&self.database, &id).await?;
        user.ok_or_else(|| Error::not_found("there is no user with this id"))
    }

    async fn list(
        &self,
        _: Context,
        page_size: Option<u32>,
        page_token: Option<String>,
    ) -> Result<UserPage, Error> {
        let size = match page_size {
            None | Some(0) => PAGE,
            Some(size) => size.min(LARGEST_PAGE),
        };
        // An empty token is none, which protobuf cannot tell from one; and that others are numbers is a rule.
        let after = page_token.and_then(|token| token.parse().ok()).unwrap_or(0);
        store::list(&self.database, size, after).await
    }
}

fn welcome(user: &User) -> Mail {
    Mail {
        to: user.email.clone(),
        subject: "Welcome to the bug tracker".to_owned(),
        body: format!(
            "Hello,\n\nthere is an account for {} now. Its id is {}.\n",
            user.email, user.id.0
        ),
    }
}

#[cfg(test)]
mod tests {
    use kit::Code;
    use tempfile::TempDir;

    use super::*;

    async fn registry() -> (TempDir, Registry) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.db");
        let schema = [store::SCHEMA, kit::sqlite::OUTBOX];
        let database = Database::open(&path, &schema).await.unwrap();
        let wake = Wake::new();
        (folder, Registry { database, wake })
    }

    fn keyed(key: &str) -> Context {
        Context::new().with_idempotency_key(key.parse().unwrap())
    }

    async fn mails(registry: &Registry) -> Vec<Mail> {
        let payloads: Vec<String> = sqlx::query_scalar("SELECT payload FROM outbox ORDER BY id")
            .fetch_all(registry.database.read())
            .await
            .unwrap();
        let mail = |payload: &String| serde_json::from_str(payload).unwrap();
        payloads.iter().map(mail).collect()
    }

    #[tokio::test]
    async fn a_created_user_is_found_again_and_is_welcomed() {
        let (_folder, users) = registry().await;
        let user = users.create(Context::new(), "test".into()).await.unwrap();
        assert_eq!(user.email, "test");
        let found = users.get(Context::new(), user.id.clone()).await.unwrap();
        assert_eq!(found, user);
        assert_eq!(mails(&users).await, [welcome(&user)]);
    }

    #[tokio::test]
    async fn an_address_belongs_to_one_user_whatever_its_case() {
        let (_folder, users) = registry().await;
        users
            .create(Context::new(), "ada@example.com".into())
            .await
            .unwrap();
        let again = users.create(Context::new(), "Ada@Example.com".into()).await;
        let error = again.unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists);
        assert_eq!(error.violations()[0].field, "email");
        assert_eq!(mails(&users).await.len(), 1);
    }

    #[tokio::test]
    async fn the_same_key_gives_the_same_user_and_one_mail() {
        let (_folder, users) = registry().await;
        let first = users.create(keyed("k"), "ada".into()).await.unwrap();
        let again = users.create(keyed("k"), "ada".into()).await.unwrap();
        assert_eq!(first, again);
        assert_eq!(mails(&users).await.len(), 1);
        let error = users.create(keyed("k"), "bob".into()).await.unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists);
        assert_eq!(error.violations()[0].field, "idempotency-key");
    }

    #[tokio::test]
    async fn of_simultaneous_requests_for_one_address_one_wins() {
        let (_folder, users) = registry().await;
        let all = (0..8).map(|_| {
            let users = users.clone();
            tokio::spawn(async move { users.create(Context::new(), "ada".into()).await.is_ok() })
        });
        let mut won = 0;
        for one in all.collect::<Vec<_>>() {
            won += u32::from(one.await.unwrap());
        }
        assert_eq!(won, 1);
    }

    #[tokio::test]
    async fn pages_follow_one_another_without_gaps_and_without_doubles() {
        let (_folder, users) = registry().await;
        let mut all = Vec::new();
        for name in ["c", "a", "e", "b", "d"] {
            all.push(users.create(Context::new(), name.into()).await.unwrap());
        }
        let (mut seen, mut sizes, mut token) = (Vec::new(), Vec::new(), None);
        loop {
            let page = users.list(Context::new(), Some(2), token).await.unwrap();
            sizes.push(page.users.len());
            seen.extend(page.users);
            token = page.next_page_token;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
        assert_eq!(sizes, [2, 2, 1]);
        // A page that the last user fills has no next one.
        let page = users.list(Context::new(), Some(5), None).await.unwrap();
        assert_eq!(page.next_page_token, None);
    }

    #[tokio::test]
    async fn an_unknown_id_is_not_found() {
        let (_folder, users) = registry().await;
        let error = users
            .get(Context::new(), UserId("x".into()))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }
}
