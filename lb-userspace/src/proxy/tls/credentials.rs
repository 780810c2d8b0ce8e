//! Certificates, authorities and revocation lists, parsed. What is bad is refused by name, and what there was before stays.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::super::material::{Material, Pair};
use crate::snapshot::{Authorities, Certificate};

#[derive(Debug, Default)]
pub struct Credentials {
    certificates: HashMap<Certificate, Arc<CertifiedKey>>,
    authorities: HashMap<Authorities, Arc<RootCertStore>>,
    revocations: HashMap<Arc<str>, Vec<CertificateRevocationListDer<'static>>>,
}

/// A credential that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// File or Secret.
    pub name: String,
    pub reason: String,
    pub instead: Instead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// What there was before stays in force.
    Old,
    /// There was none: handshakes that need it fail.
    Nothing,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instead = match self.instead {
            Instead::Old => "the one before it stays in force",
            Instead::Nothing => "handshakes that need it fail until it is there",
        };
        write!(f, "{}: {}; {instead}", self.name, self.reason)
    }
}

impl Credentials {
    /// Parses everything; `old` stands in for what is bad.
    pub fn new(material: &Material, old: Option<&Credentials>) -> (Credentials, Vec<Refused>) {
        let mut refused = Vec::new();
        let mut new = Credentials::default();
        for (name, pair) in &material.certificates {
            let parsed = pair.as_ref().map_err(Clone::clone).and_then(certified);
            let kept = old.and_then(|old| old.certificates.get(name));
            take(&mut new.certificates, name, certificate_name(name), parsed, kept, &mut refused);
        }
        for (name, text) in &material.authorities {
            let parsed = text.as_ref().map_err(Clone::clone).and_then(|text| roots(name, text));
            let kept = old.and_then(|old| old.authorities.get(name));
            take(&mut new.authorities, name, authorities_name(name), parsed, kept, &mut refused);
        }
        for (name, text) in &material.revocations {
            let parsed = text.as_ref().map_err(Clone::clone).and_then(|text| {
                let all = CertificateRevocationListDer::pem_slice_iter(text.as_bytes());
                all.collect::<Result<Vec<_>, _>>().map_err(|error| format!("no revocation lists: {error}"))
            });
            let kept = old.and_then(|old| old.revocations.get(name));
            take(&mut new.revocations, name, name.to_string(), parsed, kept, &mut refused);
        }
        (new, refused)
    }

    pub(super) fn certificate(&self, name: &Certificate) -> Option<&Arc<CertifiedKey>> {
        self.certificates.get(name)
    }

    pub(super) fn authorities(&self, name: &Authorities) -> Option<&Arc<RootCertStore>> {
        self.authorities.get(name)
    }

    /// None where no file is named; an empty option where one is and cannot be used.
    pub(super) fn revocations(&self, file: Option<&Arc<str>>) -> Option<Vec<CertificateRevocationListDer<'static>>> {
        match file {
            None => Some(Vec::new()),
            Some(file) => self.revocations.get(file).cloned(),
        }
    }
}

fn take<K: Clone + Eq + std::hash::Hash, V: Clone>(
    all: &mut HashMap<K, V>,
    key: &K,
    name: String,
    parsed: Result<V, String>,
    kept: Option<&V>,
    refused: &mut Vec<Refused>,
) {
    match parsed {
        Ok(value) => drop(all.insert(key.clone(), value)),
        Err(reason) => {
            let instead = if kept.is_some() { Instead::Old } else { Instead::Nothing };
            refused.push(Refused { name, reason, instead });
            if let Some(kept) = kept {
                all.insert(key.clone(), kept.clone());
            }
        }
    }
}

/// Chain and key fit each other, and the certificate is one.
fn certified(pair: &Pair) -> Result<Arc<CertifiedKey>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("the certificate is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("there is no certificate in it".into());
    }
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|error| format!("the key: {error}"))?;
    let key = CertifiedKey::from_der(chain, key, &super::provider());
    key.map(Arc::new).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => "the key is not the certificate's".to_owned(),
        other => other.to_string(),
    })
}

fn roots(name: &Authorities, text: &str) -> Result<Arc<RootCertStore>, String> {
    match name {
        Authorities::System => return system(),
        Authorities::Anyone => return Ok(Arc::new(RootCertStore::empty())),
        Authorities::File(_) | Authorities::Secrets { .. } | Authorities::Workload => {}
    }
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let root = root.map_err(|error| format!("no PEM: {error}"))?;
        store.add(root).map_err(|error| error.to_string())?;
    }
    match store.is_empty() {
        true => Err("there is no certificate in it".into()),
        false => Ok(Arc::new(store)),
    }
}

/// What the system trusts, read once.
fn system() -> Result<Arc<RootCertStore>, String> {
    static SYSTEM: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        match (store.is_empty(), found.errors.first()) {
            (false, _) => Ok(Arc::new(store)),
            (true, Some(error)) => Err(error.to_string()),
            (true, None) => Err("the system trusts nobody: is ca-certificates installed?".into()),
        }
    };
    SYSTEM.get_or_init(load).clone()
}

fn certificate_name(name: &Certificate) -> String {
    match name {
        Certificate::Files { chain, key } => format!("{chain} with {key}"),
        Certificate::Secret { namespace, name } => format!("Secret {namespace}/{name}"),
        Certificate::Workload => "the workload's certificate".into(),
    }
}

fn authorities_name(name: &Authorities) -> String {
    match name {
        Authorities::File(file) => file.to_string(),
        Authorities::Secrets { namespace, names } => format!("Secret {namespace}/{}", names.join(" or ")),
        Authorities::Workload => "the mesh's root".into(),
        Authorities::System => "the system's authorities".into(),
        Authorities::Anyone => "nobody".into(),
    }
}
