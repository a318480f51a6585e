//! Plays a case: starts and ends processes, lets things happen, and in the end looks whether everything works again.

use std::{sync::Arc, time::Duration};

use credbroker::{
    broker::{Broker, Caller, Parts, Renewals},
    clock::Clock,
    oauth::Provider,
    reason::Reason,
    store::memory::MemoryStore,
};
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    authority::Authority,
    case::{Case, Op, When},
    disk::Disk,
    facts::{ENTRIES, Process, World, key},
};

/// How long a broker may take to stop: the exchange, the save, and a disk that dawdles.
const STOP: Duration = Duration::from_secs(25);
/// Long enough for whatever is under way to end, and for a token set in memory to be saved.
const QUIET: Duration = Duration::from_secs(200);
/// Long enough for every pause to be over.
const LATER: Duration = Duration::from_secs(2 * 3600);

/// What was wrong in the world, if anything.
pub(crate) async fn play(case: Case) -> Result<(), String> {
    let steps = case.steps.clone();
    let world = Arc::new(World::new(case));
    world.start();
    for entry in 0..ENTRIES {
        world.import(0, entry, 120, false);
    }
    for step in steps {
        match step.when {
            When::After(millis) => sleep(Duration::from_millis(millis.into())).await,
            When::On(event) => world.next(event).await,
        }
        if world.went_wrong() {
            return world.verdict();
        }
        world.does(&step.op);
    }
    world.calms_down().await;
    world.verdict()
}

impl World {
    fn start(self: &Arc<Self>) {
        let process = self.state().processes.len();
        let disk = Disk {
            world: Arc::clone(self),
            process,
        };
        let provider: Arc<dyn Provider> = Arc::new(Authority {
            world: Arc::clone(self),
            process,
        });
        let clock: Arc<dyn Clock> = Arc::new(Clocks(Arc::clone(self)));
        let broker = Broker::new(Parts {
            tokens: Arc::new(disk),
            keys: Arc::new(MemoryStore::new()),
            clock,
            providers: [(key(0).provider, provider)].into(),
            renewals: Renewals::OnUse,
            logins: credbroker::broker::login::LoginParts::default(),
        });
        self.state().processes.push(Process {
            alive: true,
            stopping: false,
            broker: Some(broker),
            calls: Vec::new(),
            slots: Vec::new(),
            doom: None,
        });
        self.tell(format!("process {process} starts"));
    }

    /// A process that lives; one is started if none does.
    fn one(self: &Arc<Self>, number: u8) -> usize {
        if self.living().is_empty() {
            self.start();
        }
        let living = self.living();
        living[usize::from(number) % living.len()]
    }

    fn does(self: &Arc<Self>, op: &Op) {
        match *op {
            Op::Get {
                process,
                entry,
                clients,
                min_validity,
                patience,
            } => {
                let process = self.one(process);
                for _ in 0..clients {
                    self.get(process, usize::from(entry), min_validity, patience);
                }
            }
            Op::Refresh {
                process,
                entry,
                clients,
                has,
                patience,
            } => {
                let process = self.one(process);
                for _ in 0..clients {
                    self.refresh(process, usize::from(entry), has, patience);
                }
            }
            Op::Save {
                process,
                entry,
                lifetime,
                patience,
            } => {
                self.save(self.one(process), entry.into(), lifetime, patience);
            }
            Op::Remove {
                process,
                entry,
                patience,
            } => self.remove(self.one(process), entry.into(), patience),
            Op::Import {
                process,
                entry,
                lifetime,
            } => self.import(self.one(process), entry.into(), lifetime, false),
            Op::ImportAgain {
                process,
                entry,
                lifetime,
            } => {
                self.import(self.one(process), entry.into(), lifetime, true);
            }
            Op::Start => {
                if self.living().len() < 2 {
                    self.start();
                }
            }
            Op::Kill { process } => self.kill(self.one(process)),
            Op::Doom { process, at } => {
                let process = self.one(process);
                self.state().processes[process].doom = Some(at);
            }
            Op::Stop { process } => self.stop(self.one(process)),
            Op::Reboot => {
                for process in self.living() {
                    self.kill(process);
                }
                self.time.reboot();
                self.tell("the machine boots");
            }
            Op::Suspend(seconds) => {
                self.time.suspend(Duration::from_secs(seconds.into()));
                self.tell(format!("the machine slept for {seconds} s"));
            }
            Op::Step(seconds) => {
                self.time.step(seconds);
                self.tell(format!("the wall clock is set by {seconds} s"));
            }
            Op::Disk { fails, millis } => {
                let until = Instant::now() + Duration::from_millis(millis.into());
                self.state().disk = Some((fails, until));
                self.tell(format!("the disk fails for {millis} ms: {fails:?}"));
            }
        }
    }

