//! What a command wants to change, gathered before anything is written.
//!
//! The promise of all commands is held here: of a file that exists, no line is changed, moved or taken away. Lines
//! are added, or the whole command fails before it has written anything.

pub(crate) mod format;
pub(crate) mod rust;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::Args;

/// How a command treats what it would write.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Mode {
    /// Shows what would be written, and writes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// For CI: writes nothing, and fails if there is something to write or to mend.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) check: bool,
}

/// New files and new lines, by path, and what a person has to do.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Paths are shown relative to this one.
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// What only a person can mend.
    reports: Vec<String>,
}

#[derive(Debug)]
struct File {
    /// `None`: it does not exist yet. Lines that have grown are here as they have become.
    before: Option<String>,
    after: String,
    /// Lines that have grown, as they have become.
    grown: Vec<String>,
}

impl Changes {
    /// None yet.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            reports: Vec::new(),
        }
    }

    /// The text of a file as it will be.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<String>> {
        match self.files.get(path) {
            Some(file) => Ok(Some(file.after.clone())),
            None => read(path),
        }
    }

    /// Gives a file a text. Where the file exists, all its lines must be in the text, in their order.
    pub(crate) fn write(&mut self, path: &Path, text: String) -> Result<()> {
        let (before, grown) = match self.files.remove(path) {
            Some(file) => (file.before, file.grown),
            None => (read(path)?, Vec::new()),
        };
        if let Some(before) = &before {
            ensure!(
                keeps_lines(before, &text),
                "{} cannot be added to without changing a line that stands there",
                self.show(path)
            );
        }
        if before.as_deref() != Some(&*text) || !grown.is_empty() {
            let file = File {
                before,
                after: text,
                grown,
            };
            self.files.insert(path.to_owned(), file);
        }
        Ok(())
    }

    /// Puts something into a line, of which nothing is taken away: for what somebody asked for by name, where there
    /// is no other place for it. The text of the line must be the only one of its kind.
    pub(crate) fn grow(&mut self, path: &Path, line: &str, grown: String) -> Result<()> {
        let mut file = match self.files.remove(path) {
            Some(file) => file,
            None => {
                let text = read(path)?.unwrap_or_default();
                File {
                    before: Some(text.clone()),
                    after: text,
                    grown: Vec::new(),
                }
            }
        };
        let mut letters = grown.chars();
        let keeps = line
            .chars()
            .all(|letter| letters.any(|other| other == letter));
        let is_one = file.after.lines().filter(|other| *other == line).count() == 1;
        ensure!(
            keeps && is_one,
            "{} has no line `{}` into which something could be put",
            self.show(path),
            line.trim()
        );
        file.before = file.before.map(|text| text.replace(line, &grown));
        file.after = file.after.replace(line, &grown);
        file.grown.push(grown);
        self.files.insert(path.to_owned(), file);
        Ok(())
    }

    /// Gives a file a text unless it exists.
    pub(crate) fn create(&mut self, path: &Path, text: String) -> Result<()> {
        match self.read(path)? {
            Some(_) => Ok(()),
            None => self.write(path, text),
        }
    }

    /// Tells what only a person can mend.
    pub(crate) fn report(&mut self, text: String) {
        self.reports.push(text);
    }

    /// A path for people.
    pub(crate) fn show(&self, path: &Path) -> String {
        let shown = path.strip_prefix(&self.root).unwrap_or(path);
        shown.display().to_string()
    }

    /// Writes, or only tells, as `mode` says. Fails in the sense of the exit code where `--check` found something.
    pub(crate) fn finish(self, mode: Mode) -> Result<ExitCode> {
        let [made, added_to] = match mode {
            Mode { check: true, .. } => ["missing", "lacks"],
            Mode { dry_run: true, .. } => ["would make", "would add to"],
            _ => ["made", "added to"],
        };
        let mut text = String::new();
        for (path, file) in &self.files {
            let shown = self.show(path);
            match &file.before {
                None => {
                    text += &format!("{made} {shown}\n");
                    if mode.dry_run {
                        text += &numbered(1, file.after.lines());
                    }
                }
                Some(before) => {
                    for (number, line) in (1..).zip(file.after.lines()) {
                        if file.grown.iter().any(|grown| grown == line) {
                            text += &format!("{added_to} {shown}:{number}\n");
                            text += &numbered(number, [line].into_iter());
                        }
                    }
                    for (first, lines) in added(before, &file.after) {
                        text += &format!("{added_to} {shown}:{first}\n");
                        text += &numbered(first, lines.into_iter());
                    }
                }
            }
            if !mode.dry_run && !mode.check {
                write(path, &file.after)?;
            }
        }
        if self.files.is_empty() {
            text += "nothing to add\n";
        }
        say(&text)?;
        for report in &self.reports {
            eprintln!("to mend by hand: {report}");
        }
        let clean = self.files.is_empty() && self.reports.is_empty();
        Ok(match mode.check && !clean {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }
}

/// Prints, also to somebody who has read enough.
pub(crate) fn say(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn numbered<'a>(first: usize, lines: impl Iterator<Item = &'a str>) -> String {
    let line = |(number, line)| {
        let line = format!("  {number:>4} + {line}");
        line.trim_end().to_owned() + "\n"
    };
    (first..).zip(lines).map(line).collect()
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// Writes a whole file or nothing of it.
fn write(path: &Path, text: &str) -> Result<()> {
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        match fs::exists(path)? {
            false => fs::write(path, text),
            true => {
                let beside = path.with_extension("kit-new");
                fs::write(&beside, text)?;
                fs::set_permissions(&beside, fs::metadata(path)?.permissions())?;
                fs::rename(beside, path)
            }
        }
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// Whether all lines of `before` are in `after`, in their order.
pub(crate) fn keeps_lines(before: &str, after: &str) -> bool {
    let mut after = after.lines();
    before.lines().all(|line| after.any(|other| other == line))
}

/// The lines of `after` that are not in `before`, in runs, each with the number of its first line.
fn added<'a>(before: &str, after: &'a str) -> Vec<(usize, Vec<&'a str>)> {
    let mut old = before.lines().peekable();
    let mut runs: Vec<(usize, Vec<_>)> = Vec::new();
    for (number, line) in (1..).zip(after.lines()) {
        if old.next_if_eq(&line).is_some() {
            continue;
        }
        match runs.last_mut() {
            Some((first, lines)) if *first + lines.len() == number => lines.push(line),
            _ => runs.push((number, vec![line])),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_exists_is_never_lost_changed_or_moved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rs");
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        for (text, fine) in [
            ("one\nnew\ntwo\nthree\n", true),
            ("one\ntwo\nthree\nnew\n", true),
            ("two\none\nthree\n", false),
            ("one\ntwo \nthree\n", false),
            ("one\ntwo\n", false),
        ] {
            let mut changes = Changes::new(folder.path());
            assert_eq!(
                changes.write(&path, text.to_owned()).is_ok(),
                fine,
                "{text:?}"
            );
        }
    }

    #[test]
    fn nothing_is_written_unless_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rs");
        for (mode, code) in [
            (
                Mode {
                    dry_run: true,
                    check: false,
                },
                ExitCode::SUCCESS,
            ),
            (
                Mode {
                    dry_run: false,
                    check: true,
                },
                ExitCode::FAILURE,
            ),
        ] {
            let mut changes = Changes::new(folder.path());
            changes.write(&path, "new\n".to_owned()).unwrap();
            assert_eq!(changes.finish(mode).unwrap(), code);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_line_may_grow_where_that_is_asked_for_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rs");
        fs::write(&path, "one\n#[a]\n").unwrap();
        let mut changes = Changes::new(folder.path());
        assert!(changes.grow(&path, "#[a]", "#[b]".to_owned()).is_err());
        assert!(changes.grow(&path, "two", "two!".to_owned()).is_err());
        let mut changes = Changes::new(folder.path());
        changes.grow(&path, "#[a]", "#[a(b)]".to_owned()).unwrap();
        // Lines are added beside it as ever, and no other is changed.
        assert!(changes.write(&path, "on\n#[a(b)]\n".to_owned()).is_err());
        let mut changes = Changes::new(folder.path());
        changes.grow(&path, "#[a]", "#[a(b)]".to_owned()).unwrap();
        let text = changes.read(&path).unwrap().unwrap();
        changes.write(&path, text + "three\n").unwrap();
        changes.finish(Mode::default()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n#[a(b)]\nthree\n");
    }

    #[test]
    fn added_lines_are_told_with_their_numbers() {
        let runs = added("a\n\nb\n", "a\nx\n\ny\nz\nb\n");
        assert_eq!(runs, [(2, vec!["x"]), (4, vec!["y", "z"])]);
    }
}
