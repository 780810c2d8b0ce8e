//! TLS at the door and towards endpoints. Certificates and keys are named here, not held: see
//! [`super::Snapshot::credentials`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Place;

/// `Gateway.servers[].tls` of a server that terminates TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerTls {
    /// At least one; several are for clients of different abilities (RSA, ECDSA).
    pub certificates: Vec<Certificate>,
    pub client: ClientVerification,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// OpenSSL's names; empty: the library's safe ones. Without effect on TLS 1.3.
    pub cipher_suites: Vec<Arc<str>>,
    /// In order of preference; empty: none is offered.
    pub alpn: Vec<Arc<str>>,
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Certificate {
    Files {
        chain: Arc<str>,
        key: Arc<str>,
    },
    /// A Secret's `cert` and `key`, else `tls.crt` and `tls.key`.
    Secret {
        namespace: Arc<str>,
        name: Arc<str>,
    },
    /// The mesh's own for this workload (`ISTIO_MUTUAL`).
    Workload,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClientVerification {
    None,
    /// `OPTIONAL_MUTUAL`: checked if one is sent.
    IfSent(PeerCheck),
    Required(PeerCheck),
    /// `insecureSkipVerify`: asked for and checked, but a failure lets the client through.
    Noted(PeerCheck),
}

impl ClientVerification {
    pub fn check(&self) -> Option<&PeerCheck> {
        match self {
            ClientVerification::None => None,
            ClientVerification::IfSent(check)
            | ClientVerification::Required(check)
            | ClientVerification::Noted(check) => Some(check),
        }
    }
}

/// What a peer's certificate must satisfy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerCheck {
    pub authorities: Authorities,
    /// File with revocation lists.
    pub revocations: Option<Arc<str>>,
    pub names: Names,
    /// Base64 of SHA-256 over the public key. Where there are pins of either kind, one must fit.
    pub spki_pins: Vec<Arc<str>>,
    /// Hexadecimal SHA-256 of the certificate.
    pub certificate_pins: Vec<Arc<str>>,
}

/// Who must have signed a peer's certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Authorities {
    File(Arc<str>),
    /// A Secret or ConfigMap's `cacert`, else `ca.crt`: the first of these objects that exists.
    Secrets {
        namespace: Arc<str>,
        names: Vec<Arc<str>>,
    },
    /// The mesh's root.
    Workload,
    /// What the system trusts.
    System,
    /// Nobody is asked: any certificate passes.
    Anyone,
}

/// Which subject alternative names are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Names {
    Any,
    /// One of these.
    Listed(Vec<Arc<str>>),
    /// That of the SNI sent, where one is.
    Sni,
}

/// `DestinationRule.trafficPolicy.tls` other than `DISABLE`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientTls {
    /// `SIMPLE`, `MUTUAL` or `ISTIO_MUTUAL`, for people.
    pub mode: Arc<str>,
    /// What is shown to the server.
    pub certificate: Option<Certificate>,
    pub server: PeerCheck,
    /// `None`: the host of the HTTP request; with raw TCP no SNI is sent.
    pub sni: Option<Arc<str>>,
    pub place: Place,
}
