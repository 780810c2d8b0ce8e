//! Asks the running kernel program about one packet: BPF_PROG_TEST_RUN on the pinned program, and the traces that leaves in
//! the tables of handshakes. The packet goes nowhere. Routes are looked up in the caller's network namespace.

use super::{kernel::Plain, load::Mode, pins::Pins};
use crate::slots::encode::Encode;
use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
    programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions},
};
use lb_common::{
    flow::{Family, Tuple, V4, V6},
    table::{FlowEntry, Handover, PendingEntry},
    wire::Be16,
};
use std::{fs, io, net::SocketAddr, path::PathBuf};
use thiserror::Error;
use zerocopy::FromBytes as _;

#[derive(Debug, Error)]
pub enum ProbeError {
    #[error("no running program at {path}: is `meltemi run` up with this --pin?")]
    NoProgram { path: PathBuf },
    #[error("not permitted to ask the kernel: run as root, in the agent's network namespace")]
    NotPermitted,
    #[error("this flow is live in the kernel's tables; ask about another client port")]
    Known,
    #[error("the kernel did not run the program: {0}")]
    Program(#[from] ProgramError),
    #[error("kernel map {map}: {source}")]
    Map { map: &'static str, source: MapError },
}

/// What the program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    pub mode: Mode,
    pub end: End,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

/// What the program's return value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// To the host.
    Pass,
    Drop,
    /// Out of an interface.
    Sent,
}

/// Room for the answer: the packet may have grown into an ICMP message.
const ROOM: usize = 2_048;

/// Runs the pinned program on a frame.
pub fn run(pins: &Pins, frame: &[u8]) -> Result<Ran, ProbeError> {
    let mode = pinned(pins)?;
    let path = pins.program(mode.programs().0);
    let mut out = vec![0; ROOM];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    // Whatever its type, a pinned program is run by its descriptor alone; aya 0.14 can open only this type from a pin, since
    // it does not export what `Xdp::from_pin` asks for.
    let result = SchedClassifier::from_pin(path).and_then(|program| program.test_run(options));
    let result = result.map_err(|error| if is_permission(&error) { ProbeError::NotPermitted } else { error.into() })?;
    out.truncate(result.data_size_out as usize);
    let end = match Handover::read_from_prefix(&out) {
        // Metadata comes in front of the frame.
        Ok((handover, frame)) if mode != Mode::Tc && handover.ifindex().is_some() => {
            out = frame.to_vec();
            End::Sent
        }
        _ => end(mode, result.return_value),
    };
    Ok(Ran { mode, end, frame: out })
}

/// The mode whose program is pinned.
fn pinned(pins: &Pins) -> Result<Mode, ProbeError> {
    for mode in Mode::ALL {
        match fs::metadata(pins.program(mode.programs().0)) {
            Ok(_) => return Ok(mode),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(ProbeError::NotPermitted),
            Err(_) => {}
        }
    }
    Err(ProbeError::NoProgram { path: pins.root().to_owned() })
}

/// linux/bpf.h `enum xdp_action`; linux/pkt_cls.h `TC_ACT_*`.
const fn end(mode: Mode, value: u32) -> End {
    match (mode, value) {
        (Mode::Xdp | Mode::XdpGeneric, 3 | 4) | (Mode::Tc, 7) => End::Sent,
        (Mode::Xdp | Mode::XdpGeneric, 0 | 1) | (Mode::Tc, 2) => End::Drop,
        _ => End::Pass,
    }
}

fn is_permission(error: &ProgramError) -> bool {
    let number = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    matches!(number, Some(libc::EPERM | libc::EACCES))
}

/// A flow as clients see it: client first.
pub type Flow = (SocketAddr, SocketAddr);

/// Fails where the kernel knows the flow already: to ask about it would disturb it.
pub fn expect_unknown(pins: &Pins, flow: Flow) -> Result<(), ProbeError> {
    pinned(pins)?;
    let known = match (tuple::<V4>(flow), tuple::<V6>(flow)) {
        (Some(flow), _) => knows(pins, &flow)?,
        (_, Some(flow)) => knows(pins, &flow)?,
        (None, None) => false,
    };
    if known { Err(ProbeError::Known) } else { Ok(()) }
}

/// Removes the handshake of a flow that was only asked about, both directions.
pub fn forget(pins: &Pins, flow: Flow, left_as: Flow) -> Result<(), ProbeError> {
    if let (Some(flow), Some(left_as)) = (tuple::<V4>(flow), tuple::<V4>(left_as)) {
        remove(pins, [flow, left_as.reverse()])?;
    }
    if let (Some(flow), Some(left_as)) = (tuple::<V6>(flow), tuple::<V6>(left_as)) {
        remove(pins, [flow, left_as.reverse()])?;
    }
    Ok(())
}

/// `None`: not both addresses are of family `A`.
fn tuple<A: Encode>((from, to): Flow) -> Option<Tuple<A>> {
    Some(Tuple {
        src: A::encode(from.ip())?,
        dst: A::encode(to.ip())?,
        sport: Be16::new(from.port()),
        dport: Be16::new(to.port()),
    })
}

fn knows<A: Encode>(pins: &Pins, flow: &Tuple<A>) -> Result<bool, ProbeError>
where
    Plain<Tuple<A>>: Pod,
    Plain<FlowEntry<A>>: Pod,
    Plain<PendingEntry<A>>: Pod,
{
    let (flows, pending) = names::<A>();
    Ok(open::<A, FlowEntry<A>>(pins, flows)?.get(&Plain(*flow), 0).is_ok()
        || open::<A, PendingEntry<A>>(pins, pending)?.get(&Plain(*flow), 0).is_ok())
}

fn remove<A: Encode>(pins: &Pins, keys: [Tuple<A>; 2]) -> Result<(), ProbeError>
where
    Plain<Tuple<A>>: Pod,
    Plain<PendingEntry<A>>: Pod,
{
    let (_, map) = names::<A>();
    let mut pending = open::<A, PendingEntry<A>>(pins, map)?;
    for key in keys {
        match pending.remove(&Plain(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(source) => return Err(ProbeError::Map { map, source }),
        }
    }
    Ok(())
}

const fn names<A: Encode>() -> (&'static str, &'static str) {
    match A::FAMILY {
        Family::V4 => ("FLOWS4", "PENDING4"),
        Family::V6 => ("FLOWS6", "PENDING6"),
    }
}

/// A pinned map of flows.
type Flows<A, V> = HashMap<MapData, Plain<Tuple<A>>, Plain<V>>;

fn open<A, V>(pins: &Pins, map: &'static str) -> Result<Flows<A, V>, ProbeError>
where
    Plain<Tuple<A>>: Pod,
    Plain<V>: Pod,
{
    let opened = MapData::from_pin(pins.map(map)).and_then(Map::from_map_data).and_then(TryInto::try_into);
    opened.map_err(|source| ProbeError::Map { map, source })
}
