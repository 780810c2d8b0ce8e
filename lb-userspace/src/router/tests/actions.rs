//! What is done to a request, field by field.

use std::borrow::Cow;

use super::*;

fn rewritten(condition: Condition, path: PathRewrite, url: &str) -> String {
    let rewrite = Rewrite { path, authority: AuthorityRewrite::Kept };
    let router = only(vec![route(0, condition, forward(vec![destination("a", 1)], rewrite))]);
    let headers = HeaderMap::new();
    let request = request("GET", url, &headers);
    only_host(&router).route(&request).unwrap().rewrite(&request).path_and_query.into_owned()
}

fn prefix(text: &str) -> Condition {
    uri(StringMatch::Prefix(text.into()))
}

#[test]
fn rewrites() {
    let to = |text: &str| PathRewrite::Uri(text.into());
    let by = |pattern: &str, substitution: &str| PathRewrite::Regex {
        pattern: pattern.into(),
        substitution: substitution.into(),
    };
    let folded = Condition {
        uri: Some(UriMatch { text: StringMatch::Prefix("/FOO".into()), case: Case::Ignored }),
        ..Condition::default()
    };
    for (condition, path, sent, expected) in [
        (prefix("/foo"), to("/bar"), "/foo/x", "/bar/x"),
        (prefix("/foo"), to("/"), "/foo/bar", "//bar"),
        (prefix("/foo"), to("/"), "/foobar", "/bar"),
        (prefix("/foo/"), to("/"), "/foo/bar", "/bar"),
        (prefix("/"), to("/v1/"), "/a", "/v1/a"),
        (prefix("/foo"), to("/bar"), "/foo?q=/foo", "/bar?q=/foo"),
        (folded, to("/bar"), "/foo/x", "/bar/x"),
        (uri(StringMatch::Exact("/a".into())), to("/b"), "/a?x", "/b?x"),
        (uri(StringMatch::Regex("/a.*".into())), to("/b"), "/a/c", "/b"),
        (Condition::default(), to("/v2/"), "/a", "/v2/a"),
        (prefix("/"), PathRewrite::Kept, "/a?b", "/a?b"),
        (prefix("/"), by("^/service/([^/]+)(/.*)$", r"\2/instance/\1"), "/service/foo/v1/api", "/v1/api/instance/foo"),
        (prefix("/"), by("one", "two"), "/xxx/one/yyy/one/zzz?one", "/xxx/two/yyy/two/zzz?one"),
        (prefix("/"), by("a(b)?c", r"[\1\0\\]"), "/ac", r"/[ac\]"),
        (prefix("/"), by("nothing", "x"), "/a", "/a"),
    ] {
        let found = rewritten(condition.clone(), path.clone(), &format!("http://h{sent}"));
        assert_eq!(found, expected, "{condition:?} {path:?}");
    }
}

#[test]
fn authority_rewrite() {
    let rewrite = Rewrite { path: PathRewrite::Kept, authority: AuthorityRewrite::Set("other:1".into()) };
    let router = only(vec![route(0, Condition::default(), forward(vec![destination("a", 1)], rewrite))]);
    let headers = HeaderMap::new();
    let request = request("GET", "http://h:80/p", &headers);
    let found = only_host(&router).route(&request).unwrap().rewrite(&request);
    assert_eq!(found, Rewritten { path_and_query: Cow::Borrowed("/p"), authority: Cow::Borrowed("other:1") });
}

fn redirect(scheme: Option<&str>, authority: Option<&str>, port: Option<RedirectPort>, path: RedirectPath) -> Redirect {
    Redirect { status: 302, scheme: scheme.map(Into::into), authority: authority.map(Into::into), port, path }
}

