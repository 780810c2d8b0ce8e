//! Kinds that Meltemi does not read, and what to say about them.

use super::{object::Kind, typed};
use crate::finding::{Severity, code};

/// What to say about an object of a kind that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub severity: Severity,
    pub code: &'static str,
    pub message: String,
    pub remedy: String,
}

/// The kind that an object's `kind` and `apiVersion` name.
pub fn recognise(kind: &str, api_version: &str) -> Result<Kind, Foreign> {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let found = Kind::ALL.into_iter().find(|known| known.name() == kind && known.api_versions().contains(&api_version));
    found.ok_or_else(|| misspelt(kind, group, api_version).unwrap_or_else(|| foreign(kind, group, api_version)))
}

/// A kind whose name is nearly that of one that is read, in the same group.
fn misspelt(kind: &str, group: &str, api_version: &str) -> Option<Foreign> {
    let of_group = |known: &Kind| known.api_versions()[0].rsplit_once('/').map_or("", |(group, _)| group) == group;
    let known: Vec<&str> = Kind::ALL.into_iter().filter(of_group).map(Kind::name).collect();
    let others = ["EnvoyFilter", "Sidecar", "ProxyConfig", "Node", "Event"];
    if known.contains(&kind) || others.contains(&kind) {
        return None;
    }
    let nearest = typed::nearest(kind, &known)?;
    Some(Foreign {
        severity: Severity::Warning,
        code: code::UNKNOWN_KIND,
        message: format!("unknown kind {api_version} {kind}; the object is ignored"),
        remedy: format!("Did you mean `{nearest}`?"),
    })
}

/// Of kinds that are meant for others.
const NOTHING: &str = "Nothing is to be done.";

fn foreign(kind: &str, group: &str, api_version: &str) -> Foreign {
    let (severity, code, message, remedy) = match (group, kind) {
        ("apps" | "batch", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "CronJob") => (
            Severity::Info,
            code::UNKNOWN_KIND,
            format!(
                "a {kind} carries nothing for Meltemi: endpoints come from Pods and EndpointSlices that exist, not from templates"
            ),
            "Give the Pods or EndpointSlices too.",
        ),
        ("", _) | ("apps" | "batch" | "autoscaling" | "policy", _) if is_core(kind) => {
            (Severity::Info, code::UNKNOWN_KIND, format!("a {kind} carries nothing for Meltemi"), NOTHING)
        }
        (group, _) if group.ends_with("rbac.authorization.k8s.io") || group.ends_with("apiextensions.k8s.io") => {
            (Severity::Info, code::UNKNOWN_KIND, format!("a {kind} carries nothing for Meltemi"), NOTHING)
        }
        ("networking.istio.io", kind) if Kind::ALL.iter().any(|known| known.name() == kind) => (
            Severity::Error,
            code::UNKNOWN_KIND,
            format!("{kind} has no version `{api_version}`"),
            "Write networking.istio.io/v1, v1beta1 or v1alpha3.",
        ),
        (group, _)
            if group.ends_with("istio.io") || group == "gateway.networking.k8s.io" || group.ends_with("k8s.io") =>
        {
            (
                Severity::Warning,
                code::UNSUPPORTED,
                format!("{api_version} {kind} is not carried out"),
                "What it asks for does not happen here.",
            )
        }
        _ => (Severity::Warning, code::UNKNOWN_KIND, format!("unknown kind {api_version} {kind}"), "It is ignored."),
    };
    Foreign { severity, code, message, remedy: remedy.to_owned() }
}

fn is_core(kind: &str) -> bool {
    matches!(
        kind,
        "ServiceAccount"
            | "ConfigMap"
            | "Node"
            | "Event"
            | "LimitRange"
            | "PersistentVolume"
            | "PersistentVolumeClaim"
            | "ReplicationController"
            | "ResourceQuota"
            | "HorizontalPodAutoscaler"
            | "PodDisruptionBudget"
            | "ControllerRevision"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_group_and_version() {
        assert_eq!(recognise("Gateway", "networking.istio.io/v1beta1"), Ok(Kind::Gateway));
        assert_eq!(recognise("Namespace", "v1"), Ok(Kind::Namespace));
        assert_eq!(recognise("EndpointSlice", "discovery.k8s.io/v1"), Ok(Kind::EndpointSlice));
        let cases = [
            ("Gateway", "gateway.networking.k8s.io/v1", Severity::Warning, code::UNSUPPORTED),
            ("Gateway", "networking.istio.io/v2", Severity::Error, code::UNKNOWN_KIND),
            ("PeerAuthentication", "security.istio.io/v1", Severity::Warning, code::UNSUPPORTED),
            ("Deployment", "apps/v1", Severity::Info, code::UNKNOWN_KIND),
            ("ConfigMap", "v1", Severity::Info, code::UNKNOWN_KIND),
            ("Pod", "v2", Severity::Warning, code::UNKNOWN_KIND),
            ("VirtualSevice", "networking.istio.io/v1", Severity::Warning, code::UNKNOWN_KIND),
            ("virtualservice", "networking.istio.io/v1", Severity::Warning, code::UNKNOWN_KIND),
            ("EnvoyFilter", "networking.istio.io/v1alpha3", Severity::Warning, code::UNSUPPORTED),
            ("Banana", "fruit.example/v1", Severity::Warning, code::UNKNOWN_KIND),
        ];
        for (kind, api_version, severity, code) in cases {
            let foreign = recognise(kind, api_version).unwrap_err();
            assert_eq!((foreign.severity, foreign.code), (severity, code), "{api_version} {kind}");
        }
        let remedy = |kind: &str, api_version: &str| recognise(kind, api_version).unwrap_err().remedy;
        assert_eq!(remedy("Destinationrule", "networking.istio.io/v1"), "Did you mean `DestinationRule`?");
        assert_eq!(remedy("Servcie", "v1"), "Did you mean `Service`?");
        assert_eq!(remedy("EndpointSlices", "discovery.k8s.io/v1"), "Did you mean `EndpointSlice`?");
    }
}
