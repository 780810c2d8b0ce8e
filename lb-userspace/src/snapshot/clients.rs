//! Who clients are, by their addresses, as far as some rule asks: what takes the place of the sidecar that `sourceLabels` and
//! `sourceNamespace` are about.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

/// `sourceLabels` and `sourceNamespace` of a match. Never both empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientMatch {
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub namespace: Option<Arc<str>>,
}

impl ClientMatch {
    /// Whether it fits a client of this class; `None`: one of no class.
    pub fn fits(&self, class: Option<&ClientClass>) -> bool {
        let Some(class) = class else { return false };
        self.labels.iter().all(|(key, value)| class.labels.get(key) == Some(value))
            && self.namespace.as_ref().is_none_or(|namespace| class.namespace.as_ref() == Some(namespace))
    }
}

impl fmt::Display for ClientMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        facts(f, &self.labels, self.namespace.as_deref())
    }
}

/// Clients that are alike in everything some rule asks of clients. Its text is its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientClass {
    /// Those of their labels that some rule asks for.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Where some rule asks for it.
    pub namespace: Option<Arc<str>>,
}

impl ClientClass {
    /// Whether nothing that rules ask holds.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.namespace.is_none()
    }
}

impl fmt::Display for ClientClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        facts(f, &self.labels, self.namespace.as_deref())
    }
}

fn facts(f: &mut fmt::Formatter<'_>, labels: &BTreeMap<Arc<str>, Arc<str>>, namespace: Option<&str>) -> fmt::Result {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    f.write_str(&labels.join(","))?;
    let between = if labels.is_empty() { "" } else { " " };
    namespace.map_or(Ok(()), |namespace| write!(f, "{between}in {namespace}"))
}

/// Every client that has a class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// Sorted; each is some client's.
    pub classes: Vec<Arc<ClientClass>>,
    /// Sorted by address, each address once.
    pub members: Vec<Client>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub address: IpAddr,
    /// Position in the list of classes.
    pub class: u16,
    /// Kind, namespace and name of who has the address.
    pub workload: Arc<str>,
}

impl Clients {
    pub fn get(&self, address: IpAddr) -> Option<&Client> {
        let at = self.members.binary_search_by_key(&address, |client| client.address).ok()?;
        Some(&self.members[at])
    }

    pub fn class(&self, address: IpAddr) -> Option<&Arc<ClientClass>> {
        self.classes.get(usize::from(self.get(address)?.class))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<Arc<str>, Arc<str>> {
        pairs.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect()
    }

    #[test]
    fn a_match_asks_for_all_it_names_and_never_fits_who_is_not_known() {
        let class = ClientClass { labels: labels(&[("app", "a"), ("v", "1")]), namespace: Some("shop".into()) };
        let matching = |pairs: &[(&str, &str)], namespace: Option<&str>| ClientMatch {
            labels: labels(pairs),
            namespace: namespace.map(Into::into),
        };
        for (asked, fits) in [
            (matching(&[("app", "a")], None), true),
            (matching(&[("app", "a"), ("v", "1")], Some("shop")), true),
            (matching(&[("app", "b")], None), false),
            (matching(&[("app", "a"), ("w", "1")], None), false),
            (matching(&[], Some("shop")), true),
            (matching(&[], Some("other")), false),
        ] {
            assert_eq!(asked.fits(Some(&class)), fits, "{asked}");
            assert!(!asked.fits(None), "{asked}");
        }
        assert_eq!(class.to_string(), "app=a,v=1 in shop");
    }
}