    /// SIGTERM: the broker ends in order, and its process with it.
    fn stop(self: &Arc<Self>, process: usize) {
        let (world, broker) = (Arc::clone(self), self.broker(process));
        self.tell(format!("process {process} is told to stop"));
        self.state().processes[process].stopping = true;
        broker.begin_shutdown();
        tokio::spawn(async move {
            let began = Instant::now();
            let stopped = timeout(STOP, broker.shutdown()).await;
            if !world.alive(process) {
                return;
            }
            if stopped.is_err() {
                world.wrong("a broker does not stop");
            }
            let took = began.elapsed();
            if took < Duration::from_secs(15) {
                let open = world
                    .state()
                    .presentations
                    .iter()
                    .any(|one| one.process == process && one.open);
                if open {
                    world.wrong(format!("a broker left its exchange on the wire after {took:?}"));
                }
            }
            let healthy = world.state().disk.is_none();
            if healthy && took < Duration::from_secs(20) {
                world.keeps_what_it_received(process);
            }
            world.kill(process);
        });
    }

    /// Every refresh token that a process received is stored by now, unless the entry was removed or replaced since.
    fn keeps_what_it_received(&self, process: usize) {
        let mut lost = Vec::new();
        let state = self.state();
        for one in state.received.iter().filter(|one| one.process == process) {
            let mut spent = state.presentations.iter();
            let spent = spent
                .find(|spent| spent.successor.as_ref() == Some(&one.refresh))
                .unwrap();
            let stored = state.refresh[&spent.refresh].succeeded;
            if one.late && !stored && !state.revoked.contains(&one.refresh) {
                lost.push(format!("{} came after the logout, and was not revoked", one.refresh));
            }
            if !one.late && !stored && state.entries[one.entry].changes() == one.changes {
                lost.push(format!("{} was received, and never stored", one.refresh));
            }
        }
        drop(state);
        for lost in lost {
            self.wrong(lost);
        }
    }

    /// Nothing fails any more: sooner or later everything has to work again.
    async fn calms_down(self: &Arc<Self>) {
        {
            let mut state = self.state();
            state.calm = true;
            for process in &mut state.processes {
                process.doom = None;
            }
        }
        self.tell("everything is calm from now on");
        sleep(QUIET).await;
        let open = self.state().calls;
        if open > 0 {
            self.wrong(format!("{open} calls have not ended"));
        }
        for process in self.living() {
            self.keeps_what_it_received(process);
            if let Err(error) = self.broker(process).check().await {
                self.wrong(format!("process {process} is not healthy: {error}"));
            }
        }
        sleep(LATER).await;
        self.one(0);
        for process in self.living() {
            for entry in 0..ENTRIES {
                self.works(process, entry).await;
            }
        }
    }

    /// Whether the entry's token is good, or can be renewed.
    fn is_good(&self, entry: usize) -> bool {
        let state = self.state();
        let stored = state.entries[entry].stored.as_ref();
        stored.is_some_and(|stored| {
            let unexpired = stored
                .tokens
                .expiry
                .as_ref()
                .is_none_or(|expiry| !self.left(expiry).is_zero());
            let renewable = stored.tokens.refresh_token.as_ref().is_some_and(|refresh| {
                let known = &state.refresh[refresh.expose_secret()];
                let family = &state.families[known.family];
                !family.revoked && family.current == refresh.expose_secret()
            });
            unexpired || (renewable && (self.case.may_repeat || stored.intent.is_none()))
        })
    }

    /// Whoever has a good session gets a good token.
    async fn works(&self, process: usize, entry: usize) {
        let there = self.state().entries[entry].stored.is_some();
        let good = self.is_good(entry);
        let asked = self.asks("GetToken", process, entry);
        let broker = self.broker(process);
        let told = timeout(STOP * 4, broker.token(&Caller::host(), &key(entry), Duration::ZERO)).await;
        let Ok(told) = told else {
            self.wrong(format!("GetToken for entry {entry} never ends"));
            return;
        };
        self.served(&asked, &told);
        match told {
            Err(error) if good => self.wrong(format!("entry {entry} has a good session and gets no token: {error}")),
            Err(error) if !there && error.reason() != Reason::NotFound => {
                self.wrong(format!("entry {entry} is not there: {error}"));
            }
            _ => {}
        }
    }
}

/// The world's clocks as a broker reads them.
struct Clocks(Arc<World>);

impl Clock for Clocks {
    fn now(&self) -> credbroker::clock::Now {
        self.0.time.now()
    }
}
