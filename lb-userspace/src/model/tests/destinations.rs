//! Where a route leads, with what weight, written where.

use super::*;

#[test]
fn where_a_destination_leads() {
    let rule =
        "{host: a, subsets: [{name: v1, labels: {version: v1}}, {name: v9, labels: {version: v9}}, {name: all}]}";
    let cases = [
        ("{host: a}", "1=a:80[10.1.1.1:80 10.1.1.2:80]", None),
        ("{host: a.default.svc.cluster.local}", "1=a:80[10.1.1.1:80 10.1.1.2:80]", None),
        ("{host: a.default}", "1=HostNotFound", Some("IST0101")),
        ("{host: nobody}", "1=HostNotFound", Some("IST0101")),
        ("{host: a, port: {number: 81}}", "1=PortNotFound", Some("IST0101")),
        ("{host: b}", "1=b:100[10.1.2.1:100 10.1.2.2:100]", None),
        ("{host: c}", "1=PortAmbiguous", Some("IST0112")),
        ("{host: b, port: {number: 80}}", "1=b:80[10.1.2.1:80 10.1.2.2:80]", None),
        ("{host: a, subset: v1}", "1=a:80/v1[10.1.1.1:80]", None),
        ("{host: a, subset: all}", "1=a:80/all[10.1.1.1:80 10.1.1.2:80]", None),
        ("{host: a, subset: v9}", "1=a:80/v9[]", None),
        ("{host: a, subset: v2}", "1=SubsetNotFound", Some("IST0101")),
        ("{host: b, subset: v1}", "1=SubsetNotFound", Some("IST0101")),
    ];
    for (destination, expected, expected_code) in cases {
        let (found, findings) = led(&[
            gateway("g", SERVER),
            service("c", 3, &["tcp:1", "tcp-b:2"]),
            object("DestinationRule", "d", rule),
            routes("v", &format!("{{route: [{{destination: {destination}, weight: 7}}]}}")),
        ]);
        assert_eq!(found, [format!("g *:100 Flow {expected}")], "{destination}");
        let errors =
            findings.iter().filter(|finding| finding.severity == Severity::Error && finding.code != code::SUBSET_EMPTY);
        assert_eq!(
            errors.map(|finding| finding.code).collect::<Vec<_>>(),
            Vec::from_iter(expected_code),
            "{destination}"
        );
        let empty = findings.iter().find(|finding| finding.code == code::SUBSET_EMPTY).unwrap();
        assert_eq!(empty.path, "spec.subsets[1]");
        assert_eq!(empty.remedy, "Of its endpoints, label `version` is one of v1, v2.");
    }
}

#[test]
fn weights_stay_as_written() {
    let destination = |host: &str, weight: &str| format!("{{destination: {{host: {host}}}{weight}}}");
    let two = |a: &str, b: &str| format!("{{route: [{}, {}]}}", destination("a", a), destination("nobody", b));
    let cases = [
        (two(", weight: 3", ", weight: 4"), "3=a:80[10.1.1.1:80 10.1.1.2:80] 4=HostNotFound"),
        (two(", weight: 5.0", ""), "5=a:80[10.1.1.1:80 10.1.1.2:80] 0=HostNotFound"),
        (two(", weight: 0", ", weight: 2147483647"), "0=a:80[10.1.1.1:80 10.1.1.2:80] 2147483647=HostNotFound"),
        (format!("{{route: [{}]}}", destination("a", ", weight: 0")), "1=a:80[10.1.1.1:80 10.1.1.2:80]"),
    ];
    for (route, expected) in cases {
        let (found, _) = led(&[gateway("g", SERVER), routes("v", &route)]);
        assert_eq!(found, [format!("g *:100 Flow {expected}")]);
    }
}

#[test]
fn origins_lead_to_the_text() {
    let text = example("rejected-share");
    let (model, _) = meaning(&text);
    let Action::Tcp(rule) = &model.listeners[0].action else { panic!("not balanced") };
    let line = |origin: &Origin| text.lines().nth(origin.line as usize - 1).unwrap().trim().to_owned();
    assert_eq!(line(&rule.origin), "- match:");
    assert_eq!(line(&rule.destinations[1].origin), "- destination:");
    assert_eq!(line(&model.listeners[0].origin), "- port:");
    assert_eq!(model.clusters.values().map(|cluster| line(&cluster.origin)).collect::<Vec<_>>(), ["- name: v1"]);
}
