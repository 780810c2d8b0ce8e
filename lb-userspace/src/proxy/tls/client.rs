//! TLS towards endpoints: a DestinationRule's `tls`, made ready once a revision.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

use super::{credentials::Credentials, peer};
use crate::snapshot::{Authorities, ClientTls, Names, PeerCheck};

/// How a cluster's connections are encrypted.
#[derive(Debug)]
pub(in super::super) struct Origination {
    raw: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    /// Sent to every endpoint, whatever the request's host.
    pub sni: Option<Arc<str>>,
}

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Inside {
    Raw,
    Http1,
    Http2,
}

impl Origination {
    /// # Errors
    /// What is missing, for people.
    pub fn new(tls: &ClientTls, credentials: &Credentials) -> Result<Origination, String> {
        let check = &tls.server;
        let roots = credentials.authorities(&check.authorities).ok_or("there is no authority for its certificate")?;
        let revocations = credentials.revocations(check.revocations.as_ref()).ok_or("there is no revocation list")?;
        let chain = match check.authorities {
            Authorities::Anyone => None,
            _ => {
                let builder = WebPkiServerVerifier::builder_with_provider(roots.clone(), super::provider());
                let builder = if revocations.is_empty() { builder } else { builder.with_crls(revocations) };
                Some(builder.build().map_err(|error| error.to_string())?)
            }
        };
        let verifier = Arc::new(Checked { chain, check: check.clone() });
        let builder = ClientConfig::builder_with_provider(super::provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let raw = match &tls.certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = credentials.certificate(name).ok_or("there is no usable certificate of our own")?;
                builder.with_client_cert_resolver(Arc::new(Own(key.clone())))
            }
        };
        let with = |protocol: &[u8]| {
            let mut config = raw.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        let (http1, http2) = (with(b"http/1.1"), with(b"h2"));
        Ok(Origination { raw: Arc::new(raw), http1, http2, sni: tls.sni.clone() })
    }

    pub fn config(&self, inside: Inside) -> Arc<ClientConfig> {
        match inside {
            Inside::Raw => self.raw.clone(),
            Inside::Http1 => self.http1.clone(),
            Inside::Http2 => self.http2.clone(),
        }
    }
}

/// The name that is sent and checked: `name`, else none, for which the address stands.
pub(in super::super) fn server_name(name: Option<&str>, address: IpAddr) -> ServerName<'static> {
    let name = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
    name.unwrap_or(ServerName::IpAddress(address.into()))
}

/// Whether a certificate has a SPIFFE id.
pub(in super::super) fn has_identity(certificate: &CertificateDer<'_>, identity: &str) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| peer::alternative_names(&parsed).iter().any(|name| name == identity))
}

#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A chain (`None`: anybody's), and then names and pins.
#[derive(Debug)]
struct Checked {
    chain: Option<Arc<WebPkiServerVerifier>>,
    check: PeerCheck,
}

impl ServerCertVerifier for Checked {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            let has_name = !matches!(server_name, ServerName::IpAddress(_));
            match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
                Ok(_) => {}
                // The chain is good: names are looked at last.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) if self.check.names != Names::Sni || !has_name => {}
                Err(error) => return Err(error),
            }
        }
        peer::check(&self.check, end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &super::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &super::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::provider().signature_verification_algorithms.supported_schemes()
    }
}
