//! `tls` of a Gateway's server: where its certificates come from, and what a mode needs.

use std::collections::BTreeSet;

use super::check::Check;
use crate::spec::istio::{ServerTls, ServerTlsMode, TlsVersion};

/// Istio's list, which is BoringSSL's without pre-shared keys.
const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

pub fn mode(tls: &ServerTls) -> ServerTlsMode {
    tls.mode.unwrap_or(ServerTlsMode::Passthrough)
}

pub fn server_tls(check: &mut Check<'_>, path: &str, tls: &ServerTls) {
    let old = matches!(tls.min_protocol_version, Some(TlsVersion::V1_0 | TlsVersion::V1_1));
    if old && tls.cipher_suites.is_empty() {
        let message = "versions below TLSV1_2 need cipherSuites that fit them";
        check.warn(format!("{path}.minProtocolVersion"), message, "Add cipherSuites, or ask for TLSV1_2.");
    }
    cipher_suites(check, path, tls);
    if let (Some(least), Some(most)) = (tls.min_protocol_version, tls.max_protocol_version)
        && most != TlsVersion::Auto
        && least > most
    {
        let message = "minProtocolVersion is above maxProtocolVersion: no handshake can succeed";
        check.idle(format!("{path}.minProtocolVersion"), message, "Exchange the two.");
    }
    match mode(tls) {
        ServerTlsMode::IstioMutual => return mesh_certificates(check, path, tls),
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            for (field, _) in certificate_fields(tls).into_iter().filter(|(_, there)| *there) {
                let message = "a server that passes TLS through uses no certificate";
                check.warn(format!("{path}.{field}"), message, "Remove it, or use mode SIMPLE or MUTUAL.");
            }
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {}
    }
    one_source(check, path, tls);
    let fetched = tls.credential_name.is_some() || !tls.credential_names.is_empty();
    let terminates = matches!(mode(tls), ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    if !(fetched && terminates) {
        if terminates {
            files(check, path, tls);
        }
        if tls.ca_crl.is_some() && mode(tls) == ServerTlsMode::Simple {
            let message = "a revocation list is for certificates of clients, which mode SIMPLE does not ask for";
            check.refuse(format!("{path}.caCrl"), message, "Remove it, or use mode MUTUAL.");
        }
        if tls.ca_crl.is_some() && tls.credential_name.is_some() {
            let message = "with credentialName the revocation list is in the Secret";
            check.refuse(format!("{path}.caCrl"), message, "Remove it.");
        }
    }
    clients(check, path, tls);
}

fn cipher_suites(check: &mut Check<'_>, path: &str, tls: &ServerTls) {
    let mut seen = BTreeSet::new();
    for (at, suite) in tls.cipher_suites.iter().enumerate() {
        let path = format!("{path}.cipherSuites[{at}]");
        // Operators of OpenSSL's cipher lists pass.
        let operator = suite.starts_with(|c: char| !c.is_alphanumeric());
        if !(suite.is_empty() || suite == "ALL" || operator || CIPHER_SUITES.contains(&suite.as_str())) {
            check.warn(path, format!("`{suite}` is no cipher suite and is dropped"), "Use OpenSSL's names.");
        } else if !seen.insert(suite) {
            check.warn(path, format!("`{suite}` stands twice"), "Remove one of the two.");
        }
    }
}

fn certificate_fields(tls: &ServerTls) -> [(&'static str, bool); 7] {
    [
        ("serverCertificate", tls.server_certificate.is_some()),
        ("privateKey", tls.private_key.is_some()),
        ("caCertificates", tls.ca_certificates.is_some()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ("credentialName", tls.credential_name.is_some()),
        ("credentialNames", !tls.credential_names.is_empty()),
        ("caCrl", tls.ca_crl.is_some()),
    ]
}

/// ISTIO_MUTUAL uses the mesh's own certificate.
fn mesh_certificates(check: &mut Check<'_>, path: &str, tls: &ServerTls) {
    let fields = certificate_fields(tls).into_iter().filter(|(field, there)| *there && *field != "caCrl");
    for (field, _) in fields {
        let message = "mode ISTIO_MUTUAL uses the mesh's own certificate and no other";
        check.refuse(format!("{path}.{field}"), message, "Remove it, or use mode MUTUAL.");
    }
}

fn one_source(check: &mut Check<'_>, path: &str, tls: &ServerTls) {
    let sources = [
        tls.server_certificate.is_some() && tls.private_key.is_some(),
        tls.credential_name.is_some(),
        !tls.credential_names.is_empty(),
        !tls.tls_certificates.is_empty(),
    ];
    if sources.into_iter().filter(|there| *there).count() > 1 {
        let message = "the certificate comes from more than one place";
        let remedy =
            "Keep one of credentialName, credentialNames, tlsCertificates, or serverCertificate with privateKey.";
        check.refuse(path, message, remedy);
    }
    if tls.credential_names.len() > 2 {
        check.refuse(format!("{path}.credentialNames"), "more than two Secrets", "Keep one for RSA and one for ECDSA.");
    }
}

fn files(check: &mut Check<'_>, path: &str, tls: &ServerTls) {
    let mutual = mode(tls) != ServerTlsMode::Simple;
    if mutual && tls.ca_certificates.is_none() {
        let message = "a mode that checks certificates of clients needs caCertificates";
        check.refuse(path, message, "Add `caCertificates`, or use credentialName.");
    }
    if tls.tls_certificates.len() > 2 {
        let message = "more than two certificates: only the first two are used";
        check.warn(format!("{path}.tlsCertificates"), message, "Keep one for RSA and one for ECDSA.");
    }
    let single = (path.to_owned(), &tls.server_certificate, &tls.private_key);
    let many = tls.tls_certificates.iter().enumerate().map(|(at, certificate)| {
        let path = format!("{path}.tlsCertificates[{at}]");
        (path, &certificate.server_certificate, &certificate.private_key)
    });
    let pairs: Vec<_> = if tls.tls_certificates.is_empty() { vec![single] } else { many.collect() };
    for (path, certificate, key) in pairs {
        if certificate.is_none() {
            check.refuse(&path, "the server has no certificate", "Add `credentialName`, or `serverCertificate`.");
        }
        if key.is_none() {
            check.refuse(&path, "the server has no private key", "Add `credentialName`, or `privateKey`.");
        }
    }
}

/// What is only read where clients show certificates.
fn clients(check: &mut Check<'_>, path: &str, tls: &ServerTls) {
    if mode(tls) != ServerTlsMode::Simple {
        return;
    }
    let fields = [
        ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        ("verifyCertificateSpki", !tls.verify_certificate_spki.is_empty()),
        ("verifyCertificateHash", !tls.verify_certificate_hash.is_empty()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, there)| *there) {
        let message = "mode SIMPLE asks clients for no certificate, so there is nothing to compare";
        check.idle(format!("{path}.{field}"), message, "Use mode MUTUAL, or remove it.");
    }
}
