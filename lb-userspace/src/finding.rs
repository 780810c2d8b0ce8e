//! What is wrong, or worth knowing, about the user's configuration, and what to do about it.
//!
//! Not an error type: parsing goes on past a finding, and the object it concerns is the only one that suffers.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

/// How bad a finding is. Ordered from least to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing, nothing to do.
    Info,
    /// Carried out, but not as the text may suggest.
    Warning,
    /// Not carried out, or carried out with a part of the traffic refused.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// What a code stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    pub id: &'static str,
    /// Istio's own name for an `IST` code.
    pub name: &'static str,
    /// One sentence; docs/findings.md has the rest.
    pub meaning: &'static str,
}

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $constant:ident = $id:literal $name:ident;)+) => {
        $($(#[doc = $meaning])+ pub const $constant: &str = $id;)+

        /// Every code there is.
        pub const ALL: &[Code] =
            &[$(Code { id: $id, name: stringify!($name), meaning: concat!($($meaning),+).trim_ascii_start() }),+];
    };
}

/// Names of the findings: `IST...` means what `istioctl analyze` means by it, `MEL...` is our own.
pub mod code {
    use super::Code;

    codes! {
        /// A deprecated field or value.
        DEPRECATED = "IST0002" Deprecated;
        /// A gateway, host, port or subset that is named does not exist.
        NOT_FOUND = "IST0101" ReferencedResourceNotFound;
        /// Istio's admission would refuse the object.
        INVALID = "IST0106" SchemaValidationError;
        /// An annotation of Istio's on a kind that does not take it.
        MISPLACED_ANNOTATION = "IST0107" MisplacedAnnotation;
        /// An annotation that Istio does not know.
        UNKNOWN_ANNOTATION = "IST0108" UnknownAnnotation;
        /// Two VirtualServices claim one host for mesh traffic.
        MESH_HOST_CONFLICT = "IST0109" ConflictingMeshGatewayVirtualServiceHosts;
        /// The destination's service has several ports and the rule names none.
        PORT_REQUIRED = "IST0112" VirtualServiceDestinationPortSelectorRequired;
        /// Two Services pick the same Pods and say of one port that it carries different protocols.
        SERVICES_DISAGREE = "IST0116" DeploymentAssociatedToMultipleServices;
        /// The name of a port begins with no protocol that is known.
        PORT_NAME = "IST0118" PortNameIsNotUnderNamingConvention;
        /// An annotation of Istio's with a value that is none.
        INVALID_ANNOTATION = "IST0125" InvalidAnnotation;
        /// A selector that finds no workload.
        NO_WORKLOADS = "IST0127" NoMatchingWorkloadsFound;
        /// Client TLS without an authority to check the server against.
        UNVERIFIED_TLS = "IST0128" NoServerCertificateVerificationDestinationLevel;
        /// The same for one port.
        UNVERIFIED_TLS_PORT = "IST0129" NoServerCertificateVerificationPortLevel;
        /// A rule that no connection can reach.
        UNREACHABLE_RULE = "IST0130" VirtualServiceUnreachableRule;
        /// One match of a rule that an earlier one covers.
        INEFFECTIVE_MATCH = "IST0131" VirtualServiceIneffectiveMatch;
        /// No host of the VirtualService is served by the gateway it names.
        HOST_NOT_IN_GATEWAY = "IST0132" VirtualServiceHostNotFoundInGateway;
        /// Istio's admission takes the object with a warning.
        SCHEMA_WARNING = "IST0133" SchemaWarning;
        /// A TCP port of a ServiceEntry that has no addresses.
        ADDRESSES_REQUIRED = "IST0134" ServiceEntryAddressesRequired;
        /// An annotation that Istio is giving up.
        DEPRECATED_ANNOTATION = "IST0135" DeprecatedAnnotation;
        /// An annotation of an alpha stage.
        ALPHA_ANNOTATION = "IST0136" AlphaAnnotation;
        /// Two Services lead to one target port by different ports.
        CONFLICTING_PORTS = "IST0137" DeploymentConflictingPorts;
        /// One certificate in two servers.
        DUPLICATE_CERTIFICATE = "IST0138" GatewayDuplicateCertificate;
        /// A split for the mesh that traffic of a gateway does not meet.
        INGRESS_NOT_AFFECTED = "IST0140" IngressRouteRulesNotAffected;
        /// Two Gateways ask for one port in ways that cannot be merged.
        GATEWAY_CONFLICT = "IST0145" ConflictingGateways;
        /// The port of an ExternalName Service has no usable name.
        EXTERNAL_NAME_PORT = "IST0150" ExternalNameServiceTypeInvalidPortName;
        /// A Secret exists and holds no usable certificate and key.
        INVALID_CREDENTIAL = "IST0161" InvalidGatewayCredential;
        /// A server's port that the Service in front of the gateway does not have.
        GATEWAY_PORT_NOT_ON_SERVICE = "IST0162" GatewayPortNotDefinedOnService;
        /// A gateway of a VirtualService that is one of Istio's own making.
        INTERNAL_GATEWAY = "IST0165" ReferencedInternalGateway;
        /// A subset whose labels fit no endpoint.
        SUBSET_EMPTY = "IST0173" DestinationRuleSubsetNotSelectPods;
        /// A DestinationRule for a host nobody defines.
        UNKNOWN_RULE_HOST = "IST0174" UnknownDestinationRuleHost;
        /// ServiceEntries for one host and port with different protocols.
        ENTRIES_DISAGREE = "IST0177" ConflictingServiceEntryProtocol;
        /// A field that Istio carries out and Meltemi does not.
        UNSUPPORTED = "MEL0001" NotCarriedOut;
        /// A field that has no effect where it stands, in Istio as here.
        NO_EFFECT = "MEL0002" NoEffect;
        /// Text that is not YAML, or goes past a limit.
        SYNTAX = "MEL0003" NotYaml;
        /// A field the kind does not have.
        UNKNOWN_FIELD = "MEL0004" UnknownField;
        /// A kind that Meltemi does not read.
        UNKNOWN_KIND = "MEL0005" UnknownKind;
        /// One object written twice.
        DEFINED_TWICE = "MEL0006" DefinedTwice;
        /// A Gateway that selects other gateways than this one, or that serves nothing.
        GATEWAY_IDLE = "MEL0007" GatewayIdle;
        /// A Service without endpoints.
        NO_ENDPOINTS = "MEL0008" NoEndpoints;
        /// A VirtualService, or a host of it, that no traffic meets.
        UNBOUND = "MEL0009" Unbound;
        /// An older VirtualService takes all requests of a route for the same host of the same gateway.
        HOST_TAKEN = "MEL0010" HostTaken;
        /// One host of several Services or ServiceEntries.
        HOST_DEFINED_TWICE = "MEL0011" HostDefinedTwice;
        /// One address and port of several services.
        ADDRESS_TAKEN = "MEL0012" AddressTaken;
        /// Two DestinationRules for one host say different things.
        RULE_OVERLAPS = "MEL0013" RuleOverlaps;
        /// A weight that changes nothing.
        WEIGHT_IGNORED = "MEL0014" WeightIgnored;
        /// Weights that do not add up to 100, and the shares they make.
        WEIGHT_SHARES = "MEL0015" WeightShares;
        /// A way in that leads past the weights.
        BYPASS = "MEL0016" Bypass;
        /// Subsets that no route names.
        SUBSETS_UNUSED = "MEL0017" SubsetsUnused;
        /// A DestinationRule and the routes it is meant for name different hosts.
        HOSTS_DIFFER = "MEL0018" HostsDiffer;
        /// TLS, or its absence, that cannot agree with what the port speaks.
        TLS_DISAGREES = "MEL0019" TlsDisagrees;
        /// A policy for a port that drops what the policy above it says.
        PORT_RESETS = "MEL0020" PortResets;
        /// A match on clients that fits none that is known here.
        NO_CLIENT = "MEL0021" NoClient;
    }
}

/// One finding, placed at the text that causes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub code: &'static str,
    #[serde(serialize_with = "text")]
    pub file: Arc<str>,
    /// 1-based; 1 where the whole file is meant.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// `Kind namespace/name`; empty where no object could be read.
    pub object: String,
    /// Path of the field inside the object (`spec.tcp[0].route[1].weight`); empty for the whole object.
    pub path: String,
    pub message: String,
    /// What the user can do, in one line, even if that is nothing.
    pub remedy: String,
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// The compiler-like text form: one line, and the remedy indented under it.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { severity, code, file, line, column, message, .. } = self;
        write!(f, "{file}:{line}:{column}: {severity}[{code}]: ")?;
        match (self.object.as_str(), self.path.as_str()) {
            ("", _) => {}
            (object, "") => write!(f, "{object}: ")?,
            (object, path) => write!(f, "{object} {path}: ")?,
        }
        f.write_str(message)?;
        match self.remedy.as_str() {
            "" => Ok(()),
            remedy => write!(f, "\n    {remedy}"),
        }
    }
}

