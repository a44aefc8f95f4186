//! Addresses and names of machines.
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports below the system's range for outgoing connections: such a connection could take the port before rank 0 listens on it.
const PORTS: Range<u32> = 20_000..32_000;

/// A free TCP port of this machine, for rank 0. Processes search from different ports, and a process from the port after its last one.
pub fn free_port() -> io::Result<u16> {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let length = PORTS.end - PORTS.start;
    let first = std::process::id().wrapping_mul(97);
    for _ in 0..length {
        let offset = first.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % length;
        let port = (PORTS.start + offset) as u16;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// The first address of a host; IPv4 if there is one, as ranks listen on IPv4.
pub fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let mut found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.into_iter().next().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// True if an address is of this machine alone.
pub fn is_local(address: &str) -> bool {
    address == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
