//! The first command of the README, with the services of this workspace.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::kit::{Kit, free_offset};

/// Posts a body as curl does when it is told nothing of its type, and returns status line and body.
fn post(port: u16, path: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// The first mail that turns up in `folder`.
fn mail(folder: &Path) -> String {
    for _ in 0..300 {
        let files = fs::read_dir(folder).into_iter().flatten();
        let mut mails = files.map(|file| file.unwrap().path());
        if let Some(mail) =
            mails.find(|path| path.extension().is_some_and(|extension| extension == "eml"))
        {
            return fs::read_to_string(mail).unwrap();
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "no runtime here, and another process to wait for"
        )]
        thread::sleep(Duration::from_millis(100));
    }
    panic!("no mail in {}", folder.display());
}

#[test]
fn the_seeds_request_makes_a_user_a_structured_log_line_and_a_mail() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let ports: Vec<u16> = [8800, 8801, 8802, 8810]
        .iter()
        .flat_map(|port| [*port, port + 1000])
        .collect();
    let offset = free_offset(&ports);
    let data = tempfile::tempdir().unwrap();
    let (offset_text, folder) = (offset.to_string(), data.path().to_str().unwrap());
    let arguments = [
        "--port-offset",
        &offset_text,
        "--data",
        folder,
        "--replicas",
        "users=2",
    ];
    let mut kit = Kit::up(&workspace, &arguments, &[]);
    kit.wait_for("ready");
    let curl = format!(
        "Try: curl -XPOST http://localhost:{}/create -d '{{\"email\": \"test\"}}'",
        8800 + offset
    );
    assert!(kit.seen.contains(&curl), "{:#?}", kit.seen);

    let (status, body) = post(8800 + offset, "/create", r#"{"email": "test"}"#);
    assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
    let user: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(user["email"], "test");
    // The other replica shares the database.
    let id = format!(r#"{{"id": {}}}"#, user["id"]);
    let (_, same) = post(8810 + offset, "/get", &id);
    assert_eq!(serde_json::from_str::<Value>(&same).unwrap(), user);
    let mail = mail(&data.path().join("mails"));
    assert!(
        mail.contains("\r\nTo: ") || mail.starts_with("To: "),
        "{mail}"
    );
    assert!(mail.contains("test"), "{mail}");

    kit.signal(Signal::SIGTERM);
    let (status, errors) = kit.end();
    assert!(status.success(), "{status}: {errors}\n{:#?}", kit.seen);
    let logged = kit.seen.iter().any(|line| {
        let log = line.strip_prefix("users       | ");
        let log = log.and_then(|line| serde_json::from_str::<Value>(line).ok());
        log.is_some_and(|log| log["trace_id"].is_string() && log.to_string().contains("Create"))
    });
    assert!(
        logged,
        "no line of users with the trace id of the request: {:#?}",
        kit.seen
    );
}
