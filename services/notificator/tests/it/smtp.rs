//! A real exchange of SMTP over a socket, with a server that says what the test wants.

use std::{collections::VecDeque, net::SocketAddr, num::NonZeroU32, path::Path, time::Duration};

use kit::{Context, testing::Instance};
use notificator::{
    SmtpConfig, Tls,
    api::{Accepted, Notificator, NotificatorClient, State},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use crate::support::{self, folder, settled, status_with};

/// What came in one exchange.
#[derive(Debug, Default)]
struct Received {
    hello: String,
    from: String,
    to: Vec<String>,
    data: String,
}

/// A mail server (RFC 5321) that knows as much as is needed.
struct MailServer {
    address: SocketAddr,
    mails: mpsc::UnboundedReceiver<Received>,
    task: JoinHandle<()>,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl MailServer {
    /// One that answers the recipients of mails with `answers`, one after another, and "250 OK" after them.
    async fn start(answers: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mails) = mpsc::unbounded_channel();
        let mut answers: VecDeque<_> = answers.iter().copied().collect();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(received) = exchange(stream, &mut answers).await {
                    sender.send(received).unwrap();
                }
            }
        });
        Self {
            address,
            mails,
            task,
        }
    }
}

/// One exchange, which is an error unless it brought a mail.
async fn exchange(
    stream: TcpStream,
    answers: &mut VecDeque<&'static str>,
) -> std::io::Result<Received> {
    let mut stream = BufReader::new(stream);
    let mut received = Received::default();
    let mut complete = false;
    stream.write_all(b"220 mail.test ESMTP\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            break;
        }
        let (verb, rest) = line
            .trim_end()
            .split_once([' ', ':'])
            .unwrap_or((line.trim_end(), ""));
        let answer = match verb {
            "EHLO" => {
                received.hello = rest.to_owned();
                "250-mail.test\r\n250 8BITMIME"
            }
            "MAIL" => {
                received.from = rest.to_owned();
                "250 OK"
            }
            "RCPT" => {
                received.to.push(rest.to_owned());
                answers.pop_front().unwrap_or("250 OK")
            }
            "DATA" => {
                stream.write_all(b"354 Go on\r\n").await?;
                loop {
                    line.clear();
                    stream.read_line(&mut line).await?;
                    if line == ".\r\n" {
                        break;
                    }
                    received.data += line.strip_prefix('.').unwrap_or(&line);
                }
                complete = true;
                "250 OK"
            }
            "QUIT" => {
                stream.write_all(b"221 Bye\r\n").await?;
                break;
            }
            _ => "500 What?",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    match complete {
        true => Ok(received),
        false => Err(std::io::Error::other("it brought no mail")),
    }
}

fn start(folder: &Path, server: SocketAddr) -> Instance {
    start_with(folder, server, Tls::None)
}

fn start_with(folder: &Path, server: SocketAddr, tls: Tls) -> Instance {
    support::start_with(folder, |config| {
        config.smtp = Some(SmtpConfig {
            host: server.ip().to_string(),
            port: Some(server.port()),
            tls,
            user: None,
            password: Default::default(),
            timeout: Duration::from_secs(5),
        });
        config.delivery.attempts = NonZeroU32::new(3);
        config.delivery.backoff = Duration::from_millis(100);
        config.delivery.poll = Duration::from_millis(50);
    })
}

async fn send(instance: &Instance, to: &str, body: &str) -> Accepted {
    NotificatorClient::grpc(instance.client())
        .send_email(
            Context::new(),
            to.to_owned(),
            "Grüße".into(),
            body.to_owned(),
        )
        .await
        .unwrap()
}

#[tokio::test]
async fn a_mail_goes_to_a_mail_server_and_a_bare_mailbox_to_the_local_domain() {
    let mut server = MailServer::start(&[]).await;
    let folder = folder();
    let instance = start(folder.path(), server.address);
    let Accepted { id } = send(&instance, "test", "Hello\n.\nBcc: nobody\n").await;
    let mail = server.mails.recv().await.unwrap();
    assert_eq!(mail.hello, "localhost");
    assert!(
        mail.from.starts_with("FROM:<bugtracker@localhost>"),
        "{mail:?}"
    );
    assert_eq!(mail.to, ["TO:<test@localhost>"]);
    let (head, body) = mail.data.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nTo: test@localhost\r\n"), "{head}");
    assert!(
        head.contains(&format!("Message-ID: <{}@localhost>", id.0)),
        "{head}"
    );
    assert!(head.contains("Subject: =?utf-8?b?"), "{head}");
    // A line of one dot does not end the mail.
    assert_eq!(body.trim_end(), "Hello\r\n.\r\nBcc: nobody");
    assert_eq!(settled(&instance, &id).await.status, State::Sent);
    let folder = folder.path().join("mails");
    assert!(!folder.exists(), "it is not written as a file too");
}

#[tokio::test]
async fn a_mail_that_the_server_puts_off_is_sent_later() {
    let mut server = MailServer::start(&["451 4.3.0 Try again later"]).await;
    let folder = folder();
    let instance = start(folder.path(), server.address);
    let Accepted { id } = send(&instance, "ada@example.com", "").await;
    let mail = server.mails.recv().await.unwrap();
    assert_eq!(mail.to, ["TO:<ada@example.com>"]);
    let status = settled(&instance, &id).await;
    assert_eq!((status.status, status.reason), (State::Sent, None));
}

#[tokio::test]
async fn a_mail_that_the_server_refuses_has_failed_and_the_status_says_why() {
    let server = MailServer::start(&["550 5.1.1 No such user"]).await;
    let folder = folder();
    let instance = start(folder.path(), server.address);
    let Accepted { id } = send(&instance, "nobody@example.com", "").await;
    let status = settled(&instance, &id).await;
    assert_eq!(status.status, State::Failed);
    let reason = status.reason.unwrap();
    assert!(reason.contains("No such user"), "{reason}");
}

#[tokio::test]
async fn a_mail_waits_for_a_server_that_is_down_until_its_attempts_are_used_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let folder = folder();
    let instance = start(folder.path(), nobody);
    let Accepted { id } = send(&instance, "test", "").await;
    let waiting = status_with(&instance, &id, |status| status.reason.is_some()).await;
    let reason = Some("the mail server could not be reached".to_owned());
    assert_eq!(waiting.reason, reason);
    let status = settled(&instance, &id).await;
    assert_eq!((status.status, status.reason), (State::Failed, reason));
}

#[tokio::test]
async fn a_server_without_the_encryption_that_is_configured_gets_no_mail() {
    let mut server = MailServer::start(&[]).await;
    let folder = folder();
    let instance = start_with(folder.path(), server.address, Tls::StartTls);
    let Accepted { id } = send(&instance, "test", "").await;
    let status = settled(&instance, &id).await;
    assert_eq!(status.status, State::Failed);
    let reason = status.reason.unwrap();
    assert!(reason.contains("STARTTLS"), "{reason}");
    assert!(server.mails.try_recv().is_err());
}
