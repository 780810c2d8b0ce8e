//! Loads the kernel programs, or new ones beside the maps of a former agent, and attaches them to interfaces. What is
//! pinned outlives the agent; a program is replaced atomically on its link.

use super::{
    MapsError,
    kernel::{KernelMaps, Meta},
    limits::{Limits, Memory, Size},
    pins::{Pins, PinsError},
};
use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapData, MapError, ProgramArray},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun, TestRunOptions, Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        tc::TcAttachOptions,
    },
};
use lb_common::table::LAYOUT;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use thiserror::Error;

/// The kernel programs, as `cargo xtask build` made them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MELTEMI_BPF_OBJECT_PATH"));

/// How a program sees an interface's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Xdp,
    XdpGeneric,
    Tc,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Xdp, Mode::XdpGeneric, Mode::Tc];

    pub const fn name(self) -> &'static str {
        match self {
            Mode::Xdp => "xdp",
            Mode::XdpGeneric => "xdp-generic",
            Mode::Tc => "tc",
        }
    }

    /// The program that is attached, and the one it hands the slow path to.
    pub const fn programs(self) -> (&'static str, &'static str) {
        match self {
            Mode::Xdp => ("ingress_xdp", "ingress_xdp_slow"),
            Mode::XdpGeneric => ("ingress_generic", "ingress_generic_slow"),
            Mode::Tc => ("ingress_tc", "ingress_tc_slow"),
        }
    }

    /// Program array and position of the slow program.
    const fn slow_slot(self) -> (&'static str, u32) {
        match self {
            Mode::Xdp => ("SLOW_XDP", 0),
            Mode::XdpGeneric => ("SLOW_XDP", 1),
            Mode::Tc => ("SLOW_TC", 0),
        }
    }
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(
        "the pinned tables have layout {found}, this meltemi knows layout {LAYOUT}: run `meltemi detach` with the version that made them, then start this one"
    )]
    Layout { found: u64 },
    #[error(
        "the pinned map {map} is {found}, this meltemi needs {wanted}: it was made with other limits or by something else; run `meltemi detach` first"
    )]
    PinnedMap { map: String, found: String, wanted: String },
    #[error(
        "the maps need {needed} of kernel memory and {available} is available; lower --max-flows or --table-memory"
    )]
    Memory { needed: Memory, available: Memory },
    #[error("not permitted to load BPF programs: run as root or with CAP_BPF and CAP_NET_ADMIN")]
    NotPermitted,
    #[error("the kernel refused the programs: {0}")]
    Ebpf(#[from] EbpfError),
    #[error("the kernel refused program {name}: {source}")]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error("cannot steer connections to the proxy: {source}")]
    Steering { source: io::Error },
    #[error("the object holds no {0}")]
    Missing(&'static str),
    #[error("interface {0} does not exist")]
    NoInterface(String),
    #[error(
        "interface {interface} already has another XDP program; remove it (`ip link set dev {interface} xdp off` or its owner), or use --mode tc"
    )]
    Foreign { interface: String },
    #[error("cannot attach in {} mode to {interface}: {reason}", mode.name())]
    Attach { interface: String, mode: Mode, reason: String },
}

/// Maps that are pinned besides the sized ones.
const OTHER_MAPS: [&str; 12] = [
    "SOCKETS", "SETTINGS", "META", "COUNTERS", "CLOCK", "SCRATCH4", "SCRATCH6", "SUMMING", "PIECE", "ANSWERS",
    "SLOW_XDP", "SLOW_TC",
];

/// The program behind those of XDP, and the kind of its links.
const MEET: &str = "meet";

/// Where a program is attached.
#[derive(Clone, Copy)]
enum Hook {
    Xdp(XdpMode),
    Tcx,
}

/// Why a program is not on an interface.
#[derive(Debug, Error)]
enum HoldError {
    #[error("another XDP program is there")]
    Foreign,
    #[error("{0}")]
    Failed(String),
}

/// Loaded programs. Dropping it detaches nothing: links are pinned.
pub struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) pins: Pins,
}

/// An interface with one of our programs on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub interface: String,
    pub mode: Mode,
}

