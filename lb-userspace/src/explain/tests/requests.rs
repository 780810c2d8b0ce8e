//! `explain --http` and `--sni` against the router on the whole snapshot, for random requests.

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::{
    router::{CorsDecision, Request, Router, Rule as Found, path},
    snapshot::{Abort, Content, Destination as To, Fraction, HeaderAction, Outcome as Does},
};

static ROUTERS: LazyLock<Vec<Router>> =
    LazyLock::new(|| CORPORA.iter().map(|corpus| Router::new(Arc::new(snapshot(&corpus.model))).unwrap()).collect());

/// Words that stand in a corpus's questions, and some that stand in none.
struct Words {
    to: Vec<SocketAddr>,
    schemes: Vec<&'static str>,
    methods: Vec<String>,
    hosts: Vec<String>,
    targets: Vec<String>,
    headers: Vec<String>,
}

impl Words {
    fn new(corpus: &Corpus) -> Words {
        let own = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<String>>();
        let mut words = Words {
            to: ["10.0.0.1:80", "10.0.0.1:443", "10.96.0.1:8000", "10.96.1.4:9080"]
                .map(|to| to.parse().unwrap())
                .to_vec(),
            schemes: vec!["http", "http", "http", "https"],
            methods: own(&["GET", "POST", "OPTIONS"]),
            hosts: own(&[
                "dev.example.com",
                "PROD.example.com:80",
                "x.example.com",
                "reviews",
                "10.0.0.1",
                "none.example",
            ]),
            targets: own(&[
                "/",
                "/productpage?u=v",
                "/static/a",
                "/staticx",
                "/a/../login",
                "/api/v1/products/1",
                "/none",
            ]),
            headers: own(&["x-none: 1"]),
        };
        for line in &corpus.questions {
            for (at, quoted) in line.split('\'').enumerate().filter(|(at, _)| at % 2 == 1) {
                let _ = at;
                let Some((method, url)) = quoted.split_once(' ').filter(|(_, url)| url.contains("://")) else {
                    words.headers.extend(quoted.contains(": ").then(|| quoted.to_owned()));
                    continue;
                };
                let Some((_, rest)) = url.split_once("://") else { continue };
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                words.methods.push(method.to_owned());
                words.hosts.push(rest[..end].to_owned());
                words.targets.extend([rest[end..].to_owned(), format!("{}/more", &rest[end..])]);
            }
            let mut plain = line.split(' ').skip_while(|word| *word != "--to").skip(1);
            words.to.extend(plain.next().and_then(|to| to.parse::<SocketAddr>().ok()));
        }
        words
    }
}

/// Choices among words.
type Picks = ([Index; 5], Vec<Index>);

fn request(words: &Words, (one, headers): &Picks) -> (SocketAddr, HttpRequest) {
    let [to, scheme, method, host, target] = one;
    let line = format!(
        "{} {}://{}{}",
        method.get(&words.methods),
        scheme.get(&words.schemes),
        host.get(&words.hosts),
        target.get(&words.targets)
    );
    let headers: Vec<String> = headers.iter().map(|at| at.get(&words.headers).clone()).collect();
    (*to.get(&words.to), HttpRequest::parse(&line, &headers).unwrap())
}

/// What `explain` must say.
#[derive(Debug, PartialEq)]
enum Expected<'r> {
    /// Not the proxy's.
    Kernel,
    Closed,
    Status(u16),
    Location(u16, String),
    Forwarded(&'r [To]),
}

fn expected<'r>(router: &'r Router, to: SocketAddr, sent: &HttpRequest) -> (Expected<'r>, Option<Found<'r>>) {
    let Some(door) = router.door(to) else { return (Expected::Kernel, None) };
    let sni = Sent { sni: None, http: Some(sent.clone()) };
    let (tls, name) = (sni.tls(), sni.tls().flatten().map(str::to_owned));
    let Some(chain) = door.chain(name.as_deref()) else { return (Expected::Closed, None) };
    match (&chain.chain.content, &chain.chain.tls) {
        (Content::Http(_), server) if server.is_some() != tls.is_some() => return (Expected::Closed, None),
        (_, Some(_)) if tls.is_none() => return (Expected::Closed, None),
        (Content::AutoPassthrough, _) => return (Expected::Closed, None),
        (Content::Tcp(route), _) => return (Expected::Forwarded(&route.split.destinations), None),
        (Content::Http(_), _) => {}
    }
    let target = path::normalize(&sent.target).unwrap();
    let request = Request {
        scheme: if chain.chain.tls.is_some() { "https" } else { "http" },
        method: &sent.method,
        authority: &sent.authority,
        path: &target.path,
        query: target.query,
        headers: &sent.headers,
        client: None,
    };
    if chain.is_misdirected(&sent.authority) {
        return (Expected::Status(421), None);
    }
    let Some(host) = chain.host(&sent.authority) else { return (Expected::Status(404), None) };
    if let Some(location) = host.https_redirect(&request) {
        return (Expected::Location(301, location), None);
    }
    // Not by the index that the router looks routes up with: the list itself, from the top.
    let first = (0..host.host.routes.len()).find(|at| host.judge(*at, &request).is_ok());
    let Some(rule) = host.route(&request) else {
        assert_eq!(first, None);
        return (Expected::Status(404), None);
    };
    assert_eq!(first, Some(rule.at));
    let cors = rule.cors(&sent.method, &sent.headers);
    let does = match &rule.action().outcome {
        _ if matches!(cors, CorsDecision::Answer(_)) => Expected::Status(200),
        Does::Redirect(_) => {
            let (status, location) = rule.redirect(&request).unwrap();
            Expected::Location(status, location)
        }
        Does::Respond(respond) => Expected::Status(respond.status),
        Does::Forward { split, .. } => match rule.action().fault.as_ref().and_then(|fault| fault.abort) {
            Some((Fraction::ALL, Abort::Http(status))) => Expected::Status(status),
            Some((Fraction::ALL, Abort::Grpc(_))) => Expected::Status(200),
            _ => Expected::Forwarded(&split.destinations),
        },
    };
    (does, Some(rule))
}

