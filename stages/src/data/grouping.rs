//! Where a list is cut into pieces of about one size, so that what comes or goes elsewhere in the list moves no cut.

use std::ops::Range;

/// An element of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// How much work it is.
    pub size: u64,
    /// Something that only its content decides, spread evenly.
    pub fingerprint: u64,
}

/// Cuts items into groups of about `size`. An item of a quarter of that or more stands alone. Smaller ones are put
/// together with their neighbours, and whether there is a cut behind one is decided by its own fingerprint, with a
/// probability that grows with its size: cuts depend on what lies beside them (content-defined chunking), and only where
/// the fingerprints let more than twice the size pass, on more than that.
pub fn groups(items: &[Item], size: u64) -> Vec<Range<usize>> {
    let size = size.max(1);
    let mut groups = Vec::new();
    let (mut start, mut sum) = (0, 0_u64);
    for (at, item) in items.iter().enumerate() {
        let alone = item.size >= size.div_ceil(4);
        if alone && start < at {
            groups.push(start..at);
            start = at;
        }
        sum = if start == at { item.size } else { sum.saturating_add(item.size) };
        let threshold = u128::from(u64::MAX) * u128::from(item.size) / u128::from(size);
        if alone || u128::from(item.fingerprint) < threshold || sum >= size.saturating_mul(2) {
            groups.push(start..at + 1);
            start = at + 1;
        }
    }
    if start < items.len() {
        groups.push(start..items.len());
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn item(seed: u64, size: u64) -> Item {
        let hash = blake3::hash(&seed.to_le_bytes());
        let bytes: [u8; 8] = hash.as_bytes()[..8].try_into().expect("eight bytes");
        Item { size, fingerprint: u64::from_le_bytes(bytes) }
    }

    #[test]
    fn large_items_stand_alone_and_small_ones_come_together() {
        let items: Vec<Item> = (0..1000).map(|seed| item(seed, if seed == 500 { 40 } else { 2 })).collect();
        let groups = groups(&items, 100);
        assert!(groups.contains(&(500..501)));
        // 2000 of work at about 100 each; a geometric spread of sizes, cut off at 200.
        assert!((12..40).contains(&groups.len()), "{}", groups.len());
        assert!(groups.iter().all(|group| group.len() <= 100));
    }

    proptest! {
        #[test]
        fn an_item_that_comes_in_between_changes_few_groups(
            sizes in prop::collection::vec(1_u64..40, 1..200), at in 0_usize..200, size in 1_u64..200, new in 1000_u64..2000
        ) {
            let before: Vec<Item> = sizes.iter().zip(0..).map(|(size, seed)| item(seed, *size)).collect();
            let mut after = before.clone();
            after.insert(at.min(before.len()), item(new, size));
            let sets = |items: &[Item]| -> BTreeSet<Vec<u64>> {
                let cut = groups(items, 50);
                assert_eq!(cut.iter().cloned().flatten().collect::<Vec<_>>(), (0..items.len()).collect::<Vec<_>>());
                cut.into_iter().map(|group| items[group].iter().map(|item| item.fingerprint).collect()).collect()
            };
            let (old, now) = (sets(&before), sets(&after));
            // The group around the new item, and those behind it until a fingerprint cuts both lists at one place.
            prop_assert!(now.difference(&old).count() <= 12, "{}", now.difference(&old).count());
        }
    }
}