#[test]
fn redirects() {
    use RedirectPath::{Kept, Prefix, Replaced};
    let number = |port| Some(RedirectPort::Number(port));
    for (redirect, url, expected) in [
        (redirect(None, None, None, Replaced("/new".into())), "http://h/old?q=1", "http://h/new?q=1"),
        (redirect(None, None, None, Replaced("/new?z".into())), "http://h/old?q=1", "http://h/new?z"),
        (redirect(None, None, None, Prefix("/new".into())), "http://h/old/x?q", "http://h/new/x?q"),
        (redirect(Some("https"), None, None, Kept), "http://h/old", "https://h/old"),
        (redirect(Some("https"), None, None, Kept), "http://h:80/old", "https://h/old"),
        (redirect(Some("https"), None, None, Kept), "http://h:8080/old", "https://h:8080/old"),
        (redirect(None, None, None, Kept), "http://h:80/old", "http://h:80/old"),
        (redirect(None, Some("o"), None, Kept), "http://h:8080/old", "http://o/old"),
        (redirect(None, Some("o"), number(81), Kept), "http://h:8080/old", "http://o:81/old"),
        (redirect(None, Some("o"), number(80), Kept), "http://h:8080/old", "http://o/old"),
        (redirect(None, None, number(81), Kept), "http://h:8080/old", "http://h:81/old"),
        (redirect(None, None, number(81), Kept), "http://[fd00::1]:8080/old", "http://[fd00::1]:81/old"),
        (redirect(None, Some("o"), Some(RedirectPort::OfListener), Kept), "http://h:9/old", "http://o:8080/old"),
        (redirect(None, None, Some(RedirectPort::OfScheme), Kept), "http://h:9/old", "http://h/old"),
    ] {
        let router = only(vec![route(0, prefix("/old"), Outcome::Redirect(redirect.clone()))]);
        let headers = HeaderMap::new();
        let request = request("GET", url, &headers);
        let found = only_host(&router).route(&request).unwrap().redirect(&request);
        assert_eq!(found, Some((302, expected.to_owned())), "{redirect:?} {url}");
    }
}

#[test]
fn https_redirect_keeps_a_port_that_is_not_the_default() {
    let mut virtual_host = host("*", Vec::new());
    virtual_host.https_redirect = HttpsRedirect::Always;
    let router = router(vec![listener(8080, Addresses::Own, vec![(&["*"], Content::Http(vec![virtual_host]))])]);
    let headers = HeaderMap::new();
    for (url, expected) in [
        ("http://h/a?b", Some("https://h/a?b")),
        ("http://h:8080/a", Some("https://h:8080/a")),
        ("http://h:80/a", Some("https://h/a")),
        ("https://h/a", None),
    ] {
        let found = only_host(&router).https_redirect(&request("GET", url, &headers));
        assert_eq!(found.as_deref(), expected, "{url}");
    }
}

struct Known;

impl Variables for Known {
    fn value(&self, command: &str, argument: Option<&str>) -> Option<Cow<'_, str>> {
        match (command, argument) {
            ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", None) => Some("10.0.0.2".into()),
            ("START_TIME", Some(format)) => Some(format!("<{format}>").into()),
            _ => None,
        }
    }
}

