//! The bookstore of Istio's tutorial: its front page calls the other services by their ClusterIPs, so what the services ask of each
//! other goes through the balancer as well. Steps are those of Istio's tasks; every figure is checked.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::web::{Server, Web, gateway};
use super::{Args, step};

const EXAMPLE: &str = "bookinfo";
const STORE: &str = "bookstore.example";
const JASON: &[&str] = &["end-user: jason"];
const RATINGS: &str = "10.96.1.3:9080";

const SERVERS: [Server; 6] = [
    Server {
        host: 11,
        name: "productpage-v1",
        port: 9080,
        calls: &["details=10.96.1.2:9080", "reviews=10.96.1.4:9080"],
    },
    Server { host: 12, name: "details-v1", port: 9080, calls: &[] },
    Server { host: 13, name: "ratings-v1", port: 9080, calls: &[] },
    Server { host: 21, name: "reviews-v1", port: 9080, calls: &[] },
    Server { host: 22, name: "reviews-v2", port: 9080, calls: &["ratings=10.96.1.3:9080"] },
    Server { host: 23, name: "reviews-v3", port: 9080, calls: &["ratings=10.96.1.3:9080"] },
];

pub(super) fn show(args: &Args) -> Result<()> {
    let mut web = Web::set_up(args, &SERVERS)?;
    let outcome = play(&mut web, args);
    if args.keep {
        web.keep("/productpage")?;
        return outcome;
    }
    step("cleaning up");
    drop(web);
    outcome?;
    println!("\nEvery request went where the configuration says.");
    Ok(())
}

fn play(web: &mut Web, args: &Args) -> Result<()> {
    front(web)?;
    shares(web, args)?;
    by_user(web)?;
    delayed(web)?;
    aborted(web)
}

/// What the gateway lets in, and that the page is made of all services.
fn front(web: &Web) -> Result<()> {
    step(&format!("asking http://{} for the front page", gateway()));
    let told = web.one(&gateway(), STORE, "/productpage", &[])?;
    ensure!(told["status"] == 200, "/productpage: {told}");
    let calls = &told["body"]["calls"];
    for (service, version) in [("details", "details-v1"), ("reviews", "reviews-v1")] {
        let answer = &calls[service];
        ensure!(answer["status"] == 200 && answer["body"]["greeting"] == version, "{service}: {answer}");
        println!("      productpage called {service}: answered by {}", answer["body"]["greeting"]);
    }
    for (path, status) in [
        ("/productpage", 200),
        ("/static/style.css", 200),
        ("/login", 200),
        ("/logout", 200),
        ("/api/v1/products/0/reviews", 200),
        ("/", 404),
        ("/reviews", 404),
        ("/productpages", 404),
        ("/admin", 404),
    ] {
        let told = web.one(&gateway(), STORE, path, &[])?;
        ensure!(told["status"] == status, "{path} should be {status}: {told}");
        println!("      {path}: {status}");
    }
    Ok(())
}

fn shares(web: &mut Web, args: &Args) -> Result<()> {
    step(&format!("reviews to all of version 1: {} pages", args.connections.min(100)));
    let told = web.many(STORE, "/productpage", args.connections.min(100), &[])?;
    web.judge(&told["called"], &[("reviews-v1", 1), ("reviews-v2", 0), ("reviews-v3", 0)])?;
    step("reviews at 5, 5 and 90 (reviews-5-5-90/reviews.yaml)");
    web.vary(EXAMPLE, "reviews-5-5-90")?;
    let told = web.many(STORE, "/productpage", args.connections, &[])?;
    let weights = [("reviews-v1", 5), ("reviews-v2", 5), ("reviews-v3", 90)];
    web.judge(&told["called"], &weights)?;
    // Versions 2 and 3 ask for ratings, version 1 does not.
    let count = |name: &str| told["called"][name].as_u64().unwrap_or(0);
    ensure!(count("ratings-v1") == count("reviews-v2") + count("reviews-v3"), "calls of ratings: {told}");
    web.compare_status("VirtualService default/reviews spec.http[0]", &told["called"], &weights)
}

fn by_user(web: &mut Web) -> Result<()> {
    step("the user jason to version 2, everybody else to version 1 (jason-v2/reviews.yaml)");
    web.vary(EXAMPLE, "jason-v2")?;
    for (who, headers, version) in
        [("jason", JASON, "reviews-v2"), ("anna", &["end-user: anna"], "reviews-v1"), ("nobody", &[], "reviews-v1")]
    {
        let told = web.many(STORE, "/productpage", 50, headers)?;
        ensure!(told["called"][version] == 50, "{who} should see {version} alone: {told}");
        println!("      {who}: 50 of 50 pages by {version}");
    }
    Ok(())
}

/// Time between the front page's request and the answer of ratings.
fn delayed(web: &mut Web) -> Result<()> {
    step("ratings two seconds late, for jason alone (jason-delay/ratings.yaml)");
    web.vary(EXAMPLE, "jason-delay")?;
    let told = web.one(&gateway(), STORE, "/productpage", JASON)?;
    let ratings = ratings_of(&told);
    let ms = ratings["ms"].as_u64().unwrap_or(0);
    ensure!(told["status"] == 200 && ratings["status"] == 200, "a late answer is an answer: {told}");
    ensure!((2_000..3_000).contains(&ms), "ratings answered after {ms} ms: {told}");
    println!("      jason: ratings answered after {ms} ms, the page after {} ms", told["ms"]);
    let told = web.one(RATINGS, "ratings:9080", "/ratings", &[])?;
    ensure!(told["status"] == 200 && told["ms"].as_u64() < Some(1_000), "everybody else: {told}");
    println!("      everybody else: ratings answered after {} ms", told["ms"]);
    Ok(())
}

fn aborted(web: &mut Web) -> Result<()> {
    step("ratings answering 500, for jason alone (jason-abort/ratings.yaml)");
    web.vary(EXAMPLE, "jason-abort")?;
    let told = web.one(&gateway(), STORE, "/productpage", JASON)?;
    let ratings = ratings_of(&told);
    ensure!(told["status"] == 200, "the page itself is there: {told}");
    let expected = json!({ "status": 500, "body": "fault filter abort" });
    ensure!(ratings["status"] == expected["status"] && ratings["body"] == expected["body"], "ratings: {ratings}");
    println!("      jason: ratings answered 500, {}; the page is there all the same", ratings["body"]);
    let told = web.one(RATINGS, "ratings:9080", "/ratings", &[])?;
    ensure!(told["status"] == 200, "everybody else: {told}");
    println!("      everybody else: ratings answered 200");
    Ok(())
}

/// Ratings' answer inside of a page.
fn ratings_of(page: &Value) -> &Value {
    &page["body"]["calls"]["reviews"]["body"]["calls"]["ratings"]
}
