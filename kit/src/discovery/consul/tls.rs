//! Connections to an agent over TLS, or without it: rustls with ring, ALPN between HTTP/1.1 and HTTP/2.

use std::{path::Path, sync::Arc};

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use super::{ConsulConfig, ConsulError, TlsConfig};

pub(super) type Connector = HttpsConnector<HttpConnector>;

/// Over `http` for an address with `http`, over nothing but TLS for one with `https`.
pub(super) fn connector(
    mut http: HttpConnector,
    config: &ConsulConfig,
) -> Result<Connector, ConsulError> {
    http.enforce_http(false);
    let secure = config.address.scheme_str() == Some("https");
    let roots = if secure {
        roots(config.tls.ca.as_deref())?
    } else {
        RootCertStore::empty()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for them")
        .with_root_certificates(roots);
    let tls = match identity(&config.tls)? {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| refused("tls.key", &error))?,
    };
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
    let builder = if secure {
        builder.https_only()
    } else {
        builder.https_or_http()
    };
    let builder = match &config.tls.server_name {
        None => builder,
        Some(name) => {
            let name = ServerName::try_from(name.clone())
                .map_err(|error| refused("tls.server_name", &error))?;
            builder.with_server_name_resolver(FixedServerNameResolver::new(name))
        }
    };
    Ok(builder.enable_all_versions().wrap_connector(http))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, ConsulError> {
    let path = ca.ok_or_else(|| refused("tls.ca", &"is needed for https"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.ca", path)? {
        roots
            .add(certificate)
            .map_err(|error| refused("tls.ca", &error))?;
    }
    Ok(roots)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(config: &TlsConfig) -> Result<Option<Identity>, ConsulError> {
    match (&config.certificate, &config.key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            let chain = certificates("tls.certificate", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable("tls.key", key, &error))?;
            Ok(Some((chain, key)))
        }
        (Some(_), None) => Err(refused("tls.key", &"is needed beside tls.certificate")),
        (None, Some(_)) => Err(refused("tls.certificate", &"is needed beside tls.key")),
    }
}

/// At least one certificate.
fn certificates(
    field: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ConsulError> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(field, path, &error))?;
    if all.is_empty() {
        return Err(unreadable(field, path, &"no certificate is in it"));
    }
    Ok(all)
}

fn refused(field: &'static str, rule: &impl ToString) -> ConsulError {
    ConsulError::Config {
        field,
        rule: rule.to_string(),
    }
}

fn unreadable(field: &'static str, path: &Path, why: &impl ToString) -> ConsulError {
    let rule = format!(
        "names {}, which cannot be used: {}",
        path.display(),
        why.to_string()
    );
    ConsulError::Config { field, rule }
}
