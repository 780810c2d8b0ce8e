//! `explain` against the code that decides, on the examples and on every case of `tests/golden/explain`.

mod order;
mod requests;

use std::{fs, path::Path, sync::LazyLock};

use super::{request::HttpRequest, *};
use crate::{
    compile::Path as Way,
    model,
    snapshot::Snapshot,
    spec::{Store, read},
};

const EXAMPLES: [&str; 3] = ["bookinfo", "reviews-canary", "hosts-wildcard"];

/// Objects, each in a file of its own, and what is meant to be asked about them.
struct Corpus {
    name: String,
    objects: Vec<(Arc<str>, String)>,
    specs: Specs,
    model: Model,
    /// Of the lines `#? ...` of a case.
    questions: Vec<String>,
}

impl Corpus {
    fn new(name: &str, texts: &[String]) -> Corpus {
        let documents = texts.iter().flat_map(|text| text.split("\n---\n"));
        let named = documents.enumerate().map(|(at, text)| (format!("{at:03}.yaml").into(), text.to_owned()));
        let objects: Vec<(Arc<str>, String)> = named.collect();
        let (specs, model) = load(&objects);
        let lines = texts.iter().flat_map(|text| text.lines());
        let questions = lines.filter_map(|line| line.strip_prefix("#? ")).map(str::to_owned).collect();
        Corpus { name: name.to_owned(), objects, specs, model, questions }
    }

    fn answer(&self, to: SocketAddr, sent: &Sent) -> Answer {
        let path = |to| (to, Way { source: "10.1.0.1".parse().unwrap(), forwarding: Forwarding::Snat });
        let paths = compile::endpoint_addresses(&self.model).into_iter().map(path).collect();
        let host = Host { addresses: ["10.0.0.1".parse().unwrap()].into(), paths };
        let question = Question {
            specs: &self.specs,
            identity: &Identity::default(),
            model: &self.model,
            findings: &[],
            host: &host,
            from: "10.0.0.2:40000".parse().unwrap(),
            to,
            sent,
        };
        explain(&question).unwrap().unwrap()
    }
}

fn load(objects: &[(Arc<str>, String)]) -> (Specs, Model) {
    let mut store = Store::default();
    store.merge(&objects.iter().map(|(file, text)| read(file, text)).collect::<Vec<_>>(), &[]);
    let specs = store.specs();
    let (model, _) = model::parse(&specs, &Identity::default());
    (specs, model)
}

fn snapshot(model: &Model) -> Snapshot {
    compile::snapshot(model, 1)
}

/// The files of a directory with a name that ends so, by name.
fn texts(directory: &Path, end: &str) -> Vec<(String, String)> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut texts: Vec<_> = files
        .filter(|file| file.is_file() && file.to_string_lossy().ends_with(end))
        .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(file).unwrap()))
        .collect();
    texts.sort();
    texts
}

static CORPORA: LazyLock<Vec<Corpus>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let example = |name: &&str| {
        let texts = texts(&root.join("manifests/examples").join(name), ".yaml");
        Corpus::new(name, &texts.into_iter().map(|(_, text)| text).collect::<Vec<_>>())
    };
    let golden = root.join("tests/golden/explain");
    let base = fs::read_to_string(golden.join("base.yml")).unwrap();
    let cases = texts(&golden, ".yaml");
    let case = |(name, text): &(String, String)| Corpus::new(name, &[base.clone(), text.clone()]);
    EXAMPLES.iter().map(example).chain(cases.iter().map(case)).collect()
});

#[test]
fn plain_text_to_a_port_of_tls_is_told() {
    let text = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: p, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: c}, hosts: [x.y]}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [x.y], gateways: [g], http: [{directResponse: {status: 200}}]}\n";
    let corpus = Corpus::new("tls", &[text.to_owned()]);
    let ask = |url: &str| {
        let http = Some(HttpRequest::parse(url, &[]).unwrap());
        let answer = corpus.answer("10.0.0.1:443".parse().unwrap(), &Sent { sni: None, http });
        (answer.verdict, answer.reason, answer.status)
    };
    assert_eq!(ask("http://x.y/"), (Verdict::Reject, "reject.not-tls", None));
    assert_eq!(ask("https://z.y/"), (Verdict::Reject, "reject.no-chain", None));
    assert_eq!(ask("https://x.y/"), (Verdict::Respond, "respond.direct", Some(200)));
}

/// RFC 9110 section 15.5.20: a connection made for one server's TLS is asked for a name of another's.
#[test]
fn another_servers_name_is_misdirected_even_where_a_host_would_fit() {
    let text = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: p, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: c}, hosts: ['*.y']}, {port: {number: 443, name: q, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: d}, hosts: [a.y]}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: ['*.y'], gateways: [g], http: [{directResponse: {status: 200}}]}\n";
    let corpus = Corpus::new("misdirected", &[text.to_owned()]);
    let ask = |sni: &str, url: &str| {
        let http = Some(HttpRequest::parse(url, &[]).unwrap());
        let answer = corpus.answer("10.0.0.1:443".parse().unwrap(), &Sent { sni: Some(sni.to_owned()), http });
        (answer.reason, answer.status)
    };
    assert_eq!(ask("b.y", "https://c.y/"), ("respond.direct", Some(200)));
    assert_eq!(ask("b.y", "https://a.y/"), ("respond.misdirected", Some(421)));
}
