//! Istio's annotations: on objects that do not take them, misspelt, with a value that is none, or of a stage to know about.
//!
//! What is known is Istio's published list (istio/api, annotation/annotations.yaml). An annotation of a newer Istio is not called
//! unknown: only names that begin as a sidecar's do are checked against the list.

use ipnet::IpNet;

use super::View;
use crate::{
    finding::{Finding, Severity, code},
    spec::{Kind, Object, push_field},
};

/// How far Istio stands behind an annotation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Steady,
    Alpha,
    Deprecated,
    /// Alpha by the list, and written by Istio itself.
    Own,
}

#[derive(Clone, Copy)]
enum Value {
    Any,
    Bool,
    Number,
    /// Port numbers with commas between them, or `*`.
    Ports,
    /// Subnets with commas between them, or `*`.
    Subnets,
    OneOf(&'static [&'static str]),
}

use Stage::{Alpha, Deprecated, Own, Steady};
use Value::{Any, Bool, Number, OneOf, Ports, Subnets};

/// The prefixes whose names are all in the list.
const CLOSED: [&str; 4] = [
    "sidecar.istio.io/",
    "status.sidecar.istio.io/",
    "readiness.status.sidecar.istio.io/",
    "traffic.sidecar.istio.io/",
];

/// Annotations of Pods.
const OF_PODS: [(&str, Stage, Value); 42] = [
    ("prometheus.istio.io/merge-metrics", Own, Bool),
    ("proxy.istio.io/config", Steady, Any),
    ("proxy.istio.io/overrides", Own, Any),
    ("inject.istio.io/templates", Alpha, Any),
    ("alpha.istio.io/identity", Deprecated, Any),
    ("sidecar.istio.io/inject", Steady, OneOf(&["true", "false"])),
    ("sidecar.istio.io/status", Own, Any),
    ("sidecar.istio.io/rewriteAppHTTPProbers", Alpha, Bool),
    ("sidecar.istio.io/controlPlaneAuthPolicy", Deprecated, Any),
    ("sidecar.istio.io/discoveryAddress", Deprecated, Any),
    ("sidecar.istio.io/proxyImage", Alpha, Any),
    ("sidecar.istio.io/proxyImageType", Alpha, Any),
    ("sidecar.istio.io/proxyCPU", Alpha, Any),
    ("sidecar.istio.io/proxyCPULimit", Alpha, Any),
    ("sidecar.istio.io/proxyMemory", Alpha, Any),
    ("sidecar.istio.io/proxyMemoryLimit", Alpha, Any),
    ("sidecar.istio.io/interceptionMode", Alpha, OneOf(&["REDIRECT", "TPROXY", "NONE"])),
    ("sidecar.istio.io/bootstrapOverride", Alpha, Any),
    ("sidecar.istio.io/statsInclusionPrefixes", Deprecated, Any),
    ("sidecar.istio.io/statsInclusionSuffixes", Deprecated, Any),
    ("sidecar.istio.io/statsInclusionRegexps", Deprecated, Any),
    ("sidecar.istio.io/statsHistogramBuckets", Alpha, Any),
    ("sidecar.istio.io/statsCompression", Alpha, Bool),
    ("sidecar.istio.io/userVolume", Alpha, Any),
    ("sidecar.istio.io/userVolumeMount", Alpha, Any),
    ("sidecar.istio.io/enableCoreDump", Alpha, Bool),
    ("sidecar.istio.io/nativeSidecar", Alpha, Bool),
    ("sidecar.istio.io/extraStatTags", Alpha, Any),
    ("sidecar.istio.io/logLevel", Alpha, Any),
    ("sidecar.istio.io/componentLogLevel", Alpha, Any),
    ("sidecar.istio.io/agentLogLevel", Alpha, Any),
    ("status.sidecar.istio.io/port", Alpha, Number),
    ("readiness.status.sidecar.istio.io/initialDelaySeconds", Alpha, Number),
    ("readiness.status.sidecar.istio.io/periodSeconds", Alpha, Number),
    ("readiness.status.sidecar.istio.io/failureThreshold", Alpha, Number),
    ("readiness.status.sidecar.istio.io/applicationPorts", Alpha, Ports),
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", Alpha, Subnets),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", Alpha, Subnets),
    ("traffic.sidecar.istio.io/includeInboundPorts", Alpha, Ports),
    ("traffic.sidecar.istio.io/excludeInboundPorts", Alpha, Ports),
    ("traffic.sidecar.istio.io/includeOutboundPorts", Alpha, Ports),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", Alpha, Ports),
];

