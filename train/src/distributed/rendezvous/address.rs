//! Addresses and names of machines: where rank 0 listens, and how the others find it.
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports below the system's range for outgoing connections: such a connection could take the port before rank 0 listens on it.
const PORTS: Range<u32> = 20_000..32_000;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

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

/// All addresses of a host, IPv4 first. An IPv6 address may be in brackets.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let mut found: Vec<SocketAddr> = vec![];
    for address in (host, port).to_socket_addrs()? {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found.sort_by_key(SocketAddr::is_ipv6);
    if found.is_empty() { Err(io::ErrorKind::AddrNotAvailable.into()) } else { Ok(found) }
}

/// True if a host is a loopback address or `localhost`: the ranks are on one machine. Another name may mean this machine here and a real
/// address elsewhere, as Debian's `127.0.1.1 node1` does.
pub fn is_local(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// True if an address is one of this machine.
pub fn is_own(ip: IpAddr) -> bool {
    TcpListener::bind((ip, 0)).is_ok()
}

/// A listener for connections to a host of this machine: on its address, or on all addresses if it is not an address of this machine or
/// if other machines may know another one.
pub fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let addresses = resolve(host, port).unwrap_or_else(|error| {
        message!(
            "warning: the address of rank 0, {host}, cannot be resolved on its own machine ({error}); it listens on all addresses"
        );
        vec![]
    });
    if !is_local(host) && addresses.iter().any(|address| address.ip().is_loopback()) {
        return listen_everywhere(port);
    }
    for address in addresses {
        match listen_at(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            listener => return listener,
        }
    }
    listen_everywhere(port)
}

/// A listener on one address; port 0 is a free one.
pub fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // The port of a run that has just ended can be used again.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listener on all addresses: IPv6 and IPv4, or IPv4 alone on a machine without IPv6.
pub fn listen_everywhere(port: u16) -> io::Result<TcpListener> {
    match listen_at((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            listen_at((Ipv4Addr::UNSPECIFIED, port).into())
        }
        listener => listener,
    }
}

/// Name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn literal_addresses_are_listened_on_alone() {
        for host in ["127.0.0.1", "127.0.1.1", "localhost"] {
            let address = listen(host, 0).expect("listens").local_addr().expect("an address");
            assert!(address.ip().is_loopback(), "{host}: {address}");
        }
        assert!(is_local("127.3.0.1") && is_local("[::1]") && is_local("::1"));
        assert!(!is_local("node1") && !is_local("10.0.0.1") && !is_local("0.0.0.0"));
    }

    #[test]
    fn addresses_of_other_machines_are_listened_on_everywhere() {
        // Reserved for documentation.
        for host in ["192.0.2.7", "2001:db8::7", "no-such-host.invalid"] {
            let listener = listen(host, 0).expect("listens");
            let address = listener.local_addr().expect("an address");
            assert!(address.ip().is_unspecified(), "{host}: {address}");
            TcpStream::connect(("127.0.0.1", address.port())).expect("IPv4 reaches it");
        }
        assert!(!is_own("192.0.2.7".parse().expect("an address")) && is_own(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn port_in_use_is_an_error_on_every_address() {
        let listener = listen_everywhere(0).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        for host in ["127.0.0.1", "192.0.2.7"] {
            assert_eq!(listen(host, port).expect_err(host).kind(), io::ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn hosts_are_resolved_to_all_their_addresses() {
        assert_eq!(resolve("[::1]", 7).expect("an address"), ["[::1]:7".parse().expect("an address")]);
        assert_eq!(
            resolve("127.0.1.1", 7).expect("an address"),
            ["127.0.1.1:7".parse().expect("an address")]
        );
        assert!(resolve("no-such-host.invalid", 7).is_err());
    }
}
