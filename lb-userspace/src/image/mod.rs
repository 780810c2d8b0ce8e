//! What every kernel table should hold for one revision. Tables are described here, not yet filled: two images can be
//! compared without touching a slot. Comes only from `compile`; its `Display` is the golden files' format.

mod sorted;

pub use sorted::{Changes, Sorted};

use lb_common::{flow::HashKey, table::Forwarding};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

macro_rules! id {
    ($name:ident, $meaning:literal) => {
        #[doc = $meaning]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);
    };
}

id!(RuleId, "Position in the kernel's rule array. Freed by one revision, reused at the earliest by the next.");
impl RuleId {
    /// In place of a rule's number: the proxy on this host serves the VIP.
    pub const PROXY: RuleId = RuleId(lb_common::table::rule::PROXY);
    /// In place of a rule's number: only some clients are served, and those of this class are not.
    pub const NONE: RuleId = RuleId(lb_common::table::rule::NONE);
}

/// As it stands behind a VIP.
impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            RuleId::PROXY => write!(f, "proxy"),
            RuleId::NONE => write!(f, "none"),
            RuleId(number) => write!(f, "rule {number}"),
        }
    }
}

id!(SubsetId, "Position in the kernel's subset array, with the same rule of reuse.");
id!(BackendId, "Key of the kernel's backend map. Never reused.");
id!(StatsId, "Position in an array of counters, with the same rule of reuse.");

/// A class of clients, with the same rule of reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u8);

impl ClassId {
    /// Every client that nothing else is for.
    pub const ANY: ClassId = ClassId(0);
}

/// An address and TCP port that clients of a class connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    pub address: IpAddr,
    pub port: NonZeroU16,
    pub class: ClassId,
}

impl Vip {
    /// For every client that no class's entry is for.
    pub const fn any(address: IpAddr, port: NonZeroU16) -> Vip {
        Vip { address, port, class: ClassId::ANY }
    }

    pub const fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port.get())
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            ClassId::ANY => write!(f, "{}", self.socket()),
            ClassId(class) => write!(f, "{} class {class}", self.socket()),
        }
    }
}

/// Where a VIP leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipRule {
    pub rule: RuleId,
    pub classes: Classes,
}

/// Whether the class of a VIP's client is asked for: that costs a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    Alike,
    /// Some class has an entry of its own.
    Differ,
}

impl From<RuleId> for VipRule {
    fn from(rule: RuleId) -> VipRule {
        VipRule { rule, classes: Classes::Alike }
    }
}

impl fmt::Display for VipRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rule.fmt(f)?;
        match self.classes {
            Classes::Alike => Ok(()),
            Classes::Differ => f.write_str(" or by class"),
        }
    }
}

/// The class of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub class: ClassId,
    /// Hash of the class's name.
    pub name: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    pub vips: Sorted<Vip, VipRule>,
    /// By address: those whose class some VIP asks for.
    pub clients: Sorted<IpAddr, Client>,
    pub rules: Sorted<RuleId, Arc<RuleTable>>,
    pub subsets: Sorted<SubsetId, Arc<SubsetTable>>,
    pub backends: Sorted<BackendId, Backend>,
    /// Position of each rule's listener in the model it was compiled from. Not part of what the kernel holds.
    pub listeners: Sorted<RuleId, usize>,
}

/// Level 1 of one rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleTable {
    /// Identity across revisions and restarts.
    pub name: Arc<str>,
    pub hash: HashKey,
    pub destinations: Vec<RuleDestination>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RuleDestination {
    /// Identity within the rule.
    pub name: Arc<str>,
    pub weight: u32,
    /// `None`: the destination does not exist and answers RST.
    pub subset: Option<SubsetId>,
    pub stats: StatsId,
}

/// Level 2 of one subset and address family.
#[derive(Clone, Debug, PartialEq)]
pub struct SubsetTable {
    pub name: Arc<str>,
    /// Sorted by address; empty answers RST.
    pub members: Vec<SubsetMember>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubsetMember {
    pub backend: BackendId,
    pub address: SocketAddr,
    pub weight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    pub address: SocketAddr,
    pub forwarding: Forwarding,
    /// This host's address towards it.
    pub source: IpAddr,
    pub stats: StatsId,
}

/// The 64-bit hash by which names are known in kernel tables (FNV-1a, mixed).
pub fn name_hash(name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3));
    lb_common::flow::mix(hash)
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (vip, rule) in &self.vips {
            writeln!(f, "vip {vip} {rule}")?;
        }
        for (address, client) in &self.clients {
            writeln!(f, "client {address} class {} name {:x}", client.class.0, client.name)?;
        }
        for (id, rule) in &self.rules {
            writeln!(f, "rule {} {:?} {}", id.0, rule.hash, rule.name)?;
            for destination in &rule.destinations {
                let subset = destination.subset.map_or("broken".to_owned(), |id| format!("subset {}", id.0));
                writeln!(
                    f,
                    "  weight {} {subset} stats {} {}",
                    destination.weight, destination.stats.0, destination.name
                )?;
            }
        }
        for (id, subset) in &self.subsets {
            writeln!(f, "subset {} {}", id.0, subset.name)?;
            for member in &subset.members {
                writeln!(f, "  backend {} weight {} {}", member.backend.0, member.weight, member.address)?;
            }
        }
        for (id, backend) in &self.backends {
            writeln!(
                f,
                "backend {} {} {:?} from {} stats {}",
                id.0, backend.address, backend.forwarding, backend.source, backend.stats.0
            )?;
        }
        Ok(())
    }
}
