//! The record of what was asked: one JSON line per credential operation, without any secret.
//!
//! Calls hand their record to a bounded queue and never wait for the disk; one thread writes. It writes the first record
//! at once and then pauses, so that a busy broker wakes it some dozens of times a second and not with every call. Every line
//! hangs on the one before ([`chain`]); what reads them again is [`verify`].
//!
//! When the queue is full or the disk refuses, [`OnFull`] decides: calls go on and the lost lines are counted, or calls are
//! refused before anything happens. For the latter each call has its place in the queue before it begins.

use std::{
    fmt,
    io::Write,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::watch;

use crate::clock::{Clock, SystemClock};

pub mod chain;
mod line;
pub mod series;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

use chain::Key;
use line::Entry;
pub(crate) use line::is_format_character;
pub use line::{PeerFacts, Record, Refusals};

/// How many records may wait for the disk. At the highest rate that was ever measured, a disk may stand still for a
/// quarter of a second; at the default rate of a socket, for half a minute.
const QUEUE: usize = 16 * 1024;
/// How long the writer leaves alone what comes after a write. The lines of that time go out together.
const PAUSE: Duration = Duration::from_millis(20);
/// So many records end the pause: what waits stays small, also when calls come fast.
const PLENTY: usize = 2048;
/// How long a call waits at the start for the file, where nothing is handed out without it.
const OPENING: Duration = Duration::from_secs(15);
/// How large a file becomes before the next one takes over.
const FILE: u64 = 64 * 1024 * 1024;

/// What happens to calls whose record cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFull {
    /// They are answered; the lines that are lost are counted.
    #[default]
    Serve,
    /// They are refused before anything happens.
    Refuse,
}

/// How the lines are written.
#[derive(Clone)]
pub struct Settings {
    /// What happens when they cannot be.
    pub on_full: OnFull,
    /// A file of so many bytes is closed, and another one goes on.
    pub file_size: u64,
    /// Whether a key will be told ([`KeySlot`]) when it is wanted.
    pub keyed: bool,
    /// For the lines that are about no call.
    pub clock: Arc<dyn Clock>,
}

impl Settings {
    /// The usual ones, for a chain under a key, which has to be told ([`KeySlot`]).
    #[must_use]
    pub fn with_key() -> Self {
        Self::new(true)
    }

    /// The usual ones, for a chain that nobody vouches for: whoever can change it can mend it.
    #[must_use]
    pub fn without_key() -> Self {
        Self::new(false)
    }

    // There is no default: who forgets the key would have none.
    fn new(keyed: bool) -> Self {
        Self {
            on_full: OnFull::default(),
            file_size: FILE,
            keyed,
            clock: Arc::new(SystemClock::new()),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("on_full", &self.on_full)
            .field("file_size", &self.file_size)
            .field("keyed", &self.keyed)
            .finish_non_exhaustive()
    }
}

/// No record can be kept now, so nothing may happen that would need one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Takes records. Clones share the queue; with the last one the writer ends.
#[derive(Debug, Clone)]
pub struct Audit {
    sender: Arc<Sender>,
}

/// The writer behind an [`Audit`]; [`AuditWriter::finish`] waits for the last line.
#[derive(Debug)]
pub struct AuditWriter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// Room in the queue for the record of one call.
#[derive(Debug)]
#[must_use = "the room is free again when this is dropped"]
pub struct Place(Option<Arc<Shared>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.queue().reserved -= 1;
        }
    }
}

#[derive(Debug)]
struct Sender(Arc<Shared>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.finish();
    }
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    queue: Mutex<Queue>,
    /// There is something for the writer to do before its pause is over.
    wake: Condvar,
    disk: watch::Sender<Disk>,
    wish: watch::Sender<Wish>,
    lost: AtomicU64,
    failed_calls: AtomicU64,
    /// What no line tells yet.
    untold_lost: AtomicU64,
    untold_refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Entry>,
    /// Places of calls that are under way.
    reserved: usize,
    writer: Writer,
    key: Told,
    /// Nothing is taken any more: the writer ends, even if some call that was cut off still holds an [`Audit`]. What waits is
    /// written before.
    finished: bool,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.waiting.len() + self.reserved >= QUEUE
    }

    /// Whether the writer may be left alone for a while.
    fn may_rest(&self) -> bool {
        !self.finished && self.waiting.len() < PLENTY
    }

    /// Whether the record that came last wakes a writer that is left alone.
    fn ends_the_pause(&self) -> bool {
        self.waiting.len() == PLENTY
    }
}

