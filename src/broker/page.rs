//! Pages of names or keys: in ascending order, resumed after the last one seen, so that a page stays right when others
//! come and go in between.

/// The page size if the caller does not say.
pub const DEFAULT_SIZE: usize = 100;
/// The largest page: 500 names of 64 bytes stay well below the 64 KiB of an answer.
pub const MAX_SIZE: usize = 500;

/// Which page.
#[derive(Debug, Clone)]
pub struct PageRequest<T> {
    /// At most this many.
    pub size: usize,
    /// Only what comes after this one.
    pub after: Option<T>,
}

impl<T: Ord + Clone> PageRequest<T> {
    /// All at once, for the host's own use.
    #[must_use]
    pub fn all() -> Self {
        Self {
            size: usize::MAX,
            after: None,
        }
    }

    /// Cuts the page out of names in ascending order.
    pub(super) fn cut(&self, names: impl IntoIterator<Item = T>) -> Page<T> {
        let mut rest = names
            .into_iter()
            .skip_while(|name| self.after.as_ref().is_some_and(|after| name <= after));
        let names: Vec<T> = rest.by_ref().take(self.size).collect();
        let more = rest.next().is_some();
        Page {
            next: names.last().filter(|_| more).cloned(),
            names,
        }
    }
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In ascending order.
    pub names: Vec<T>,
    /// Where the next page goes on; `None` on the last.
    pub next: Option<T>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Name;

    fn names(text: &str) -> Vec<Name> {
        text.split(' ').map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn pages_cover_every_name_once_and_the_last_has_no_next() {
        let all = names("a b c d e");
        let mut request = PageRequest { size: 2, after: None };
        let mut seen = Vec::new();
        loop {
            let page = request.cut(all.clone());
            assert!(page.names.len() <= 2);
            seen.extend(page.names);
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_name_that_vanished_between_pages_does_not_stop_the_next_page() {
        let request = PageRequest {
            size: 2,
            after: Some("b".parse().unwrap()),
        };
        assert_eq!(request.cut(names("a c d e")).names, names("c d"));
    }

    #[test]
    fn a_full_last_page_has_no_next() {
        let request = PageRequest { size: 2, after: None };
        assert_eq!(request.cut(names("a b")).next, None);
    }
}
