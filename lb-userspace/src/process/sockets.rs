//! The listening sockets that connections are steered to: one of each family for every worker, all bound to the loopback
//! interface alone. Whoever holds them keeps connections waiting while a proxy is replaced.

use super::ProcessError;
use lb_common::{flow::Family, table::socket};
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Connections that wait for a worker; the host's `net.core.somaxconn` may allow fewer.
const BACKLOG: i32 = 4_096;

/// In the order of the workers, for each those of [`Sockets::families`].
#[derive(Debug)]
pub struct Sockets {
    workers: u32,
    all: Vec<OwnedFd>,
}

impl Sockets {
    /// At most [`socket::MAX_WORKERS`] workers. Without IPv6 on this host there are those of IPv4 alone.
    pub fn make(workers: u32) -> Result<Sockets, ProcessError> {
        let has_v6 = Socket::new(Domain::IPV6, Type::STREAM, None).is_ok();
        let workers = workers.clamp(1, socket::MAX_WORKERS);
        let mut all = Vec::new();
        for _ in 0..workers {
            all.push(listen((Ipv4Addr::LOCALHOST, 0).into()).map_err(ProcessError::Socket)?);
            if has_v6 {
                all.push(listen((Ipv6Addr::LOCALHOST, 0).into()).map_err(ProcessError::Socket)?);
            }
        }
        Ok(Sockets { workers, all })
    }

    /// What another process had. `None`: it is not of this kind.
    pub fn taken_over(workers: u32, all: Vec<OwnedFd>) -> Option<Sockets> {
        let per_worker = all.len() / workers.max(1) as usize;
        let whole = workers > 0 && all.len() == per_worker * workers as usize;
        (whole && (1..=2).contains(&per_worker)).then_some(Sockets { workers, all })
    }

    pub fn try_clone(&self) -> io::Result<Sockets> {
        let all = self.all.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok(Sockets { workers: self.workers, all })
    }

    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// Each with its place in the kernel's map.
    pub fn places(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        let per_worker = self.all.len() / self.workers as usize;
        self.all.iter().enumerate().map(move |(at, socket)| {
            let family = if at % per_worker == 0 { Family::V4 } else { Family::V6 };
            (socket::position((at / per_worker) as u32, family), socket.as_fd())
        })
    }

    /// Copies of each worker's.
    pub fn by_worker(&self) -> io::Result<Vec<Vec<TcpListener>>> {
        let per_worker = self.all.len() / self.workers as usize;
        let copies = |all: &[OwnedFd]| all.iter().map(|one| one.try_clone().map(TcpListener::from)).collect();
        self.all.chunks(per_worker).map(copies).collect()
    }

    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.all.iter().map(AsFd::as_fd).collect()
    }
}

fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_its_own_places() {
        let sockets = Sockets::make(3).unwrap();
        let places: Vec<u32> = sockets.places().map(|(place, _)| place).collect();
        let families = sockets.all.len() / 3;
        assert_eq!(places, if families == 2 { vec![0, 1, 2, 3, 4, 5] } else { vec![0, 2, 4] });
        assert!(Sockets::taken_over(3, sockets.all).is_some());
        let one = Sockets::make(1).unwrap();
        assert!(Sockets::taken_over(3, one.all).is_none());
        assert!(Sockets::taken_over(0, Vec::new()).is_none());
    }
}
