//! The thread that writes: batches of lines, one file after the other.
//!
//! What the disk took is in the chain, and what it did not take is not. Of a line that it took half, the rest goes first when it
//! takes something again; so a file has no torn line in its middle.

use std::{
    io::{self, Write},
    mem,
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;

use super::{
    Disk, OnFull, PAUSE, Shared, Told, Writer,
    chain::{Chain, Key, Link},
    line::{self, Entry, Event, Previous},
};

/// How many lines go out in one write.
const LINES: usize = 256;
/// How soon a disk that refused is asked again, where calls wait for it.
const RETRY: Duration = Duration::from_millis(250);
/// How often it is asked again when the broker ends.
const LAST_RETRIES: u32 = 4;

impl Shared {
    /// Puts what waits to be written into `entries`, which is empty, as soon as there is something; `false`: nothing comes
    /// any more. `pause`: to be left alone for a while before.
    fn take(&self, entries: &mut Vec<Entry>, pause: bool) -> bool {
        let mut queue = self.queue();
        if pause {
            queue.writer = Writer::Pauses;
            let waited = self.wake.wait_timeout_while(queue, PAUSE, |queue| queue.may_rest());
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.writer = Writer::Waits;
        let waited = self.wake.wait_while(queue, |queue| {
            let ready = !queue.waiting.is_empty() && !matches!(queue.key, Told::Nothing);
            !queue.finished && !ready
        });
        queue = waited.unwrap_or_else(PoisonError::into_inner);
        queue.writer = Writer::Busy;
        mem::swap(&mut queue.waiting, entries);
        !entries.is_empty()
    }

    /// Waits for the key, or for what stands for it.
    fn await_key(&self) {
        let waits = |queue: &mut super::Queue| !queue.finished && matches!(queue.key, Told::Nothing);
        drop(self.wake.wait_while(self.queue(), waits));
    }

    /// Waits before the disk is asked again.
    fn rest(&self) {
        let waits = |queue: &mut super::Queue| !queue.finished;
        drop(self.wake.wait_timeout_while(self.queue(), RETRY, waits));
    }

    pub(super) fn write_all<W: Write>(&self, open: impl FnMut() -> io::Result<(String, W)>) {
        let mut files = Files {
            shared: self,
            open,
            now: None,
            next: None,
        };
        if self.settings.on_full == OnFull::Refuse {
            self.await_key();
            // The first call finds a file that takes lines, or is refused.
            self.write(&[], &mut files);
        }
        let mut entries = Vec::new();
        let mut pause = false;
        while self.take(&mut entries, pause) {
            self.write(&entries, &mut files);
            entries.clear();
            // What a rush has made large need not stay so.
            entries.shrink_to(LINES);
            pause = true;
        }
        if let Err(error) = self.retrying(|| files.close()) {
            match files.now {
                None => tracing::error!(%error, "no audit file tells what was lost"),
                Some(file) => {
                    tracing::error!(%error, "the audit file has no closing line");
                    if !file.rest.is_empty() {
                        // The half of it that is there tells nobody anything.
                        self.lose_lines(1);
                    }
                }
            }
        }
    }

    /// Writes these, or loses them where calls do not wait for it.
    fn write<W: Write>(&self, entries: &[Entry], files: &mut Files<'_, W, impl FnMut() -> io::Result<(String, W)>>) {
        match self.settings.on_full {
            OnFull::Serve => {
                for entries in entries.chunks(LINES) {
                    if let (done, Err(error)) = files.put(entries) {
                        self.lost(entries.get(done..).unwrap_or_default(), &error);
                    }
                }
            }
            OnFull::Refuse => {
                let mut rest = entries;
                let written = self.retrying(|| {
                    loop {
                        let (chunk, _) = rest.split_at(rest.len().min(LINES));
                        let (done, result) = files.put(chunk);
                        rest = rest.split_at_checked(done).map_or(&[], |(_, rest)| rest);
                        result?;
                        if rest.is_empty() {
                            return Ok(());
                        }
                    }
                });
                if let Err(error) = written
                    && !rest.is_empty()
                {
                    self.lost(rest, &error);
                }
            }
        }
    }

    /// Tries until it is done; when the broker ends, some more times. Meanwhile it is known that the disk refuses.
    fn retrying(&self, mut put: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut last_retries = 0;
        loop {
            let Err(error) = put() else {
                if matches!(self.disk.send_replace(Disk::Takes), Disk::Refuses) {
                    tracing::info!("the audit is written again");
                }
                return Ok(());
            };
            if self.settings.on_full == OnFull::Serve {
                return Err(error);
            }
            if self.disk.send_replace(Disk::Refuses) != Disk::Refuses {
                tracing::error!(
                    %error,
                    "the audit cannot be written, and calls are refused until it can: make room or mend the permissions of the \
                     audit directory"
                );
            }
            if self.is_finished() {
                last_retries += 1;
                if last_retries > LAST_RETRIES {
                    return Err(error);
                }
                std::thread::sleep(RETRY);
            } else {
                self.rest();
            }
        }
    }

    fn lost(&self, entries: &[Entry], error: &io::Error) {
        self.lose(entries);
        tracing::error!(
            %error,
            lines = entries.len(),
            "audit lines are lost: make room or mend the permissions of the audit directory"
        );
    }
}

/// The file that is written, and the one that is to go on from it.
struct Files<'s, W, O> {
    shared: &'s Shared,
    open: O,
    now: Option<Out<W>>,
    /// Made, and named by nobody yet.
    next: Option<(String, W)>,
}

impl<'s, W: Write, O: FnMut() -> io::Result<(String, W)>> Files<'s, W, O> {
    /// Writes some lines at once; how many of them are written.
    fn put(&mut self, entries: &[Entry]) -> (usize, io::Result<()>) {
        match self.batch_of(entries) {
            Ok((out, batch)) => out.write(&batch),
            Err(error) => (0, Err(error)),
        }
    }

    fn batch_of(&mut self, entries: &[Entry]) -> io::Result<(&mut Out<W>, Batch<'s>)> {
        self.make_ready()?;
        let shared = self.shared;
        let Some(out) = &mut self.now else {
            return Err(io::Error::other("there is no file"));
        };
        let mut batch = out.begin(shared, entries.len())?;
        for entry in entries {
            let n = out.number(&batch);
            line::entry(&mut batch.lines, n, entry)?;
            out.seal(&mut batch, What::from(entry));
        }
        Ok((out, batch))
    }

    /// Afterwards there is a file that takes the next line.
    fn make_ready(&mut self) -> io::Result<()> {
        let key = match &self.shared.queue().key {
            Told::Nothing | Told::None => None,
            Told::Key(key) => Some(key.clone()),
        };
        let Some(out) = &mut self.now else {
            let (name, file) = (self.open)()?;
            self.now = Some(Out::new(name, file, key, None));
            return Ok(());
        };
        out.write_rest()?;
        if out.begun && !out.ended {
            let large = out.bytes >= self.shared.settings.file_size;
            if (large || (key.is_some() && out.key.is_none())) && self.next.is_none() {
                // A directory that takes no new file does not keep lines out of the old one.
                self.next = (self.open)().ok();
            }
            if let Some((name, _)) = &self.next {
                let name = name.clone();
                out.end(self.shared, Some(&name))?;
            }
        }
        if out.ended
            && let Some((name, file)) = self.next.take()
        {
            let previous = (out.name.clone(), out.chain.last());
            *out = Out::new(name, file, key, Some(previous));
        }
        Ok(())
    }

    /// Writes the last line. What is missing is told even where no line could be written before, and a file that another one
    /// names as the next is not left without a line.
    fn close(&mut self) -> io::Result<()> {
        let named = self.next.is_some() && self.now.as_ref().is_some_and(|out| out.ended);
        if named || (self.now.is_none() && self.shared.is_untold()) {
            self.make_ready()?;
        }
        let Some(out) = &mut self.now else {
            return Ok(());
        };
        out.write_rest()?;
        if !out.ended && (out.begun || named || self.shared.is_untold()) {
            out.end(self.shared, None)?;
        }
        Ok(())
    }
}

/// One file.
struct Out<W> {
    name: String,
    file: W,
    key: Option<Key>,
    chain: Chain,
    previous: Option<(String, Link)>,
    /// Whether its first line is there.
    begun: bool,
    /// Whether its last line is there.
    ended: bool,
    lines: u64,
    records: u64,
    bytes: u64,
    /// Of a line that the disk took half.
    rest: Vec<u8>,
}

/// Lines that go out in one write.
struct Batch<'s> {
    shared: &'s Shared,
    lines: Vec<u8>,
    /// The chain before the first of them.
    before: Link,
    marks: Vec<Mark>,
}