/// What is known of the key.
#[derive(Debug, Clone, Default)]
enum Told {
    /// Nothing yet.
    #[default]
    Nothing,
    /// There is none, or not yet.
    None,
    Key(Key),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Writer {
    /// Writes, or is about to look.
    #[default]
    Busy,
    /// Waits for its pause to end, or for plenty.
    Pauses,
    /// Waits for the first record.
    Waits,
}

/// Whether the key is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    None,
    Wanted,
    Told,
}

/// Whether lines can be written, as far as the last try said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    /// Nothing was tried yet.
    Opens,
    Takes,
    Refuses,
}

impl Audit {
    /// Starts the writer. `open` makes a new file and says its name; it is called with the first record, so that a broker
    /// nobody asks leaves no file, but at once if nothing may happen without a record.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start<W: Write>(
        settings: Settings,
        open: impl FnMut() -> std::io::Result<(String, W)> + Send + 'static,
    ) -> std::io::Result<(Self, AuditWriter)> {
        let refuses = settings.on_full == OnFull::Refuse;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                key: if settings.keyed { Told::Nothing } else { Told::None },
                ..Queue::default()
            }),
            settings,
            wake: Condvar::new(),
            disk: watch::Sender::new(if refuses { Disk::Opens } else { Disk::Takes }),
            wish: watch::Sender::new(if refuses { Wish::Wanted } else { Wish::None }),
            lost: AtomicU64::new(0),
            failed_calls: AtomicU64::new(0),
            untold_lost: AtomicU64::new(0),
            untold_refused: AtomicU64::new(0),
        });
        let of_writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || of_writer.write_all(open))?;
        let writer = AuditWriter {
            shared: Arc::clone(&shared),
            thread,
        };
        let sender = Arc::new(Sender(shared));
        Ok((Self { sender }, writer))
    }

    /// Room for the record of a call that is about to begin. Where calls are answered in any case there is always room.
    ///
    /// # Errors
    /// [`Full`]: the call must not be answered.
    pub async fn reserve(&self) -> Result<Place, Full> {
        let shared = &self.sender.0;
        if shared.settings.on_full == OnFull::Serve {
            return Ok(Place(None));
        }
        let mut disk = shared.disk.subscribe();
        // Beyond that time it counts as one that refuses; the sender cannot go away, it is ours.
        let _ = tokio::time::timeout(OPENING, disk.wait_for(|disk| *disk != Disk::Opens)).await;
        let mut queue = shared.room()?;
        queue.reserved += 1;
        drop(queue);
        Ok(Place(Some(Arc::clone(shared))))
    }

    /// Whether a call that began now would be refused for want of a record.
    ///
    /// # Errors
    /// [`Full`].
    pub fn check(&self) -> Result<(), Full> {
        match self.sender.0.settings.on_full {
            OnFull::Serve => Ok(()),
            OnFull::Refuse => self.sender.0.room().map(drop),
        }
    }

    /// Hands over the record of a call that has its place. Never waits for the disk.
    pub fn record_at(&self, mut place: Place, record: Record) {
        let shared = &*self.sender.0;
        let mut queue = shared.queue();
        if place.0.take().is_some() {
            queue.reserved -= 1;
        }
        shared.push(queue, Entry::Call(record));
    }

    /// Hands over a record that nobody relies on. Never waits for the disk; a full queue loses the record and counts it.
    pub fn record(&self, record: Record) {
        let shared = &*self.sender.0;
        shared.push(shared.queue(), Entry::Call(record));
    }

    /// Hands over what is told of calls that have no records of their own. Never waits for the disk; if it cannot be written,
    /// the file tells how many they were.
    pub fn refusals(&self, refusals: Refusals) {
        let shared = &*self.sender.0;
        shared.push(shared.queue(), Entry::Refusals(refusals));
    }

    /// Hands over the record of what is about to be delivered.
    ///
    /// # Errors
    /// [`Full`]: it must not be delivered.
    pub fn record_before(&self, record: Record) -> Result<(), Full> {
        let shared = &*self.sender.0;
        let queue = match shared.settings.on_full {
            OnFull::Serve => shared.queue(),
            OnFull::Refuse => shared.room()?,
        };
        shared.push(queue, Entry::Call(record));
        Ok(())
    }

    /// A call was refused that has no place for a record: the file tells how many.
    pub fn refused(&self) {
        let shared = &*self.sender.0;
        shared.failed_calls.fetch_add(1, Ordering::Relaxed);
        shared.untold_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that were lost since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sender.0.lost.load(Ordering::Relaxed)
    }

    /// Calls that did not end with `ok`.
    #[must_use]
    pub fn failed_calls(&self) -> u64 {
        self.sender.0.failed_calls.load(Ordering::Relaxed)
    }
}

