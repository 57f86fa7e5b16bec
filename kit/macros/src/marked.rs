//! For tests: source in which the tokens that a mistake is told at stand between `«` and `»`.

use std::collections::BTreeSet;

use proc_macro2::TokenStream;
use syn::Result;

/// Reads `source` without its marks, and holds that `read` tells of a mistake at each of them and nowhere else, one of
/// them with `message`. One token may have two.
pub(crate) fn check(source: &str, message: &str, read: impl FnOnce(TokenStream) -> Result<()>) {
    let (mut plain, mut marks, mut begin) = (String::new(), BTreeSet::new(), 0);
    for c in source.chars() {
        match c {
            '«' => begin = plain.len(),
            '»' => drop(marks.insert((begin, plain.len()))),
            c => plain.push(c),
        }
    }
    let mistakes = read(plain.parse().expect("tokens")).expect_err(source);
    let (mut places, mut messages) = (BTreeSet::new(), Vec::new());
    for mistake in mistakes {
        let place = mistake.span().byte_range();
        places.insert((place.start, place.end));
        messages.push(format!("`{}`: {mistake}", &plain[place]));
    }
    assert_eq!(places, marks, "{source}: {messages:#?}");
    let is_told = messages.iter().any(|told| told.contains(message));
    assert!(is_told, "{source}: {messages:#?}");
}