/// Puts findings into reading order (file, line, column) and drops repetitions, also an info where the same thing is said as worse.
pub fn sort(findings: &mut Vec<Finding>) {
    findings.sort_by(|a, b| {
        (&a.file, a.line, a.column, b.severity, a.code, &a.path, &a.message)
            .cmp(&(&b.file, b.line, b.column, a.severity, b.code, &b.path, &b.message))
    });
    findings.dedup();
    findings.dedup_by(|later, earlier| {
        let place = |one: &Finding| (one.code, one.object.clone(), one.path.clone(), one.line);
        later.severity == Severity::Info && earlier.severity > Severity::Info && place(later) == place(earlier)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Finding {
        Finding {
            severity: Severity::Error,
            code: code::NOT_FOUND,
            file: "a.yaml".into(),
            line: 12,
            column: 9,
            object: "VirtualService default/reviews".into(),
            path: "spec.tcp[0]".into(),
            message: "no such host".into(),
            remedy: "define it".into(),
        }
    }

    #[test]
    fn text_form() {
        assert_eq!(
            example().to_string(),
            "a.yaml:12:9: error[IST0101]: VirtualService default/reviews spec.tcp[0]: no such host\n    define it"
        );
    }

    #[test]
    fn json_form_has_the_contract_keys_in_order() {
        assert_eq!(
            serde_json::to_string(&example()).unwrap(),
            r#"{"severity":"error","code":"IST0101","file":"a.yaml","line":12,"column":9,"object":"VirtualService default/reviews","path":"spec.tcp[0]","message":"no such host","remedy":"define it"}"#
        );
    }

    #[test]
    fn sorting_puts_lines_in_order_and_drops_repetitions() {
        let mut later = example();
        later.line = 13;
        let mut all = vec![later.clone(), example(), example()];
        sort(&mut all);
        assert_eq!(all, [example(), later.clone()]);
        let milder = Finding { severity: Severity::Info, message: "perhaps no such host".into(), ..later.clone() };
        let mut all = vec![milder.clone(), later.clone(), example()];
        sort(&mut all);
        assert_eq!(all, [example(), later]);
        let mut alone = vec![milder.clone()];
        sort(&mut alone);
        assert_eq!(alone, [milder]);
    }
}
