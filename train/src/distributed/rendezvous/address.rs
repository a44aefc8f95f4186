//! Addresses and names of machines.
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

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
