"""The soak: see README.md. Environment: SOAK_MINUTES, SOAK_SEED, and what run.sh sets."""

import heapq
import itertools
import json
import os
import queue
import random
import signal
import sys
import threading
import time

from door import Weather
from record import Record
from verdict import summary
from world import CAPABILITY, FIXTURE, Broker, Clients, Provider, credbroker, log_in, private

LEAST = 3  # Minutes that are enough for everything to happen.


def number(name, otherwise, least):
    text = os.environ.get(name) or str(otherwise)
    if not text.isdecimal() or int(text) < least:
        sys.exit(f"soak: {name} is {text!r}: a whole number, at least {least}, is needed")
    return int(text)


MINUTES = number("SOAK_MINUTES", 10, LEAST)
SEED = number("SOAK_SEED", random.SystemRandom().randrange(1 << 32), 0)
CLIENTS = 50
# Bucket -> the pauses of those who get and those who refresh: hot, warm and rarely used.
FAMILIES = {**{f"f{n}": (0.5, 3) for n in range(5)}, "f5": (4, 10), "f6": (4, 10), "f7": (30, 45)}
PACE = 3  # Seconds from one event to the next, on average.
# One round of events; all of them happen before any comes again.
DECK = {
    "kill client": 10,
    "stop client": 5,
    "kill broker": 1,
    "stop broker": 4,
    "clock forward": 2,
    "clock back": 2,
    "provider refuses": 1,
    "provider busy": 1,
    "provider hangs": 1,
    "provider stops": 1,
    "answer lost": 1,
}
# What is done to single exchanges, in turn: every other one is lost after the provider has rotated.
LOST = ["cut before", "cut after", "500 before", "500 after", "cut before", "half"]
# The long-lived broker is killed once, so early; its second life is the one whose growth is looked at.
EARLY = 0.07
# What may be left to do when all is quiet: a mark of 90 s, an exchange of 60 s.
RECOVERY = 200
REST_SECONDS = 15  # How long it is looked at with no client left.

rng = random.Random(SEED)
record = Record()
weather = Weather()
logins = queue.Queue()


def say(what):
    print(f"{record.at(record.now()):>8} {what}", flush=True)


def crew(sockets):
    """Name -> what the client does. Half of them at each broker."""
    for number in range(CLIENTS):
        slot, place = "ab"[number % 2], number // 2
        kind = "get" if place < 13 else "refresh" if place < 20 else "watch"
        family = f"f{place % (7 if kind == 'watch' else 8)}"
        get, refresh = FAMILIES[family]
        pause = {"get": get, "refresh": refresh, "watch": 0.5}[kind]
        yield f"c{number}", (kind, slot, sockets[slot], family, pause)