/// Pods' too, with values and names of which nothing more is said.
const OF_PODS_MORE: [&str; 3] = [
    "traffic.sidecar.istio.io/kubevirtInterfaces",
    "traffic.sidecar.istio.io/excludeInterfaces",
    "sidecar.istio.io/statsEvictionInterval",
];

/// Annotations of Services.
const OF_SERVICES: [(&str, Stage, Value); 3] = [
    ("networking.istio.io/exportTo", Alpha, Any),
    ("alpha.istio.io/kubernetes-serviceaccounts", Deprecated, Any),
    ("alpha.istio.io/canonical-serviceaccounts", Deprecated, Any),
];

pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    let specs = view.context.specs;
    specs.gateways.iter().for_each(|object| of(object, findings));
    specs.virtual_services.iter().for_each(|object| of(object, findings));
    specs.destination_rules.iter().for_each(|object| of(object, findings));
    specs.service_entries.iter().for_each(|object| of(object, findings));
    specs.workload_entries.iter().for_each(|object| of(object, findings));
    specs.services.iter().for_each(|object| of(object, findings));
    specs.pods.iter().for_each(|object| of(object, findings));
    specs.namespaces.iter().for_each(|object| of(object, findings));
}

fn of<T>(object: &Object<T>, findings: &mut Vec<Finding>) {
    for (name, value) in object.annotations.iter().filter(|(name, _)| name.contains("istio.io/")) {
        let mut path = "metadata.annotations".to_owned();
        push_field(&mut path, name);
        let mut report = |severity, code, message: String, remedy: &str| {
            findings.push(object.finding(severity, code, path.clone(), message, remedy));
        };
        let Some((kind, stage, expected)) = known(name) else {
            if CLOSED.iter().any(|prefix| name.starts_with(prefix)) {
                let message = format!("Istio knows no annotation `{name}`");
                report(Severity::Warning, code::UNKNOWN_ANNOTATION, message, "Correct the name, or remove it.");
            }
            continue;
        };
        if kind != object.key.kind {
            let message = format!("`{name}` is an annotation of a {}; here it has no effect", kind.name());
            report(Severity::Warning, code::MISPLACED_ANNOTATION, message, "Move it, or remove it.");
            continue;
        }
        if let Some(wanted) = wrong(expected, value) {
            let message = format!("`{value}` is no value of `{name}`: {wanted}");
            report(Severity::Warning, code::INVALID_ANNOTATION, message, "Correct the value, in quotes.");
        }
        match stage {
            Alpha => {
                let message = format!("`{name}` is of an alpha stage: a later Istio may do without it");
                report(Severity::Info, code::ALPHA_ANNOTATION, message, "Nothing is to be done until it is gone.");
            }
            Deprecated => {
                let message = format!("`{name}` is deprecated");
                report(Severity::Info, code::DEPRECATED_ANNOTATION, message, "Remove it.");
            }
            Steady | Own => {}
        }
    }
}

fn known(name: &str) -> Option<(Kind, Stage, Value)> {
    let pick = |(_, stage, value): &(&str, Stage, Value)| (*stage, *value);
    let listed = |list: &[(&str, Stage, Value)]| list.iter().find(|(known, ..)| *known == name).map(pick);
    if let Some((stage, value)) = listed(&OF_PODS) {
        return Some((Kind::Pod, stage, value));
    }
    if OF_PODS_MORE.contains(&name) {
        return Some((Kind::Pod, Steady, Any));
    }
    listed(&OF_SERVICES).map(|(stage, value)| (Kind::Service, stage, value))
}

/// What a value should be, where it is not.
fn wrong(expected: Value, value: &str) -> Option<String> {
    let each =
        |fits: fn(&str) -> bool| value.is_empty() || value == "*" || value.split(',').all(|part| fits(part.trim()));
    let (fits, wanted) = match expected {
        Any => (true, String::new()),
        Bool => (matches!(value, "true" | "false" | "1" | "0" | "t" | "f"), "true or false".to_owned()),
        Number => (value.parse::<u32>().is_ok(), "a whole number".to_owned()),
        Ports => (each(|part| part.parse::<u16>().is_ok()), "port numbers with commas between them, or `*`".to_owned()),
        Subnets => (each(|part| part.parse::<IpNet>().is_ok()), "subnets with commas between them, or `*`".to_owned()),
        OneOf(all) => (all.contains(&value), all.join(" or ")),
    };
    (!fits).then_some(wanted)
}
