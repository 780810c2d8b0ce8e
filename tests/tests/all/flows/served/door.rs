//! Which requests reach whom, in every mode and family.

use std::net::SocketAddr;

use meltemi_tests::agent::{Mode, Signal};
use meltemi_tests::poll;
use meltemi_tests::world::{CLIENT_V4, CLIENT_V6, Family};
use serde_json::json;

use super::{BOTH, HTTP, HTTPS, PASSED_ON, SOON, Shop, door, go_on};

const ANY: &str = "any.example";
const MIB: &str = "1048576";

fn carries(mode: Mode) {
    let shop = Shop::open(mode);
    let errors = shop.stage.world.checksum_errors().unwrap();
    for family in BOTH {
        plain(&shop, family);
        inside(&shop, family);
    }
    assert_eq!(shop.stage.world.checksum_errors().unwrap() - errors, 0, "wrong checksums arrived");
    let status = shop.stage.agent.status().unwrap();
    for (reason, count) in status["counters"].as_object().unwrap() {
        assert!(!reason.starts_with("drop.") && !reason.starts_with("reject."), "{reason} {count}");
    }
}

/// The gateway: weights by path, everything else 404, the client's own address.
fn plain(shop: &Shop, family: Family) {
    let to = door(family, HTTP);
    let weights = [("one", 20), ("two", 80)];
    shop.assert_shares(to, (ANY, "/shop/cart"), &weights, &[]);
    shop.assert_shares(to, (ANY, "/shop/cart"), &weights, &["--connections", "kept"]);
    let told = shop.many(to, ANY, "/only-one", 20, &[]);
    assert_eq!(told["greetings"], json!({ "one": 20 }), "{told}");
    for path in ["/", "/elsewhere", "/only-one/", "/sho"] {
        let told = shop.many(to, ANY, path, 5, &[]);
        assert_eq!((&told["statuses"], &told["greetings"]), (&json!({ "404": 5 }), &json!({})), "{path}: {told}");
    }
    let client = match family {
        Family::V4 => CLIENT_V4.to_string(),
        Family::V6 => CLIENT_V6.to_string(),
    };
    let told = shop.one(to, ANY, "/only-one", &[]);
    let headers = &told["body"]["headers"];
    assert_eq!(
        (&headers["x-forwarded-for"], &headers["x-forwarded-proto"]),
        (&client.into(), &"http".into()),
        "{told}"
    );
    assert_eq!((&headers["host"], headers["x-request-id"].is_string()), (&ANY.into(), true), "{told}");
    let told = shop.one(to, ANY, "/shop", &["--send", MIB]);
    assert_eq!((&told["status"], &told["body"]["received"]), (&200.into(), &(1 << 20).into()), "{told}");
    let told = shop.one(to, ANY, &format!("/shop/bytes/{MIB}"), &[]);
    assert_eq!((&told["status"], &told["size"]), (&200.into(), &(1 << 20).into()));
}

/// The service's own addresses, which are on no interface of the host.
fn inside(shop: &Shop, family: Family) {
    let address = match family {
        Family::V4 => "10.96.0.10:8000",
        Family::V6 => "[fd96::10]:8000",
    };
    let to: SocketAddr = address.parse().unwrap();
    shop.assert_shares(to, ("web:8000", "/half"), &[("one", 50), ("two", 50)], &[]);
    let told = shop.many(to, "web.default.svc.cluster.local:8000", "/shop", 20, &["--connections", "kept"]);
    assert_eq!(told["greetings"], json!({ "two": 20 }), "the mesh's rules, not the gateway's: {told}");
}

#[test]
fn requests_are_served_in_tc() {
    carries(Mode::Tc);
}

#[test]
fn requests_are_served_in_xdp() {
    carries(Mode::Xdp);
}

#[test]
fn requests_are_served_in_generic_xdp() {
    carries(Mode::XdpGeneric);
}

