//! Changes with requests under way: none may fail.

use std::fs;

use meltemi_tests::agent::Mode;
use meltemi_tests::poll;
use meltemi_tests::world::Family;

use super::{BOTH, BY_SECRET, HTTP, HTTPS, SOON, Shop, assert_unharmed, door, go_on, secret};

/// The first weights of the file are those of the shop.
fn with_weights(text: &str, weights: [u64; 2]) -> String {
    let mut next = weights.iter();
    let lines = text.lines().map(|line| match line.split_once("weight:").and_then(|it| Some((it.0, next.next()?))) {
        Some((before, weight)) => format!("{before}weight: {weight}\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

fn weights_change(mode: Mode) {
    let mut shop = Shop::open(mode);
    let mut steady = shop.steadily();
    go_on(&mut steady, 50);
    let mut revision = shop.stage.revision;
    for (one, two) in [(50, 50), (99, 1), (0, 100), (20, 80)] {
        shop.stage.example.edit("web.yaml", |text| with_weights(&text, [one, two])).unwrap();
        revision = shop.stage.agent.wait_applied(revision + 1).unwrap();
        for family in BOTH {
            let weights = [("one", one), ("two", two)];
            shop.assert_shares(door(family, HTTP), ("any.example", "/shop"), &weights, &["--connections", "kept"]);
        }
        go_on(&mut steady, 50);
    }
    assert_unharmed(steady);
}

#[test]
fn a_change_of_weights_fails_no_request_in_tc() {
    weights_change(Mode::Tc);
}

#[test]
fn a_change_of_weights_fails_no_request_in_xdp() {
    weights_change(Mode::Xdp);
}

/// Certificates are replaced as every tool does it: key and certificate one after the other. What does not fit together meanwhile is
/// not used; what is broken for good is named, and the one before it stays.
#[test]
fn a_change_of_certificates_fails_no_request() {
    let mut shop = Shop::open(Mode::Tc);
    let authority = shop.authority.file();
    let doors = [(door(Family::V4, HTTPS), "shop.example"), (door(Family::V6, BY_SECRET), "vault.example")];
    let mut steady = Vec::new();
    for ((to, host), connections) in doors.iter().flat_map(|door| [(door, "kept"), (door, "new")]) {
        let to = to.to_string();
        let args = ["--to", &to, "--host", host, "--path", "/shop", "--authority", &authority, "--every", "2"];
        steady.push(shop.stage.world.web_steadily(&[&args[..], &["--connections", connections]].concat()).unwrap());
    }
    let shown = |shop: &Shop, at: usize| {
        let (to, host) = doors[at];
        let told = shop.one(to, host, "/shop", &["--authority", &authority]);
        told["certificate"].as_str().unwrap_or_else(|| panic!("no certificate: {told}")).to_owned()
    };
    let before = [shown(&shop, 0), shown(&shop, 1)];
    shop.authority.issue("shop", "shop.example").unwrap();
    let next = secret(&shop.authority);
    shop.stage.example.replace("secret.yaml", &next).unwrap();
    for (at, before) in before.iter().enumerate() {
        poll::until(SOON, "the new certificate", || Ok((shown(&shop, at) != *before).then_some(()))).unwrap();
    }
    go_on(&mut steady, 20);
    let second = shown(&shop, 0);
    fs::write(shop.stage.world.dir().join("certificates/shop.pem"), "no certificate").unwrap();
    shop.stage.agent.wait_log(SOON, "there is no certificate in it; the one before it stays in force").unwrap();
    assert_eq!(shown(&shop, 0), second);
    go_on(&mut steady, 20);
    assert_unharmed(steady);
}
