//! What a peer's certificate must satisfy besides being signed by somebody trusted: names and pins.

use std::fmt::Write;

use rustls::{CertificateError, Error, pki_types::CertificateDer};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::snapshot::{Names, PeerCheck};

/// Names and pins of a certificate whose chain is good.
pub(super) fn check(check: &PeerCheck, certificate: &CertificateDer<'_>) -> Result<(), Error> {
    let bad = || Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    if let Names::Listed(names) = &check.names
        && !alternative_names(&parsed).iter().any(|own| names.iter().any(|name| **name == **own))
    {
        return Err(bad());
    }
    if check.spki_pins.is_empty() && check.certificate_pins.is_empty() {
        return Ok(());
    }
    let spki = base64(&sha256(parsed.public_key().raw));
    let whole = sha256(certificate).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let is_pinned = check.spki_pins.iter().any(|pin| **pin == *spki)
        || check.certificate_pins.iter().any(|pin| pin.replace(':', "").eq_ignore_ascii_case(&whole));
    if is_pinned { Ok(()) } else { Err(bad()) }
}

/// Subject alternative names, whatever their kind, as texts.
pub(super) fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    };
    extension.value.general_names.iter().filter_map(text).collect()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = suite.tls13().map(|suite| suite.common.hash_provider.hash(bytes));
    hash.map(|hash| hash.as_ref().to_vec()).unwrap_or_default()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
