//! Steering: the proxy's listening sockets where the kernel's socket lookup finds them, and the program that looks there.

use super::{
    MapsError,
    kernel::{KernelMaps, Meta},
    load::{LoadError, Loaded},
};
use aya::{
    maps::{MapData, SockMap},
    programs::{ProgramError, SkLookup, links::FdLink},
};
use std::{
    fs::{self, File},
    io,
    os::fd::BorrowedFd,
};

const PROGRAM: &str = "steer";
const MAP: &str = "SOCKETS";
/// The network namespace that the agent and its sockets are in.
const NAMESPACE: &str = "/proc/self/ns/net";

impl Loaded {
    /// Puts `sockets` in their places for so many workers and has new connections to the proxy's VIPs steered there (kernel
    /// 5.9). What was steered before goes on without a gap.
    pub fn steer<'a>(
        &mut self,
        maps: &mut KernelMaps,
        workers: u32,
        sockets: impl Iterator<Item = (u32, BorrowedFd<'a>)>,
    ) -> Result<(), LoadError> {
        let error = |source| MapsError::Kernel { map: MAP, source };
        let map = self.ebpf.map_mut(MAP).ok_or(LoadError::Missing(MAP))?;
        let mut places: SockMap<&mut MapData> = map.try_into().map_err(error)?;
        for (place, socket) in sockets {
            places.set(place, &socket, 0).map_err(error)?;
        }
        // No place is looked up before its socket is there.
        maps.set_meta(Meta::Workers, u64::from(workers))?;
        self.attach_steering()
    }

    /// Beside the link of a former agent, which then goes: two of them steer alike.
    fn attach_steering(&mut self) -> Result<(), LoadError> {
        let refused = |source: ProgramError| LoadError::Program { name: PROGRAM, source: Box::new(source) };
        let broken = |source: io::Error| LoadError::Steering { source };
        let program = self.ebpf.program_mut(PROGRAM).ok_or(LoadError::Missing(PROGRAM))?;
        let program: &mut SkLookup = program.try_into().map_err(refused)?;
        match program.load() {
            Ok(()) => {}
            Err(ProgramError::AlreadyLoaded) => return Ok(()),
            Err(source) => return Err(refused(source)),
        }
        let namespace = File::open(NAMESPACE).map_err(broken)?;
        let id = program.attach(namespace).map_err(refused)?;
        let link: FdLink = program.take_link(id).map_err(refused)?.into();
        let pin = self.pins.links().join(PROGRAM);
        let fresh = self.pins.links().join("steer-next");
        let _ = fs::remove_file(&fresh);
        link.pin(&fresh).map_err(|error| broken(io::Error::other(error.to_string())))?;
        fs::rename(&fresh, &pin).map_err(broken)
    }
}