impl Loaded {
    /// Loads the programs over new maps, or over those pinned before if their layout is known.
    pub fn load(pins: &Pins, limits: &Limits) -> Result<Self, LoadError> {
        if !pins.exists() {
            check_memory(limits)?;
        }
        pins.prepare()?;
        let sizes = limits.sizes();
        check_pinned(pins, &sizes)?;
        let paths: Vec<(&str, PathBuf)> =
            sizes.iter().map(|size| size.map).chain(OTHER_MAPS).map(|map| (map, pins.map(map))).collect();
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::empty());
        for size in &sizes {
            loader.map_max_entries(size.map, size.entries);
        }
        for (map, path) in &paths {
            loader.map_pin_path(map, path.as_path());
        }
        let ebpf = loader
            .load(OBJECT)
            .map_err(|error| if is_permission(&error) { LoadError::NotPermitted } else { LoadError::Ebpf(error) })?;
        let mut loaded = Self { ebpf, pins: pins.clone() };
        loaded.tc("clock")?.load().map_err(|source| refused("clock", source))?;
        let pin = loaded.pins.program("clock");
        let _ = fs::remove_file(&pin);
        loaded.tc("clock")?.pin(&pin).map_err(|source| {
            LoadError::Pins(PinsError::Io { path: pin, source: io::Error::other(source.to_string()) })
        })?;
        Ok(loaded)
    }

    /// Opens the maps for reading and writing.
    pub fn maps(&mut self) -> Result<KernelMaps, LoadError> {
        let mut maps = open_pinned(&self.pins)?;
        maps.set_meta(Meta::Layout, LAYOUT as u64)?;
        Ok(maps)
    }

    /// Loads the programs of `mode` and puts the slow one in its place; pins the fast one for `explain --live`.
    pub fn enable(&mut self, mode: Mode) -> Result<(), LoadError> {
        let (fast, slow) = mode.programs();
        for name in [slow, fast] {
            match mode {
                Mode::Tc => self.tc(name)?.load(),
                Mode::Xdp | Mode::XdpGeneric => self.xdp(name)?.load(),
            }
            .map_err(|source| refused(name, source))?;
        }
        if mode != Mode::Tc {
            match self.tc(MEET)?.load() {
                // By the other XDP mode.
                Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
                Err(source) => return Err(refused(MEET, source)),
            }
        }
        let (array, position) = mode.slow_slot();
        let program = self
            .ebpf
            .program(slow)
            .ok_or(LoadError::Missing(slow))?
            .fd()
            .map_err(|source| refused(slow, source))?
            .try_clone();
        let program = program
            .map_err(|source| LoadError::Program { name: slow, source: Box::new(ProgramError::IOError(source)) })?;
        let map = self.ebpf.map_mut(array).ok_or(LoadError::Missing(array))?;
        let error = |source| MapsError::Kernel { map: array, source };
        let mut slots: ProgramArray<&mut MapData> = map.try_into().map_err(error)?;
        slots.set(position, &program, 0).map_err(error)?;
        let pin = self.pins.program(fast);
        let _ = fs::remove_file(&pin);
        let pinned = match mode {
            Mode::Tc => self.tc(fast)?.pin(&pin),
            Mode::Xdp | Mode::XdpGeneric => self.xdp(fast)?.pin(&pin),
        };
        pinned.map_err(|source| {
            LoadError::Pins(PinsError::Io { path: pin, source: io::Error::other(source.to_string()) })
        })
    }

    /// Attaches to an interface, or puts this version of the program in the place of the former one.
    pub fn attach(&mut self, interface: &str, mode: Mode) -> Result<(), LoadError> {
        let (fast, _) = mode.programs();
        let hook = match mode {
            Mode::Xdp => Hook::Xdp(XdpMode::Driver),
            Mode::XdpGeneric => Hook::Xdp(XdpMode::Skb),
            Mode::Tc => Hook::Tcx,
        };
        let failed = |reason: String| LoadError::Attach { interface: interface.to_owned(), mode, reason };
        self.hold(&self.link_pin(interface, mode.name()), interface, fast, hook).map_err(|error| match error {
            HoldError::Foreign => LoadError::Foreign { interface: interface.to_owned() },
            HoldError::Failed(reason) => failed(reason),
        })?;
        if mode != Mode::Tc
            && let Err(error) = self.hold(&self.link_pin(interface, MEET), interface, MEET, Hook::Tcx)
        {
            tracing::warn!(
                "{interface}: {error}: in {} mode packets are lost while the next hop's link address is not known",
                mode.name()
            );
        }
        Ok(())
    }

    /// Sees to it that the link pinned at `pin` has this version of the program.
    fn hold(&mut self, pin: &Path, interface: &str, name: &'static str, hook: Hook) -> Result<(), HoldError> {
        let link: FdLink = match PinnedLink::from_pin(pin) {
            Ok(old) => match self.replace(old, name, hook) {
                Ok(()) => return Ok(()),
                // The interface was deleted, and perhaps made anew: the pinned link leads nowhere.
                Err(error) if os_error(&error) == Some(libc::ENOLINK) => {
                    let _ = fs::remove_file(pin);
                    self.attach_new(interface, name, hook)?
                }
                Err(error) => return Err(HoldError::Failed(error.to_string())),
            },
            Err(_) => self.attach_new(interface, name, hook)?,
        };
        link.pin(pin).map(drop).map_err(|error| HoldError::Failed(error.to_string()))
    }

    fn attach_new(&mut self, interface: &str, name: &'static str, hook: Hook) -> Result<FdLink, HoldError> {
        let failed = |error: &dyn std::fmt::Display| HoldError::Failed(error.to_string());
        let flags = match hook {
            Hook::Xdp(flags) => flags,
            Hook::Tcx => {
                let program = self.tc(name).map_err(|error| failed(&error))?;
                let order = TcAttachOptions::TcxOrder(LinkOrder::default());
                let id = program
                    .attach_with_options(interface, TcAttachType::Ingress, order)
                    .map_err(|error| HoldError::Failed(tcx_reason(&error)))?;
                let link = program.take_link(id).map_err(|error| failed(&error))?;
                return link.try_into().map_err(|error: LinkError| failed(&error));
            }
        };
        let program = self.xdp(name).map_err(|error| failed(&error))?;
        let id = program.attach(interface, flags).map_err(|error| match os_error(&error) {
            Some(libc::EBUSY | libc::EEXIST) => HoldError::Foreign,
            Some(libc::ERANGE) => failed(&"its MTU is too large for the driver's XDP; lower it or use --mode tc"),
            Some(libc::EOPNOTSUPP) => failed(&"its driver has no native XDP; use --mode xdp-generic or tc"),
            _ => failed(&error),
        })?;
        let link = program.take_link(id).map_err(|error| failed(&error))?;
        link.try_into().map_err(|_| failed(&"this kernel has no XDP links (5.9)"))
    }

    fn replace(&mut self, old: PinnedLink, name: &'static str, hook: Hook) -> Result<(), ProgramError> {
        let link = FdLink::from(old);
        let missing = || ProgramError::IOError(io::Error::other("program is missing"));
        // Taking the link out again keeps aya from detaching it on drop; the pin holds it.
        match hook {
            Hook::Tcx => {
                let program = self.tc(name).map_err(|_| missing())?;
                let id = program.attach_to_link(link.try_into().map_err(|_| missing())?)?;
                program.take_link(id).map(drop)
            }
            Hook::Xdp(_) => {
                let program = self.xdp(name).map_err(|_| missing())?;
                let id = program.attach_to_link(link.try_into().map_err(|_| missing())?)?;
                program.take_link(id).map(drop)
            }
        }
    }

    fn link_pin(&self, interface: &str, kind: &str) -> PathBuf {
        // Pin names may not hold dots, interface names may.
        self.pins.links().join(format!("{kind}:{}", interface.replace('.', "%")))
    }

    /// Takes the programs of `mode` off an interface.
    fn detach(&self, attachment: &Attachment) {
        for kind in [attachment.mode.name(), MEET] {
            let _ = fs::remove_file(self.link_pin(&attachment.interface, kind));
        }
    }

    /// Attaches to exactly these interfaces. If one fails, those that this call attached are given up again.
    pub fn attach_all(&mut self, wanted: &[Attachment]) -> Result<(), LoadError> {
        let before = attachments(&self.pins);
        for (done, attachment) in wanted.iter().enumerate() {
            if let Err(error) = self.attach(&attachment.interface, attachment.mode) {
                for undone in wanted[..done].iter().filter(|attachment| !before.contains(attachment)) {
                    self.detach(undone);
                }
                return Err(error);
            }
        }
        for old in before.iter().filter(|old| !wanted.contains(old)) {
            self.detach(old);
            // An interface that only changed its mode may have lost what both modes use.
            for kept in wanted.iter().filter(|kept| kept.interface == old.interface) {
                self.attach(&kept.interface, kept.mode)?;
            }
        }
        Ok(())
    }

    /// Nanoseconds since boot and the tick that flow entries carry.
    pub fn clock(&mut self) -> Result<(u64, u64), LoadError> {
        run_clock(self.tc("clock")?)?;
        let error = |source| MapsError::Kernel { map: "CLOCK", source };
        let map: Array<&MapData, [u64; 2]> =
            self.ebpf.map("CLOCK").ok_or(LoadError::Missing("CLOCK"))?.try_into().map_err(error)?;
        let [nanoseconds, ticks] = map.get(&0, 0).map_err(error)?;
        Ok((nanoseconds, ticks))
    }

    /// Ticks a second, measured over a few of them. The kernel's CONFIG_HZ is one of these.
    pub fn ticks_per_second(&mut self) -> Result<u32, LoadError> {
        let (start_ns, start) = self.clock()?;
        let until = Instant::now() + Duration::from_secs(2);
        loop {
            let (now_ns, now) = self.clock()?;
            if now - start >= 20 || Instant::now() > until {
                let measured = (now - start) as f64 * 1e9 / (now_ns - start_ns).max(1) as f64;
                let nearest =
                    [100u32, 250, 300, 1_000].into_iter().min_by_key(|hz| (measured - f64::from(*hz)).abs() as u64);
                return Ok(nearest.unwrap_or(250));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
        program.try_into().map_err(|source| refused(name, source))
    }

    fn tc(&mut self, name: &'static str) -> Result<&mut SchedClassifier, LoadError> {
        let program = self.ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
        program.try_into().map_err(|source| refused(name, source))
    }
}

/// Opens the maps that an agent pinned.
pub fn open_pinned(pins: &Pins) -> Result<KernelMaps, LoadError> {
    if let Ok(data) = MapData::from_pin(pins.map("META")) {
        check_layout(data)?;
    }
    Ok(KernelMaps::open(|name| Map::from_map_data(MapData::from_pin(pins.map(name))?))?)
}

/// The tick that flow entries carry, by the pinned program.
pub fn pinned_clock(pins: &Pins) -> Result<u32, LoadError> {
    let program = SchedClassifier::from_pin(pins.program("clock")).map_err(|source| refused("clock", source))?;
    run_clock(&program)?;
    let error = |source| MapsError::Kernel { map: "CLOCK", source };
    let map: Array<MapData, [u64; 2]> =
        MapData::from_pin(pins.map("CLOCK")).and_then(Map::from_map_data).and_then(TryInto::try_into).map_err(error)?;
    Ok(map.get(&0, 0).map_err(error)?[1] as u32)
}

fn run_clock(program: &SchedClassifier) -> Result<(), LoadError> {
    let frame = [0u8; 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    program.test_run(options).map(drop).map_err(|source| refused("clock", source))
}

/// The interfaces that pinned links name.
pub fn attachments(pins: &Pins) -> Vec<Attachment> {
    let mut found: Vec<Attachment> = fs::read_dir(pins.links())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (mode, interface) = name.split_once(':')?;
            let mode = Mode::ALL.into_iter().find(|known| known.name() == mode)?;
            Some(Attachment { interface: interface.replace('%', "."), mode })
        })
        .collect();
    found.sort_by(|a, b| (&a.interface, a.mode).cmp(&(&b.interface, b.mode)));
    found
}

