//! `HTTPMatchRequest`, field by field.

use proptest::prelude::*;

use super::*;

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn prefix(text: &str) -> StringMatch {
    StringMatch::Prefix(text.into())
}

fn regex(text: &str) -> StringMatch {
    StringMatch::Regex(text.into())
}

fn fits(condition: Condition, method: &str, url: &str, pairs: &[(&str, &str)]) -> Result<(), String> {
    let router = only(vec![route(0, condition, Outcome::Respond(Respond { status: 200, body: (*b"").into() }))]);
    let headers = headers(pairs);
    let request = request(method, url, &headers);
    let judged = only_host(&router).judge(0, &request).map_err(|mismatch| mismatch.to_string());
    assert_eq!(only_host(&router).route(&request).is_some(), judged.is_ok(), "index and list agree");
    judged
}

#[test]
fn uri() {
    let ignoring = |text| Condition { uri: Some(UriMatch { text, case: Case::Ignored }), ..Condition::default() };
    for (condition, path, expected) in [
        (super::uri(exact("/productpage")), "/productpage", true),
        (super::uri(exact("/productpage")), "/productpage/", false),
        (super::uri(exact("/productpage")), "/Productpage", false),
        (super::uri(exact("/a")), "/a?b=c", true),
        (super::uri(prefix("/static")), "/static", true),
        (super::uri(prefix("/static")), "/static/a.css", true),
        (super::uri(prefix("/foo")), "/foobar", true),
        (super::uri(prefix("/foo")), "/fo", false),
        (super::uri(prefix("/")), "/anything", true),
        (super::uri(prefix("")), "/anything", true),
        (super::uri(regex("/a/[0-9]+")), "/a/12", true),
        (super::uri(regex("/a/[0-9]+")), "/a/12/b", false),
        (super::uri(regex("/a/[0-9]+")), "/x/a/12", false),
        (super::uri(regex(".*/b")), "/a/b", true),
        (ignoring(exact("/Login")), "/LOGIN", true),
        (ignoring(exact("/Login")), "/login/", false),
        (ignoring(prefix("/Api")), "/aPI/v1", true),
        (ignoring(prefix("/Api")), "/ap", false),
        (ignoring(regex("/Api")), "/api", false),
    ] {
        let found = fits(condition.clone(), "GET", &format!("http://a{path}"), &[]);
        assert_eq!(found, if expected { Ok(()) } else { Err("uri does not fit".into()) }, "{condition:?} {path}");
    }
}

#[test]
fn method_scheme_and_authority() {
    let method = |text| Condition { method: Some(text), ..Condition::default() };
    let scheme = |text| Condition { scheme: Some(text), ..Condition::default() };
    let authority = |text| Condition { authority: Some(text), ..Condition::default() };
    for (condition, expected) in [
        (method(exact("GET")), Ok(())),
        (method(exact("get")), Err("method does not fit")),
        (method(regex("GET|HEAD")), Ok(())),
        (scheme(exact("http")), Ok(())),
        (scheme(exact("https")), Err("scheme does not fit")),
        (authority(exact("a.b:8080")), Ok(())),
        (authority(exact("a.b")), Err("authority does not fit")),
        (authority(prefix("a.")), Ok(())),
    ] {
        assert_eq!(
            fits(condition.clone(), "GET", "http://a.b:8080/", &[]),
            expected.map_err(str::to_owned),
            "{condition:?}"
        );
    }
}

#[test]
fn header_fields() {
    use HeaderCondition::{Absent, Is, IsNot, Present};
    let sent = [("end-user", "jason"), ("x-empty", ""), ("x-list", "a"), ("x-list", "b")];
    for (name, header, expected) in [
        ("end-user", Present, true),
        ("x-other", Present, false),
        ("x-empty", Present, true),
        ("end-user", Absent, false),
        ("x-other", Absent, true),
        ("end-user", Is(exact("jason")), true),
        ("end-user", Is(exact("Jason")), false),
        ("end-user", Is(prefix("ja")), true),
        ("end-user", Is(regex("j.*n")), true),
        ("end-user", Is(regex("j")), false),
        ("x-empty", Is(exact("")), true),
        ("x-other", Is(exact("")), false),
        ("x-list", Is(exact("a,b")), true),
        ("x-list", Is(exact("a")), false),
        ("end-user", IsNot(exact("jason")), false),
        ("end-user", IsNot(exact("anna")), true),
        ("x-other", IsNot(exact("anna")), true),
    ] {
        let condition = Condition { headers: vec![(name.into(), header.clone())], ..Condition::default() };
        let expected = if expected { Ok(()) } else { Err(format!("header {name} does not fit")) };
        assert_eq!(fits(condition, "GET", "http://a/", &sent), expected, "{name} {header:?}");
    }
}

