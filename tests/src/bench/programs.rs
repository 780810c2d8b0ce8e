//! The bench's own kernel programs, loaded without a pin, and the packets that their front makes.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use lb_common::checksum::{Sum, sum_bytes};
use lb_common::wire::tcp;

/// Bytes that the front writes; headers of either family fit.
pub const FRAME: usize = 80;

/// Source port of the first 65,536 flows.
pub const FIRST_PORT: u16 = 1024;

/// A TCP segment of flow 0. The front turns it into one of flow N by adding N's low 16 bits to the source address and
/// the rest to the source port.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub flags: u8,
}

impl Packet {
    /// A segment in the middle of a connection.
    #[must_use]
    pub const fn data(src: IpAddr, dst: IpAddr, dport: u16) -> Self {
        Packet { src, dst, sport: FIRST_PORT, dport, flags: tcp::ACK_FLAG }
    }

    /// The first segment of a connection; source ports from 0 up, so that 32 random bits give a random flow.
    #[must_use]
    pub const fn syn(src: IpAddr, dst: IpAddr, dport: u16) -> Self {
        Packet { src, dst, sport: 0, dport, flags: tcp::SYN }
    }

    /// Which program of the object makes such packets.
    #[must_use]
    pub const fn front(&self) -> &'static str {
        if self.dst.is_ipv4() { "front4" } else { "front6" }
    }

    /// The frame, link addresses zero, checksums complete.
    #[must_use]
    pub fn frame(&self) -> [u8; FRAME] {
        let mut frame = [0; FRAME];
        let ip = self.header();
        let (kind, tcp_at) = if self.dst.is_ipv4() { ([0x08, 0x00], 34) } else { ([0x86, 0xdd], 54) };
        frame[12..14].copy_from_slice(&kind);
        frame[14..14 + ip.len()].copy_from_slice(&ip);
        let segment = &mut frame[tcp_at..tcp_at + tcp::MIN_LEN];
        segment[0..2].copy_from_slice(&self.sport.to_be_bytes());
        segment[2..4].copy_from_slice(&self.dport.to_be_bytes());
        segment[4..12].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
        segment[12..14].copy_from_slice(&[0x50, self.flags]);
        // Window and urgent pointer: the front takes from them what it adds elsewhere.
        segment[14..16].copy_from_slice(&[0xff; 2]);
        segment[18..20].copy_from_slice(&[0xff; 2]);
        let pseudo = [octets(self.src), octets(self.dst), vec![0, 6, 0, tcp::MIN_LEN as u8]].concat();
        let check = !Sum(sum_bytes(&pseudo).0 + sum_bytes(segment).0).fold();
        segment[16..18].copy_from_slice(&check.to_ne_bytes());
        frame
    }

    fn header(&self) -> Vec<u8> {
        let addresses = [octets(self.src), octets(self.dst)].concat();
        if self.dst.is_ipv6() {
            return [vec![0x60, 0, 0, 0, 0, tcp::MIN_LEN as u8, 6, 64], addresses].concat();
        }
        // Identification 0xffff: the front takes from it what it adds to the address.
        let mut header = [vec![0x45, 0, 0, 40, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0], addresses].concat();
        let check = !sum_bytes(&header).fold();
        header[10..12].copy_from_slice(&check.to_ne_bytes());
        header
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Where `redirect` sends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    pub interface: u32,
    /// Destination, then source.
    pub link: [u8; 12],
}