/// A line a request, with the rule by file and line; and nobody is failed by an agent that is started anew to write one.
#[test]
fn the_access_log_names_the_rule() {
    let mut shop = Shop::open(Mode::Tc);
    let before = shop.proxy_pid();
    let mut steady = shop.steadily();
    go_on(&mut steady, 20);
    shop.stage.agent.signal(Signal::Terminate).unwrap();
    shop.stage.agent.wait_exit().unwrap();
    shop.stage.options.more = vec!["--access-log".into(), "json".into()];
    shop.stage.start_again();
    assert_ne!(shop.proxy_pid(), before, "another proxy, which writes");
    go_on(&mut steady, 20);
    // A kept connection may meet its proxy's end; new ones never do.
    for client in steady.into_iter().skip(1).step_by(2) {
        let told = client.stop().unwrap();
        assert_eq!(told["failed"], 0, "{told}");
    }
    shop.one(door(Family::V4, HTTP), ANY, "/only-one", &["--header", "x-request-id: told"]);
    let line = poll::until(SOON, "the line", || {
        let output = shop.stage.agent.output();
        Ok(output.lines().find(|line| line.contains("\"told\"")).map(str::to_owned))
    });
    let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
    assert_eq!((&line["response_code"], &line["path"]), (&200.into(), &"/only-one".into()), "{line}");
    assert_eq!(line["upstream_cluster"], "outbound|8000|v1|web.default.svc.cluster.local", "{line}");
    let rule = line["rule"].as_str().unwrap();
    assert!(rule.starts_with("VirtualService default/shop spec.http[1]") && rule.contains("web.yaml:"), "{line}");
}

/// TLS ends at the door; curl is a peer that shares no code with the proxy.
#[test]
fn tls_at_the_door() {
    let shop = Shop::open(Mode::Tc);
    let authority = shop.authority.file();
    for family in BOTH {
        let to = door(family, HTTPS);
        let told = shop.one(to, "shop.example", "/only-one", &["--authority", &authority]);
        let headers = &told["body"]["headers"];
        assert_eq!((&told["status"], &headers["x-forwarded-proto"]), (&200.into(), &"https".into()), "{told}");
        shop.assert_shares(
            to,
            ("shop.example", "/shop"),
            &[("one", 20), ("two", 80)],
            &["--authority", &authority, "--connections", "kept"],
        );
        for (option, version) in [("--http2", "2"), ("--http1.1", "1.1"), ("--tls-max=1.2", "2")] {
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            let resolve = format!("shop.example:{HTTPS}:{}", to.ip());
            let mut args = vec!["-sS", "--max-time", "10", "--cacert", &authority, "--resolve", &resolve, name];
            args.extend(value);
            args.extend([
                "-o",
                "/dev/null",
                "-w",
                "%{http_code} %{http_version}",
                "https://shop.example:8443/only-one",
            ]);
            let said = shop.stage.world.client.output("curl", &args).unwrap();
            assert_eq!(said, format!("200 {version}"), "{family:?} {option}");
        }
        let told = shop.one(to, "other.example", "/only-one", &["--authority", &authority]);
        assert_eq!(told["status"], 0, "a name that no server has: {told}");
        let told = shop.one(to, "shop.example", "/only-one", &["--limit", "3000"]);
        assert_eq!(told["status"], 0, "plain text where TLS is spoken: {told}");
    }
}

/// The name in the client's hello decides; the certificate is the backend's own.
#[test]
fn tls_passed_on_by_name() {
    for mode in [Mode::Tc, Mode::Xdp] {
        let shop = Shop::open(mode);
        let authority = shop.authority.file();
        for family in BOTH {
            let to = door(family, PASSED_ON);
            let secret = ("secret.example", "/");
            shop.assert_shares(to, secret, &[("one", 30), ("two", 70)], &["--authority", &authority]);
            let told = shop.many(to, secret.0, "/", 60, &["--authority", &authority]);
            assert_eq!(told["certificates"].as_object().unwrap().len(), 2, "each backend shows its own: {told}");
            let told = shop.one(to, secret.0, "/bytes/1048576", &["--authority", &authority]);
            assert_eq!(told["size"], 1 << 20);
            let told = shop.one(to, secret.0, "/", &["--authority", &authority]);
            assert!(told["body"]["headers"].get("x-forwarded-for").is_none(), "nothing is added: {told}");
            let told = shop.one(to, "shop.example", "/", &["--authority", &authority]);
            assert_eq!(told["status"], 0, "a name that has no route: {told}");
        }
    }
}
