//! What bugs promises, without the network: people are a list, mails stay in the outbox.

use kit::Rejection;
use tempfile::TempDir;

use super::*;

/// Knows everybody whose id is in lower case; "down" cannot be asked about.
#[derive(Clone, Debug)]
struct People;

impl Users for People {
    async fn get(&self, _: Context, id: UserId) -> Result<User, Error> {
        if id.0 == "down" {
            let service = "users".parse().unwrap();
            return Err(Rejection::NoEndpoints { service }.into());
        }
        if id.0.chars().any(char::is_uppercase) {
            return Err(Error::not_found("there is no user with this id"));
        }
        let email = format!("{}@example.com", id.0);
        Ok(User { id, email })
    }
}

async fn tracker() -> (TempDir, Tracker<People>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bugs.db");
    let schema = [store::SCHEMA, kit::sqlite::OUTBOX];
    let tracker = Tracker {
        database: Database::open(&path, &schema).await.unwrap(),
        users: People,
        wake: Wake::new(),
    };
    (folder, tracker)
}

fn id(id: &str) -> UserId {
    UserId(id.to_owned())
}

impl Tracker<People> {
    async fn report(
        &self,
        ctx: Context,
        title: &str,
        assignee: Option<&str>,
    ) -> Result<Bug, Error> {
        let (title, description) = (title.to_owned(), "It does not work.".to_owned());
        self.create(ctx, title, description, id("ada"), assignee.map(id))
            .await
    }

    async fn mails(&self) -> Vec<(String, String)> {
        let payloads: Vec<String> = sqlx::query_scalar("SELECT payload FROM outbox ORDER BY id")
            .fetch_all(self.database.read())
            .await
            .unwrap();
        let mail = |payload: &String| {
            let mail: Mail = serde_json::from_str(payload).unwrap();
            (mail.to, mail.subject)
        };
        payloads.iter().map(mail).collect()
    }
}

fn keyed(key: &str) -> Context {
    Context::new().with_idempotency_key(key.parse().unwrap())
}

fn to(user: &str, subject: &str) -> (String, String) {
    (format!("{user}@example.com"), subject.to_owned())
}

#[tokio::test]
async fn reporting_a_bug_tells_the_reporter_and_the_assignee() {
    let (_folder, tracker) = tracker().await;
    let bug = tracker
        .report(Context::new(), "Crash", Some("bob"))
        .await
        .unwrap();
    assert_eq!(bug.status, Status::Open);
    assert_eq!(
        tracker.get(Context::new(), bug.id.clone()).await.unwrap(),
        bug
    );
    let mut mails = tracker.mails().await;
    mails.sort();
    assert_eq!(
        mails,
        [
            to("ada", "You reported: Crash"),
            to("bob", "Assigned to you: Crash")
        ]
    );
}

#[tokio::test]
async fn who_reports_a_bug_to_mend_it_gets_one_mail() {
    let (_folder, tracker) = tracker().await;
    tracker
        .report(Context::new(), "Crash", Some("ada"))
        .await
        .unwrap();
    assert_eq!(tracker.mails().await, [to("ada", "Assigned to you: Crash")]);
}

#[tokio::test]
async fn a_person_whom_users_does_not_know_is_refused_by_the_name_of_the_field() {
    let (_folder, tracker) = tracker().await;
    let bug = tracker.report(Context::new(), "Crash", None).await.unwrap();
    let before = tracker.mails().await.len();
    let refused = [
        (
            "assignee",
            tracker
                .report(Context::new(), "Crash", Some("NOBODY"))
                .await
                .map(drop),
        ),
        (
            "assignee",
            tracker
                .assign(Context::new(), bug.id.clone(), id("NOBODY"))
                .await
                .map(drop),
        ),
        (
            "author",
            tracker
                .comment(Context::new(), bug.id, id("NOBODY"), "Hm.".into())
                .await
                .map(drop),
        ),
        (
            "reporter",
            tracker
                .create(
                    Context::new(),
                    "Crash".into(),
                    String::new(),
                    id("NOBODY"),
                    None,
                )
                .await
                .map(drop),
        ),
    ];
    for (field, result) in refused {
        let error = result.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert_eq!(error.violations()[0].field, field);
    }
    assert_eq!(tracker.mails().await.len(), before);
}