class Soak:
    def __init__(self):
        private(FIXTURE / "capability", CAPABILITY + "\n")
        self.provider = Provider()
        self.brokers = {slot: Broker(slot, weather, record, self.provider, logins.put) for slot in "ab"}
        self.todo, self.order = [], itertools.count()
        self.stopped = {}  # pid -> (who, the entry in record.stops)
        self.files = []
        self.over = threading.Event()

    # Beginning.

    def begin(self):
        for broker in self.brokers.values():
            broker.start()
        for family in FAMILIES:
            log_in(record, self.provider, family)
        time.sleep(2)
        self.rest_before = {slot: self.rest(broker, 3) for slot, broker in self.brokers.items()}
        threading.Thread(target=self.relogin, daemon=True).start()
        threading.Thread(target=self.watch, daemon=True).start()
        self.clients = Clients(record)
        self.crew = dict(crew({slot: broker.socket for slot, broker in self.brokers.items()}))
        for name, what in self.crew.items():
            self.clients.start(name, *what)
        self.wait_for("every client to be there", lambda: len(self.clients.pids) == CLIENTS, 60)
        self.wait_for("every family to be served by both", lambda: self.served_since(record.began), 60)
        self.look()
        self.files_before = self.files[-1]

    def relogin(self):
        """A lost family is logged in anew, so that the soak goes on."""
        while True:
            family = logins.get()
            time.sleep(1)
            try:
                log_in(record, self.provider, family)
                say(f"  {family} was lost, and is logged in anew")
            except Exception as error:  # Without its login the rest proves nothing.
                record.violation(f"{family} cannot be logged in anew: {error!r}")

    def watch(self):
        while not self.over.wait(1):
            self.look()

    def look(self):
        now = record.now()
        for broker in self.brokers.values():
            life = broker.life
            found = broker.sample() if life.killed is None else None
            if found:
                life.samples.append((now, *found))
                life.processor = broker.processor()
        try:
            store = sum(1 for path in (FIXTURE / "data").rglob("*") if not path.is_dir())
        except OSError:
            return  # A file went away while it was looked at.
        self.files.append(store)

    @staticmethod
    def rest(broker, seconds):
        samples = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            samples.append(broker.sample())
            time.sleep(0.1)
        found = [sample for sample in samples if sample]
        return [min(column) for column in zip(*found, strict=True)]

    def wait_for(self, what, condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                record.violation(f"waited {seconds} s in vain for {what}")
                return False
            time.sleep(0.1)
        return True

    def served_since(self, moment):
        with record.lock:
            return all(record.newest.get((slot, family), 0) > moment for slot in self.brokers for family in FAMILIES)

    # Events.

    def later(self, seconds, action, *arguments):
        heapq.heappush(self.todo, (time.monotonic() + seconds, next(self.order), action, arguments))

    def run(self, seconds):
        end = time.monotonic() + seconds
        self.later(seconds * EARLY, self.kill_broker, self.brokers["a"])
        self.later(rng.expovariate(1 / PACE), self.next_event, end, [])
        minute = time.monotonic() + 60
        while self.todo and (moment := self.todo[0][0]) is not None:
            now = time.monotonic()
            if now >= minute:
                minute += 60
                self.progress()
            if moment > now:
                time.sleep(min(moment - now, 0.5))
                continue
            _, _, action, arguments = heapq.heappop(self.todo)
            action(*arguments)
            for broker in self.brokers.values():
                if broker.life.killed is None and not broker.alive():
                    record.violation(f"{broker.life} ended by itself, with {broker.life.process.returncode}")
                    broker.life.killed = record.now()
                    self.later(0, self.restart, broker)

    def next_event(self, end, deck):
        if time.monotonic() > end:
            return
        if not deck:
            deck = [kind for kind, count in DECK.items() for _ in range(count)]
            rng.shuffle(deck)
        kind = deck.pop()
        handlers = {
            "kill client": self.kill_client,
            "stop client": self.stop_client,
            "kill broker": self.kill_b,
            "stop broker": self.stop_broker,
            "clock forward": self.step_clock,
            "clock back": self.step_clock,
            "provider refuses": self.fail_provider,
            "provider busy": self.fail_provider,
            "provider hangs": self.fail_provider,
            "provider stops": self.stop_provider,
            "answer lost": self.lose_answer,
        }
        handlers[kind](kind)
        self.later(rng.expovariate(1 / PACE), self.next_event, end, deck)

    def happened(self, kind, detail):
        record.events[kind] += 1
        say(f"{kind}: {detail}")

    def kill_b(self, _kind):
        self.kill_broker(self.brokers["b"], aimed=rng.random() < 0.5)

    def kill_client(self, kind):
        name = rng.choice(sorted(self.crew))
        pid = self.clients.kill(name)
        if pid is None:
            return
        self.no_longer_stopped(pid)
        self.happened(kind, name)
        self.later(rng.uniform(0, 2), self.clients.start, name, *self.crew[name])

    def kill_broker(self, broker, aimed=False):
        life, delay = broker.life, rng.uniform(0, 3)
        if life.killed is not None:
            return
        # Half of the kills wait for an exchange to be under way.
        end = time.monotonic() + (2 if aimed else 0)
        while time.monotonic() < end and not self.under_way(life):
            time.sleep(0.005)
        broker.kill()
        self.no_longer_stopped(life.process.pid)
        # What was under way is counted: what the provider had been sent, or might have.
        hit = [
            p
            for p in record.presentations[-200:]
            if p.life is life and p.arrived <= life.killed and (p.ended is None or p.ended >= life.killed)
        ]
        self.happened("kill broker", f"{life}, {len(hit)} exchanges under way")
        record.events["exchanges that a kill hit"] += len(hit)
        self.later(delay, self.restart, broker)

    @staticmethod
    def under_way(life):
        return any(p.life is life and p.ended is None for p in record.presentations[-50:])

    def restart(self, broker):
        try:
            broker.start()
        except RuntimeError as error:
            record.violation(str(error))
            raise

    def stop_broker(self, kind):
        broker = self.brokers[rng.choice("ab")]
        if broker.life.killed is None:
            self.stop(kind, broker.slot, broker.life.process.pid, rng.uniform(1, 12))

    def stop_client(self, kind):
        name = rng.choice(sorted(self.crew))
        self.stop(kind, name, self.clients.pid(name), rng.uniform(2, 15))

    def stop_provider(self, kind):
        self.stop(kind, "provider", self.provider.process.pid, rng.uniform(2, 15))

    def stop(self, kind, who, pid, seconds):
        if pid is None or pid in self.stopped:
            return
        entry = [who, record.now(), None]
        with record.lock:
            record.stops.append(entry)
        self.signal(pid, signal.SIGSTOP)
        self.stopped[pid] = entry
        self.happened(kind, f"{who} for {seconds:.1f} s")
        self.later(seconds, self.go_on, pid)

    def go_on(self, pid):
        if pid in self.stopped:
            self.signal(pid, signal.SIGCONT)
            self.no_longer_stopped(pid)

    def no_longer_stopped(self, pid):
        """It goes on, or is killed."""
        entry = self.stopped.pop(pid, None)
        if entry is not None:
            entry[2] = record.now()

    @staticmethod
    def signal(pid, what):
        try:
            os.kill(pid, what)
        except ProcessLookupError:
            pass  # It was killed while it stood still.

    def step_clock(self, kind):
        broker = self.brokers[rng.choice("ab")]
        seconds = int(rng.choice([3, 6, 30, 100, 3600]) * rng.uniform(1, 1.9)) * (1 if kind == "clock forward" else -1)
        self.set_clock(broker, seconds)
        self.happened(kind, f"{broker.slot} by {seconds:+d} s")
        self.later(rng.uniform(3, 15), self.set_clock, broker, 0)

    @staticmethod
    def set_clock(broker, seconds):
        with record.lock:
            record.steps.append((record.now(), broker.slot, seconds))
        broker.set_clock(seconds)

    def fail_provider(self, kind):
        seconds = rng.uniform(2, 20 if kind == "provider hangs" else 10)
        state = {"provider refuses": "refuse", "provider busy": "busy", "provider hangs": "hang"}[kind]
        weather.set(state)
        self.happened(kind, f"{seconds:.1f} s")
        self.later(seconds, self.fine, state)

    @staticmethod
    def fine(state):
        if weather.state == state:
            weather.set("fine")

    def lose_answer(self, _kind):
        kind = LOST[record.events["answer lost"] % len(LOST)]
        weather.once.append(kind)
        self.happened("answer lost", f"{kind}, the next exchange")

    def progress(self):
        lives = ", ".join(
            f"{broker.life} {s[1] / 1024:.1f} MiB {s[2]} threads {s[3]} descriptors"
            for broker in self.brokers.values()
            if broker.life.samples
            for s in [broker.life.samples[-1]]
        )
        say(
            f"-- {sum(record.delivered.values())} tokens, {record.rotations()} rotations, {len(record.lost)} lost, "
            f"{len(record.wrong)} wrong; {lives}"
        )

    # End.

    def quiet(self):
        """Everything goes on; every family has to come back by itself."""
        weather.once.clear()
        weather.set("fine")
        for pid in list(self.stopped):
            self.go_on(pid)
        for broker in self.brokers.values():
            self.set_clock(broker, 0)
        since = record.now()
        say("-- quiet: every family has to come back at both brokers")
        self.wait_for("every family to be served by both", lambda: self.served_since(since), RECOVERY)
        self.recovered = record.now() - since
        self.over.set()
        for name in self.crew:
            self.clients.kill(name, signal.SIGTERM)
        time.sleep(3)
        self.look()
        self.rest_after = {slot: self.rest(broker, REST_SECONDS) for slot, broker in self.brokers.items()}
        status = credbroker("status", "--json")
        states = {entry["bucket"]: entry["state"] for entry in json.loads(status.stdout)["entries"]}
        if set(states) != set(FAMILIES) or not set(states.values()) <= {"ok", "due"}:
            record.violation(f"at the end `status` says {states}")
        for broker in self.brokers.values():
            code = broker.terminate()
            if code != 0:
                record.violation(f"{broker.life} ended with {code} after SIGTERM")
        time.sleep(1)


def main():
    print(
        f"Soak of {MINUTES} minutes, seed {SEED}: {CLIENTS} clients, {len(FAMILIES)} families, pid {os.getpid()}",
        flush=True,
    )
    soak = Soak()
    soak.begin()
    soak.run(MINUTES * 60)
    soak.quiet()
    status = summary(soak, record, MINUTES, SEED, set(DECK))
    sys.stdout.flush()
    # Threads that wait at pipes and sockets are of no more interest.
    os._exit(status)


main()
