//! Traffic to Services themselves.

use super::*;

const ROUTED: &str = "a [10.96.0.1]:80 Flow 1=b:80[10.1.2.1:80 10.1.2.2:80]";

#[test]
fn the_mesh() {
    let mesh = |name: &str, hosts: &str, tcp: &str| {
        object("VirtualService", name, &format!("{{hosts: [{hosts}], tcp: [{tcp}]}}"))
    };
    let with_match = |item: &str, host: &str| {
        format!("{{match: [{item}], route: [{{destination: {{host: {host}, port: {{number: 80}}}}}}]}}")
    };
    let cases: Vec<Case> = vec![
        ("by short name", vec![mesh("v", "a", &with_match("{port: 80}", "b"))], &[ROUTED], &[]),
        ("no route fits the port", vec![mesh("v", "a", &with_match("{port: 81}", "b"))], &[], &[]),
        ("subnet fits", vec![mesh("v", "a", &with_match("{destinationSubnets: [10.96.0.0/24]}", "b"))], &[ROUTED], &[]),
        ("address fits", vec![mesh("v", "a", &with_match("{destinationSubnets: [10.96.0.1]}", "b"))], &[ROUTED], &[]),
        ("address differs", vec![mesh("v", "a", &with_match("{destinationSubnets: [10.96.0.2]}", "b"))], &[], &[]),
        ("subnet differs", vec![mesh("v", "a", &with_match("{destinationSubnets: [10.97.0.0/24]}", "b"))], &[], &[]),
        (
            "client labels never widen",
            vec![mesh("v", "a", &with_match("{sourceLabels: {x: z}}", "b"))],
            &[],
            &["MEL0021"],
        ),
        (
            "client namespace never widens",
            vec![mesh("v", "a", &with_match("{sourceNamespace: x}", "b"))],
            &[],
            &["MEL0021"],
        ),
        (
            "gateway only",
            vec![mesh("v", "a", &with_match("{gateways: [g]}", "b")), gateway("g", SERVER)],
            &["g *:100 Flow 1=b:80[10.1.2.1:80 10.1.2.2:80]"],
            &["IST0132"; 0],
        ),
        (
            "http routes",
            vec![
                object("VirtualService", "v", "{hosts: [c], http: [{route: [{destination: {host: a}}]}]}"),
                service("c", 3, &["http:80"]),
            ],
            &["c [10.96.0.3]:80 proxy Http"],
            &[],
        ),
        (
            "tcp routes on http ports",
            vec![mesh("v", "c", &with_match("{port: 80}", "b")), service("c", 3, &["http:80"])],
            &[],
            &[],
        ),
        (
            "two for one host",
            vec![mesh("v", "a", &with_match("{port: 80}", "b")), mesh("w", "a", &with_match("{port: 80}", "a"))],
            &[ROUTED],
            &["IST0109", "IST0130"],
        ),
    ];
    for (case, mut texts, expected, expected_codes) in cases {
        if case == "gateway only" {
            texts[0] = texts[0].replace("hosts: [a]", "hosts: [x.y]");
        }
        let (found, findings) = led(&texts);
        assert_eq!(found, expected, "{case}: {findings:#?}");
        assert_eq!(findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), expected_codes, "{case}");
    }
}

#[test]
fn one_mesh_service_may_lead_its_addresses_apart() {
    let dual = "apiVersion: v1\nkind: Service\nmetadata: {name: d}\nspec:\n  clusterIP: 10.96.0.9\n  clusterIPs: [10.96.0.9, 'fd00:96::9']\n  ports: [{name: tcp, port: 80}, {name: dns, port: 53, protocol: UDP}]\n";
    let tcp = "{match: [{destinationSubnets: ['fd00:96::/64']}], route: [{destination: {host: a}}]}, {route: [{destination: {host: b, port: {number: 80}}}]}";
    let service = object("VirtualService", "v", &format!("{{hosts: [d], tcp: [{tcp}]}}"));
    let (found, findings) = led(&[dual.to_owned(), service]);
    assert_eq!(findings, []);
    assert_eq!(
        found,
        [
            "d [10.96.0.9]:80 Flow 1=b:80[10.1.2.1:80 10.1.2.2:80]",
            "d [fd00:96::9]:80 Flow 1=a:80[10.1.1.1:80 10.1.1.2:80]"
        ]
    );
}

/// Two rules of one family must not be taken for one.
#[test]
fn addresses_of_one_family_that_are_led_apart_have_rules_of_their_own() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [e.test], addresses: [10.9.0.1, 10.9.0.2], ports: [{number: 80, name: tcp, protocol: TCP}], resolution: STATIC}\n";
    let tcp = "{match: [{destinationSubnets: [10.9.0.2]}], route: [{destination: {host: a}}]}, {route: [{destination: {host: b, port: {number: 80}}}]}";
    let texts = [entry.to_owned(), object("VirtualService", "v", &format!("{{hosts: [e.test], tcp: [{tcp}]}}"))];
    let all = [service("a", 1, &["tcp:80"]), service("b", 2, &["tcp:80"]), join(&texts)];
    let (model, findings) = meaning(&join(&all));
    assert_eq!(findings, []);
    let host = crate::compile::Host::default();
    let image = crate::compile::compile(&model, &host, &mut crate::compile::ids::Ids::default());
    assert_eq!((image.vips.len(), image.rules.len()), (2, 2), "{image}");
}

#[test]
fn all_services_are_balanced_only_when_asked() {
    let text = join(&[
        service("a", 1, &["tcp:80"]),
        service("h", 2, &["http:80"]).replace("clusterIP: 10.96.0.2", "clusterIP: None"),
    ]);
    assert_eq!(meaning(&text).0.listeners, []);
    let (model, findings) = meaning_to(&text, &Identity { services: Services::All, ..identity() });
    assert_eq!(findings, []);
    assert_eq!(
        sketch(&model),
        ["default/a [10.96.0.1]:80 Flow 1=a.default.svc.cluster.local:80[10.1.1.1:80 10.1.1.2:80]"]
    );
    let Action::Tcp(rule) = &model.listeners[0].action else { panic!("not balanced") };
    assert_eq!(rule.virtual_service, None);
}