#[tokio::test]
async fn without_users_nothing_is_guessed() {
    let (_folder, tracker) = tracker().await;
    let error = tracker
        .report(Context::new(), "Crash", Some("down"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let page = tracker
        .list(Context::new(), None, None, None, None, None)
        .await
        .unwrap();
    assert!(page.bugs.is_empty());
}

#[tokio::test]
async fn assigning_tells_both_once() {
    let (_folder, tracker) = tracker().await;
    let bug = tracker.report(Context::new(), "Crash", None).await.unwrap();
    for _ in 0..2 {
        let assigned = tracker
            .assign(Context::new(), bug.id.clone(), id("bob"))
            .await
            .unwrap();
        assert_eq!(assigned.assignee, Some(id("bob")));
    }
    let mut mails = tracker.mails().await.split_off(1);
    mails.sort();
    assert_eq!(
        mails,
        [
            to("ada", "Assigned: Crash"),
            to("bob", "Assigned to you: Crash")
        ]
    );
}

#[tokio::test]
async fn a_status_goes_its_way_and_setting_it_twice_is_setting_it_once() {
    let (_folder, tracker) = tracker().await;
    let bug = tracker.report(Context::new(), "Crash", None).await.unwrap();
    let set = |status| tracker.set_status(Context::new(), bug.id.clone(), status);
    for status in [
        Status::InProgress,
        Status::InProgress,
        Status::Resolved,
        Status::Closed,
    ] {
        assert_eq!(set(status).await.unwrap().status, status);
    }
    let error = set(Status::Resolved).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(
        tracker
            .get(Context::new(), bug.id.clone())
            .await
            .unwrap()
            .status,
        Status::Closed
    );
}

#[tokio::test]
async fn the_same_key_makes_one_bug_and_one_comment() {
    let (_folder, tracker) = tracker().await;
    let first = tracker.report(keyed("k"), "Crash", None).await.unwrap();
    let again = tracker.report(keyed("k"), "Crash", None).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(tracker.mails().await.len(), 1);
    let error = tracker.report(keyed("k"), "Other", None).await.unwrap_err();
    assert_eq!(error.violations()[0].field, "idempotency-key");

    let say =
        |key, text: &str| tracker.comment(keyed(key), first.id.clone(), id("bob"), text.to_owned());
    let comment = say("c", "Hm.").await.unwrap();
    assert_eq!(say("c", "Hm.").await.unwrap(), comment);
    say("k", "Hm.").await.unwrap_err();
    let page = tracker
        .comments(Context::new(), first.id.clone(), None, None)
        .await
        .unwrap();
    assert_eq!(page.comments, [comment]);
}

#[tokio::test]
async fn a_list_has_what_the_filter_asks_for_page_by_page() {
    let (_folder, tracker) = tracker().await;
    let mut of_bob = Vec::new();
    for number in 0..6 {
        let assignee = if number % 2 == 0 { "bob" } else { "eve" };
        let title = format!("Bug {number}");
        let bug = tracker
            .report(Context::new(), &title, Some(assignee))
            .await
            .unwrap();
        if assignee == "bob" {
            of_bob.push(bug);
        }
    }
    let list = |status, token| {
        tracker.list(
            Context::new(),
            status,
            Some(id("ada")),
            Some(id("bob")),
            Some(2),
            token,
        )
    };
    let first = list(Some(Status::Open), None).await.unwrap();
    assert_eq!(first.bugs, of_bob[..2]);
    let second = list(Some(Status::Open), first.next_page_token)
        .await
        .unwrap();
    assert_eq!(second.bugs, of_bob[2..]);
    assert_eq!(second.next_page_token, None);
    assert!(
        list(Some(Status::Closed), None)
            .await
            .unwrap()
            .bugs
            .is_empty()
    );
}

#[tokio::test]
async fn a_bug_that_is_not_there_is_not_found() {
    let (_folder, tracker) = tracker().await;
    let nothing = || BugId("x".to_owned());
    let ctx = Context::new;
    let results = [
        tracker.get(ctx(), nothing()).await.map(drop),
        tracker.assign(ctx(), nothing(), id("bob")).await.map(drop),
        tracker
            .set_status(ctx(), nothing(), Status::Closed)
            .await
            .map(drop),
        tracker
            .comment(ctx(), nothing(), id("bob"), "Hm.".into())
            .await
            .map(drop),
        tracker
            .comments(ctx(), nothing(), None, None)
            .await
            .map(drop),
    ];
    for result in results {
        assert_eq!(result.unwrap_err().code(), Code::NotFound);
    }
}
