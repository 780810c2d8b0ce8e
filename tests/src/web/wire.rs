//! A connection, in plain text or in TLS, as one blocking stream.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

pub(super) enum Wire {
    Plain(TcpStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(buffer),
            Wire::Client(stream) => stream.read(buffer),
            Wire::Server(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            Wire::Client(stream) => stream.write(bytes),
            Wire::Server(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.flush(),
            Wire::Client(stream) => stream.flush(),
            Wire::Server(stream) => stream.flush(),
        }
    }
}

/// How a client speaks TLS: whom it believes, and the name it asks for.
#[derive(Clone)]
pub(super) struct Trust {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Trust {
    /// `authority` is a file of PEM.
    pub fn new(authority: &str, name: &str) -> Result<Trust> {
        let pem = fs::read(authority).with_context(|| authority.to_owned())?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).context("no certificate of an authority")?)?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        // Every connection shall show the certificate that is in force.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Trust { config: Arc::new(config), name: ServerName::try_from(name.to_owned())? })
    }
}

impl Wire {
    pub fn connect(to: SocketAddr, trust: Option<&Trust>, limit: Duration) -> io::Result<Wire> {
        let stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let Some(trust) = trust else { return Ok(Wire::Plain(stream)) };
        let connection = ClientConnection::new(trust.config.clone(), trust.name.clone()).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Wire::Client(Box::new(stream)))
    }

    /// A name for the certificate that the server has shown; equal for equal certificates.
    pub fn certificate(&self) -> Option<String> {
        let Wire::Client(stream) = self else { return None };
        let mut hasher = DefaultHasher::new();
        stream.conn.peer_certificates()?.first()?.as_ref().hash(&mut hasher);
        Some(format!("{:016x}", hasher.finish()))
    }

    /// Whether a client has shown a certificate.
    pub fn is_mutual(&self) -> bool {
        matches!(self, Wire::Server(stream) if stream.conn.peer_certificates().is_some())
    }
}

/// What a server shows; with `authority`, clients must show one of that.
pub(super) fn identity(chain: &str, key: &str, authority: Option<&str>) -> Result<Arc<ServerConfig>> {
    let (chain, key) = (CertificateDer::from_pem_file(chain)?, PrivateKeyDer::from_pem_file(key)?);
    let builder = match authority {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(authority)?)?;
            let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    Ok(Arc::new(builder.with_single_cert(vec![chain], key)?))
}

pub(super) fn accept(stream: TcpStream, identity: Option<&Arc<ServerConfig>>) -> io::Result<Wire> {
    let Some(identity) = identity else { return Ok(Wire::Plain(stream)) };
    let connection = ServerConnection::new(identity.clone()).map_err(io::Error::other)?;
    Ok(Wire::Server(Box::new(StreamOwned::new(connection, stream))))
}
