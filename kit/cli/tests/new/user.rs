//! Somebody in a folder, with a terminal.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::TempDir;

/// A method for a trait.
pub(crate) const CREATE: &str =
    "    async fn create(&self, ctx: Context, email: String) -> Result<(), Error>;\n";

/// An empty folder, and what is typed there.
pub(crate) struct User {
    folder: TempDir,
}

impl User {
    /// In a folder outside of every workspace.
    pub(crate) fn in_an_empty_folder() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// With a service whose trait has these lines.
    pub(crate) fn with_service(name: &str, methods: &str) -> Self {
        let user = Self::in_an_empty_folder();
        user.kit(&["new", "service", name]).succeeds();
        user.edit(&format!("services/{name}/src/api.rs"), |text| {
            with_methods(text, methods)
        });
        user
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// All files of the folder but cargo's lock, which cargo itself changes.
    pub(crate) fn files(&self) -> Vec<(PathBuf, String)> {
        let (mut files, mut folders) = (Vec::new(), vec![self.folder.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with("Cargo.lock") {
                    let text = fs::read_to_string(&path).unwrap();
                    files.push((path, text));
                }
            }
        }
        files.sort();
        files
    }

    pub(crate) fn edit(&self, path: &str, edit: impl FnOnce(&str) -> String) {
        let text = self.read(path);
        fs::write(self.path(path), edit(&text)).unwrap();
    }

    /// Types `kit ...`.
    pub(crate) fn kit(&self, arguments: &[&str]) -> Ran {
        self.run(Command::new(env!("CARGO_BIN_EXE_kit")).args(arguments))
    }

    /// Types `cargo ...`.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Ran {
        self.cargo_with(&[], arguments)
    }

    /// Types `NAME=VALUE ... cargo ...`.
    pub(crate) fn cargo_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Ran {
        self.run(
            Command::new(env!("CARGO"))
                .args(arguments)
                .env_remove("RUSTFLAGS")
                .envs(environment.iter().copied()),
        )
    }

    /// Types `cargo ...` where cargo keeps what it downloads in `home`.
    pub(crate) fn cargo_at(&self, home: &Path, arguments: &[&str]) -> Ran {
        let home = home.to_str().expect("a path of a test is a text");
        self.cargo_with(&[("CARGO_HOME", home)], arguments)
    }

    fn run(&self, command: &mut Command) -> Ran {
        let output = command
            .current_dir(self.folder.path())
            .env("CARGO_TARGET_DIR", target())
            .output()
            .unwrap();
        Ran {
            what: format!("{command:?}"),
            output,
        }
    }
}

/// Kept from run to run, so that the toolkit is built once; and apart from where these tests themselves were built,
/// because a generated `users` must not take the place of the real one there.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated")
}

/// To be held from before the first file is written until after the last build. Packages of the same name at the
/// same place in their workspaces are the same to cargo, and it goes by the age of their files.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static BUILDING: Mutex<()> = Mutex::new(());
    BUILDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that has ended.
pub(crate) struct Ran {
    what: String,
    output: Output,
}

impl Ran {
    /// Its standard output, if it went well.
    pub(crate) fn succeeds(&self) -> String {
        assert!(
            self.output.status.success(),
            "{}: {}",
            self.what,
            self.all()
        );
        self.stdout()
    }

    /// All that it said, if it failed.
    pub(crate) fn fails(&self) -> String {
        assert!(
            !self.output.status.success(),
            "{}: {}",
            self.what,
            self.all()
        );
        self.all()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    /// All that it said, however it went.
    pub(crate) fn all(&self) -> String {
        self.stdout() + &String::from_utf8_lossy(&self.output.stderr)
    }
}

/// A trait with more methods.
pub(crate) fn with_methods(api: &str, methods: &str) -> String {
    let end = api.rfind("}\n").unwrap();
    let (before, after) = api.split_at(end);
    format!("{before}{methods}{after}")
}