#[test]
fn query_parameters() {
    for (name, value, expected) in [
        ("a", None, true),
        ("z", None, false),
        ("flag", None, true),
        ("flag", Some(exact("")), true),
        ("a", Some(exact("1")), true),
        ("a", Some(exact("2")), false),
        ("b", Some(prefix("x")), true),
        ("b", Some(regex("[a-z]+")), true),
        ("b", Some(regex("[a-x]")), false),
        ("e", Some(exact("%20")), true),
    ] {
        let condition = Condition { query: vec![(name.into(), value.clone())], ..Condition::default() };
        let expected = if expected { Ok(()) } else { Err(format!("query parameter {name} does not fit")) };
        assert_eq!(fits(condition, "GET", "http://h/?a=1&b=xyz&a=2&flag&e=%20", &[]), expected, "{name} {value:?}");
    }
}

#[test]
fn all_parts_must_fit() {
    let condition = Condition {
        method: Some(exact("POST")),
        headers: vec![("a".into(), HeaderCondition::Present), ("b".into(), HeaderCondition::Present)],
        ..super::uri(prefix("/x"))
    };
    assert_eq!(fits(condition.clone(), "POST", "http://h/x", &[("a", "1"), ("b", "2")]), Ok(()));
    assert_eq!(fits(condition, "POST", "http://h/x", &[("a", "1")]), Err("header b does not fit".into()));
}

#[test]
fn a_bad_expression_names_its_rule() {
    let snapshot = Snapshot {
        listeners: vec![listener(
            80,
            Addresses::Own,
            vec![(
                &["*"],
                Content::Http(vec![host(
                    "*",
                    vec![route(4, super::uri(regex("(")), forward(vec![], Rewrite::default()))],
                )]),
            )],
        )],
        ..Snapshot::default()
    };
    let error = Router::new(Arc::new(snapshot)).unwrap_err();
    assert_eq!(error.rule, "VirtualService shop/web spec.http[4] (web.yaml:5)");
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let text = prop_oneof![
        "(/|/a|/b|/ab|A){0,3}".prop_map(|text| StringMatch::Exact(text.into())),
        "(/|/a|/b|/ab|A){0,3}".prop_map(|text| StringMatch::Prefix(text.into())),
        "(/|/a|/b|/ab){0,2}(\\.\\*|\\[ab/\\]\\+|a\\?)?".prop_map(|text| StringMatch::Regex(text.into())),
    ];
    let uri = proptest::option::of((text, any::<bool>())).prop_map(|uri| {
        uri.map(|(text, fold)| UriMatch { text, case: if fold { Case::Ignored } else { Case::Sensitive } })
    });
    let header = prop_oneof![
        3 => "[xy]".prop_map(|text| HeaderCondition::Is(StringMatch::Exact(text.into()))),
        1 => "[xy]?".prop_map(|text| HeaderCondition::Is(StringMatch::Prefix(text.into()))),
        1 => "[xy]".prop_map(|text| HeaderCondition::IsNot(StringMatch::Exact(text.into()))),
        1 => Just(HeaderCondition::Absent),
    ];
    let headers = proptest::collection::vec(("[ab]".prop_map(Arc::from), header), 0..3);
    (uri, proptest::option::of("GET|PUT"), headers).prop_map(|(uri, method, headers)| Condition {
        uri,
        method: method.map(|method| StringMatch::Exact(method.into())),
        headers,
        ..Condition::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The index changes nothing: the first route of the list that fits is taken.
    #[test]
    fn the_index_keeps_list_order(
        conditions in proptest::collection::vec(any_condition(), 0..24),
        path in "(/|/a|/b|/ab|A|b){1,4}",
        sent in proptest::collection::vec(("[ab]", "[xyz]|x,y"), 0..3),
    ) {
        let routes = conditions.iter().enumerate().map(|(at, condition)| {
            route(at as u32, condition.clone(), Outcome::Respond(Respond { status: 200, body: (*b"").into() }))
        });
        let router = only(routes.collect());
        let sent: Vec<(&str, &str)> = sent.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let headers = headers(&sent);
        let request = Request { scheme: "http", method: "GET", authority: "a", path: &path, query: None, headers: &headers, client: None };
        let host = only_host(&router);
        let first = (0..conditions.len()).find(|at| host.judge(*at, &request).is_ok());
        prop_assert_eq!(host.route(&request).map(|rule| rule.at), first);
    }
}
