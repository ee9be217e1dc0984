//! Which addresses a URL that the operator did not write may reach.
//!
//! After the IANA special-purpose address registries (RFC 6890 and its updates). Ranges for documentation count as public: nobody
//! routes them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// What an address is to a host that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Never: this machine, the link, a group, a metadata service, a spelling that hides another address.
    Forbidden,
    /// This machine, in one of its three spellings.
    Loopback,
    /// Only for hosts that the configuration names.
    Private,
    /// For everybody.
    Public,
}

/// Who may reach what.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard {
    /// Whether `localhost`, `127.0.0.1` and `[::1]` may be reached.
    pub(super) loopback: bool,
    /// Hosts that may be at private addresses, as [`host_key`] writes them.
    pub(super) named: BTreeSet<String>,
    /// Whether the operator wrote all the URLs, which may then be anywhere.
    pub(super) trusted: bool,
}

impl Guard {
    /// Whether the host may be reached at that address; otherwise what stands against it.
    pub(super) fn check(&self, host: &str, address: IpAddr) -> Result<(), Reach> {
        let reach = reach(address);
        let allowed = match reach {
            _ if self.trusted => true,
            Reach::Public => true,
            Reach::Private => self.named.contains(host_key(host)),
            // A name of anybody's choice that resolves to this machine is not one of the three spellings.
            Reach::Loopback => self.loopback && (host == "localhost" || host_key(host).parse() == Ok(address)),
            Reach::Forbidden => false,
        };
        if allowed { Ok(()) } else { Err(reach) }
    }
}

/// A host of a URL as [`Guard::named`] has it: without brackets, and without the dot that makes a name absolute.
pub(super) fn host_key(host: &str) -> &str {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.strip_suffix('.').unwrap_or(bare)
}

/// The address of a URL whose host is one.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(_) => None,
    }
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, 0, 0, 1] => Reach::Loopback,
        // "This network", the rest of this machine, link-local (with the metadata service of most clouds), groups, everybody.
        [0 | 127, ..] | [169, 254, ..] | [224..=239, ..] | [255, 255, 255, 255] => Reach::Forbidden,
        // Metadata services elsewhere: Alibaba Cloud, Azure's agent endpoint, Oracle Cloud.
        [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => Reach::Forbidden,
        // RFC 1918, and the space that carriers share (RFC 6598).
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Reach::Private,
        // Protocol assignments (RFC 6890), 6to4 relays (RFC 7526), benchmarks (RFC 2544), and what was kept for later (RFC 1112).
        [192, 0, 0, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [240..=255, ..] => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        // NAT64 (RFC 6052) is how hosts without IPv4 reach public addresses, and may stand for no others.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => match reach_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))) {
            Reach::Public => Reach::Public,
            _ => Reach::Forbidden,
        },
        // Metadata services: EC2 and its Pod Identity, Google Cloud, Oracle Cloud, Scaleway.
        [0xfd00, 0xec2, ..] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Reach::Forbidden,
        [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe] | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42] => Reach::Forbidden,
        // Unique local (RFC 4193) and its predecessor, site-local (RFC 3879).
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Reach::Private,
        // Teredo (RFC 4380) and 6to4 (RFC 3056) carry an IPv4 address that is reached in the end.
        [0x2001, 0, ..] | [0x2002, ..] => Reach::Forbidden,
        // Protocol assignments (RFC 2928), benchmarks (RFC 5180) among them.
        [0x2001, 0..=0x1ff, ..] => Reach::Private,
        [0x2000..=0x3fff, ..] => Reach::Public,
        // Link-local, groups, IPv4 in its mapped and compatible spelling, local NAT64, and everything that is not assigned.
        _ => Reach::Forbidden,
    }
}

#[cfg(test)]
mod tests;
