//! One connection of a client: made with the first call, closed when nobody used it for a while, never made anew after a
//! loss.
//!
//! ```text
//! Closed --first call--> Open --idle--> Closed
//!                         |--broken, before the version was agreed on--> Closed
//!                         |--broken, after--> Closed, and all is lost for good
//!                         '--no common version--> Closed, and all is mismatched for good
//! ```
//!
//! A client has one for its calls and further ones for what it watches (`watches`). They lead to the same broker, so what is
//! final for one is final for all: nothing begins on any of them any more. What is under way on another one goes on; its
//! answer is still that broker's.
//!
//! A broker that comes later at the same path may be anybody's; only the one who started the session can tell. So a
//! connection that broke stays broken, however it came about: a call that ended without any answer counts, too, because a
//! broker answers every call. Closing one that is idle is this side's own doing, at a
//! moment when the broker was there, and is the only way to a second connection.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, Notify, OnceCell},
    time::{Instant, sleep_until, timeout},
};
use tonic::Status;

use super::{
    Error, ServerInfo,
    connect::{self, ConnectError, Connection, Sender},
    error::Refusal,
    transport::{Capability, Transport},
};

/// How long a connection that is closed may take to say so to the broker.
const GOODBYE: Duration = Duration::from_secs(1);

/// The way to a broker, which all connections of a client share.
pub(super) struct Road {
    path: PathBuf,
    capability: Option<Capability>,
    /// Why there is no way any more, once there is none.
    end: OnceLock<End>,
}

/// What is for good.
#[derive(Clone, Copy)]
enum End {
    Lost,
    Mismatched,
}

impl Road {
    pub(super) fn new(path: PathBuf, capability: Option<Capability>) -> Arc<Self> {
        Arc::new(Self {
            path,
            capability,
            end: OnceLock::new(),
        })
    }

    /// # Errors
    /// Why nothing can begin any more.
    fn open(&self) -> Result<(), Error> {
        match self.end.get() {
            None => Ok(()),
            Some(End::Lost) => Err(Error::ConnectionLost),
            Some(End::Mismatched) => Err(mismatch()),
        }
    }

    /// The first reason stays.
    fn ends(&self, end: End) {
        let _ = self.end.set(end);
    }
}

/// A connection of a client in whatever state it is.
pub(super) struct Link {
    road: Arc<Road>,
    idle: Duration,
    /// Held by the one caller that connects; the others wait for what it brings.
    connecting: AsyncMutex<()>,
    state: Mutex<State>,
}

struct State {
    now: Now,
    /// How many connections there were: tells this one from those before it.
    connections: u64,
}

enum Now {
    Closed,
    Open(Open),
}

struct Open {
    sender: Sender,
    server: Arc<OnceCell<ServerInfo>>,
    /// Calls under way, and when their number last fell.
    calls: usize,
    since: Instant,
    /// Tells the driver that the last call ended.
    quiet: Arc<Notify>,
}

