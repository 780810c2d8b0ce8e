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

/// Names of the findings: `IST...` means what `istioctl analyze` means by it, `MEL...` is our own.
pub mod code {
    /// A gateway, host, port or subset that is named does not exist.
    pub const NOT_FOUND: &str = "IST0101";
    /// Istio's admission would refuse the object.
    pub const INVALID: &str = "IST0106";
    /// Two VirtualServices claim one host for mesh traffic.
    pub const MESH_HOST_CONFLICT: &str = "IST0109";
    /// The destination's service has several ports and the rule names none.
    pub const PORT_REQUIRED: &str = "IST0112";
    /// A rule that no connection can reach.
    pub const UNREACHABLE_RULE: &str = "IST0130";
    /// No host of the VirtualService is served by the gateway it names.
    pub const HOST_NOT_IN_GATEWAY: &str = "IST0132";
    /// Two Gateways ask for one port in ways that cannot be merged.
    pub const GATEWAY_CONFLICT: &str = "IST0145";
    /// A subset whose labels fit no endpoint.
    pub const SUBSET_EMPTY: &str = "IST0173";
    /// A DestinationRule for a host nobody defines.
    pub const UNKNOWN_RULE_HOST: &str = "IST0174";
    /// A field that Istio carries out and Meltemi does not.
    pub const UNSUPPORTED: &str = "MEL0001";
    /// A field that has no effect where it stands, in Istio as here.
    pub const NO_EFFECT: &str = "MEL0002";
    /// Text that is not YAML, or goes past a limit.
    pub const SYNTAX: &str = "MEL0003";
    /// A field the kind does not have.
    pub const UNKNOWN_FIELD: &str = "MEL0004";
    /// A kind that Meltemi does not read.
    pub const UNKNOWN_KIND: &str = "MEL0005";
    /// One object written twice.
    pub const DEFINED_TWICE: &str = "MEL0006";
    /// A Gateway that selects other gateways than this one, or that serves nothing.
    pub const GATEWAY_IDLE: &str = "MEL0007";
    /// A Service without endpoints.
    pub const NO_ENDPOINTS: &str = "MEL0008";
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
    /// What the user can do; empty where there is nothing to do.
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

/// Puts findings into reading order (file, line, column) and drops repetitions.
pub fn sort(findings: &mut Vec<Finding>) {
    findings.sort_by(|a, b| {
        (&a.file, a.line, a.column, b.severity, a.code, &a.path, &a.message)
            .cmp(&(&b.file, b.line, b.column, a.severity, b.code, &b.path, &b.message))
    });
    findings.dedup();
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
        assert_eq!(all, [example(), later]);
    }
}
