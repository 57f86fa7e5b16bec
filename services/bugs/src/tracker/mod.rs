//! What bugs does.

#[cfg(test)]
mod tests;

use kit::{Code, Context, Error, outbox::Wake, sqlite::Database};

use crate::{
    api::{Bug, BugId, BugPage, Bugs, Comment, CommentPage, Status, User, UserId, Users},
    outbox::Mail,
    store::{self, Filter, NewBug, NewComment, Page},
};

/// How many there are on a page when nobody says.
const PAGE: u32 = 50;
/// How many there are on a page at most.
const LARGEST_PAGE: u32 = 1000;

/// Answers calls out of the database, and asks `users` who people are.
#[derive(Clone, Debug)]
pub(crate) struct Tracker<U> {
    /// Where bugs are.
    pub(crate) database: Database,
    /// Knows people.
    pub(crate) users: U,
    /// Tells that a mail waits.
    pub(crate) wake: Wake,
}

impl<U: Users> Bugs for Tracker<U> {
    async fn create(
        &self,
        ctx: Context,
        title: String,
        description: String,
        reporter: UserId,
        assignee: Option<UserId>,
    ) -> Result<Bug, Error> {
        let (reporting, assigned) =
            tokio::try_join!(self.user(&ctx, "reporter", &reporter), async {
                match &assignee {
                    Some(assignee) => self.user(&ctx, "assignee", assignee).await.map(Some),
                    None => Ok(None),
                }
            })?;
        let new = NewBug {
            title,
            description,
            reporter,
            assignee,
        };
        let notify = |bug: &Bug| {
            let mut mails = Vec::new();
            if let Some(assigned) = &assigned {
                mails.push(assigned_to_you(bug, assigned));
            }
            // Who reports a bug to mend it hears of it once.
            if assigned.as_ref() != Some(&reporting) {
                mails.push(reported(bug, &reporting, assigned.as_ref()));
            }
            mails
        };
        let (bug, is_new) = store::create(&self.database, &ctx, new, notify).await?;
        if is_new {
            self.wake.wake();
            tracing::info!(bug_id = bug.id.0, reporter = bug.reporter.0, "bug created");
        }
        Ok(bug)
    }

    async fn get(&self, _: Context, id: BugId) -> Result<Bug, Error> {
        store::get(&self.database, &id).await
    }

    async fn list(
        &self,
        _: Context,
        status: Option<Status>,
        reporter: Option<UserId>,
        assignee: Option<UserId>,
        page_size: Option<u32>,
        page_token: Option<String>,
    ) -> Result<BugPage, Error> {
        let filter = Filter {
            status,
            reporter,
            assignee,
        };
        let page = page(page_size, page_token);
        store::list(&self.database, filter, page).await
    }

    async fn assign(&self, ctx: Context, id: BugId, assignee: UserId) -> Result<Bug, Error> {
        let bug = store::get(&self.database, &id).await?;
        let (assigned, reporting) = tokio::try_join!(
            self.user(&ctx, "assignee", &assignee),
            self.user(&ctx, "reporter", &bug.reporter)
        )?;
        let notify = |bug: &Bug| {
            let mut mails = vec![assigned_to_you(bug, &assigned)];
            if assigned != reporting {
                mails.push(assigned_to_another(bug, &reporting, &assigned));
            }
            mails
        };
        let (bug, changed) = store::assign(&self.database, &ctx, &id, &assignee, notify).await?;
        if changed {
            self.wake.wake();
            tracing::info!(bug_id = bug.id.0, assignee = assignee.0, "bug assigned");
        }
        Ok(bug)
    }

    async fn set_status(&self, _: Context, id: BugId, status: Status) -> Result<Bug, Error> {
        let (bug, changed) = store::set_status(&self.database, &id, status).await?;
        if changed {
            let status = status.as_str();
            tracing::info!(bug_id = bug.id.0, status, "status of bug changed");
        }
        Ok(bug)
    }

    async fn comment(
        &self,
        ctx: Context,
        bug: BugId,
        author: UserId,
        text: String,
    ) -> Result<Comment, Error> {
        self.user(&ctx, "author", &author).await?;
        let new = NewComment { bug, author, text };
        let (comment, is_new) = store::add_comment(&self.database, &ctx, new).await?;
        if is_new {
            tracing::info!(
                bug_id = comment.bug.0,
                comment_id = comment.id,
                "bug commented"
            );
        }
        Ok(comment)
    }

    async fn comments(
        &self,
        _: Context,
        bug: BugId,
        page_size: Option<u32>,
        page_token: Option<String>,
    ) -> Result<CommentPage, Error> {
        let page = page(page_size, page_token);
        store::comments(&self.database, &bug, page).await
    }
}

impl<U: Users> Tracker<U> {
    /// The user whom `field` of a request names.
    async fn user(&self, ctx: &Context, field: &'static str, id: &UserId) -> Result<User, Error> {
        let error = match self.users.get(ctx.child(), id.clone()).await {
            Ok(user) => return Ok(user),
            Err(error) => error,
        };
        Err(match error.code() {
            Code::NotFound | Code::InvalidArgument => {
                let rule = "must be a known user";
                Error::not_found(format!("{field} {rule}")).with_violation(field, rule)
            }
            // The caller's own time is up.
            Code::DeadlineExceeded
                if ctx
                    .deadline
                    .is_some_and(|d| d.has_passed(tokio::time::Instant::now())) =>
            {
                error
            }
            _ => {
                let after = error.retry_after();
                let error = Error::unavailable("users could not be asked").with_source(error);
                match after {
                    Some(after) => error.with_retry_after(after),
                    None => error,
                }
            }
        })
    }
}

fn page(size: Option<u32>, token: Option<String>) -> Page {
    Page {
        size: match size {
            None | Some(0) => PAGE,
            Some(size) => size.min(LARGEST_PAGE),
        },
        // Protobuf may say an empty token and mean none; that others are numbers is a rule.
        after: token.and_then(|token| token.parse().ok()).unwrap_or(0),
    }
}

fn reported(bug: &Bug, reporter: &User, assignee: Option<&User>) -> Mail {
    let assigned = match assignee {
        Some(assignee) => format!("It is assigned to {}.", assignee.email),
        None => "Nobody is assigned to it yet.".to_owned(),
    };
    mail(
        reporter,
        "You reported",
        bug,
        &format!("Thank you for the report. {assigned}"),
    )
}

fn assigned_to_you(bug: &Bug, assignee: &User) -> Mail {
    mail(
        assignee,
        "Assigned to you",
        bug,
        "This bug is yours to mend.",
    )
}

fn assigned_to_another(bug: &Bug, reporter: &User, assignee: &User) -> Mail {
    let text = format!(
        "The bug that you reported is assigned to {}.",
        assignee.email
    );
    mail(reporter, "Assigned", bug, &text)
}

fn mail(to: &User, what: &str, bug: &Bug, text: &str) -> Mail {
    Mail {
        to: to.email.clone(),
        subject: format!("{what}: {}", bug.title),
        body: format!(
            "Hello,\n\n{text}\n\nBug {}\n{}\n\n{}\n",
            bug.id.0, bug.title, bug.description
        ),
    }
}
