//! How the status of a bug may change.

use kit::Error;

use crate::api::Status;

impl Status {
    /// The name in the database and in messages; the same as in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::InProgress => "in_progress",
            Self::Resolved => "resolved",
            Self::Closed => "closed",
        }
    }

    /// The status with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Open, Self::InProgress, Self::Resolved, Self::Closed]
            .into_iter()
            .find(|status| status.as_str() == name)
    }

    /// What may follow on it.
    fn next(self) -> &'static [Self] {
        match self {
            Self::Open => &[Self::InProgress],
            Self::InProgress => &[Self::Resolved, Self::Open],
            Self::Resolved => &[Self::Closed, Self::Open],
            Self::Closed => &[Self::Open],
        }
    }

    /// Whether a bug may go from this status to `to`.
    ///
    /// # Errors
    /// It may not; the error says where it may go.
    pub(crate) fn check_change(self, to: Self) -> Result<(), Error> {
        if self.next().contains(&to) {
            return Ok(());
        }
        let allowed: Vec<_> = self.next().iter().map(|next| next.as_str()).collect();
        let rule = format!(
            "cannot go from {} to {}; allowed: {}",
            self.as_str(),
            to.as_str(),
            allowed.join(", ")
        );
        Err(Error::failed_precondition(format!("status {rule}")).with_violation("status", rule))
    }
}

#[cfg(test)]
mod tests {
    use kit::Code;

    use super::*;
    use Status::{Closed, InProgress, Open, Resolved};

    #[test]
    fn a_status_changes_along_the_allowed_ways_only() {
        let all = [Open, InProgress, Resolved, Closed];
        let allowed: Vec<_> = all
            .into_iter()
            .flat_map(|from| all.map(|to| (from, to)))
            .filter(|(from, to)| from.check_change(*to).is_ok())
            .collect();
        assert_eq!(
            allowed,
            [
                (Open, InProgress),
                (InProgress, Open),
                (InProgress, Resolved),
                (Resolved, Open),
                (Resolved, Closed),
                (Closed, Open),
            ]
        );
    }

    #[test]
    fn a_refused_change_says_which_are_allowed() {
        let error = InProgress.check_change(Closed).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert_eq!(
            error.message(),
            "status cannot go from in_progress to closed; allowed: resolved, open"
        );
        assert_eq!(error.violations()[0].field, "status");
    }

    #[test]
    fn the_names_are_those_of_json() {
        for status in [Open, InProgress, Resolved, Closed] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(Status::named(status.as_str()), Some(status));
        }
    }
}