#[test]
fn header_operations() {
    let step = |name: &str, action| HeaderOperation { name: name.into(), action };
    let set = |name: &str, text: &str| step(name, HeaderAction::Set(text.into()));
    let add = |name: &str, text: &str| step(name, HeaderAction::Add(text.into()));
    let remove = |name: &str| step(name, HeaderAction::Remove);
    for (operations, expected, authority) in [
        (vec![set("x-a", "1")], vec![("x-a", "1"), ("x-b", "2"), ("x-b", "3")], None),
        (vec![add("x-a", "1")], vec![("x-a", "0"), ("x-a", "1"), ("x-b", "2"), ("x-b", "3")], None),
        (vec![remove("x-b")], vec![("x-a", "0")], None),
        (vec![remove("x-a"), set("x-a", "1"), add("x-a", "2"), remove("x-b")], vec![("x-a", "1"), ("x-a", "2")], None),
        (vec![remove("x-b"), set("x-a", "100%% %REQ(X-A)%!")], vec![("x-a", "100% 0!")], None),
        (vec![remove("x-b"), set("x-a", "%REQ(x-none?x-a):0%")], vec![], None),
        (vec![remove("x-b"), set("x-a", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")], vec![("x-a", "10.0.0.2")], None),
        (vec![remove("x-b"), set("x-a", "%START_TIME(%s)%")], vec![("x-a", "%START_TIME(%s)%")], None),
        (vec![remove("x-b"), set("x-a", "%START_TIME(s):2%")], vec![("x-a", "<s")], None),
        (vec![remove("x-b"), add("x-a", "%UNKNOWN%")], vec![("x-a", "0")], None),
        (vec![remove("x-b"), set("x-a", "50%")], vec![("x-a", "50%")], None),
        (vec![remove("x-b"), set(":authority", "o")], vec![("x-a", "0")], Some("o")),
        (vec![remove("x-b"), set("host", "o:%REQ(x-a)%"), remove("host")], vec![("x-a", "0")], Some("o:0")),
    ] {
        let mut map = headers(&[("x-a", "0"), ("x-b", "2"), ("x-b", "3")]);
        let found = Operations::new(&operations).unwrap().apply(&mut map, &Known);
        assert_eq!((&map, found.as_deref()), (&headers(&expected), authority), "{operations:?}");
    }
    assert!(Operations::new(&[set("x a", "1")]).is_err());
}

#[test]
fn cross_origin_requests() {
    let cors = Cors {
        origins: vec![StringMatch::Exact("https://a".into()), StringMatch::Regex("https://.*\\.b".into())],
        methods: vec!["GET".into(), "POST".into()],
        headers: vec!["x-a".into()],
        expose: vec!["x-c".into()],
        max_age: Some(86_400 * SECOND),
        credentials: CorsCredentials::Allowed,
        unmatched: UnmatchedPreflight::Forward,
    };
    let preflight = |origin: &str| headers(&[("origin", origin), ("access-control-request-method", "GET")]);
    let allowed = |origin: &str| {
        let all = [
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-c"),
        ];
        CorsDecision::Allow(all.map(|(name, value)| pair(name, value)).to_vec())
    };
    let answer = [
        ("access-control-allow-origin", "https://x.b"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET,POST"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-max-age", "86400"),
    ];
    let answer = CorsDecision::Answer(answer.map(|(name, value)| pair(name, value)).to_vec());
    let ignoring = Cors { unmatched: UnmatchedPreflight::Ignore, ..cors.clone() };
    for (policy, method, map, expected) in [
        (&cors, "GET", headers(&[]), CorsDecision::None),
        (&cors, "GET", headers(&[("origin", "https://a")]), allowed("https://a")),
        (&cors, "GET", headers(&[("origin", "https://c")]), CorsDecision::None),
        (&cors, "OPTIONS", headers(&[("origin", "https://a")]), allowed("https://a")),
        (&cors, "OPTIONS", preflight("https://x.b"), answer),
        (&cors, "OPTIONS", preflight("https://c"), CorsDecision::None),
        (&ignoring, "OPTIONS", preflight("https://c"), CorsDecision::Answer(Vec::new())),
    ] {
        let mut with_cors = route(0, Condition::default(), forward(vec![destination("a", 1)], Rewrite::default()));
        Arc::get_mut(&mut with_cors.action).unwrap().cors = Some(policy.clone());
        let router = only(vec![with_cors]);
        let request = request(method, "http://h/", &map);
        assert_eq!(only_host(&router).route(&request).unwrap().cors(method, &map), expected, "{method} {map:?}");
    }
}

fn pair(name: &str, value: &str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
}

#[test]
fn faults_are_drawn_apart() {
    let fault = Fault { delay: Some((Fraction(500_000), 7 * SECOND)), abort: Some((Fraction(1), Abort::Http(418))) };
    let (low, middle) = (Draw(0), Draw(u64::MAX / 2 + 1));
    assert_eq!(fault.draw(low, low), (Some(7 * SECOND), Some(Abort::Http(418))));
    assert_eq!(fault.draw(middle, middle), (None, None));
    assert_eq!(fault.draw(low, Draw(u64::MAX / 1_000_000 + 1)), (Some(7 * SECOND), None));
    assert!(Fraction::ALL.has(Draw(u64::MAX)) && !Fraction(0).has(Draw(0)));
}

#[test]
fn mirrors_are_drawn_one_by_one() {
    let mirror = |share| Mirror { cluster: destination("m", 1).cluster, broken: None, share, place: Place::default() };
    let all = [mirror(Fraction::ALL), mirror(Fraction(0)), mirror(Fraction(500_000)), mirror(Fraction(500_000))];
    let mut draws = [0, 0, 0, u64::MAX].into_iter().map(Draw);
    let taken: Vec<_> = mirrors(&all, || draws.next().unwrap()).map(|mirror| mirror.share.0).collect();
    assert_eq!(taken, [1_000_000, 500_000]);
    for (authority, expected) in
        [("a.b", "a.b-shadow"), ("a.b:80", "a.b-shadow:80"), ("[fd00::1]:80", "[fd00::1]-shadow:80")]
    {
        assert_eq!(shadow(authority), expected);
    }
}
