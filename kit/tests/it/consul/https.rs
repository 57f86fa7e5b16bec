//! An agent behind TLS with an authority of its own, which asks for the client's certificate too.

use std::{path::Path, process::Stdio};

use kit::discovery::consul::{ConsulError, TlsConfig};
use tokio::process::Command;

use super::*;
use crate::support::consul::{binary, free_ports};

/// Certificates as `consul tls` makes them.
async fn certificates(folder: &Path) {
    for args in ["ca create", "cert create -server", "cert create -client"] {
        let status = Command::new(binary())
            .arg("tls")
            .args(args.split(' '))
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.await.unwrap().success(), "{args}");
    }
}

#[tokio::test]
async fn an_agent_behind_tls_is_followed_and_nobody_else_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path()).await;
    let file = |name: &str| folder.path().join(name);
    let [port] = free_ports();
    let config = format!(
        r#"ports {{ https = {port} }}
           ca_file = {:?}
           cert_file = {:?}
           key_file = {:?}
           verify_incoming_https = true"#,
        file("consul-agent-ca.pem"),
        file("dc1-server-consul-0.pem"),
        file("dc1-server-consul-0-key.pem"),
    );
    let agent = Agent::start_with(&config).await;
    let tls = TlsConfig {
        ca: Some(file("consul-agent-ca.pem")),
        certificate: Some(file("dc1-client-consul-0.pem")),
        key: Some(file("dc1-client-consul-0-key.pem")),
        server_name: Some("server.dc1.consul".into()),
    };
    let consul = |tls: TlsConfig, observer| {
        let config = ConsulConfig {
            address: format!("https://127.0.0.1:{port}").parse().unwrap(),
            tls,
            ..ConsulConfig::default()
        };
        Consul::new(config, observer)
    };
    let good = consul(tls.clone(), nobody()).unwrap();
    let mut watch = good.watch(&users());
    until(&mut watch, 0).await;
    let instance = Healthy::listen().await;
    let registered = good.registration(instance.instance("users-1")).start();
    until(&mut watch, 1).await;
    registered.deregister().await.unwrap();
    until(&mut watch, 0).await;
    drop(agent);

    // The same agent without what it or we trust.
    let agent = Agent::start_with(&config).await;
    let stranger = TlsConfig {
        certificate: None,
        key: None,
        ..tls.clone()
    };
    let other = TlsConfig {
        server_name: Some("elsewhere.example".into()),
        ..tls.clone()
    };
    for bad in [stranger, other] {
        let (sender, mut events) = mpsc::unbounded_channel();
        let consul = consul(bad, Arc::new(Names(sender))).unwrap();
        let watch = consul.watch(&users());
        let event = timeout(PATIENCE, events.recv()).await.unwrap();
        assert_eq!(event.as_deref(), Some("DiscoveryFailed"));
        assert_eq!(watch.current(), None);
    }
    drop(agent);

    for (field, tls) in [
        (
            "tls.ca",
            TlsConfig {
                ca: None,
                ..tls.clone()
            },
        ),
        (
            "tls.ca",
            TlsConfig {
                ca: Some(file("none.pem")),
                ..tls.clone()
            },
        ),
        (
            "tls.key",
            TlsConfig {
                key: None,
                ..tls.clone()
            },
        ),
        (
            "tls.certificate",
            TlsConfig {
                certificate: None,
                ..tls.clone()
            },
        ),
        (
            "tls.server_name",
            TlsConfig {
                server_name: Some("no name".into()),
                ..tls
            },
        ),
    ] {
        match consul(tls, nobody()) {
            Err(ConsulError::Config { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
}
