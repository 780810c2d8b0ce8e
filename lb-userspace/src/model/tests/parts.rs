//! Parsing what a change reaches gives what parsing everything gives.

use std::sync::Arc;

use proptest::prelude::*;

use crate::{
    model::{Extent, Identity, Parser, parse},
    spec::{Store, read},
};

const OTHERS: usize = 400;

/// One object a variant, each written in several ways.
fn object(number: usize, way: usize) -> String {
    let (a, b) = (way % 3, way / 3 % 3);
    match number {
        0 | 1 => format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{number}, namespace: shop}}\nspec: {{hosts: [h{a}.example.com], tcp: [{{match: [{{port: 9000}}], route: [{{destination: {{host: h{a}.example.com, subset: v1}}, weight: {way}}}, {{destination: {{host: h{b}.example.com}}, weight: 5}}]}}]}}\n"
        ),
        2 | 3 => format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{number}, namespace: shop}}\nspec: {{hosts: ['*'], gateways: [g], tcp: [{{match: [{{port: {}}}], route: [{{destination: {{host: s{b}}}}}]}}]}}\n",
            9001 + a
        ),
        4..=6 => format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e{number}, namespace: shop}}\nspec: {{hosts: [h{a}.example.com], addresses: [10.9.0.{number}], resolution: STATIC, ports: [{{number: 9000, name: tcp, protocol: TCP}}], endpoints: [{{address: 10.8.0.{b}, labels: {{version: v1}}}}]}}\n"
        ),
        7 | 8 => format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d{number}, namespace: shop}}\nspec: {{host: h{a}.example.com, subsets: [{{name: v1, labels: {{version: v{b}}}}}]}}\n"
        ),
        9 | 10 => format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{a}, namespace: shop}}\nspec: {{clusterIP: 10.7.0.{number}, selector: {{app: a{b}}}, ports: [{{port: 9000, name: tcp}}]}}\n"
        ),
        11 | 12 => format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}, namespace: shop, labels: {{app: a{a}, version: v{b}}}}}\nstatus: {{podIP: 10.6.0.{number}, conditions: [{{type: Ready, status: 'True'}}]}}\n"
        ),
        15 => format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: c, namespace: shop}}\nspec: {{hosts: [h{a}.example.com], tcp: [{{match: [{{sourceLabels: {{app: a{b}}}}}], route: [{{destination: {{host: s{b}}}}}]}}]}}\n"
        ),
        13 => format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: l, namespace: shop, labels: {{kubernetes.io/service-name: s{a}}}}}\naddressType: IPv4\nendpoints: [{{addresses: [10.6.0.1{b}]}}]\nports: [{{name: tcp, port: 9000}}]\n"
        ),
        _ => "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: shop}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 9001, name: a, protocol: TCP}, hosts: ['*']}, {port: {number: 9002, name: b, protocol: TCP}, hosts: ['*']}]}\n".to_owned(),
    }
}

/// Enough objects that have nothing to do with it for a part to be worth while.
fn others() -> String {
    (0..OTHERS).map(|number| format!("---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: o{number}, namespace: other}}\nspec: {{hosts: [o{number}.test], tcp: [{{route: [{{destination: {{host: o{number}.test}}}}]}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: o{number}, namespace: other}}\nspec: {{hosts: [o{number}.test], addresses: [10.5.{}.{}], resolution: STATIC, ports: [{{number: 9000, name: tcp, protocol: TCP}}], endpoints: [{{address: 10.4.0.1}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: o{number}, namespace: other}}\nspec: {{host: o{number}.test}}\n", number / 250, number % 250)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_part_gives_what_the_whole_gives(steps in proptest::collection::vec((0usize..16, proptest::option::weighted(0.8, 0usize..9)), 4..24)) {
        let others = Arc::new(read(&Arc::from("others.yaml"), &others()));
        let mut written: Vec<Option<usize>> = (0..16).map(|number| (number < 15).then_some(number)).collect();
        let (mut store, mut parser) = (Store::default(), Parser::new(Identity::default()));
        let (mut parts, mut clients) = (0, false);
        for (number, way) in steps {
            written[number] = way;
            clients |= number == 15;
            let mut files = vec![others.clone()];
            for (number, way) in written.iter().enumerate() {
                let text = way.map(|way| object(number, way)).unwrap_or_default();
                files.push(Arc::new(read(&format!("{number}.yaml").as_str().into(), &text)));
            }
            store.merge(&files, &[]);
            let parsed = parser.parse(&store);
            parts += usize::from(parsed.extent == Extent::Part);
            let (whole, _) = parse(&store.specs(), &Identity::default());
            prop_assert_eq!(&*parsed.model, &whole, "object {} in way {:?}", number, way);
        }
        // Rules for some clients are read with every change, and so is all that they name.
        prop_assert!(parts > 0 || clients || store.changes().is_none(), "nothing was parsed in part");
    }
}
