//! TLS at the door: one rustls configuration for each server of a Gateway.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use super::{credentials::Credentials, peer};
use crate::snapshot::{ClientVerification, PeerCheck, ServerTls, TlsVersion};

/// The configuration of one server. `tickets` are for servers that ask no client for a certificate: a ticket of one of those
/// must not be good for one that does.
///
/// # Errors
/// What is missing, for people.
pub(in super::super) fn server(
    tls: &ServerTls,
    credentials: &Credentials,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, String> {
    let keys: Vec<_> = tls.certificates.iter().filter_map(|name| credentials.certificate(name).cloned()).collect();
    if keys.is_empty() {
        return Err("there is no usable certificate".into());
    }
    let mut provider = (*super::provider()).clone();
    if !tls.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| {
            let is_listed = tls.cipher_suites.iter().any(|name| openssl_name(suite.suite()) == Some(name));
            suite.tls13().is_some() || is_listed
        });
    }
    let versions = versions(tls.min_version, tls.max_version);
    let builder = ServerConfig::builder_with_provider(provider.into());
    let builder = builder.with_protocol_versions(&versions).map_err(|error| error.to_string())?;
    let builder = match tls.client.check() {
        None => builder.with_no_client_auth(),
        Some(check) => builder.with_client_cert_verifier(verifier(&tls.client, check, credentials)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Keys(keys)));
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.ticketer = match tls.client {
        ClientVerification::None => tickets.clone(),
        _ => rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?,
    };
    Ok(Arc::new(config))
}

fn versions(min: TlsVersion, max: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    let mut all = Vec::new();
    if min <= TlsVersion::V1_3 && max >= TlsVersion::V1_3 {
        all.push(&rustls::version::TLS13);
    }
    if min <= TlsVersion::V1_2 && max >= TlsVersion::V1_2 {
        all.push(&rustls::version::TLS12);
    }
    all
}

/// The names that Istio uses for what rustls has of TLS 1.2.
fn openssl_name(suite: rustls::CipherSuite) -> Option<&'static str> {
    use rustls::CipherSuite as Suite;
    Some(match suite {
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

/// The first certificate whose key can sign what the client understands.
#[derive(Debug)]
struct Keys(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.iter().find(fits).or(self.0.first()).cloned()
    }
}

fn verifier(
    mode: &ClientVerification,
    check: &PeerCheck,
    credentials: &Credentials,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = credentials.authorities(&check.authorities).ok_or("there is no authority for clients' certificates")?;
    let revocations = credentials.revocations(check.revocations.as_ref()).ok_or("there is no revocation list")?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), super::provider());
    if !revocations.is_empty() {
        builder = builder.with_crls(revocations);
    }
    if !matches!(mode, ClientVerification::Required(_)) {
        builder = builder.allow_unauthenticated();
    }
    let chain = builder.build().map_err(|error| error.to_string())?;
    let failures = match mode {
        ClientVerification::Noted(_) => Failures::Noted,
        _ => Failures::Refused,
    };
    Ok(Arc::new(Checked { chain, check: check.clone(), failures }))
}

/// A chain, and then names and pins.
#[derive(Debug)]
struct Checked {
    chain: Arc<dyn ClientCertVerifier>,
    check: PeerCheck,
    failures: Failures,
}

#[derive(Debug)]
enum Failures {
    Refused,
    Noted,
}

impl ClientCertVerifier for Checked {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = self.chain.verify_client_cert(end_entity, intermediates, now);
        match (chain.and_then(|_| peer::check(&self.check, end_entity)), &self.failures) {
            (Ok(()), _) => Ok(ClientCertVerified::assertion()),
            (Err(error), Failures::Refused) => Err(error),
            (Err(error), Failures::Noted) => {
                tracing::info!(%error, "a client's certificate is not good, and let through (insecureSkipVerify)");
                Ok(ClientCertVerified::assertion())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
