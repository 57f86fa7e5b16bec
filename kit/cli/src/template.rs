//! The texts that new files begin with: real files in `templates/`, with words such as `__name__` to be filled in.

/// Puts `values` in the places of their words. A word is filled in wherever it stands.
pub(crate) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_owned();
    for (word, value) in values {
        text = text.replace(&format!("__{word}__"), value);
    }
    text
}
