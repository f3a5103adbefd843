//! From a next hop's name to a connection that has been greeted, under TLS where that is wanted.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, Error as RustlsError, version};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::{Client, Transport};
use crate::config::{NextHop, Relay, RelayProtocol, RelayTls};
use crate::egress::error::{Problem, RelayError};
use crate::limits::HOP_CONNECT_TIME_MAX;
use crate::tls::signatures_by;

/// What TLS to a relay begins with.
///
/// # Errors
/// When the library has not what we ask of it.
pub(super) fn tls_config(relay: &Relay) -> Result<Option<Arc<ClientConfig>>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| error.to_string())?;
    let config = match &relay.tls {
        RelayTls::Off => return Ok(None),
        RelayTls::Opportunistic | RelayTls::Required => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
        RelayTls::Verified(authorities) => {
            builder.with_root_certificates(Arc::clone(authorities.roots())).with_no_client_auth()
        }
    };
    Ok(Some(Arc::new(config)))
}

/// The first of `hops` that answers.
///
/// # Errors
/// Of the last one tried.
pub(super) async fn connect(
    relay: &Relay,
    hops: impl Iterator<Item = &NextHop>,
    tls: Option<&Arc<ClientConfig>>,
    hostname: &str,
) -> Result<Client, RelayError> {
    let mut last = Problem::Unreachable("the route has no next hop".to_owned()).at("");
    for hop in hops {
        match open(relay, hop, tls, hostname).await {
            Ok(client) => return Ok(client),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn open(
    relay: &Relay,
    hop: &NextHop,
    tls: Option<&Arc<ClientConfig>>,
    hostname: &str,
) -> Result<Client, RelayError> {
    let opened = open_with(relay, hop, tls, hostname).await;
    match opened {
        // RFC 7435: TLS that fails, or is refused after all, is no worse than none; it takes another connection.
        Err(RelayError { problem: Problem::Tls(_) | Problem::Said("STARTTLS", _), .. })
            if relay.tls == RelayTls::Opportunistic =>
        {
            open_with(relay, hop, None, hostname).await
        }
        opened => opened,
    }
}

async fn open_with(
    relay: &Relay,
    hop: &NextHop,
    tls: Option<&Arc<ClientConfig>>,
    hostname: &str,
) -> Result<Client, RelayError> {
    let name = hop.to_string();
    let unreachable = |error: io::Error| Problem::Unreachable(error.to_string()).at(&name);
    let stream = transport(hop).await.map_err(unreachable)?;
    if let RelayProtocol::Http(_) = relay.protocol {
        return match tls {
            Some(tls) => secure(relay, hop, tls, stream).await,
            None => Ok(Client::new(stream, name, relay)),
        };
    }
    let mut client = Client::new(stream, name.clone(), relay);
    client.greet(hostname).await?;
    let demands_tls = matches!(relay.tls, RelayTls::Required | RelayTls::Verified(_));
    let Some(tls) = tls.filter(|_| client.offered.starttls) else {
        // Nobody listens in on a Unix socket.
        return if demands_tls && matches!(hop, NextHop::Tcp { .. }) {
            Err(Problem::Tls("it does not offer STARTTLS".to_owned()).at(&name))
        } else {
            Ok(client)
        };
    };
    client.start_tls().await?;
    let mut client = secure(relay, hop, tls, client.into_stream()).await?;
    client.hello(hostname).await?;
    Ok(client)
}

/// The handshake.
async fn secure(
    relay: &Relay,
    hop: &NextHop,
    tls: &Arc<ClientConfig>,
    stream: Box<dyn Transport>,
) -> Result<Client, RelayError> {
    let name = hop.to_string();
    let host = if let NextHop::Tcp { host, .. } = hop { host.clone() } else { "localhost".to_owned() };
    let failed = |why: String| Problem::Tls(why).at(&name);
    let server_name = ServerName::try_from(host).map_err(|error| failed(error.to_string()))?;
    let connector = TlsConnector::from(Arc::clone(tls));
    let handshake = timeout(relay.timeout, connector.connect(server_name, stream));
    let stream = match handshake.await {
        Ok(stream) => stream.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("no handshake within {:?}", relay.timeout))),
    };
    let (_, connection) = stream.get_ref();
    let version = connection.protocol_version().and_then(|version| version.as_str().map(str::to_owned));
    let cipher =
        connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str().map(str::to_owned));
    let mut client = Client::new(Box::new(stream), name, relay);
    client.tls = Some(format!("{} {}", version.unwrap_or_default(), cipher.unwrap_or_default()));
    client.is_verified = matches!(relay.tls, RelayTls::Verified(_));
    Ok(client)
}

async fn transport(hop: &NextHop) -> io::Result<Box<dyn Transport>> {
    let late =
        || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {HOP_CONNECT_TIME_MAX:?}"));
    let (host, port) = match hop {
        NextHop::Unix(path) => {
            let stream = timeout(HOP_CONNECT_TIME_MAX, UnixStream::connect(path)).await;
            return Ok(Box::new(stream.map_err(|_| late())??));
        }
        NextHop::Tcp { host, port } => (host, *port),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host.as_str(), port)).await? {
        match timeout(HOP_CONNECT_TIME_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(Box::new(stream));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = late(),
        }
    }
    Err(last)
}

/// For TLS that keeps out who only listens.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        Ok(ServerCertVerified::assertion())
    }

    signatures_by!(0);
}
