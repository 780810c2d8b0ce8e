//! `tls` of a DestinationRule: what a mode needs, and what excludes what.

use super::check::Check;
use crate::spec::istio::{ClientTls, ClientTlsMode};

pub fn client_tls(check: &mut Check<'_>, path: &str, tls: &ClientTls) {
    let mode = tls.mode.unwrap_or_default();
    config_map(check, path, tls);
    if tls.insecure_skip_verify == Some(true) {
        unverified(check, path, mode, tls);
    }
    let own_certificate = matches!(mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("caCrl", &tls.ca_crl),
    ];
    if own_certificate && tls.credential_name.is_some() {
        for (field, _) in files.into_iter().filter(|(_, file)| file.is_some()) {
            let message = format!("{field} and credentialName exclude each other");
            check.refuse(format!("{path}.{field}"), message, "Keep one of the two.");
        }
        return;
    }
    match mode {
        ClientTlsMode::Mutual => {
            if tls.client_certificate.is_none() || tls.private_key.is_none() {
                let message = "mode MUTUAL needs clientCertificate and privateKey, or credentialName";
                check.refuse(path, message, "Name the client's certificate and key.");
            }
        }
        ClientTlsMode::Simple => {
            for (field, _) in files.into_iter().take(2).filter(|(_, file)| file.is_some()) {
                let message = "mode SIMPLE shows the server no certificate";
                check.idle(format!("{path}.{field}"), message, "Use mode MUTUAL, or remove it.");
            }
        }
        ClientTlsMode::Disable | ClientTlsMode::IstioMutual => unused(check, path, mode, tls),
    }
}

fn unused(check: &mut Check<'_>, path: &str, mode: ClientTlsMode, tls: &ClientTls) {
    let fields = [
        ("clientCertificate", tls.client_certificate.is_some()),
        ("privateKey", tls.private_key.is_some()),
        ("caCertificates", tls.ca_certificates.is_some()),
        ("caCrl", tls.ca_crl.is_some()),
        ("credentialName", tls.credential_name.is_some()),
        ("sni", tls.sni.is_some() && mode == ClientTlsMode::Disable),
        ("subjectAltNames", !tls.subject_alt_names.is_empty() && mode == ClientTlsMode::Disable),
        ("insecureSkipVerify", tls.insecure_skip_verify == Some(true)),
    ];
    let message = match mode {
        ClientTlsMode::Disable => "mode DISABLE, which is also the default, uses no TLS",
        _ => "mode ISTIO_MUTUAL uses the mesh's own certificates",
    };
    for (field, _) in fields.into_iter().filter(|(_, there)| *there) {
        check.idle(format!("{path}.{field}"), message, "Use mode SIMPLE or MUTUAL, or remove it.");
    }
}

/// A CA in a ConfigMap must be of the rule's own namespace.
fn config_map(check: &mut Check<'_>, path: &str, tls: &ClientTls) {
    let Some(name) = tls.credential_name.as_deref().and_then(|name| name.strip_prefix("configmap://")) else {
        return;
    };
    let own = match name.split('/').collect::<Vec<_>>()[..] {
        [name] => !name.is_empty(),
        [namespace, name] => namespace == check.subject.namespace && !name.is_empty(),
        _ => false,
    };
    if !own {
        let message = "a ConfigMap must be of the rule's own namespace";
        check.refuse(format!("{path}.credentialName"), message, "Write configmap://name.");
    }
}

fn unverified(check: &mut Check<'_>, path: &str, mode: ClientTlsMode, tls: &ClientTls) {
    let fields = [
        ("caCertificates", tls.ca_certificates.is_some(), true),
        ("subjectAltNames", !tls.subject_alt_names.is_empty(), true),
        // In mode MUTUAL it may hold the client's certificate only.
        ("credentialName", tls.credential_name.is_some(), mode == ClientTlsMode::Simple),
    ];
    if !matches!(mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) {
        return;
    }
    for (field, _, _) in fields.into_iter().filter(|(_, there, matters)| *there && *matters) {
        let message = format!("{field} has no meaning where insecureSkipVerify is true");
        check.refuse(format!("{path}.{field}"), message, "Remove insecureSkipVerify, or this field.");
    }
}
