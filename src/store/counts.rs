//! How often a store failed, by what it was doing and why.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Operation, StoreError};

const OPERATIONS: [Operation; 6] = [
    Operation::Open,
    Operation::List,
    Operation::Read,
    Operation::Lock,
    Operation::Write,
    Operation::Remove,
];
/// The names of the errors as metrics have them, in the order of [`kind`].
const KINDS: [&str; 5] = ["locked", "corrupt", "newer_format", "busy", "unavailable"];

fn kind(error: &StoreError) -> usize {
    match error {
        StoreError::Locked { .. } => 0,
        StoreError::Corrupt { .. } => 1,
        StoreError::NewerFormat { .. } => 2,
        StoreError::Busy { .. } => 3,
        StoreError::Unavailable { .. } => 4,
    }
}

/// The errors of one store since it was opened.
#[derive(Debug, Default)]
pub struct StoreErrors([[AtomicU64; KINDS.len()]; OPERATIONS.len()]);

impl StoreErrors {
    /// Counts the result's error, if it is one. `operation` is what was asked for; a system's refusal names its own.
    pub(super) fn count<T>(&self, operation: Operation, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|error| {
            let operation = match error {
                StoreError::Unavailable { operation, .. } => *operation,
                _ => operation,
            };
            let row = OPERATIONS.iter().position(|known| *known == operation);
            let row = row.and_then(|row| self.0.get(row));
            if let Some(count) = row.and_then(|row| row.get(kind(error))) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Operation, kind and number of the errors that there were.
    pub fn iter(&self) -> impl Iterator<Item = (Operation, &'static str, u64)> {
        OPERATIONS.iter().zip(&self.0).flat_map(|(operation, row)| {
            let counts = row.iter().map(|count| count.load(Ordering::Relaxed));
            let kinds = KINDS.iter().copied().zip(counts);
            kinds
                .filter(|(_, count)| *count > 0)
                .map(|(kind, count)| (*operation, kind, count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_counts_where_it_happened_and_a_success_nowhere() {
        let errors = StoreErrors::default();
        let busy = || StoreError::Busy {
            what: "x".into(),
            holder: None,
        };
        let refused = |operation| StoreError::Unavailable {
            operation,
            what: "x".into(),
            cause: std::sync::Arc::new(std::io::Error::other("x")),
        };
        errors.count(Operation::Read, Ok(())).unwrap();
        for error in [busy(), busy(), refused(Operation::Write)] {
            errors.count::<()>(Operation::Lock, Err(error)).unwrap_err();
        }
        let seen: Vec<_> = errors.iter().collect();
        assert_eq!(
            seen,
            [(Operation::Lock, "busy", 2), (Operation::Write, "unavailable", 1)]
        );
    }
}
