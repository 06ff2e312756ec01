//! What the running stages share: amounts of named resources, and devices that are lent one by one.

use std::collections::BTreeSet;

/// How much there is of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// An amount for each resource.
    pub amounts: Vec<u64>,
    /// The resource whose units are devices, if there is one.
    pub devices: Option<usize>,
}

/// What is left of it.
#[derive(Debug)]
pub(super) struct Pool {
    /// Less than nothing while it is not known yet that something was given back.
    free: Vec<i128>,
    devices: Option<usize>,
    idle: BTreeSet<u64>,
}

impl Pool {
    pub(super) fn new(capacity: &Capacity) -> Self {
        let count = capacity.devices.and_then(|resource| capacity.amounts.get(resource)).copied().unwrap_or(0);
        let free = capacity.amounts.iter().copied().map(i128::from).collect();
        Self { free, devices: capacity.devices, idle: (0..count).collect() }
    }

    /// Whether so much is free. Of nothing there is always enough.
    pub(super) fn has(&self, amounts: &[u64]) -> bool {
        self.free.iter().zip(amounts).all(|(free, &amount)| amount == 0 || i128::from(amount) <= *free)
    }

    /// Whether devices are among what is asked for.
    pub(super) fn has_devices_among(&self, amounts: &[u64]) -> bool {
        self.devices.and_then(|resource| amounts.get(resource)).is_some_and(|amount| *amount > 0)
    }

    /// Takes what is asked for, and says which devices are among it: those with the lowest numbers.
    pub(super) fn take(&mut self, amounts: &[u64]) -> Vec<usize> {
        for (free, amount) in self.free.iter_mut().zip(amounts) {
            *free -= i128::from(*amount);
        }
        let count = self.devices.and_then(|resource| amounts.get(resource)).copied().unwrap_or(0);
        (0..count).map_while(|_| self.idle.pop_first()).map(|device| device as usize).collect()
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&mut self, amounts: &[u64], devices: &[usize]) {
        for (free, amount) in self.free.iter_mut().zip(amounts) {
            *free += i128::from(*amount);
        }
        self.idle.extend(devices.iter().map(|&device| device as u64));
    }
}
