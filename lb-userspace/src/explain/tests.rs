//! `explain --http` against the router on the whole snapshot.

use std::{path::Path, sync::LazyLock};

use proptest::prelude::*;

use super::{request::HttpRequest, *};
use crate::{
    compile::Path as Way,
    model,
    router::{Request, Router, host_of, path},
    snapshot::{Outcome as Does, Snapshot},
    spec::{Store, read},
};

const EXAMPLES: [&str; 3] = ["bookinfo", "reviews-canary", "hosts-wildcard"];

/// The examples' objects, each in a file of its own.
fn objects(example: &str) -> Vec<(Arc<str>, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples").join(example);
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut texts: Vec<_> =
        files.filter(|file| file.is_file()).map(|file| std::fs::read_to_string(file).unwrap()).collect();
    texts.sort();
    let objects = texts.iter().flat_map(|text| text.split("\n---\n"));
    objects.enumerate().map(|(at, text)| (format!("{at}.yaml").into(), text.to_owned())).collect()
}

struct Loaded {
    specs: Specs,
    model: Model,
}

fn load(objects: &[(Arc<str>, String)]) -> Loaded {
    let mut store = Store::default();
    store.merge(&objects.iter().map(|(file, text)| read(file, text)).collect::<Vec<_>>(), &[]);
    let specs = store.specs();
    let (model, _) = model::parse(&specs, &Identity::default());
    Loaded { specs, model }
}

fn snapshot(objects: &[(Arc<str>, String)]) -> Snapshot {
    compile::snapshot(&load(objects).model, 1)
}

static LOADED: LazyLock<Vec<Loaded>> = LazyLock::new(|| EXAMPLES.iter().map(|name| load(&objects(name))).collect());

fn answer(loaded: &Loaded, to: SocketAddr, sent: &Sent) -> Answer {
    let path = |to| (to, Way { source: "10.1.0.1".parse().unwrap(), forwarding: Forwarding::Snat });
    let paths = compile::endpoint_addresses(&loaded.model).into_iter().map(path).collect();
    let host = Host { addresses: ["10.0.0.1".parse().unwrap()].into(), paths };
    let question = Question {
        specs: &loaded.specs,
        identity: &Identity::default(),
        model: &loaded.model,
        findings: &[],
        host: &host,
        from: "10.0.0.2:40000".parse().unwrap(),
        to,
        sent,
    };
    explain(&question).unwrap().unwrap()
}

fn request() -> impl Strategy<Value = HttpRequest> {
    let hosts =
        ["dev.example.com", "PROD.example.com:80", "x.example.com", "reviews.example.com", "reviews", "10.0.0.1"];
    let paths =
        ["/", "/productpage", "/productpage?u=v", "/static/a", "/staticx", "/a/../login", "/api/v1/products/1", "/x"];
    let (hosts, paths) = (proptest::sample::select(hosts.to_vec()), proptest::sample::select(paths.to_vec()));
    (prop_oneof![Just("GET"), Just("POST")], hosts.prop_map(str::to_owned), paths.prop_map(str::to_owned))
        .prop_map(|(method, host, path)| HttpRequest::parse(&format!("{method} http://{host}{path}"), &[]).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn explain_says_what_the_router_does(
        example in 0..EXAMPLES.len(),
        to in prop_oneof![3 => Just("10.0.0.1:80"), 1 => Just("10.96.1.4:9080"), 1 => Just("10.96.3.1:8000")],
        sent in request(),
    ) {
        let (loaded, to) = (&LOADED[example], to.parse().unwrap());
        let answer = answer(loaded, to, &Sent { sni: None, http: Some(sent.clone()) });
        let router = Router::new(Arc::new(compile::snapshot(&loaded.model, 1))).unwrap();
        let Some(door) = router.door(to) else {
            prop_assert_eq!((&answer.route, answer.status), (&None, None));
            return Ok(());
        };
        let target = path::normalize(&sent.target).unwrap();
        let request = Request {
            scheme: "http",
            method: &sent.method,
            authority: &sent.authority,
            path: &target.path,
            query: target.query,
            headers: &sent.headers,
        };
        let rule = door.chain(None).unwrap().host(&sent.authority).and_then(|host| host.route(&request));
        let Some(rule) = rule else {
            prop_assert_eq!((&answer.route, answer.status, &answer.chosen), (&None, Some(404), &None));
            return Ok(());
        };
        let (source, route) = (rule.source(), answer.route.as_ref().unwrap());
        prop_assert_eq!(route.virtual_service.as_deref(), source.virtual_service.as_deref());
        prop_assert_eq!((route.index, route.r#match), (source.index as usize, source.item.map(|item| item as usize)));
        let Does::Forward { split, .. } = &rule.action().outcome else { panic!("no example does anything else") };
        let chosen = answer.chosen.as_ref().unwrap();
        let named = |one: &&crate::snapshot::Destination| {
            *one.cluster.host == *chosen.host && one.cluster.subset.as_deref() == chosen.subset.as_deref()
        };
        prop_assert!(split.destinations.iter().any(|one| named(&one)), "{} {chosen:?}", host_of(&sent.authority));
        let rewritten = rule.rewrite(&request);
        prop_assert_eq!(answer.status, None);
        prop_assert_eq!(answer.rewritten, Some(Rewritten {
            method: sent.method.clone(),
            authority: rewritten.authority.into_owned(),
            path: rewritten.path_and_query.into_owned(),
        }));
    }

    #[test]
    fn order_and_unrelated_objects_do_not_change_the_snapshot(
        (example, objects) in (0..EXAMPLES.len())
            .prop_flat_map(|at| (Just(at), Just(objects(EXAMPLES[at])).prop_shuffle())),
    ) {
        let expected = compile::snapshot(&LOADED[example].model, 1);
        prop_assert_eq!(&snapshot(&objects), &expected);
        let unrelated = "apiVersion: v1\nkind: Service\nmetadata: {name: unrelated, namespace: elsewhere}\nspec:\n  clusterIP: 10.99.0.1\n  ports: [{name: tcp, port: 1}]\n";
        let more = [&[("unrelated.yaml".into(), unrelated.to_owned())][..], &objects].concat();
        prop_assert_eq!(&snapshot(&more), &expected);
    }
}

#[test]
fn plain_text_to_a_port_of_tls_is_told() {
    let text = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: p, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: c}, hosts: [x.y]}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [x.y], gateways: [g], http: [{directResponse: {status: 200}}]}\n";
    let loaded = load(&[("a.yaml".into(), text.to_owned())]);
    let ask = |url: &str| {
        let http = Some(HttpRequest::parse(url, &[]).unwrap());
        let answer = answer(&loaded, "10.0.0.1:443".parse().unwrap(), &Sent { sni: None, http });
        (answer.verdict, answer.reason, answer.status)
    };
    assert_eq!(ask("http://x.y/"), (Verdict::Reject, "reject.not-tls", None));
    assert_eq!(ask("https://z.y/"), (Verdict::Reject, "reject.no-chain", None));
    assert_eq!(ask("https://x.y/"), (Verdict::Respond, "respond.direct", Some(200)));
}