/// Whether an answer is one of the draws that the destinations allow.
fn is_one_of(answer: &Answer, destinations: &[To], http: bool) -> bool {
    match &answer.chosen {
        Some(chosen) => destinations.iter().any(|one| {
            let cluster = &one.cluster;
            one.weight > 0
                && one.broken.is_none()
                && (&*cluster.host, cluster.subset.as_deref(), cluster.port)
                    == (&*chosen.host, chosen.subset.as_deref(), chosen.port)
        }),
        // Broken, without endpoints, or at a name that is not resolved here.
        None if answer.verdict == Verdict::Proxy => true,
        None if http => answer.status == Some(503),
        None => answer.verdict == Verdict::Reject,
    }
}

fn check(at: usize, picks: &Picks) -> Result<(), TestCaseError> {
    let (corpus, router) = (&CORPORA[at], &ROUTERS[at]);
    let (to, sent) = request(&Words::new(corpus), picks);
    let answer = corpus.answer(to, &Sent { sni: None, http: Some(sent.clone()) });
    let (does, rule) = expected(router, to, &sent);
    let said = format!("{}: {sent:?} to {to}: {does:?}, {answer:#?}", corpus.name);
    match &does {
        Expected::Kernel => prop_assert!(answer.status.is_none() && answer.rewritten.is_none(), "{said}"),
        Expected::Closed => prop_assert!(matches!(answer.verdict, Verdict::Reject), "{said}"),
        Expected::Status(status) => {
            prop_assert_eq!((answer.status, &answer.location), (Some(*status), &None), "{}", said)
        }
        Expected::Location(status, location) => {
            prop_assert_eq!((answer.status, answer.location.as_ref()), (Some(*status), Some(location)), "{}", said);
        }
        Expected::Forwarded(destinations) => {
            prop_assert!(is_one_of(&answer, destinations, rule.is_some()), "{said}");
            let shares = |one: &To| (one.cluster.host.to_string(), one.weight);
            let listed = answer.destinations.iter().map(|share| (share.host.clone(), share.weight));
            prop_assert_eq!(
                listed.collect::<Vec<_>>(),
                destinations.iter().map(shares).collect::<Vec<_>>(),
                "{}",
                said
            );
        }
    }
    let Some(rule) = rule else { return Ok(()) };
    let (source, route) = (rule.source(), answer.route.as_ref().unwrap());
    prop_assert_eq!(route.virtual_service.as_deref(), source.virtual_service.as_deref(), "{}", said);
    prop_assert_eq!(
        (route.index, route.r#match),
        (source.index as usize, source.item.map(|item| item as usize)),
        "{}",
        said
    );
    if let (Expected::Forwarded(destinations), Some(rewritten)) = (does, &answer.rewritten) {
        let target = path::normalize(&sent.target).unwrap();
        let request = Request {
            scheme: "http",
            method: &sent.method,
            authority: &sent.authority,
            path: &target.path,
            query: target.query,
            headers: &sent.headers,
            client: None,
        };
        let found = rule.rewrite(&request);
        prop_assert_eq!((&*rewritten.path, &rewritten.method), (&*found.path_and_query, &sent.method), "{}", said);
        let set = |one: &To| {
            one.request_headers
                .iter()
                .any(|step| &*step.name == ":authority" && matches!(step.action, HeaderAction::Set(_)))
        };
        if !destinations.iter().any(set) {
            prop_assert_eq!(&*rewritten.authority, &*found.authority, "{}", said);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn explain_says_what_the_router_does(
        at in 0..CORPORA.len(),
        one in any::<[Index; 5]>(),
        headers in proptest::collection::vec(any::<Index>(), 0..3),
    ) {
        check(at, &(one, headers))?;
    }
}

/// Every virtual host, route and action of the corpora is met, or the property above says little.
#[test]
fn the_words_meet_most_routes() {
    let (mut met, mut all) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for (at, corpus) in CORPORA.iter().enumerate() {
        let words = Words::new(corpus);
        let listeners = &ROUTERS[at].snapshot().listeners;
        let chains = listeners.iter().flat_map(|listener| &listener.chains);
        for chain in chains {
            if let Content::Http(hosts) = &chain.content {
                all.extend(hosts.iter().flat_map(|host| &host.routes).map(|route| (at, route.source.to_string())));
            }
        }
        for to in &words.to {
            for (method, host) in
                words.methods.iter().flat_map(|method| words.hosts.iter().map(move |host| (method, host)))
            {
                for target in &words.targets {
                    for headers in [vec![], words.headers.clone()] {
                        let sent = HttpRequest::parse(&format!("{method} http://{host}{target}"), &headers).unwrap();
                        let (_, rule) = expected(&ROUTERS[at], *to, &sent);
                        met.extend(rule.map(|rule| (at, rule.source().to_string())));
                    }
                }
            }
        }
    }
    assert!(met.len() * 10 > all.len() * 8, "{} of {} routes are met", met.len(), all.len());
}
