//! What the proxy gives up before it reads a byte of anybody's: every capability, the way to get new ones, core dumps and
//! tracing, and the system calls that it has no use for. Knows nothing of what the proxy does.

use rustix::{
    io::Errno,
    process::{DumpableBehavior, Resource, Rlimit, geteuid, getrlimit, set_dumpable_behavior, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
    },
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum ConfineError {
    #[error("the proxy would run as root: it is started by `meltemi run`, or with another user")]
    Root,
    #[error("cannot give up {what}: {source}")]
    Kept { what: &'static str, source: Errno },
    #[error("cannot restrict system calls: {0}")]
    Filter(String),
}

/// Root under another name keeps the files of root, so it is allowed only where it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    Allowed,
    Refused,
}

/// For good, for this thread and those that it will start; to be called while it is the only one.
pub fn confine(root: Root) -> Result<(), ConfineError> {
    if root == Root::Refused && geteuid().is_root() {
        return Err(ConfineError::Root);
    }
    let kept = |what| move |source| ConfineError::Kept { what, source };
    clear_ambient_capability_set().map_err(kept("ambient capabilities"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(kept("capabilities"))?;
    let left = capabilities(None).map_err(kept("capabilities"))?;
    if !(left.effective | left.permitted | left.inheritable).is_empty() {
        return Err(ConfineError::Kept { what: "capabilities", source: Errno::PERM });
    }
    set_no_new_privs(true).map_err(kept("new privileges"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(kept("core dumps"))?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(kept("core dumps"))?;
    // Each connection needs a descriptor or two.
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
    filter()
}

/// System calls by which a process reaches beyond what it has: into the kernel, other processes, namespaces, keys, or
/// another program. They fail with EPERM.
const REFUSED: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
];

/// Of sockets it needs those of IP and Unix, and netlink, by which the C library asks for addresses when it resolves a name.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

fn filter() -> Result<(), ConfineError> {
    let failed = |error: &dyn std::fmt::Display| ConfineError::Filter(error.to_string());
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Err(ConfineError::Filter(format!("not known for {}", std::env::consts::ARCH)));
    };
    let other = FAMILIES
        .iter()
        .map(|family| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *family as u64));
    let other: Vec<_> = other.collect::<Result<_, _>>().map_err(|error| failed(&error))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|number| (*number, Vec::new())).collect();
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(other).map_err(|error| failed(&error))?]);
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).map_err(|error| failed(&error))?;
    let program = BpfProgram::try_from(filter).map_err(|error| failed(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| failed(&error))
}
