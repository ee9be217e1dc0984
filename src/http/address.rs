//! Which addresses may not be asked by a URL that the operator did not write.

use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves names through the system and drops the addresses that may not be asked, so that what is checked is what is connected to.
#[derive(Debug, Clone, Copy)]
pub(super) struct GuardedResolver {
    pub(super) any_address: bool,
    pub(super) loopback: bool,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|found| guard.any_address || !is_forbidden(found.ip(), guard.loopback)).collect();
            if allowed.is_empty() {
                return Err(Box::new(ForbiddenByResolver) as Box<dyn StdError + Send + Sync>);
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("every address of the name is forbidden")]
pub(super) struct ForbiddenByResolver;

/// Whether an address may not be reached by a URL that the operator did not write.
pub(super) fn is_forbidden(address: IpAddr, allow_loopback: bool) -> bool {
    match address {
        IpAddr::V4(v4) => is_forbidden_v4(v4, allow_loopback),
        IpAddr::V6(v6) => {
            if let Some(v4) = embedded_v4(v6) {
                return is_forbidden_v4(v4, allow_loopback);
            }
            if v6 == Ipv6Addr::LOCALHOST {
                return !allow_loopback;
            }
            // fd00:ec2::254 is the metadata service of EC2.
            let ec2_metadata = v6 == Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);
            v6.is_unspecified() || v6.is_multicast() || (v6.segments()[0] & 0xffc0) == 0xfe80 || ec2_metadata
        }
    }
}

fn is_forbidden_v4(address: Ipv4Addr, allow_loopback: bool) -> bool {
    if address == Ipv4Addr::LOCALHOST {
        return !allow_loopback;
    }
    // 100.100.100.200 is the metadata service of Alibaba Cloud; AWS, Azure and Google use the link-local 169.254.169.254.
    let alibaba_metadata = address == Ipv4Addr::new(100, 100, 100, 200);
    address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.octets()[0] == 0
        || alibaba_metadata
}

/// The IPv4 address inside an IPv6 one: v4-mapped, v4-compatible, NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let from = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(from(g, h)),
        (0, 0, 0, 0, 0, 0) if (g, h) != (0, 0) && (g, h) != (0, 1) => Some(from(g, h)),
        (0x2002, ..) => Some(from(b, c)),
        _ => None,
    }
}
