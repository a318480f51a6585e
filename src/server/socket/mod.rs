//! Where a broker listens: its directories, its sockets, and what is left of both.
//!
//! ```text
//! {runtime}/            0700, one per user; the wall that keeps other users out
//!   lock                held while a broker creates, probes, binds or sweeps
//!   {id}/               0700, one per broker
//!     lock              held for the broker's life: a broker is live exactly while its `lock` is
//!     pid, control.sock
//!     sandbox/          the only part that a sandbox ever sees
//!       sock
//! ```
//!
//! It exists so that three things cannot happen: two brokers on one path, a live socket unlinked, and a socket that
//! somebody else can reach. The composition root opens the [`RuntimeDir`], makes a [`BrokerDir`] in it, binds, and
//! serves the listeners; the `status` command lists who is live. What kill -9 leaves is swept by the next start.
//!
//! A socket that a service manager hands over ([`InheritedSocket`]) is served as it is: none of this was done to it, and none
//! is undone. The broker's directory is there all the same, with its control socket.
//!
//! Everything here blocks, for at most a few system calls and a bounded wait for a lock: call it before the runtime is
//! busy, or from a blocking task. Nothing here reads the environment, accepts a connection or knows what is served.
//!
//! A socket is never connectable by others, not even for an instant and whatever the umask is: it is narrowed before it
//! is bound, given its exact mode, compared with what the directory shows, and only then made to listen. The umask is
//! neither relied upon (on Linux) nor changed, because it belongs to the whole process; `main` sets 077 once.

mod bind;
mod broker_dir;
mod dir;
mod error;
mod inherited;
mod layout;
mod lock;
mod probe;
mod runtime_dir;
mod sweep;

pub use bind::{BoundSocket, SocketGuard};
pub use broker_dir::{BrokerDir, Exposure};
pub use error::{DirRole, Failure, Flaw, SocketError};
pub use inherited::{Handover, InheritedSocket};
pub use layout::DirName;
pub use probe::PATH_LIMIT;
pub use runtime_dir::{LiveBroker, RuntimeDir, Survey};
