//! Mails as files, one `.eml` each: to be read by people and by tests.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use kit::{Error, outbox::Undelivered};
use lettre::Message;
use uuid::Uuid;

use crate::api::MailId;

/// A folder of mails.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: PathBuf,
}

impl Files {
    /// Mails in `folder`, which is made if it is not there.
    pub(crate) fn new(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Writes `<id>.eml`, which is there as a whole or not at all. Writing it again changes nothing, so it does no
    /// harm when a replica is killed after writing and another one delivers the mail once more.
    pub(crate) async fn deliver(&self, id: &MailId, message: Message) -> Result<(), Undelivered> {
        let (folder, name) = (self.folder.clone(), format!("{}.eml", id.0));
        let written =
            tokio::task::spawn_blocking(move || write(&folder, &name, &message.formatted()));
        written
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| {
                let message = format!("the file could not be written: {}", error.kind());
                Undelivered::Again(Error::unavailable(message).with_source(error))
            })
    }
}

/// Writes beside the goal, then renames, each brought to the disk before the next.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    // Hidden, and nobody else's: another replica may be writing the same mail.
    let beside = folder.join(format!(".{}", Uuid::now_v7()));
    let written = File::create_new(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, folder.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_as_a_whole_and_may_be_written_again() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            write(folder.path(), "1.eml", b"text").unwrap();
        }
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["1.eml"]);
        assert_eq!(fs::read(folder.path().join("1.eml")).unwrap(), b"text");
    }

    #[test]
    fn a_failure_leaves_no_rest() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("1.eml")).unwrap();
        write(folder.path(), "1.eml", b"text").unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