/// The loaded object.
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Loads the object that MELTEMI_BENCH_OBJECT names; `sizes` are entries of its maps.
    ///
    /// # Errors
    /// When the object is missing or the kernel refuses it.
    pub fn load(sizes: &[(&str, u32)]) -> Result<Self> {
        let path = std::env::var_os("MELTEMI_BENCH_OBJECT")
            .map(PathBuf::from)
            .context("MELTEMI_BENCH_OBJECT is not set: run `cargo xtask bench`")?;
        let object = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::empty());
        for (map, entries) in sizes {
            loader.map_max_entries(map, *entries);
        }
        Ok(Programs { ebpf: loader.load(&object)? })
    }

    /// Takes a map out, to fill it.
    ///
    /// # Errors
    /// When there is no such map, or it was taken before.
    pub fn take(&mut self, map: &str) -> Result<aya::maps::Map> {
        self.ebpf.take_map(map).with_context(|| format!("no map {map}"))
    }

    /// The loaded program.
    ///
    /// # Errors
    /// When there is no such program or the verifier refuses it.
    pub fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program: &mut Xdp =
            self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("program {name}"))?;
        }
        Ok(program)
    }

    /// Descriptor of one of the object's own programs.
    ///
    /// # Errors
    /// As for [`Programs::program`].
    pub fn own(&mut self, name: &str) -> Result<ProgramFd> {
        Ok(self.program(name)?.fd()?.try_clone()?)
    }

    /// What the front makes, and where `redirect` sends it. `mask`: one less than the number of flows, a power of two.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    pub fn set(&mut self, packet: &Packet, mask: u64, way: Way) -> Result<()> {
        let frame = packet.frame();
        let words = |bytes: &[u8]| u64::from_ne_bytes(std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0)));
        let template: [u64; FRAME / 8] = std::array::from_fn(|at| words(&frame[8 * at..]));
        let mut map: Array<&mut MapData, [u64; FRAME / 8]> =
            self.ebpf.map_mut("TEMPLATE").context("no template")?.try_into()?;
        map.set(0, template, 0)?;
        let parameters = [mask, u64::from(way.interface), words(&way.link[..8]), words(&way.link[8..])];
        let mut map: Array<&mut MapData, [u64; 4]> =
            self.ebpf.map_mut("PARAMETERS").context("no parameters")?.try_into()?;
        Ok(map.set(0, parameters, 0)?)
    }

    /// Puts the program under test behind the front.
    ///
    /// # Errors
    /// When the kernel refuses it there.
    pub fn put(&mut self, program: &ProgramFd) -> Result<()> {
        let mut slots: ProgramArray<&mut MapData> =
            self.ebpf.map_mut("SLOW_XDP").context("no program array")?.try_into()?;
        Ok(slots.set(0, program, 0)?)
    }

    /// Runs the front `repeat` times. Nanoseconds a packet by the kernel's clock, and the last verdict.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn run(&mut self, front: &str, repeat: u32) -> Result<(f64, u32)> {
        let frame = [0; FRAME];
        let options = TestRunOptions { data_in: Some(&frame), repeat, ..TestRunOptions::new() };
        let result = self.program(front)?.test_run(options).map_err(|error| anyhow!("{front}: {error}"))?;
        Ok((result.duration.as_nanos() as f64, result.return_value))
    }

    /// Runs the front on frames that are really sent.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn send(&mut self, front: &str, count: u32) -> Result<()> {
        let frame = [0; FRAME];
        let attrs = TestRunAttrs::new().xdp_live_frames(64);
        let options = TestRunOptions { data_in: Some(&frame), repeat: count, attrs, ..TestRunOptions::new() };
        self.program(front)?.test_run(options).map_err(|error| anyhow!("live frames: {error}"))?;
        Ok(())
    }

    /// Attaches a program to an interface of this namespace, until this value is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, name: &str, interface: &str) -> Result<()> {
        self.program(name)?.attach(interface, XdpMode::Driver).with_context(|| format!("{name} on {interface}"))?;
        Ok(())
    }

    /// Packets that `sink` has counted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sunk(&self) -> Result<u64> {
        let map: PerCpuArray<&MapData, u64> = self.ebpf.map("COUNTERS").context("no counters")?.try_into()?;
        Ok(map.get(&0, 0)?.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_the_template_are_complete() {
        let frame = Packet::data("10.64.0.0".parse().unwrap(), "10.0.0.1".parse().unwrap(), 80).frame();
        assert_eq!(sum_bytes(&frame[14..34]).fold(), 0xffff);
        let pseudo = [&frame[26..34], &[0, 6, 0, 20]].concat();
        assert_eq!(Sum(sum_bytes(&pseudo).0 + sum_bytes(&frame[34..54]).0).fold(), 0xffff);
        let frame = Packet::syn("fd00::1:0".parse().unwrap(), "fd00::1".parse().unwrap(), 80).frame();
        let pseudo = [&frame[22..54], &[0, 6, 0, 20]].concat();
        assert_eq!(Sum(sum_bytes(&pseudo).0 + sum_bytes(&frame[54..74]).0).fold(), 0xffff);
    }
}