impl Link {
    /// The connection is closed when nobody used it for `idle`.
    pub(super) fn new(road: Arc<Road>, idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            road,
            idle,
            connecting: AsyncMutex::new(()),
            state: Mutex::new(State {
                now: Now::Closed,
                connections: 0,
            }),
        })
    }

    /// The right to make one call. Connects if there is no connection.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, Error> {
        if let Some(lease) = self.on_open()? {
            return Ok(lease);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(lease) = self.on_open()? {
            return Ok(lease);
        }
        let (sender, connection) = connect::connect(&self.road.path).await.map_err(Error::CannotConnect)?;
        // Another connection may have broken meanwhile: then this one may lead to anybody.
        self.road.open()?;
        Ok(self.opened(sender, connection))
    }

    /// A lease on the connection that is open, if one is.
    fn on_open(self: &Arc<Self>) -> Result<Option<Lease>, Error> {
        self.road.open()?;
        let mut state = self.state();
        let id = state.connections;
        Ok(match &mut state.now {
            Now::Closed => None,
            Now::Open(open) => {
                open.calls += 1;
                Some(self.lease_on(id, open))
            }
        })
    }

    fn opened(self: &Arc<Self>, sender: Sender, connection: Connection) -> Lease {
        let mut state = self.state();
        state.connections += 1;
        let id = state.connections;
        let open = Open {
            sender,
            server: Arc::default(),
            calls: 1,
            since: Instant::now(),
            quiet: Arc::default(),
        };
        let driver = Driver {
            link: Arc::downgrade(self),
            road: Arc::clone(&self.road),
            server: Arc::clone(&open.server),
            id,
            idle: self.idle,
            quiet: Arc::clone(&open.quiet),
            closed: false,
        };
        tokio::spawn(driver.run(connection));
        let lease = self.lease_on(id, &open);
        state.now = Now::Open(open);
        lease
    }

    fn lease_on(self: &Arc<Self>, id: u64, open: &Open) -> Lease {
        Lease {
            link: Arc::clone(self),
            id,
            sender: open.sender.clone(),
            server: Arc::clone(&open.server),
        }
    }

    /// Connection `id` broke.
    fn broke(&self, id: u64) {
        let mut state = self.state();
        if let Some(open) = state.open(id) {
            if open.server.initialized() {
                self.road.ends(End::Lost);
            }
            state.now = Now::Closed;
        }
    }

    /// The broker behind connection `id` speaks no version that this client does.
    fn mismatched(&self, id: u64) {
        let mut state = self.state();
        if state.open(id).is_some() {
            self.road.ends(End::Mismatched);
            state.now = Now::Closed;
        }
    }

    /// A call on connection `id` ended.
    fn returned(&self, id: u64) {
        let mut state = self.state();
        if let Some(open) = state.open(id) {
            open.calls -= 1;
            open.since = Instant::now();
            if open.calls == 0 {
                open.quiet.notify_one();
            }
        }
    }

    /// Closes connection `id` if nobody has used it for long enough, else says when that could be; `None`: not before
    /// a call ends. Calls begin under the same lock, so none can begin on what is closed here.
    fn close_if_idle(&self, id: u64) -> Idle {
        let mut state = self.state();
        let Some(open) = state.open(id) else {
            return Idle::Closed;
        };
        let end = open.since + self.idle;
        if open.calls > 0 {
            Idle::InUse
        } else if end > Instant::now() {
            Idle::Until(end)
        } else {
            // The sender goes with it, and that ends the connection.
            state.now = Now::Closed;
            Idle::Closed
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The connection of this number, if it is still the one.
    fn open(&mut self, id: u64) -> Option<&mut Open> {
        match &mut self.now {
            Now::Open(open) if self.connections == id => Some(open),
            _ => None,
        }
    }
}

fn mismatch() -> Error {
    Error::UnknownVersion(Refusal::new(
        "the broker and this client have no protocol version in common: restart the session",
    ))
}

enum Idle {
    InUse,
    Until(Instant),
    Closed,
}

/// The right to make a call, and with it the promise that the connection is not closed as idle meanwhile.
pub(super) struct Lease {
    link: Arc<Link>,
    id: u64,
    sender: Sender,
    server: Arc<OnceCell<ServerInfo>>,
}

impl Lease {
    /// What the broker said of itself, once it has.
    pub(super) fn server(&self) -> &OnceCell<ServerInfo> {
        &self.server
    }

    pub(super) fn transport(&self) -> Transport {
        Transport::Socket(self.sender.clone(), self.link.road.capability.clone())
    }

    /// What a call's failure means for the caller, and for the connection.
    pub(super) fn failed(&self, status: Status) -> Error {
        match Error::from(status) {
            Error::ConnectionLost => {
                self.link.broke(self.id);
                if self.server.initialized() {
                    Error::ConnectionLost
                } else {
                    Error::CannotConnect(ConnectError::Refused)
                }
            }
            Error::UnknownVersion(refusal) => {
                self.link.mismatched(self.id);
                Error::UnknownVersion(refusal)
            }
            answer => answer,
        }
    }

    /// The call was cut with the runtime that it ran on, and so was the connection.
    pub(super) fn cut(&self) -> Error {
        self.link.broke(self.id);
        Error::ConnectionLost
    }

    /// The broker answered with a version that was not asked for.
    pub(super) fn mismatched(&self) -> Error {
        self.link.mismatched(self.id);
        mismatch()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.returned(self.id);
    }
}

/// Polls a connection until it ends, and ends it when it is idle. It has no share in the sender, so a client that is
/// dropped takes its connection along.
struct Driver {
    link: Weak<Link>,
    road: Arc<Road>,
    server: Arc<OnceCell<ServerInfo>>,
    id: u64,
    idle: Duration,
    quiet: Arc<Notify>,
    /// This side closed the connection.
    closed: bool,
}

impl Driver {
    async fn run(mut self, mut connection: Connection) {
        // First looked at when the connection can have become idle for the first time.
        let mut idle = Idle::Until(Instant::now() + self.idle);
        loop {
            let look = async {
                match idle {
                    Idle::Until(end) => sleep_until(end).await,
                    Idle::InUse | Idle::Closed => self.quiet.notified().await,
                }
            };
            tokio::select! {
                // A connection that broke while this process slept is lost, also if it would have been idle by now.
                biased;
                ended = &mut connection => {
                    // It ends by itself when nobody has a sender any more.
                    self.closed = self.link.strong_count() == 0;
                    if let Err(error) = ended {
                        tracing::debug!(%error, "the connection to the broker broke");
                    }
                    return;
                }
                () = look => {}
            }
            // A client that is gone has dropped its sender; the connection ends by itself.
            let Some(link) = self.link.upgrade() else { break };
            idle = link.close_if_idle(self.id);
            if matches!(idle, Idle::Closed) {
                break;
            }
        }
        self.closed = true;
        // In good order, but a broker that does not read cannot hold this up.
        if timeout(GOODBYE, connection).await.is_err() {
            tracing::debug!("the broker did not take note that the connection is closed");
        }
    }
}

impl Drop for Driver {
    /// However it ends, also with the runtime it runs on: nobody polls the connection any more.
    fn drop(&mut self) {
        if let Some(link) = self.link.upgrade() {
            link.broke(self.id);
        } else if !self.closed && self.server.initialized() {
            self.road.ends(End::Lost);
        }
    }
}
