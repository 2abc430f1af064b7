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
