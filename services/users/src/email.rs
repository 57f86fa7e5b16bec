//! What is accepted as an e-mail address.

use kit::Error;

/// The longest address that fits into an SMTP path (RFC 5321, 4.5.3.1.3, as corrected by erratum 1690).
pub(crate) const MAX_BYTES: usize = 254;

/// Whether `email` may be an address. A bare local mailbox such as `test` may; whether there is such a mailbox
/// only a mail can tell. The error names the field and the rule.
pub(crate) fn check(email: &str) -> Result<(), Error> {
    let rule = if email.is_empty() {
        "must not be empty"
    } else if email.len() > MAX_BYTES {
        "must not be longer than 254 bytes"
    } else if email.chars().any(char::is_control) {
        "must not contain control characters"
    } else if email.chars().any(char::is_whitespace) {
        "must not contain spaces"
    } else {
        return Ok(());
    };
    Err(Error::invalid("email", rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_mailbox_and_an_address_with_a_domain_are_accepted() {
        for email in [
            "test",
            "ada@example.com",
            "jürgen@bücher.example",
            &"a".repeat(254),
        ] {
            assert!(check(email).is_ok(), "{email:?}");
        }
    }

    #[test]
    fn what_cannot_be_an_address_is_refused_with_the_rule_that_it_breaks() {
        for (email, rule) in [
            ("", "must not be empty"),
            ("a b", "must not contain spaces"),
            (" a", "must not contain spaces"),
            ("a\u{a0}b", "must not contain spaces"),
            ("a\r\nBcc: b", "must not contain control characters"),
            ("a\0", "must not contain control characters"),
            ("\u{7f}", "must not contain control characters"),
            ("a\u{85}", "must not contain control characters"),
            (&"a".repeat(255), "must not be longer than 254 bytes"),
            // 255 bytes in 254 characters.
            (
                &("a".repeat(253) + "ü"),
                "must not be longer than 254 bytes",
            ),
        ] {
            let error = check(email).unwrap_err();
            assert_eq!(error.violations()[0].field, "email");
            assert_eq!(error.violations()[0].rule, rule, "{email:?}");
        }
    }
}
