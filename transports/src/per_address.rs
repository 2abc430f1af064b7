//! How many connections each address has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the connections of each address, over all workers. It remembers those addresses that have one.
pub(crate) struct PerAddress {
    most: usize,
    ipv6_prefix_bits: u8,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// What a connection takes of its address's share, until it is dropped.
pub(crate) struct Share {
    of: Arc<PerAddress>,
    network: IpAddr,
}

impl PerAddress {
    pub(crate) fn new(most: usize, ipv6_prefix_bits: u8) -> Arc<Self> {
        Arc::new(PerAddress { most, ipv6_prefix_bits, counts: Mutex::default() })
    }

    /// `None`: this address has as many as it may.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let network = self.network(address);
        let mut counts = self.counts();
        let count = counts.entry(network).or_default();
        if *count == self.most {
            return None;
        }
        *count += 1;
        Some(Share { of: Arc::clone(self), network })
    }

    /// What stands for an address: an IPv6 address is one of many that its owner has.
    fn network(&self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let rest = u128::MAX.checked_shr(self.ipv6_prefix_bits.into()).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & !rest).into()
            }
            address => address,
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.of.counts();
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each with two addresses, which are taken for one.
    const NETWORKS: [[&str; 2]; 4] = [
        ["192.0.2.1", "::ffff:192.0.2.1"],
        ["192.0.2.2", "192.0.2.2"],
        ["2001:db8:0:1::", "2001:db8:0:1:ffff:ffff:ffff:ffff"],
        ["2001:db8:0:2::", "2001:db8:0:2:ffff:ffff:ffff:ffff"],
    ];

    proptest! {
        /// Each step takes one for a network, or gives back one that was taken.
        #[test]
        fn each_address_has_what_it_may_and_is_forgotten_with_its_last(
            most in 1usize..5,
            steps in prop::collection::vec((0..NETWORKS.len(), 0..2usize, prop::option::of(0..64usize)), 0..200),
        ) {
            let per_address = PerAddress::new(most, 64);
            let mut taken: Vec<(usize, Share)> = Vec::new();
            for (network, which, gives_back) in steps {
                let of = |wanted, taken: &[(usize, Share)]| taken.iter().filter(|(of, _)| *of == wanted).count();
                match gives_back {
                    Some(at) if !taken.is_empty() => drop(taken.swap_remove(at % taken.len())),
                    _ => {
                        let share = per_address.take(NETWORKS[network][which].parse().unwrap());
                        prop_assert_eq!(share.is_some(), of(network, &taken) < most);
                        taken.extend(share.map(|share| (network, share)));
                    }
                }
                let known = (0..NETWORKS.len()).filter(|network| of(*network, &taken) > 0).count();
                prop_assert_eq!(per_address.counts().len(), known);
            }
        }

        #[test]
        fn so_many_bits_of_an_ipv6_address_count_and_no_more(bits in 1..=128u8, address: u128, bit in 0..128u8) {
            let per_address = PerAddress::new(1, bits);
            let _first = per_address.take(Ipv6Addr::from_bits(address).into());
            let other = Ipv6Addr::from_bits(address ^ (1 << (127 - bit)));
            // One that stands for an IPv4 address is taken for that.
            prop_assume!(Ipv6Addr::from_bits(address).to_ipv4_mapped().is_none());
            prop_assume!(other.to_ipv4_mapped().is_none());
            prop_assert_eq!(per_address.take(other.into()).is_some(), bit < bits);
        }
    }
}
