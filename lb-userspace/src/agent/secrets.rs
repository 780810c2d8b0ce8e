//! Certificates, keys and authorities out of Secrets, by the keys that Istio looks for.

use crate::{
    proxy::Pair,
    spec::{Kind, Manifest, Object, ObjectName, Store, kubernetes::Secret},
};
use std::{collections::BTreeMap, sync::Arc};

/// The Secrets in force.
#[derive(Default)]
pub(super) struct Secrets {
    all: BTreeMap<ObjectName, Arc<Object<Secret>>>,
}

/// A certificate chain and its key, the first pair that is there.
const PAIRS: [(&str, &str); 2] = [("cert", "key"), ("tls.crt", "tls.key")];
/// Certificates of authorities, the first that is there.
const AUTHORITIES: [&str; 2] = ["cacert", "ca.crt"];

impl Secrets {
    /// Takes over what the last merge changed.
    pub fn follow(&mut self, store: &Store) {
        if store.changes().is_some_and(|changes| changes.iter().all(|change| change.key.kind != Kind::Secret)) {
            return;
        }
        let secrets = store.manifests().filter_map(|(key, manifest)| match manifest {
            Manifest::Secret(secret) => Some((key.name.clone(), secret.clone())),
            _ => None,
        });
        self.all = secrets.collect();
    }

    pub fn pair(&self, namespace: &str, name: &str) -> Result<Pair, String> {
        let secret = self.get(namespace, name).ok_or_else(|| format!("there is no Secret {namespace}/{name}"))?;
        let text = |key| secret.spec.value(key).map(|value| String::from_utf8_lossy(value).into_owned());
        let mut pairs = PAIRS.iter().filter_map(|(chain, key)| Some(Pair { chain: text(chain)?, key: text(key)? }));
        pairs
            .next()
            .ok_or_else(|| format!("Secret {namespace}/{name} has no `tls.crt` with `tls.key`, nor `cert` with `key`"))
    }

    /// The first of the named Secrets that exists decides.
    pub fn authorities(&self, namespace: &str, names: &[Arc<str>]) -> Result<String, String> {
        let found = names.iter().find_map(|name| Some((name, self.get(namespace, name)?)));
        let (name, secret) = found.ok_or_else(|| format!("there is no Secret {namespace}/{}", names.join(", nor ")))?;
        let value = AUTHORITIES.iter().find_map(|key| secret.spec.value(key));
        let value = value.ok_or_else(|| format!("Secret {namespace}/{name} has neither `cacert` nor `ca.crt`"))?;
        Ok(String::from_utf8_lossy(value).into_owned())
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object<Secret>>> {
        self.all.get(&ObjectName { namespace: namespace.into(), name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn secrets(text: &str) -> Secrets {
        let mut store = Store::default();
        let findings = store.merge(&[spec::read(&Arc::from("a.yaml"), text)], &[]);
        assert!(findings.is_empty(), "{findings:?}");
        let mut secrets = Secrets::default();
        secrets.follow(&store);
        secrets
    }

    fn secret(name: &str, data: &str) -> String {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: edge}}\nstringData: {{{data}}}\n")
    }

    #[test]
    fn keys_are_those_that_istio_looks_for() {
        let all = [
            secret("plain", "tls.crt: c, tls.key: k"),
            secret("generic", "cert: C, key: K, tls.crt: c, tls.key: k, cacert: A, ca.crt: a"),
            secret("half", "tls.crt: c, tls.key: ''"),
            secret("both-cacert", "ca.crt: b"),
        ];
        let secrets = secrets(&all.join("---\n"));
        let pair = |name| secrets.pair("edge", name).map(|pair| pair.chain + &pair.key);
        assert_eq!(pair("plain"), Ok("ck".into()));
        assert_eq!(pair("generic"), Ok("CK".into()));
        assert!(pair("half").unwrap_err().contains("has no `tls.crt` with `tls.key`"));
        assert_eq!(pair("none"), Err("there is no Secret edge/none".into()));
        assert!(secrets.pair("elsewhere", "plain").is_err());
        let authorities = |names: &[&str]| {
            secrets.authorities("edge", &names.iter().map(|name| Arc::from(*name)).collect::<Vec<_>>())
        };
        assert_eq!(authorities(&["generic-cacert", "generic"]), Ok("A".into()));
        assert_eq!(authorities(&["both-cacert", "generic"]), Ok("b".into()));
        assert!(authorities(&["plain"]).unwrap_err().contains("neither"));
        assert_eq!(authorities(&["x-cacert", "x"]), Err("there is no Secret edge/x-cacert, nor x".into()));
    }
}
