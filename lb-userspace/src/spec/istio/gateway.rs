//! The Gateway kind.

use serde::Deserialize;

use super::{Labels, Port};
use crate::spec::value::filled;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Gateway {
    pub selector: Labels,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Server {
    pub port: Option<Port>,
    #[serde(deserialize_with = "filled")]
    pub bind: Option<String>,
    pub hosts: Vec<String>,
    pub tls: Option<ServerTls>,
    #[serde(deserialize_with = "filled")]
    pub default_endpoint: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServerTls {
    pub https_redirect: bool,
    /// PASSTHROUGH when left out.
    pub mode: Option<ServerTlsMode>,
    #[serde(deserialize_with = "filled")]
    pub server_certificate: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub private_key: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub ca_certificates: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub ca_crl: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub credential_name: Option<String>,
    pub credential_names: Vec<String>,
    pub tls_certificates: Vec<TlsCertificate>,
    #[serde(deserialize_with = "filled")]
    pub ca_cert_credential_name: Option<String>,
    pub subject_alt_names: Vec<String>,
    pub verify_certificate_spki: Vec<String>,
    pub verify_certificate_hash: Vec<String>,
    pub min_protocol_version: Option<TlsVersion>,
    pub max_protocol_version: Option<TlsVersion>,
    pub cipher_suites: Vec<String>,
    pub insecure_skip_verify: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    Passthrough,
    Simple,
    Mutual,
    AutoPassthrough,
    IstioMutual,
    OptionalMutual,
}

/// Paths of a certificate's files.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsCertificate {
    #[serde(deserialize_with = "filled")]
    pub server_certificate: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub private_key: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub ca_certificates: Option<String>,
}

/// Ordered from the oldest; AUTO, the default, is 1.2 as the least and 1.3 as the greatest version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum TlsVersion {
    #[serde(rename = "TLS_AUTO")]
    Auto,
    #[serde(rename = "TLSV1_0")]
    V1_0,
    #[serde(rename = "TLSV1_1")]
    V1_1,
    #[serde(rename = "TLSV1_2")]
    V1_2,
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
