//! Formatting, without touching what stands there.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use super::keeps_lines;

/// The text of a file in `folder`, formatted by rustfmt as the folder's `rustfmt.toml` says; `None` if there is no
/// rustfmt or it cannot read the text.
fn rustfmt(folder: &Path, text: &str) -> Option<String> {
    // The folder of a new file may not exist yet.
    let folder = folder.ancestors().find(|folder| folder.is_dir())?;
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024", "--emit", "stdout", "--quiet"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdin = rustfmt.stdin.take().expect("it is piped");
    // It reads everything before it writes anything, so neither waits for the other.
    stdin.write_all(text.as_bytes()).ok()?;
    drop(stdin);
    let output = rustfmt.wait_with_output().ok()?;
    let formatted = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !formatted.is_empty()).then_some(formatted)
}

/// A new file, formatted.
pub(crate) fn new_file(path: &Path, text: String) -> String {
    let folder = path.parent().unwrap_or(Path::new("."));
    rustfmt(folder, &text).unwrap_or(text)
}

/// A file to which lines were added, formatted if it was before and if that changes added lines only.
pub(crate) fn additions(path: &Path, before: &str, after: String) -> String {
    let folder = path.parent().unwrap_or(Path::new("."));
    if rustfmt(folder, before).as_deref() != Some(before) {
        return after;
    }
    match rustfmt(folder, &after) {
        Some(formatted) if keeps_lines(before, &formatted) => formatted,
        _ => after,
    }
}
