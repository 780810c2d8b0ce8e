//! Order, repetition and objects that have nothing to do with the rest change nothing.

use proptest::prelude::*;

use super::*;
use crate::explain::{change, written};

/// Objects that no other object names: they add what is theirs and change nothing of the rest.
const UNRELATED: &str = "apiVersion: v1
kind: Service
metadata: {name: unrelated, namespace: elsewhere}
spec: {clusterIP: 10.99.0.1, ports: [{name: tcp, port: 1}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: unrelated, namespace: elsewhere}
spec: {selector: {istio: another}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a-unrelated, namespace: elsewhere}
spec: {hosts: ['*'], gateways: [unrelated], http: [{directResponse: {status: 200}}], tcp: [{route: [{destination: {host: unrelated}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: unrelated, namespace: elsewhere}
spec: {host: unrelated, subsets: [{name: v1, labels: {a: b}}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: unrelated, namespace: elsewhere}
spec: {hosts: [unrelated.example], resolution: STATIC, addresses: [10.99.0.2], ports: [{number: 1, name: tcp, protocol: TCP}], endpoints: [{address: 10.99.1.1}]}";

fn host(model: &Model) -> Host {
    let path = |to| (to, Way { source: "10.1.0.1".parse().unwrap(), forwarding: Forwarding::Snat });
    Host {
        addresses: ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into(),
        paths: compile::endpoint_addresses(model).into_iter().map(path).collect(),
    }
}

/// All that the objects come to: the kernel's tables and what the proxy gets.
fn meaning(model: &Model) -> (Image, Snapshot) {
    (compile::compile(model, &host(model), &mut Ids::default()), snapshot(model))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn neither_order_nor_unrelated_objects_change_what_the_rest_means(
        (at, objects) in (0..CORPORA.len()).prop_flat_map(|at| {
            let unrelated = UNRELATED.split("\n---\n").enumerate();
            let unrelated = unrelated.map(|(at, text)| (format!("unrelated-{at}.yaml").into(), text.to_owned()));
            let objects: Vec<(Arc<str>, String)> = CORPORA[at].objects.iter().cloned().chain(unrelated).collect();
            (Just(at), Just(objects).prop_shuffle())
        }),
    ) {
        let corpus = &CORPORA[at];
        let own: Vec<_> = objects.iter().filter(|(name, _)| !name.starts_with("unrelated")).cloned().collect();
        let expected = meaning(&corpus.model);
        prop_assert_eq!(&meaning(&load(&own).1), &expected, "{} in another order", corpus.name);
        let (image, mut snapshot) = meaning(&load(&objects).1);
        // A server of AUTO_PASSTHROUGH leads to every service there is.
        snapshot.clusters.retain(|cluster| !cluster.name.host.starts_with("unrelated."));
        prop_assert_eq!(&(image, snapshot), &expected, "{} with unrelated objects", corpus.name);
    }
}

/// What is in force already is no change: not to the store, not to the tables, not to `plan`.
#[test]
fn the_same_again_changes_nothing() {
    for corpus in CORPORA.iter() {
        let files: Vec<_> = corpus.objects.iter().map(|(file, text)| read(file, text)).collect();
        let mut store = Store::default();
        store.merge(&files, &[]);
        store.merge(&files, &[]);
        assert!(store.changes().is_none_or(<[_]>::is_empty), "{}: {:?}", corpus.name, store.changes());
        let specs = store.specs();
        let (model, _) = model::parse(&specs, &Identity::default());
        let mut ids = Ids::default();
        let first = compile::compile(&corpus.model, &host(&corpus.model), &mut ids);
        ids.settle();
        let second = compile::compile(&model, &host(&model), &mut ids);
        assert_eq!(diff(&first, &second).to_string(), "", "{}", corpus.name);
        let (old, new) = (
            change::Side { image: &first, model: Some(&corpus.model) },
            change::Side { image: &second, model: Some(&model) },
        );
        assert_eq!((change::changes(old, new), change::rules(&first, &second)), (vec![], vec![]), "{}", corpus.name);
        let written = written::changes(
            written::Side { specs: &corpus.specs, model: &corpus.model },
            written::Side { specs: &specs, model: &model },
        );
        assert_eq!(written, (vec![], vec![]), "{}", corpus.name);
    }
}
