//! What is counted, without a lock: each number is an atomic of its own, and whoever reads sees it now or a moment later.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::labels::Label;

/// A number that only grows, or one for each value of a label.
pub(super) struct Counters<L> {
    numbers: Box<[AtomicU64]>,
    label: PhantomData<L>,
}

impl<L: Label> Counters<L> {
    pub(super) fn new() -> Self {
        Self { numbers: numbers(L::ALL.len()), label: PhantomData }
    }

    pub(super) fn add(&self, label: L) {
        self.numbers[label.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self, label: L) -> u64 {
        self.numbers[label.index()].load(Ordering::Relaxed)
    }
}

/// The same for each pair of values.
impl<A: Label, B: Label> Counters<(A, B)> {
    pub(super) fn of_pairs() -> Self {
        Self { numbers: numbers(A::ALL.len() * B::ALL.len()), label: PhantomData }
    }

    fn number(&self, first: A, second: B) -> &AtomicU64 {
        &self.numbers[first.index() * B::ALL.len() + second.index()]
    }

    pub(super) fn add_pair(&self, first: A, second: B) {
        self.number(first, second).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get_pair(&self, first: A, second: B) -> u64 {
        self.number(first, second).load(Ordering::Relaxed)
    }
}

fn numbers(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// How long something takes.
pub(super) struct Histogram {
    /// The upper ends of the buckets, in ascending order; one more bucket takes what is longer.
    bounds: &'static [Duration],
    /// How many fell into each bucket and into none before it.
    buckets: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    /// For each bucket its upper end and how many took no longer than that.
    pub(super) buckets: Vec<(Duration, u64)>,
    /// How many there were.
    pub(super) count: u64,
    /// How long all of them took together.
    pub(super) sum: Duration,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [Duration]) -> Self {
        Self { bounds, buckets: numbers(bounds.len() + 1), nanoseconds: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, took: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < took);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Buckets and count agree, whatever is being observed meanwhile.
    pub(super) fn read(&self) -> Reading {
        let mut count = 0;
        let mut upto = self.buckets.iter().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        let buckets: Vec<_> = self.bounds.iter().copied().zip(upto.by_ref()).collect();
        let count = upto.next().or(buckets.last().map(|(_, upto)| *upto)).unwrap_or_default();
        Reading { buckets, count, sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::{Operation, Outcome};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_pair_of_labels_has_a_number_of_its_own() {
        let counters: Counters<(Operation, Outcome)> = Counters::of_pairs();
        let mut expected = 0;
        for operation in Operation::ALL {
            for outcome in Outcome::ALL {
                expected += 1;
                (0..expected).for_each(|_| counters.add_pair(*operation, *outcome));
            }
        }
        let mut seen = 0;
        for operation in Operation::ALL {
            for outcome in Outcome::ALL {
                seen += 1;
                assert_eq!(counters.get_pair(*operation, *outcome), seen, "{operation:?} {outcome:?}");
            }
        }
    }

    #[test]
    fn a_bucket_holds_what_took_no_longer_than_its_end() {
        static BOUNDS: [Duration; 3] = [MS, Duration::from_millis(5), Duration::from_millis(10)];
        let histogram = Histogram::new(&BOUNDS);
        let empty = histogram.read();
        assert_eq!((empty.count, empty.sum), (0, Duration::ZERO));
        for took in [MS, MS / 2, 2 * MS, 10 * MS, 11 * MS, 1_000 * MS] {
            histogram.observe(took);
        }
        let reading = histogram.read();
        assert_eq!(reading.buckets, [(MS, 2), (5 * MS, 3), (10 * MS, 4)]);
        assert_eq!((reading.count, reading.sum), (6, 1_024 * MS + MS / 2));
    }
}