fn check_layout(meta: MapData) -> Result<(), LoadError> {
    let error = |source| MapsError::Kernel { map: "META", source };
    let meta: Array<MapData, u64> = Map::from_map_data(meta).and_then(TryInto::try_into).map_err(error)?;
    match meta.get(&(Meta::Layout as u32), 0).map_err(error)? {
        // 0: an agent died before it wrote anything.
        0 => Ok(()),
        found if found == LAYOUT as u64 => Ok(()),
        found => Err(LoadError::Layout { found }),
    }
}

/// Nothing below opens a pinned map without looking at what it is, so this does.
fn check_pinned(pins: &Pins, sizes: &[Size]) -> Result<(), LoadError> {
    if let Ok(data) = MapData::from_pin(pins.map("META")) {
        check_layout(data)?;
    }
    for size in sizes {
        let Ok(data) = MapData::from_pin(pins.map(size.map)) else {
            continue;
        };
        let info = data.info().map_err(|source| MapsError::Kernel { map: size.map, source })?;
        if info.max_entries() != size.entries {
            let entries = |count: u32| format!("{count} entries");
            return Err(LoadError::PinnedMap {
                map: size.map.to_owned(),
                found: entries(info.max_entries()),
                wanted: entries(size.entries),
            });
        }
    }
    Ok(())
}

/// Whether the maps will fit, before any of them is made.
fn check_memory(limits: &Limits) -> Result<(), LoadError> {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let needed = limits.memory(cpus);
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| {
        let kib: u64 = line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(Memory(kib << 10))
    });
    match available {
        Some(available) if available < needed => Err(LoadError::Memory { needed, available }),
        _ => Ok(()),
    }
}

fn refused(name: &'static str, source: ProgramError) -> LoadError {
    match os_error(&source) {
        Some(libc::EPERM) => LoadError::NotPermitted,
        _ => LoadError::Program { name, source: Box::new(source) },
    }
}

fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error(),
        _ => None,
    }
}

fn tcx_reason(error: &ProgramError) -> String {
    match os_error(error) {
        Some(libc::EINVAL) => "this kernel has no TCX (6.6); use --mode xdp or xdp-generic".to_owned(),
        _ => error.to_string(),
    }
}

fn is_permission(error: &EbpfError) -> bool {
    match error {
        EbpfError::MapError(MapError::CreateError { io_error, .. }) => io_error.raw_os_error() == Some(libc::EPERM),
        EbpfError::ProgramError(error) => os_error(error) == Some(libc::EPERM),
        _ => false,
    }
}
