//! The bytes of what a snapshot's credentials name. Whoever may read them (the agent) gathers them and hands them over with the
//! snapshot; the proxy opens no key file of its own.

use std::{fmt, fs, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::snapshot::{Authorities, Certificate, Credentials};

/// PEM texts, or why there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    pub certificates: Vec<(Certificate, Result<Pair, String>)>,
    pub authorities: Vec<(Authorities, Result<String, String>)>,
    /// Certificate revocation lists, by file.
    pub revocations: Vec<(Arc<str>, Result<String, String>)>,
}

/// A certificate chain, the end's own first, and its key, in PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    pub chain: String,
    pub key: String,
}

/// Keys are never shown.
impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Material {
    /// Reads everything that is a file. Of the rest (Secrets, the workload's own) `other` knows.
    pub fn gather(
        credentials: &Credentials,
        certificate: impl Fn(&Certificate) -> Result<Pair, String>,
        authorities: impl Fn(&Authorities) -> Result<String, String>,
    ) -> Material {
        let pair = |one: &Certificate| match one {
            Certificate::Files { chain, key } => Ok(Pair { chain: read(chain)?, key: read(key)? }),
            Certificate::Secret { .. } | Certificate::Workload => certificate(one),
        };
        let roots = |one: &Authorities| match one {
            Authorities::File(file) => read(file),
            Authorities::System | Authorities::Anyone => Ok(String::new()),
            Authorities::Secrets { .. } | Authorities::Workload => authorities(one),
        };
        Material {
            certificates: credentials.certificates.iter().map(|one| (one.clone(), pair(one))).collect(),
            authorities: credentials.authorities.iter().map(|one| (one.clone(), roots(one))).collect(),
            revocations: credentials.revocations.iter().map(|file| (file.clone(), read(file))).collect(),
        }
    }
}

fn read(file: &str) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))
}
