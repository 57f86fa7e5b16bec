//! Names: from Rust's case to that of others, and doc comments as texts.

use syn::{Attribute, Expr, ExprLit, Lit, Meta, ext::IdentExt};

/// `send_email` as `SendEmail`.
pub(crate) fn camel(snake: &str) -> String {
    snake
        .split('_')
        .flat_map(|word| {
            let mut chars = word.chars();
            chars
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(chars)
        })
        .collect()
}

/// `page_size` as `pageSize`, as protoc does it: what follows a `_` is a capital, and the `_` goes.
pub(crate) fn lower_camel(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |out, word| out + &camel(word))
}

/// `InProgress` as `in_progress`. A digit belongs to the word before it, and so does a run of capitals to itself:
/// `HTTPServer2` is `http_server2`.
pub(crate) fn snake(camel: &str) -> String {
    let chars: Vec<_> = camel.chars().collect();
    let mut out = String::new();
    for (at, c) in chars.iter().enumerate() {
        let begins = c.is_ascii_uppercase()
            && at > 0
            && chars[at - 1] != '_'
            && (!chars[at - 1].is_ascii_uppercase()
                || chars.get(at + 1).is_some_and(char::is_ascii_lowercase));
        if begins {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A variant's name by serde's `rename_all`, which goes from Rust's own case by the capitals alone.
pub(crate) fn rename_variant(rule: &str, name: &str) -> Option<String> {
    let snake = || {
        let mut out = String::new();
        for (at, c) in name.char_indices() {
            if at > 0 && c.is_uppercase() {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        }
        out
    };
    Some(match rule {
        "lowercase" => name.to_ascii_lowercase(),
        "UPPERCASE" => name.to_ascii_uppercase(),
        "PascalCase" => name.to_owned(),
        "camelCase" => name[..1].to_ascii_lowercase() + &name[1..],
        "snake_case" => snake(),
        "SCREAMING_SNAKE_CASE" => snake().to_ascii_uppercase(),
        "kebab-case" => snake().replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => snake().to_ascii_uppercase().replace('_', "-"),
        _ => return None,
    })
}

/// A field's name by serde's `rename_all`.
pub(crate) fn rename_field(rule: &str, name: &str) -> Option<String> {
    Some(match rule {
        "lowercase" | "snake_case" => name.to_owned(),
        "UPPERCASE" | "SCREAMING_SNAKE_CASE" => name.to_ascii_uppercase(),
        "PascalCase" => camel(name),
        "camelCase" => {
            let pascal = camel(name);
            pascal[..1].to_ascii_lowercase() + &pascal[1..]
        }
        "kebab-case" => name.replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => name.to_ascii_uppercase().replace('_', "-"),
        _ => return None,
    })
}

/// The doc comment, without the space that follows each `///`.
pub(crate) fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| {
        let Meta::NameValue(meta) = &attribute.meta else {
            return None;
        };
        let Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) = &meta.value
        else {
            return None;
        };
        meta.path.is_ident("doc").then(|| {
            let text = text.value();
            text.strip_prefix(' ').unwrap_or(&text).to_owned()
        })
    });
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// What is told where `word` stands and nothing but one of `known` may.
pub(crate) fn unknown(word: &syn::Path, known: &[&str]) -> syn::Error {
    let text = word
        .get_ident()
        .map(|word| word.unraw().to_string())
        .unwrap_or_default();
    let names: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
    let known_ones = format!("known here: {}", names.join(", "));
    let nearest = known
        .iter()
        .map(|name| (distance(&text, name), name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3).max(2));
    syn::Error::new_spanned(
        word,
        match nearest {
            Some((_, name)) => format!("did you mean `{name}`? {known_ones}"),
            None => known_ones,
        },
    )
}

/// How many letters must be put in, left out or changed to make the one of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<_> = (0..=other.len()).collect();
    for (at, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_the_one_with_the_fewest_changes() {
        for (one, other, changes) in [
            ("", "tag", 3),
            ("tag", "tag", 0),
            ("tga", "tag", 2),
            ("idempotnet", "idempotent", 2),
            ("timeot", "timeout", 1),
            ("rout", "route", 1),
        ] {
            assert_eq!(distance(one, other), changes, "{one} {other}");
        }
        let told = |word| unknown(&syn::parse_str(word).unwrap(), &["route", "timeout"]);
        assert_eq!(
            told("timeot").to_string(),
            "did you mean `timeout`? known here: `route`, `timeout`"
        );
        assert_eq!(told("colour").to_string(), "known here: `route`, `timeout`");
    }

    #[test]
    fn names_change_their_case() {
        assert_eq!(camel("send_email"), "SendEmail");
        assert_eq!(camel("get"), "Get");
        assert_eq!(lower_camel("page_size"), "pageSize");
        assert_eq!(lower_camel("_a__b"), "AB");
        assert_eq!(snake("Users"), "users");
        assert_eq!(snake("BugTracker"), "bug_tracker");
        assert_eq!(snake("HTTPServer2"), "http_server2");
        assert_eq!(
            rename_variant("snake_case", "InProgress").unwrap(),
            "in_progress"
        );
        assert_eq!(
            rename_variant("camelCase", "InProgress").unwrap(),
            "inProgress"
        );
        assert_eq!(rename_field("camelCase", "page_size").unwrap(), "pageSize");
        assert_eq!(
            rename_field("kebab-case", "page_size").unwrap(),
            "page-size"
        );
    }
}
