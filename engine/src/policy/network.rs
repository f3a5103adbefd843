//! Networks of clients: prefixes as an operator writes them, and sets of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

const IPV4_BITS: u8 = 32;
const IPV6_BITS: u8 = 128;
/// Of the IPv6 prefix that stands for all IPv4 addresses, `::ffff:0:0/96` (RFC 4291 §2.5.5.2).
const MAPPED_PREFIX_LEN: u8 = 96;
const MAPPED_PREFIX: u128 = 0xffff;

/// All addresses that begin with the same bits. IPv4 addresses mapped into IPv6 are IPv4 addresses here: which of the
/// two a client arrives with says only how our socket was bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// Canonical; 0 behind the prefix.
    first: IpAddr,
    prefix_len: u8,
}

/// An address as one number, for looking it up: an IPv4 address is the one that stands for it in IPv6. An [`IpAddr`] of
/// 17 octets that was just written keeps the processor waiting when its inner ones are read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(u128);

/// Why a text names no network; completes a sentence that begins with the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotANetwork {
    #[error("it takes an address and the length of its prefix, such as 192.0.2.0/24 or 2001:db8::/32")]
    Syntax,
    #[error("the prefix of such an address has {0} to {1} bits")]
    PrefixLen(u8, u8),
    #[error("{0} is no mask: the ones have to stand in front, as in 255.255.255.0")]
    Mask(Ipv4Addr),
    #[error(
        "it has bits behind its prefix; write {network} for the network, or {address} for the one address"
    )]
    HostBits { network: Network, address: IpAddr },
}

impl Network {
    pub const ALL_IPV4: Self = Self { first: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix_len: 0 };
    pub const ALL_IPV6: Self = Self { first: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix_len: 0 };

    /// The network with a prefix of this length that `address` is in; a length beyond the address's is the address
    /// itself.
    pub fn around(address: IpAddr, prefix_len: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let prefix_len = prefix_len.min(IPV4_BITS);
                let behind = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                Self { first: Ipv4Addr::from_bits(address.to_bits() & !behind).into(), prefix_len }
            }
            IpAddr::V6(address) => {
                let prefix_len = prefix_len.min(IPV6_BITS);
                let behind = u128::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                Self { first: Ipv6Addr::from_bits(address.to_bits() & !behind).into(), prefix_len }
            }
        }
    }

    /// The lowest address, which has 0 behind the prefix.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        // Of an address of the other kind, what is around it is of the other kind too.
        Self::around(address, self.prefix_len) == *self
    }
}

impl Address {
    /// Of the IPv6 address.
    #[inline]
    pub fn to_bits(self) -> u128 {
        self.0
    }

    /// `None` if it is no IPv4 address.
    #[inline]
    pub fn to_ipv4_bits(self) -> Option<u32> {
        (self.0 >> IPV4_BITS == MAPPED_PREFIX).then_some(self.0 as u32)
    }
}

impl From<IpAddr> for Address {
    #[inline]
    fn from(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(address) => MAPPED_PREFIX << IPV4_BITS | u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        })
    }
}

impl From<Address> for IpAddr {
    /// IPv4 where it is one.
    fn from(address: Address) -> Self {
        Self::V6(Ipv6Addr::from_bits(address.0)).to_canonical()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_len)
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    /// `192.0.2.0/24`, `192.0.2.0/255.255.255.0`, `2001:db8::/32`, or one address.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let written: IpAddr = address.parse().map_err(|_| NotANetwork::Syntax)?;
        let address = written.to_canonical();
        // How many bits of the prefix as written stand in front of the canonical address.
        let (least, most) = match (written, address) {
            (IpAddr::V4(_), _) => (0, IPV4_BITS),
            (IpAddr::V6(_), IpAddr::V4(_)) => (MAPPED_PREFIX_LEN, IPV6_BITS),
            (IpAddr::V6(_), IpAddr::V6(_)) => (0, IPV6_BITS),
        };
        let prefix_len = match prefix {
            None => most,
            Some(mask) if written.is_ipv4() && mask.contains('.') => mask_len(mask)?,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|len| (least..=most).contains(len))
                .ok_or(NotANetwork::PrefixLen(least, most))?,
            Some(_) => return Err(NotANetwork::Syntax),
        };
        let network = Self::around(address, prefix_len - least);
        if network.first == address { Ok(network) } else { Err(NotANetwork::HostBits { network, address }) }
    }
}

fn mask_len(mask: &str) -> Result<u8, NotANetwork> {
    let mask: Ipv4Addr = mask.parse().map_err(|_| NotANetwork::Syntax)?;
    let ones_count = mask.to_bits().leading_ones();
    if mask.to_bits().count_ones() == ones_count {
        Ok(ones_count as u8)
    } else {
        Err(NotANetwork::Mask(mask))
    }
}

/// A set of networks; immutable once built. A lookup allocates nothing and takes as many steps as the logarithm of the
/// number of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSet {
    ipv4: Ranges<u32>,
    ipv6: Ranges<u128>,
}

impl NetworkSet {
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.ipv4.contains(address.to_bits()),
            IpAddr::V6(address) => self.ipv6.contains(address.to_bits()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ipv4.0.is_empty() && self.ipv6.0.is_empty()
    }
}

