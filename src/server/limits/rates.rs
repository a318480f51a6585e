//! How many calls a second pass, by the generic cell rate algorithm: per connection, and per socket.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

use super::{Limits, calls::SharedStreams, number};
use crate::broker::Error;

/// So many calls of each second are let through by the socket's rate on every connection, however busy the others are.
const FIRST: u32 = 5;
/// Calls a second to health and reflection, on one connection.
const COMPANIONS: u32 = 10;

/// Which count a call is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Kind {
    /// A call of the broker's own service.
    Own,
    /// Health or reflection: counted apart, so that neither a probe nor the calls get in each other's way.
    Companion,
}

/// Tokio's clock, as the time since a moment: it stands still where a test says so.
#[derive(Debug, Clone)]
struct Since(Instant);

impl Clock for Since {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// So many a second, and so many at once.
pub(in crate::server) struct Rate {
    limiter: RateLimiter<NotKeyed, InMemoryState, Since, NoOpMiddleware<Duration>>,
    clock: Since,
}

impl Rate {
    pub(in crate::server) fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let clock = Since(Instant::now());
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            limiter: RateLimiter::direct_with_clock(quota, clock.clone()),
            clock,
        }
    }

    /// Counts a call, or says when the next one will pass.
    ///
    /// # Errors
    /// How long that takes.
    pub(in crate::server) fn check(&self) -> Result<(), Duration> {
        self.limiter
            .check()
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

/// The rate of all connections of a socket together, and the streams that they share.
pub(in crate::server) struct SocketRate {
    rate: Rate,
    streams: Arc<SharedStreams>,
}

impl SocketRate {
    pub(in crate::server) fn new(limits: &Limits) -> Self {
        let rate = limits.requests_per_second_per_socket;
        Self {
            rate: Rate::new(rate, rate),
            streams: SharedStreams::new(limits),
        }
    }

    pub(super) fn streams(&self) -> &Arc<SharedStreams> {
        &self.streams
    }
}

/// The rates of one connection.
pub(in crate::server) struct ConnectionRates {
    own: Rate,
    companions: Rate,
    first: Rate,
}

impl ConnectionRates {
    pub(in crate::server) fn new(limits: &Limits) -> Self {
        let rate = limits.requests_per_second;
        Self {
            own: Rate::new(rate, rate.saturating_add(rate.get())),
            companions: Rate::new(number(COMPANIONS), number(COMPANIONS)),
            first: Rate::new(number(FIRST), number(FIRST)),
        }
    }

    /// Counts a call on this connection.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub(in crate::server) fn check(&self, kind: Kind) -> Result<(), Error> {
        let (rate, whose) = match kind {
            Kind::Own => (&self.own, "this connection"),
            Kind::Companion => (&self.companions, "health and reflection of this connection"),
        };
        rate.check()
            .map_err(|retry_after| Error::RateLimited { whose, retry_after })
    }

    /// Counts a call of this connection on its socket. The first ones of a second pass in any case: without that, who
    /// is quick enough could shut everybody else out.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub(in crate::server) fn check_socket(&self, socket: &SocketRate) -> Result<(), Error> {
        let first = self.first.check();
        match socket.rate.check() {
            Err(retry_after) if first.is_err() => Err(Error::RateLimited {
                whose: "this socket",
                retry_after,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(count: u32, mut check: impl FnMut() -> Result<(), Error>) -> u32 {
        (0..count).map(|_| u32::from(check().is_ok())).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_120_at_once_then_60_a_second() {
        let rates = ConnectionRates::new(&Limits::default());
        assert_eq!(pass(500, || rates.check(Kind::Own)), 120);
        // Health is counted apart.
        assert_eq!(pass(500, || rates.check(Kind::Companion)), 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pass(500, || rates.check(Kind::Own)), 60);
        assert_eq!(pass(500, || rates.check(Kind::Companion)), 10);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pass(500, || rates.check(Kind::Own)), 120);
    }

    #[tokio::test(start_paused = true)]
    async fn the_delay_is_true() {
        let rates = ConnectionRates::new(&Limits::default());
        let Some(Err(Error::RateLimited { retry_after, .. })) =
            (0..121).map(|_| rates.check(Kind::Own)).find(Result::is_err)
        else {
            panic!("121 calls passed");
        };
        assert!(
            retry_after > Duration::ZERO && retry_after <= Duration::from_millis(17),
            "{retry_after:?}"
        );
        tokio::time::advance(retry_after).await;
        assert!(rates.check(Kind::Own).is_ok());
        assert!(rates.check(Kind::Own).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_socket_lets_the_first_five_calls_of_every_connection_through() {
        let limits = Limits::default();
        let socket = SocketRate::new(&limits);
        let noisy = ConnectionRates::new(&limits);
        assert_eq!(pass(10_000, || noisy.check_socket(&socket)), 600);
        let quiet = ConnectionRates::new(&limits);
        for _second in 0..3 {
            assert_eq!(pass(10, || quiet.check_socket(&socket)), 5);
            // All that the socket has is gone again before the quiet one comes.
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(pass(10_000, || noisy.check_socket(&socket)), 600);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn configured_rates_hold() {
        let limits = Limits {
            requests_per_second: number(3),
            requests_per_second_per_socket: number(8),
            ..Limits::default()
        };
        let socket = SocketRate::new(&limits);
        let rates = ConnectionRates::new(&limits);
        assert_eq!(pass(100, || rates.check(Kind::Own)), 6);
        assert_eq!(pass(100, || rates.check_socket(&socket)), 8);
    }
}
