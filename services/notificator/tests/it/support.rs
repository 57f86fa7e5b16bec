//! Instances on ports that the system chooses, and what became of mails.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use kit::{Context, testing::Instance};
use notificator::{
    Config,
    api::{MailId, MailStatus, Notificator, NotificatorClient, State},
};
use tempfile::TempDir;

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Starts the notificator, whose data is in `folder`, and which writes mails there.
pub(crate) fn start(folder: &Path) -> Instance {
    start_with(folder, |_| ())
}

/// The same with a configuration that `change` has changed.
pub(crate) fn start_with(folder: &Path, change: impl FnOnce(&mut Config)) -> Instance {
    Instance::start(|server, listeners, stop| {
        let mut config = Config {
            server,
            data: folder.to_owned(),
            ..Config::default()
        };
        change(&mut config);
        notificator::run(config, listeners, stop)
    })
}

/// What became of the mail, once it is no longer queued.
pub(crate) async fn settled(instance: &Instance, id: &MailId) -> MailStatus {
    status_with(instance, id, |status| status.status != State::Queued).await
}

/// The status of the mail, once it `is` as it should be.
pub(crate) async fn status_with(
    instance: &Instance,
    id: &MailId,
    is: impl Fn(&MailStatus) -> bool,
) -> MailStatus {
    let client = NotificatorClient::grpc(instance.client());
    loop {
        let status = client.status(Context::new(), id.clone()).await.unwrap();
        if is(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The mails in the folder, by id.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, String> {
    fs::read_dir(folder.join("mails"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}