impl FromIterator<Network> for NetworkSet {
    fn from_iter<T: IntoIterator<Item = Network>>(networks: T) -> Self {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for network in networks {
            match network.first {
                IpAddr::V4(first) => {
                    let behind = u32::MAX.checked_shr(network.prefix_len.into()).unwrap_or(0);
                    ipv4.push((first.to_bits(), first.to_bits() | behind));
                }
                IpAddr::V6(first) => {
                    let behind = u128::MAX.checked_shr(network.prefix_len.into()).unwrap_or(0);
                    ipv6.push((first.to_bits(), first.to_bits() | behind));
                }
            }
        }
        Self { ipv4: Ranges::new(ipv4), ipv6: Ranges::new(ipv6) }
    }
}

/// First and last number of each range, ascending, none inside another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges<T>(Box<[(T, T)]>);

impl<T: Copy + Ord> Ranges<T> {
    /// Prefixes lie inside of one another or apart: what is inside is left out.
    fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        ranges.dedup_by(|later, earlier| later.1 <= earlier.1);
        Self(ranges.into())
    }

    fn contains(&self, number: T) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).is_some_and(|index| number <= self.0[index].1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_as_they_are_written() {
        for (text, shown) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/255.255.255.255", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("0.0.0.0/0.0.0.0", "0.0.0.0/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ] {
            assert_eq!(network(text).to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_network_is_told_why() {
        use NotANetwork::{HostBits, Mask, PrefixLen, Syntax};
        for text in
            ["", "/", "/24", "192.0.2.0/", "192.0.2/24", "a.example/24", "192.0.2.0/24/24", "192.0.2.0/+24"]
        {
            assert_eq!(text.parse::<Network>(), Err(Syntax), "{text}");
        }
        for text in [
            "192.0.2.0/-1",
            "192.0.2.0/0x18",
            "192.0.2.0/255.255.255",
            "2001:db8::/255.255.0.0",
            "fe80::1%eth0",
        ] {
            assert_eq!(text.parse::<Network>(), Err(Syntax), "{text}");
        }
        for (text, least, most) in
            [("192.0.2.0/33", 0, 32), ("2001:db8::/129", 0, 128), ("::ffff:192.0.2.0/24", 96, 128)]
        {
            assert_eq!(text.parse::<Network>(), Err(PrefixLen(least, most)), "{text}");
        }
        for mask in ["255.0.255.0", "0.0.0.255", "255.255.255.1"] {
            let error = format!("192.0.2.0/{mask}").parse::<Network>();
            assert_eq!(error, Err(Mask(mask.parse().unwrap())));
        }
        let (network, address) = (network("192.0.2.0/24"), address("192.0.2.9"));
        let error = "192.0.2.9/24".parse::<Network>();
        assert_eq!(error, Err(HostBits { network, address }));
        let text = error.unwrap_err().to_string();
        assert!(
            text.ends_with("write 192.0.2.0/24 for the network, or 192.0.2.9 for the one address"),
            "{text}"
        );
    }

    #[test]
    fn an_ipv4_client_is_one_on_every_socket() {
        assert!(network("192.0.2.0/24").contains(address("::ffff:192.0.2.9")));
        assert!(network("0.0.0.0/0").contains(address("::ffff:192.0.2.9")));
        // All of IPv6 is not the whole internet: whoever means both writes both.
        assert!(!network("::/0").contains(address("::ffff:192.0.2.9")));
        assert!(!network("::/0").contains(address("192.0.2.9")));
        assert!(!network("0.0.0.0/0").contains(address("::1")));
        assert!(network("::/0").contains(address("::1")));
    }

    #[test]
    fn an_empty_set_holds_nobody() {
        let set = NetworkSet::default();
        assert!(set.is_empty() && !set.contains(address("::")) && !set.contains(address("0.0.0.0")));
    }

    /// Addresses and networks near each other, so that they meet.
    fn near() -> impl Strategy<Value = (IpAddr, u8)> {
        let ipv4 =
            (0u32..4, 28u8..=32).prop_map(|(low, len)| (Ipv4Addr::from_bits(low << 2 | 1).into(), len));
        let ipv6 = (0u128..64, 122u8..=128).prop_map(|(low, len)| (Ipv6Addr::from_bits(low).into(), len));
        let wide = (any::<u128>(), 0u8..=128).prop_map(|(bits, len)| (Ipv6Addr::from_bits(bits).into(), len));
        prop_oneof![3 => ipv4, 3 => ipv6, 1 => wide]
    }

    proptest! {
        #[test]
        fn a_set_holds_what_one_of_its_networks_holds(
            networks in prop::collection::vec(near(), 0..12),
            addresses in prop::collection::vec(near(), 1..24),
        ) {
            let networks: Vec<Network> =
                networks.into_iter().map(|(address, len)| Network::around(address, len)).collect();
            let set: NetworkSet = networks.iter().copied().collect();
            for (address, _) in addresses {
                let one = networks.iter().any(|network| network.contains(address));
                prop_assert_eq!(set.contains(address), one, "{} {:?}", address, networks);
            }
        }

        /// Bit for bit, as text.
        #[test]
        fn a_network_holds_what_begins_with_its_bits((first, len) in near(), (address, _) in near()) {
            let bits = |address: IpAddr| match address.to_canonical() {
                IpAddr::V4(address) => format!("4{:032b}", address.to_bits()),
                IpAddr::V6(address) => format!("6{:0128b}", address.to_bits()),
            };
            let len = if first.is_ipv4() { len.min(32) } else { len };
            let prefix = &bits(first)[..=usize::from(len)];
            let network = Network::around(first, len);
            prop_assert_eq!(network.contains(address), bits(address).starts_with(prefix));
            prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
        }
    }
}
