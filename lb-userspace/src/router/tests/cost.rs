//! What a match costs with a thousand rules on one host. Not a check: times belong to machines.

use std::{hint::black_box, time::Instant};

use super::*;

#[test]
#[ignore = "measures; run it alone, in release, with --nocapture"]
fn a_thousand_rules() {
    let respond = || Outcome::Respond(Respond { status: 200, body: (*b"").into() });
    let condition = |at: usize| match at % 4 {
        0 => uri(StringMatch::Exact(format!("/shop/item/{at}").into())),
        1 => uri(StringMatch::Prefix(format!("/api/v1/team{at}/").into())),
        2 => uri(StringMatch::Regex(format!("/users/{at}/[0-9]+/orders").into())),
        _ => Condition {
            headers: vec![("end-user".into(), HeaderCondition::Is(StringMatch::Exact(format!("u{at}").into())))],
            ..uri(StringMatch::Prefix(format!("/canary/{at}").into()))
        },
    };
    let mut routes: Vec<_> = (0..1_000).map(|at| route(at as u32, condition(at), respond())).collect();
    routes.push(route(1_000, uri(StringMatch::Prefix("/".into())), respond()));
    let router = only(routes);
    let headers = headers(&[("end-user", "u999"), ("accept", "*/*"), ("user-agent", "x")]);
    for (url, expected) in [
        ("http://h/shop/item/996", 996),
        ("http://h/api/v1/team997/a/b", 997),
        ("http://h/users/998/17/orders", 998),
        ("http://h/canary/999/x", 999),
        ("http://h/none/of/them", 1_000),
    ] {
        let request = request("GET", url, &headers);
        const TIMES: u32 = 200_000;
        let begin = Instant::now();
        for _ in 0..TIMES {
            let host = router.door("10.0.0.1:8080".parse().unwrap()).unwrap().chain(None).unwrap().host("any").unwrap();
            assert_eq!(host.route(black_box(&request)).map(|rule| rule.at), Some(expected));
        }
        println!("{url}: {:?} a request, with listener and host", begin.elapsed() / TIMES);
    }
}
