//! One object of the configuration: who it is, where it was written, and what it says.

use std::{fmt, sync::Arc};

use super::{
    istio::{DestinationRule, Gateway, Labels, ServiceEntry, VirtualService, WorkloadEntry, WorkloadGroup},
    kubernetes::{EndpointSlice, Endpoints, Namespace, Pod, Secret, Service},
    node::Positions,
};
use crate::finding::{Finding, Severity};

/// A source position of an object or one of its fields, 1-based, as people count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
}

/// `namespace/name` of an object; the namespace is empty where the kind has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// The kinds that say something to Meltemi.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Gateway,
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    WorkloadGroup,
    Service,
    Endpoints,
    EndpointSlice,
    Pod,
    Namespace,
    Secret,
}

impl Kind {
    pub const ALL: [Kind; 12] = [
        Kind::Gateway,
        Kind::VirtualService,
        Kind::DestinationRule,
        Kind::ServiceEntry,
        Kind::WorkloadEntry,
        Kind::WorkloadGroup,
        Kind::Service,
        Kind::Endpoints,
        Kind::EndpointSlice,
        Kind::Pod,
        Kind::Namespace,
        Kind::Secret,
    ];

    /// The `kind` field's text.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gateway => "Gateway",
            Kind::VirtualService => "VirtualService",
            Kind::DestinationRule => "DestinationRule",
            Kind::ServiceEntry => "ServiceEntry",
            Kind::WorkloadEntry => "WorkloadEntry",
            Kind::WorkloadGroup => "WorkloadGroup",
            Kind::Service => "Service",
            Kind::Endpoints => "Endpoints",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Pod => "Pod",
            Kind::Namespace => "Namespace",
            Kind::Secret => "Secret",
        }
    }

    /// The `apiVersion` texts under which the kind is read.
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Kind::Gateway
            | Kind::VirtualService
            | Kind::DestinationRule
            | Kind::ServiceEntry
            | Kind::WorkloadEntry
            | Kind::WorkloadGroup => {
                &["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"]
            }
            Kind::EndpointSlice => &["discovery.k8s.io/v1"],
            Kind::Service | Kind::Endpoints | Kind::Pod | Kind::Namespace | Kind::Secret => &["v1"],
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        self != Kind::Namespace
    }
}

/// Names one object among all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    pub name: ObjectName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

/// `metadata.creationTimestamp` in nanoseconds since 1970. An object without one counts as older than all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Created(pub Option<i128>);

/// An object and what every kind has: identity, labels, age and place.
#[derive(Clone, Debug, PartialEq)]
pub struct Object<T> {
    pub key: Key,
    pub created: Created,
    pub labels: Labels,
    pub annotations: Labels,
    pub file: Arc<str>,
    pub positions: Positions,
    pub spec: T,
}

impl<T> Object<T> {
    pub fn name(&self) -> &ObjectName {
        &self.key.name
    }

    pub fn namespace(&self) -> &str {
        &self.key.name.namespace
    }

    /// Where a field stands; the empty path is the object itself.
    pub fn origin(&self, path: &str) -> Origin {
        let position = self.positions.locate(path);
        Origin { file: self.file.clone(), line: position.line, column: position.column }
    }

    /// A finding about a field of this object.
    pub fn finding(
        &self,
        severity: Severity,
        code: &'static str,
        path: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        let path = path.into();
        let position = self.positions.locate(&path);
        Finding {
            severity,
            code,
            file: self.file.clone(),
            line: position.line,
            column: position.column,
            object: self.key.to_string(),
            path,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// A valid object of some kind, shared between loads.
#[derive(Clone, Debug)]
pub enum Manifest {
    Gateway(Arc<Object<Gateway>>),
    VirtualService(Arc<Object<VirtualService>>),
    DestinationRule(Arc<Object<DestinationRule>>),
    ServiceEntry(Arc<Object<ServiceEntry>>),
    WorkloadEntry(Arc<Object<WorkloadEntry>>),
    WorkloadGroup(Arc<Object<WorkloadGroup>>),
    Service(Arc<Object<Service>>),
    Endpoints(Arc<Object<Endpoints>>),
    EndpointSlice(Arc<Object<EndpointSlice>>),
    Pod(Arc<Object<Pod>>),
    Namespace(Arc<Object<Namespace>>),
    Secret(Arc<Object<Secret>>),
}

impl Manifest {
    /// Whether both are one object in memory.
    pub fn is_same(&self, other: &Manifest) -> bool {
        self.compare(other, true)
    }

    /// A glance tells most times, and objects are large.
    fn compare(&self, other: &Manifest, at_a_glance: bool) -> bool {
        macro_rules! compare {
            ($($kind:ident),*) => {
                match (self, other) {
                    $((Manifest::$kind(one), Manifest::$kind(other)) => {
                        Arc::ptr_eq(one, other) || !at_a_glance && one == other
                    })*
                    _ => false,
                }
            };
        }
        compare!(
            Gateway,
            VirtualService,
            DestinationRule,
            ServiceEntry,
            WorkloadEntry,
            WorkloadGroup,
            Service,
            Endpoints,
            EndpointSlice,
            Pod,
            Namespace,
            Secret
        )
    }
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Manifest) -> bool {
        self.compare(other, false)
    }
}

/// All valid objects, each list in the order of `namespace/name`: what `model` reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Specs {
    pub gateways: Vec<Arc<Object<Gateway>>>,
    pub virtual_services: Vec<Arc<Object<VirtualService>>>,
    pub destination_rules: Vec<Arc<Object<DestinationRule>>>,
    pub service_entries: Vec<Arc<Object<ServiceEntry>>>,
    pub workload_entries: Vec<Arc<Object<WorkloadEntry>>>,
    pub workload_groups: Vec<Arc<Object<WorkloadGroup>>>,
    pub services: Vec<Arc<Object<Service>>>,
    pub endpoints: Vec<Arc<Object<Endpoints>>>,
    pub endpoint_slices: Vec<Arc<Object<EndpointSlice>>>,
    pub pods: Vec<Arc<Object<Pod>>>,
    pub namespaces: Vec<Arc<Object<Namespace>>>,
    pub secrets: Vec<Arc<Object<Secret>>>,
}

impl Specs {
    pub fn new<'m>(manifests: impl IntoIterator<Item = &'m Manifest>) -> Specs {
        let mut specs = Specs::default();
        for manifest in manifests {
            match manifest.clone() {
                Manifest::Gateway(object) => specs.gateways.push(object),
                Manifest::VirtualService(object) => specs.virtual_services.push(object),
                Manifest::DestinationRule(object) => specs.destination_rules.push(object),
                Manifest::ServiceEntry(object) => specs.service_entries.push(object),
                Manifest::WorkloadEntry(object) => specs.workload_entries.push(object),
                Manifest::WorkloadGroup(object) => specs.workload_groups.push(object),
                Manifest::Service(object) => specs.services.push(object),
                Manifest::Endpoints(object) => specs.endpoints.push(object),
                Manifest::EndpointSlice(object) => specs.endpoint_slices.push(object),
                Manifest::Pod(object) => specs.pods.push(object),
                Manifest::Namespace(object) => specs.namespaces.push(object),
                Manifest::Secret(object) => specs.secrets.push(object),
            }
        }
        specs
    }
}