/// One of them.
struct Mark {
    end: usize,
    link: Link,
    what: What,
}

enum What {
    Begin,
    Gap { lost: u64, refused: u64 },
    Record,
    Refusals,
    End,
}

impl From<&Entry> for What {
    fn from(entry: &Entry) -> Self {
        match entry {
            Entry::Call(_) => Self::Record,
            Entry::Refusals(_) => Self::Refusals,
        }
    }
}

impl<W: Write> Out<W> {
    fn new(name: String, file: W, key: Option<Key>, previous: Option<(String, Link)>) -> Self {
        Self {
            name,
            file,
            chain: Chain::new(key.as_ref()),
            key,
            previous,
            begun: false,
            ended: false,
            lines: 0,
            records: 0,
            bytes: 0,
            rest: Vec::new(),
        }
    }

    /// What has to be said before anything else.
    fn begin<'s>(&mut self, shared: &'s Shared, entries: usize) -> io::Result<Batch<'s>> {
        let mut batch = Batch {
            shared,
            lines: Vec::with_capacity(512 + 320 * entries),
            before: self.chain.last(),
            marks: Vec::with_capacity(entries + 2),
        };
        let time = || shared.settings.clock.now().wall;
        if !self.begun {
            let id = BASE64URL_NOPAD.encode(&rand::random::<[u8; 16]>());
            let mac = self.previous.as_ref().map(|(_, link)| link.to_string());
            let previous = self.previous.as_ref().zip(mac.as_deref());
            let event = Event::Begin {
                time: time(),
                file: &self.name,
                id: &id,
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION"),
                key: self.key.as_ref().map(Key::id),
                previous: previous.map(|((file, _), mac)| Previous { file, mac }),
            };
            let n = self.number(&batch);
            line::event(&mut batch.lines, n, &event)?;
            self.seal(&mut batch, What::Begin);
        }
        let lost = shared.untold_lost.load(Ordering::Relaxed);
        let refused = shared.untold_refused.load(Ordering::Relaxed);
        if lost > 0 || refused > 0 {
            let event = Event::Gap {
                time: time(),
                lost,
                refused,
            };
            let n = self.number(&batch);
            line::event(&mut batch.lines, n, &event)?;
            self.seal(&mut batch, What::Gap { lost, refused });
        }
        Ok(batch)
    }

    fn end(&mut self, shared: &Shared, next: Option<&str>) -> io::Result<()> {
        let mut batch = self.begin(shared, 0)?;
        let event = Event::End {
            time: shared.settings.clock.now().wall,
            records: self.records,
            next,
        };
        let n = self.number(&batch);
        line::event(&mut batch.lines, n, &event)?;
        self.seal(&mut batch, What::End);
        self.write(&batch).1
    }

    /// The number of the next line.
    fn number(&self, batch: &Batch<'_>) -> u64 {
        let before = u64::try_from(batch.marks.len()).unwrap_or(u64::MAX);
        self.lines.saturating_add(before).saturating_add(1)
    }

    fn seal(&mut self, batch: &mut Batch<'_>, what: What) {
        let start = batch.marks.last().map_or(0, |mark| mark.end);
        self.chain.seal(&mut batch.lines, start);
        batch.marks.push(Mark {
            end: batch.lines.len(),
            link: self.chain.last(),
            what,
        });
    }

    /// How many of the entries are written. A line that is there in part counts: the rest of it goes first the next time.
    fn write(&mut self, batch: &Batch<'_>) -> (usize, io::Result<()>) {
        let (written, result) = write_counting(&mut self.file, &batch.lines);
        self.bytes = self.bytes.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        self.chain.go_on_from(batch.before);
        let (mut start, mut entries) = (0, 0);
        for mark in &batch.marks {
            if written <= start {
                break;
            }
            if written < mark.end {
                self.rest = batch.lines.get(written..mark.end).unwrap_or_default().to_vec();
            }
            start = mark.end;
            self.lines += 1;
            self.chain.go_on_from(mark.link);
            match mark.what {
                What::Begin => self.begun = true,
                What::Gap { lost, refused } => {
                    batch.shared.untold_lost.fetch_sub(lost, Ordering::Relaxed);
                    batch.shared.untold_refused.fetch_sub(refused, Ordering::Relaxed);
                }
                What::Record => {
                    self.records += 1;
                    entries += 1;
                }
                What::Refusals => entries += 1,
                What::End => self.ended = true,
            }
        }
        (entries, result)
    }

    fn write_rest(&mut self) -> io::Result<()> {
        let (written, result) = write_counting(&mut self.file, &self.rest);
        self.bytes = self.bytes.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        self.rest.drain(..written);
        result
    }
}

/// Like `write_all`, but it says how far it came.
fn write_counting(file: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}