impl AuditWriter {
    /// Waits until somebody wants the key; see [`Settings::keyed`].
    pub fn wants_key(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut wish = self.shared.wish.subscribe();
        async move {
            // An error means that the writer is gone, and never wants it.
            if wish.wait_for(|wish| *wish == Wish::Wanted).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the key is told, if anybody wants it.
    pub async fn key_is_settled(&self) {
        let mut wish = self.shared.wish.subscribe();
        // The sender lives as long as this.
        let _ = wish.wait_for(|wish| *wish != Wish::Wanted).await;
    }

    /// What tells the key, once it is wanted.
    #[must_use]
    pub fn key_slot(&self) -> KeySlot {
        KeySlot(Arc::clone(&self.shared))
    }

    /// Waits until everything handed over so far is written. Blocks.
    pub fn finish(self) {
        self.shared.finish();
        if self.thread.join().is_err() {
            tracing::error!("the audit writer panicked; its last lines may be missing");
        }
    }
}

/// Where the key is told.
#[derive(Debug, Clone)]
pub struct KeySlot(Arc<Shared>);

impl KeySlot {
    /// Tells the key. `None`: it cannot be had now; lines are written without one, until it is told.
    pub fn tell(&self, key: Option<Key>) {
        self.0.queue().key = key.map_or(Told::None, Told::Key);
        self.0.wish.send_replace(Wish::Told);
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue, if a record that has to be written has room in it.
    fn room(&self) -> Result<MutexGuard<'_, Queue>, Full> {
        if *self.disk.borrow() != Disk::Takes {
            return Err(Full);
        }
        let queue = self.queue();
        if queue.is_full() || queue.finished {
            return Err(Full);
        }
        Ok(queue)
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, entry: Entry) {
        self.failed_calls.fetch_add(entry.failed_calls(), Ordering::Relaxed);
        if queue.finished || queue.is_full() {
            drop(queue);
            self.lose(&[entry]);
            return;
        }
        queue.waiting.push(entry);
        let wants_key = matches!(queue.key, Told::Nothing);
        let wanted = match queue.writer {
            Writer::Busy => false,
            Writer::Pauses => queue.ends_the_pause(),
            Writer::Waits => true,
        };
        if wanted {
            // Once is enough: whoever comes next need not wake it again.
            queue.writer = Writer::Busy;
        }
        drop(queue);
        if wanted {
            self.wake.notify_one();
        }
        if wants_key {
            let wants = |wish: &mut Wish| *wish == Wish::None && std::mem::replace(wish, Wish::Wanted) == Wish::None;
            self.wish.send_if_modified(wants);
        }
    }

    /// These cannot be written. Of refused calls nothing is lost but the reasons: the file tells how many had no record.
    fn lose(&self, entries: &[Entry]) {
        for entry in entries {
            match entry {
                Entry::Call(_) => self.lose_lines(1),
                Entry::Refusals(refusals) => {
                    self.untold_refused.fetch_add(refusals.count(), Ordering::Relaxed);
                }
            }
        }
    }

    fn lose_lines(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
        self.untold_lost.fetch_add(lines, Ordering::Relaxed);
    }

    /// Whether no line tells yet of something that is missing.
    fn is_untold(&self) -> bool {
        self.untold_lost.load(Ordering::Relaxed) > 0 || self.untold_refused.load(Ordering::Relaxed) > 0
    }

    fn finish(&self) {
        self.queue().finished = true;
        self.wake.notify_one();
    }

    fn is_finished(&self) -> bool {
        self.queue().finished
    }
}
