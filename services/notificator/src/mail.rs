//! A mail, and what it looks like on its way (RFC 5322).

use std::time::{Duration, SystemTime};

use kit::Error;
use lettre::{
    Address, Message,
    message::{Mailbox, header::ContentType},
};
use serde::{Deserialize, Serialize};

use crate::api::MailId;

/// The longest recipient that fits into an SMTP path (RFC 5321, 4.5.3.1.3, as corrected by erratum 1690).
const MAX_RECIPIENT: usize = 254;
/// The longest subject, in bytes.
const MAX_SUBJECT: usize = 255;
/// The longest body, in bytes.
const MAX_BODY: usize = 256 * 1024;

/// A mail as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mail {
    /// Names it.
    pub(crate) id: MailId,
    /// The mailbox, with or without a domain.
    pub(crate) to: String,
    /// What it is about.
    pub(crate) subject: String,
    /// The text.
    pub(crate) body: String,
    /// When it was accepted, in milliseconds since 1970.
    pub(crate) created_at: i64,
}

/// What all mails of this service have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Letterhead {
    /// The sender. Default `Bug Tracker <bugtracker@localhost>`.
    pub from: Mailbox,
    /// The domain of mailboxes that are given without one, and of message ids. Default `localhost`.
    pub local_domain: String,
}

impl Default for Letterhead {
    fn default() -> Self {
        let from = "Bug Tracker <bugtracker@localhost>";
        Self {
            from: from.parse().expect("an address"),
            local_domain: "localhost".to_owned(),
        }
    }
}

impl Letterhead {
    /// Writes `mail` out. The same mail always gives the same bytes.
    ///
    /// # Errors
    /// A part of it cannot be in a mail; the error names the part and the rule. What could add a header is refused
    /// here, and could not get through the encoding either.
    pub(crate) fn compose(&self, mail: &Mail) -> Result<Message, Error> {
        let to = self.recipient(&mail.to)?;
        if mail.subject.len() > MAX_SUBJECT {
            return Err(Error::invalid(
                "subject",
                "must not be longer than 255 bytes",
            ));
        }
        if mail.subject.chars().any(char::is_control) {
            let rule = "must not contain control characters";
            return Err(Error::invalid("subject", rule));
        }
        if mail.body.len() > MAX_BODY {
            return Err(Error::invalid(
                "body",
                "must not be longer than 262144 bytes",
            ));
        }
        let created_at = Duration::from_millis(u64::try_from(mail.created_at).unwrap_or(0));
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(&mail.subject)
            .date(SystemTime::UNIX_EPOCH + created_at)
            .message_id(Some(format!("<{}@{}>", mail.id.0, self.local_domain)))
            .header(ContentType::TEXT_PLAIN)
            .body(mail.body.clone())
            .map_err(Error::internal)
    }

    fn recipient(&self, to: &str) -> Result<Address, Error> {
        let rule = if to.is_empty() {
            "must not be empty"
        } else if to.len() > MAX_RECIPIENT {
            "must not be longer than 254 bytes"
        } else if to.chars().any(char::is_control) {
            "must not contain control characters"
        } else if to.chars().any(char::is_whitespace) {
            "must not contain spaces"
        } else {
            let address = match to.rsplit_once('@') {
                Some((mailbox, domain)) => Address::new(mailbox, domain),
                None => Address::new(to, &self.local_domain),
            };
            return address.map_err(|error| {
                Error::invalid("to", "must be a mailbox, with or without a domain")
                    .with_source(error)
            });
        };
        Err(Error::invalid("to", rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(to: &str, subject: &str, body: &str) -> Mail {
        Mail {
            id: MailId("1".to_owned()),
            to: to.to_owned(),
            subject: subject.to_owned(),
            body: body.to_owned(),
            created_at: 1_700_000_000_000,
        }
    }

    fn text(mail: &Mail) -> String {
        let message = Letterhead::default().compose(mail).unwrap();
        String::from_utf8(message.formatted()).unwrap()
    }

    #[test]
    fn a_mail_is_the_same_bytes_however_often_it_is_written() {
        let mail = mail("test", "Hello", "How are you?\nFine.\n");
        assert_eq!(
            text(&mail),
            "From: \"Bug Tracker\" <bugtracker@localhost>\r\n\
             To: test@localhost\r\n\
             Subject: Hello\r\n\
             Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n\
             Message-ID: <1@localhost>\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 7bit\r\n\
             \r\n\
             How are you?\r\nFine.\r\n"
        );
        assert_eq!(text(&mail), text(&mail.clone()));
    }

    #[test]
    fn a_recipient_with_a_domain_keeps_it() {
        let text = text(&mail("ada@example.com", "", ""));
        assert!(text.contains("To: ada@example.com\r\n"), "{text}");
    }

    #[test]
    fn nothing_that_a_caller_says_becomes_a_header() {
        for to in [
            "",
            "a b",
            "a\r\nBcc: b@c",
            "a\nb",
            "a\u{85}b",
            "a@b\r\n",
            "a,b@c",
            "a>,<b@c",
            "@",
            "a@",
            &"a".repeat(255),
        ] {
            let error = Letterhead::default()
                .compose(&mail(to, "", ""))
                .expect_err(to);
            assert_eq!(error.violations()[0].field, "to", "{to:?}");
        }
        for subject in ["a\r\nBcc: b@c", "a\nb", "a\rb", "a\0b"] {
            let error = Letterhead::default()
                .compose(&mail("a", subject, ""))
                .expect_err(subject);
            assert_eq!(error.violations()[0].field, "subject", "{subject:?}");
        }
        let text = text(&mail(
            "a",
            "Grüße: nah\u{2028}Bcc: b@c",
            "\r\n.\r\nBcc: b@c\r\n",
        ));
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("\r\nBcc"), "{head}");
        assert!(head.is_ascii(), "{head}");
    }
}
