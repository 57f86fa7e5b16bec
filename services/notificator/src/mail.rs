//! A mail, and what it looks like on its way (RFC 5322).

use std::time::{Duration, SystemTime};

use kit::Error;
use lettre::{
    Address, Message,
    address::Envelope,
    message::{Mailbox, header::ContentType},
};
use serde::{Deserialize, Serialize};

use crate::api::MailId;

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
    /// The recipient is none, or longer than a mailbox or a domain may be. What could add a header is refused before it
    /// comes here, and could not get through the encoding either.
    pub(crate) fn compose(&self, mail: &Mail) -> Result<Message, Error> {
        let to = self.recipient(&mail.to)?;
        let created_at = Duration::from_millis(u64::try_from(mail.created_at).unwrap_or(0));
        // Otherwise it is read out of the headers, and not every recipient is.
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.clone()])
            .map_err(Error::internal)?;
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .envelope(envelope)
            .subject(&mail.subject)
            .date(SystemTime::UNIX_EPOCH + created_at)
            .message_id(Some(format!("<{}@{}>", mail.id.0, self.local_domain)))
            .header(ContentType::TEXT_PLAIN)
            .body(mail.body.clone())
            .map_err(Error::internal)
    }

    fn recipient(&self, to: &str) -> Result<Address, Error> {
        let (mailbox, domain) = to.rsplit_once('@').unwrap_or((to, &self.local_domain));
        // Dots where words should be stand in quotes.
        let address = match mailbox.split('.').any(str::is_empty) {
            true => Address::new(format!("\"{mailbox}\""), domain),
            false => Address::new(mailbox, domain),
        };
        address.map_err(|error| {
            let rule = "must be a mailbox, with or without a domain";
            Error::invalid("to", rule).with_source(error)
        })
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
        for (to, written) in [
            ("ada@example.com", "ada@example.com"),
            ("a..da.@example.com", "\"a..da.\"@example.com"),
        ] {
            let text = text(&mail(to, "", ""));
            assert!(text.contains(&format!("To: {written}\r\n")), "{text}");
        }
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
        for subject in [
            "a\r\nBcc: b@c",
            "a\nb",
            "a\rBcc: b@c",
            "a\0b",
            "Grüße: nah\u{2028}Bcc: b@c",
        ] {
            let text = text(&mail("a", subject, "\r\n.\r\nBcc: b@c\r\n"));
            let (head, _) = text.split_once("\r\n\r\n").unwrap();
            assert!(!head.contains("\nBcc") && !head.contains("\rBcc"), "{head}");
            assert!(head.is_ascii(), "{head}");
        }
    }
}
