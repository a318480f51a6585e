//! How many connections a socket has, and which one goes when there is one too many.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use super::{Connection, Cut, Limits, UNSETTLED};

/// The connections of one socket.
pub(in crate::server) struct Crowd {
    members: Mutex<BTreeMap<u64, Member>>,
    next: AtomicU64,
    settled: usize,
}

struct Member {
    connection: Arc<Connection>,
    settled: bool,
}

/// A connection's place among the others, given up when it is dropped.
pub(in crate::server) struct Place {
    crowd: Arc<Crowd>,
    id: u64,
}

impl Crowd {
    pub(in crate::server) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            members: Mutex::default(),
            next: AtomicU64::new(0),
            settled: limits.connections.get() as usize,
        })
    }

    /// Takes in a connection that was just accepted; one that has not sent its first SETTINGS may have to go for it.
    pub(in crate::server) fn join(self: &Arc<Self>, connection: &Arc<Connection>) -> Place {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut members = self.lock();
        let member = Member {
            connection: Arc::clone(connection),
            settled: false,
        };
        members.insert(id, member);
        make_room(&mut members, false, UNSETTLED);
        drop(members);
        Place {
            crowd: Arc::clone(self),
            id,
        }
    }

    /// Lets one connection go: the system is out of descriptors.
    pub(in crate::server) fn shrink(&self) {
        let mut members = self.lock();
        let unsettled = members.values().filter(|member| !member.settled).count();
        if unsettled > 0 {
            make_room(&mut members, false, unsettled - 1);
        } else {
            let most = members.len().saturating_sub(1);
            make_room(&mut members, true, most);
        }
    }

    /// How many connections there are at most.
    pub(in crate::server) fn most(&self) -> usize {
        self.settled + UNSETTLED
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The connection's first SETTINGS has come; another one may have to go for it.
    pub(in crate::server) fn settle(&self) {
        let mut members = self.crowd.lock();
        if let Some(member) = members.get_mut(&self.id) {
            member.settled = true;
            make_room(&mut members, true, self.crowd.settled);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().remove(&self.id);
    }
}

fn make_room(members: &mut BTreeMap<u64, Member>, settled: bool, most: usize) {
    let mut candidates: Vec<Candidate> = members
        .iter()
        .filter(|(_, member)| member.settled == settled)
        .map(|(id, member)| Candidate {
            id: *id,
            pid: member.connection.peer().and_then(|peer| peer.pid),
            accepted: member.connection.accepted(),
            idle_since: member.connection.idle_since(),
        })
        .collect();
    while candidates.len() > most {
        let Some(victim) = victim(&candidates) else { return };
        candidates.retain(|candidate| candidate.id != victim);
        // Out at once: it ends in its own time, and until then it must not be chosen again.
        if let Some(member) = members.remove(&victim) {
            member.connection.cut(Cut::Crowded);
        }
    }
}

/// What is known of a connection when one has to go.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u64,
    pid: Option<i32>,
    accepted: Instant,
    /// Since when it has no open stream; `None`: it has one.
    idle_since: Option<Instant>,
}

/// Of the peer that holds most, the one longest without an open stream, else the oldest. Peers that hold equally many
/// are looked at together. Those whose pid the system does not tell are one peer.
fn victim(candidates: &[Candidate]) -> Option<u64> {
    let mut held: HashMap<Option<i32>, usize> = HashMap::new();
    for candidate in candidates {
        *held.entry(candidate.pid).or_default() += 1;
    }
    let most = held.values().copied().max()?;
    let of_the_greediest = || {
        let greedy = |candidate: &&Candidate| held.get(&candidate.pid) == Some(&most);
        candidates.iter().filter(greedy)
    };
    let idle = of_the_greediest()
        .filter_map(|candidate| Some((candidate.idle_since?, candidate.id)))
        .min();
    let oldest = || {
        of_the_greediest()
            .map(|candidate| (candidate.accepted, candidate.id))
            .min()
    };
    idle.or_else(oldest).map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;

    /// So many connections that one after the other comes to the crowd.
    fn join(crowd: &Arc<Crowd>, count: usize) -> Vec<(Arc<Connection>, Place)> {
        let member = || {
            let connection = Connection::new(None, &Limits::default(), watch::channel(false).1);
            let place = crowd.join(&connection);
            (connection, place)
        };
        std::iter::repeat_with(member).take(count).collect()
    }

    fn gone(members: &[(Arc<Connection>, Place)]) -> Vec<usize> {
        let gone = |(at, (connection, _)): (usize, &(Arc<Connection>, Place))| connection.why_cut().map(|_| at);
        members.iter().enumerate().filter_map(gone).collect()
    }

    #[test]
    fn without_descriptors_one_goes_at_a_time_and_the_silent_first() {
        let crowd = Crowd::new(&Limits::default());
        let members = join(&crowd, 5);
        for settled in [0, 1, 3] {
            members[settled].1.settle();
        }
        let mut went = Vec::new();
        for silent_first in [2, 4, 0, 1, 3] {
            crowd.shrink();
            went.push(silent_first);
            went.sort_unstable();
            assert_eq!(gone(&members), went);
        }
        crowd.shrink();
        assert_eq!(gone(&members).len(), 5, "nobody is left");
    }

    #[test]
    fn a_connection_that_ended_takes_nobodys_place() {
        let crowd = Crowd::new(&Limits::default());
        let (ended, place) = join(&crowd, 1).remove(0);
        drop(place);
        let members = join(&crowd, UNSETTLED);
        assert!(gone(&members).is_empty() && ended.why_cut().is_none());
    }

    #[test]
    fn there_are_no_more_than_the_limit_and_those_that_have_not_begun() {
        let limits = Limits::default();
        assert_eq!(Crowd::new(&limits).most(), 256 + 64);
    }

    #[test]
    fn who_goes() {
        // Each: pid, accepted at, idle since.
        type Row = (i32, u64, Option<u64>);
        let table: [(&[Row], Option<usize>); 9] = [
            (&[], None),
            (&[(1, 0, None)], Some(0)),
            // The one that holds most, although another's is older and idle for longer.
            (&[(1, 0, Some(0)), (2, 5, Some(8)), (2, 6, Some(7))], Some(2)),
            // Longest without a stream, not the oldest.
            (&[(1, 0, Some(9)), (1, 1, Some(3)), (1, 2, Some(5))], Some(1)),
            // A connection in use stays as long as there is an idle one.
            (&[(1, 0, None), (1, 1, Some(9)), (1, 2, None)], Some(1)),
            // All in use: the oldest.
            (&[(1, 3, None), (1, 1, None), (1, 2, None)], Some(1)),
            // One each: longest idle of all.
            (&[(1, 0, Some(4)), (2, 0, Some(3)), (3, 0, Some(5))], Some(1)),
            (&[(1, 0, None), (2, 0, Some(3)), (1, 1, None), (2, 9, None)], Some(1)),
            // The greedy one's are all in use: still one of its own goes, not the idle neighbour's.
            (&[(1, 0, None), (1, 1, None), (2, 0, Some(0))], Some(0)),
        ];
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (rows, want) in table {
            let candidates: Vec<_> = rows
                .iter()
                .enumerate()
                .map(|(id, (pid, accepted, idle))| Candidate {
                    id: id as u64,
                    pid: Some(*pid),
                    accepted: at(*accepted),
                    idle_since: idle.map(at),
                })
                .collect();
            assert_eq!(victim(&candidates), want.map(|id| id as u64), "{rows:?}");
        }
    }
}
