//! Packages of any Debian suite, fetched without root and without touching what this machine has installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{find, output};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const PUBLIC_MIRROR: &str = "http://deb.debian.org/debian";

/// Downloads `packages` (`name` or `name=version`) of `suite`'s component `main` into the directory `into`. apt
/// checks the archive's signatures with the keyring that the machine has.
pub(crate) fn download(suite: &str, packages: &[&str], into: &Path) -> Result<()> {
    ensure!(
        available(),
        "there is no apt-get and no Debian archive keyring here"
    );
    let private = tempfile::tempdir()?;
    let private = private.path();
    let list = private.join("sources.list");
    let mirror = mirror();
    fs::write(
        &list,
        format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"),
    )?;
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(private.join(directory))?;
    }
    fs::create_dir_all(into)?;
    let options = [
        format!("Dir::Etc::sourcelist={}", list.display()),
        "Dir::Etc::sourceparts=/dev/null".to_owned(),
        format!("Dir::State::lists={}", private.join("lists").display()),
        format!("Dir::Cache={}", private.join("cache").display()),
        // The user `_apt` may not read a private directory.
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Retries=3".to_owned(),
    ];
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("-q").current_dir(into);
        command.args(options.iter().flat_map(|option| ["-o", option]));
        output(command.args(words))
    };
    apt(&["update"]).with_context(|| format!("{mirror} {suite} cannot be read"))?;
    apt(&[&["download"], packages].concat())?;
    Ok(())
}

/// Whether packages can be fetched on this machine.
pub(crate) fn available() -> bool {
    find("apt-get").is_some() && find("dpkg-deb").is_some() && Path::new(KEYRING).exists()
}

/// Unpacks the one package in `directory` whose name is `package` into `into`. For a package that needs nothing
/// but libc, that is an installation.
pub(crate) fn unpack(directory: &Path, package: &str, into: &Path) -> Result<()> {
    let file = file_of(directory, package)?;
    output(Command::new("dpkg-deb").arg("-x").arg(file).arg(into))?;
    Ok(())
}

/// Where the package lies in `directory`.
pub(crate) fn file_of(directory: &Path, package: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{package}_"))
        {
            return Ok(entry.path());
        }
    }
    bail!("{package} was not downloaded into {}", directory.display())
}

/// A field of the file in which the distribution says what it is; empty where it does not.
fn release(field: &str) -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let line = release.lines().find_map(|line| line.strip_prefix(field));
    line.map(|value| value.trim_matches('"').to_owned())
        .unwrap_or_default()
}

fn is_debian() -> bool {
    release("ID=") == "debian"
}

/// The suite that this machine has, where it is a Debian; else the stable one.
pub(crate) fn suite() -> String {
    if is_debian() {
        release("VERSION_CODENAME=")
    } else {
        "stable".to_owned()
    }
}

/// The mirror that this machine uses, where it is a Debian; else the public one.
pub(crate) fn mirror() -> String {
    if !is_debian() {
        return PUBLIC_MIRROR.to_owned();
    }
    let suite = suite();
    let files = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .chain([PathBuf::from("/etc/apt/sources.list")]);
    files
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text, &suite))
        .unwrap_or_else(|| PUBLIC_MIRROR.to_owned())
}

/// The first address in `sources`, in either of apt's formats, that has the component `main` of `suite`.
fn mirror_in(sources: &str, suite: &str) -> Option<String> {
    let has = |words: &str, word| words.split_whitespace().any(|each| each == word);
    let one_line = sources.lines().find_map(|line| {
        let mut words = line.strip_prefix("deb ")?.split_whitespace().peekable();
        if words.peek()?.starts_with('[') {
            words.by_ref().find(|word| word.ends_with(']'))?;
        }
        let address = words.next()?;
        (words.next() == Some(suite) && words.any(|word| word == "main")).then_some(address)
    });
    let stanza = || {
        sources.split("\n\n").find_map(|stanza| {
            let field = |name| stanza.lines().find_map(|line| line.strip_prefix(name));
            let right = has(field("Types:")?, "deb")
                && has(field("Suites:")?, suite)
                && has(field("Components:")?, "main");
            right.then(|| field("URIs:")?.split_whitespace().next())?
        })
    };
    one_line.or_else(stanza).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_both_formats_of_apt() {
        let stanzas = "Types: deb\n# a remark\nURIs: http://other/\nSuites: nodistro\nComponents: main\n\n\
                       Types: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(
            mirror_in(stanzas, "bookworm").as_deref(),
            Some("http://mirror/debian")
        );
        let lines = "# deb http://no bookworm main\n\
                     deb https://other cloud-sdk-bookworm main\n\
                     deb [arch=amd64 signed-by=/k] http://mirror/debian bookworm contrib main\n";
        assert_eq!(
            mirror_in(lines, "bookworm").as_deref(),
            Some("http://mirror/debian")
        );
        assert_eq!(mirror_in(lines, "trixie"), None);
    }
}
