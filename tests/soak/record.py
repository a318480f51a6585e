"""What happened, and whether it may have. Everything is judged by what was seen at the provider's door (door.py), by the
clients' reports and by the moments of the kills and stops; nothing the brokers say of themselves counts.

All times are of the monotonic clock, which nobody steps and which all processes share."""

import hashlib
import threading
import time
from collections import Counter

# How late a token may come, by the strictest reading of its end: the provider's `expires_in` after the moment the
# request for it was passed on, before which it was not made. A broker hands out nothing in the last tenth of a lifetime,
# unless there is nothing else; then the way from its decision to the client's clock is all that is left for, through two
# processes of a machine that is full of work.
LATE = 0.5
# How long a broker may run between the last byte of an answer and the new token set's being on the disk.
SAVE = 2.0
# How much the door may be behind with noticing that a connection was closed.
NOTICE = 0.25
# How long nobody else presents a token after a presentation whose outcome is not known, and what a clock may be off.
MARK = 90
TICK = 1
# A broker waits so long for an answer.
EXCHANGE = 60
# What a stopped broker was about to say to a stream comes within this time after it goes on.
AFTER_STOP = 1.0
# How old a refusal to renew may be after a new login: another process sees that within a second.
SEEN = 3.0
# The longest cooldown: of a token set whose lifetime is not known, because it had expired when it was imported.
COOLDOWN = 30

# What a client may be told while such things happen. NEEDS_LOGIN is looked at apart.
EXPECTED = {
    "PROVIDER_UNAVAILABLE",
    "LOCK_TIMEOUT",
    "RATE_LIMITED",
    "DEADLINE_EXCEEDED",
    "SHUTTING_DOWN",
    "NEEDS_LOGIN",
    "grpc:UNAVAILABLE",
    "grpc:DEADLINE_EXCEEDED",
}


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()[:24]


class Presentation:
    """One sending of a refresh token, as the door saw it."""

    def __init__(self, life, arrived):
        self.life, self.arrived = life, arrived
        self.family = self.generation = self.token = None
        self.fault = None  # What the door did to it.
        self.forwarded = self.answered = None  # When it was passed on to the provider, and when that had answered.
        self.rotated = self.refused = False
        self.access = self.refresh = None  # The digests of what the provider gave.
        self.delivered = None  # When the last byte of the answer was written.
        self.ended = None  # When the connection was over,
        self.how = None  # and why: taken, gone (closed before an answer was there), lost (reset), cut (by the door).

    def __str__(self):
        about = [f"{self.life} {self.family}.{self.generation} {str(self.token)[:8]} at {self.arrived:.3f}"]
        for name in "fault", "forwarded", "answered", "delivered", "ended", "how":
            value = getattr(self, name)
            if value is not None:
                about.append(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}")
        about.append("rotated" if self.rotated else "refused" if self.refused else "no token")
        return ", ".join(about)


class Record:
    def __init__(self):
        self.lock = threading.RLock()
        self.began = time.monotonic()
        self.presentations = []
        self.by_token = {}  # Digest of a refresh token -> its presentations.
        self.family_of = {}  # Digest of a refresh token -> (family, generation).
        self.generations = {}  # Family -> generation, which a login begins.
        self.logged_in = {}  # Family -> when.
        self.issued = {}  # Digest of an access token -> its presentation.
        self.first_seen = {}  # Digest of an access token -> when a client had it.
        self.lifetimes = {}
        self.stops = []  # [who, begin, end]
        self.steps = []  # (when, slot, offset of its wall clock from now on)
        self.delivered = Counter()
        self.errors = Counter()
        self.newest = {}  # (slot, family) -> when the newest token that a client got was made.
        self.last = {}  # Family -> when any client got a token.
        self.gap = Counter()  # Family -> the longest time without one.
        self.cooled = 0
        self.late = []
        self.latest = -10.0
        self.refusals = []  # Presentations, in order.
        self.lost = []  # (presentation, family, generation)
        self.events = Counter()
        self.wrong = []

    def now(self):
        return time.monotonic()

    def at(self, moment):
        return f"{moment - self.began:.2f}"

    def violation(self, what):
        with self.lock:
            self.wrong.append(what)
        print(f"! {self.at(self.now())} {what}", flush=True)

    # Families.

    def login(self, family, asked, lifetime, tokens):
        """A new generation of the family; to be told before the import."""
        with self.lock:
            generation = self.generations.get(family, 0) + 1
            self.generations[family] = generation
            self.logged_in.pop(family, None)  # Until the import is done.
            self.family_of[digest(tokens["refresh_token"])] = (family, generation)
            made = Presentation("the login", asked)
            made.family, made.generation, made.forwarded = family, generation, asked
            self.issued[digest(tokens["access_token"])] = made
            self.lifetimes[digest(tokens["access_token"])] = lifetime

    def begun(self, presentation, refresh_token):
        with self.lock:
            presentation.token = digest(refresh_token)
            known = self.family_of.get(presentation.token)
            if known is None:
                self.violation(f"{presentation.life} presented a refresh token that nobody gave it")
                return
            presentation.family, presentation.generation = known
            self.presentations.append(presentation)
            self.by_token.setdefault(presentation.token, []).append(presentation)

    def gave(self, presentation, answer):
        """The provider's new token set, before anybody else has it."""
        with self.lock:
            presentation.rotated = True
            presentation.access = digest(answer["access_token"])
            presentation.refresh = digest(answer["refresh_token"])
            self.issued[presentation.access] = presentation
            self.lifetimes[presentation.access] = float(answer["expires_in"])
            self.family_of[presentation.refresh] = (presentation.family, presentation.generation)

    def rotations(self):
        with self.lock:
            return sum(p.rotated for p in self.presentations)

    def refused(self, presentation, error):
        with self.lock:
            if error != "invalid_grant":
                self.violation(f"the provider answered {error}: {presentation}")
                return
            presentation.refused = True
            self.refusals.append(presentation)
            key = (presentation.family, presentation.generation)
            if key not in [(family, generation) for _, family, generation in self.lost]:
                self.lost.append((presentation, *key))
                return presentation.family
            return None

    # What clients saw.

    def report(self, line):
        what, name, slot, kind, family, sent, got, said = line.split()
        sent, got = float(sent), float(got)
        with self.lock:
            if what == "token":
                self.token(name, slot, kind, family, sent, got, said)
            else:
                self.error(slot, kind, family, sent, got, said)

    def token(self, name, slot, kind, family, sent, got, access):
        self.delivered[kind] += 1
        made = self.issued.get(access)
        if made is None:
            self.violation(f"{slot} gave {family}'s {kind} a token that the provider never made")
            return
        if made.family != family:
            self.violation(f"{slot} gave {family}'s {kind} a token of {made.family}")
        self.first_seen.setdefault(access, got)
        if family in self.last:
            self.gap[family] = max(self.gap[family], got - self.last[family])
        self.last[family] = got
        key = (slot, family)
        self.newest[key] = max(self.newest.get(key, 0), made.forwarded)
        over = got - (made.forwarded + self.lifetimes[access])
        if over > 0:
            # Who was stopped meanwhile is known for sure at the end.
            self.late.append((over, name, slot, kind, family, sent, got, made))
        else:
            self.latest = max(self.latest, over)

    def error(self, slot, kind, family, sent, got, reason):
        self.errors[reason] += 1
        if reason not in EXPECTED:
            self.violation(f"{slot} answered {family}'s {kind} with {reason}")
        if reason == "NEEDS_LOGIN":
            generation = self.generations[family]
            refused = any(lost[1:] == (family, generation) for lost in self.lost)
            fresh = self.logged_in.get(family)
            if not refused and fresh is not None and sent > fresh + SEEN:
                # The failure of a refresh is told for the cooldown, whatever is stored meanwhile and cannot be used.
                if any(p.life.slot == slot and p.family == family and sent - p.arrived < COOLDOWN for p in self.refusals):
                    self.cooled += 1
                else:
                    self.violation(f"{slot} wants a login of {family}, which the provider did not refuse")

    # Judgements.

    def stopped(self, who, begin, end):
        """The stops of a process that touch a span."""
        now = self.now()
        found = [(b, e or now) for w, b, e in self.stops if w == who]
        return [(b, e) for b, e in found if b <= end and e >= begin]

    def judge_late(self):
        """Tokens that came after their end. Between the broker's decision and the client's look, either may have been
        stopped: then the token has to have been good when that began. A call that was sent after the stop has no excuse."""
        worst, excused = self.latest, 0
        for over, name, slot, kind, family, sent, got, made in self.late:
            since = got - AFTER_STOP if kind == "watch" else sent
            stops = self.stopped(name, since, got) + self.stopped(slot, since, got)
            if stops:
                begin = min(b for b, _ in stops)
                excused += 1
                over -= got - min(begin, got)
            worst = max(worst, over)
            if over > LATE:
                self.violation(
                    f"{slot} gave {family}'s {kind} {name} a token {over:.2f} s after its end (sent {self.at(sent)}, "
                    f"got {self.at(got)}, made {self.at(made.forwarded)} for {made.life})"
                )
        return worst, excused

    def running(self, life, begin, end):
        """How long a broker ran in a span."""
        stops = self.stopped(life.slot, begin, end)
        return end - begin - sum(min(e, end) - max(b, begin) for b, e in stops)

    def why_spent(self, presentation):
        """Why a token that the provider had already exchanged may be presented again: the answer that had its successor
        reached no process that lived on. None: it may not."""
        first = next((p for p in self.by_token[presentation.token] if p.rotated), None)
        if first is None or first is presentation:
            return None
        if first.access in self.first_seen or first.refresh in self.by_token:
            return None  # The new token set was had, and used.
        life = first.life
        if first.how == "cut" and first.delivered is None:
            return "cut", f"{life} never got the answer: the door lost it ({first.fault})"
        if life.killed is not None and first.arrived <= life.killed:
            when = f"{life} was killed at {self.at(life.killed)}"
            if first.how != "taken":
                return (
                    "killed",
                    f"{when}, {life.killed - first.arrived:.3f} s into the exchange, before its answer was there",
                )
            ran = self.running(life, first.delivered, life.killed)
            if ran <= SAVE:
                return "killed", f"{when}, {ran:.3f} s after the answer was there and before it was stored"
            return None
        if first.how in ("gone", "lost") and first.ended - first.arrived >= EXCHANGE:
            return "waited", f"{life} waited {first.ended - first.arrived:.1f} s and got no answer"
        return None

    def judge_reuse(self):
        """Every presentation of a spent token, and every refusal: explained, or a violation. The kinds, counted."""
        reused, kinds = Counter(), {}
        for presentations in self.by_token.values():
            rotated = False
            for p in presentations:
                if rotated and p.forwarded is not None:
                    why = self.why_spent(p)
                    if why is None:
                        self.violation(
                            f"a spent refresh token was presented without need: {p}; spent by: {presentations[0]}"
                        )
                    else:
                        reused[why[0]] += 1
                        kinds.setdefault((p.family, p.generation), why)
                rotated = rotated or p.rotated
        losses = []
        for p, family, generation in self.lost:
            why = kinds.get((family, generation))
            if why is None:
                self.violation(f"{family}.{generation} was lost without reason: {p}")
                continue
            losses.append((p, family, generation, *why))
        return reused, losses

    def judge_one_at_a_time(self):
        """Nobody presents a token while another one does. A killed process does not any more, also if the door still holds
        its request; how long others keep from the token then is the mark's affair."""
        for presentations in self.by_token.values():
            for one, next_one in zip(presentations, presentations[1:], strict=False):
                over = min((moment for moment in (one.ended, one.life.killed) if moment is not None), default=None)
                if over is None or next_one.arrived < over - NOTICE:
                    self.violation(f"presented twice at once: {one}; {next_one}")

    def stepped(self, slot, begin, end):
        """Whether the wall clock of a broker was anything but true in a span."""
        before = [offset for when, who, offset in self.steps if who == slot and when <= begin][-1:]
        return any(before) or any(who == slot and begin < when <= end for when, who, _ in self.steps)

    def judge_marks(self):
        """A presentation whose outcome is not known keeps others from the token for 90 s, by either clock; what a provider
        has refused is not presented again."""
        for presentations in self.by_token.values():
            for one, other in zip(presentations, presentations[1:], strict=False):
                unknown = one.how != "taken" or one.fault in ("500 before", "500 after")
                slots = {one.life.slot, other.life.slot}
                begin = one.arrived - TICK
                if (
                    unknown
                    and one.life is not other.life
                    and other.arrived - one.arrived < MARK - TICK
                    and not any(self.stepped(slot, begin, other.arrived) for slot in slots)
                ):
                    self.violation(f"presented again by another after {other.arrived - one.arrived:.1f} s: {one}; {other}")
                ends = one.life.killed
                saved = ends is None or one.delivered is None or self.running(one.life, one.delivered, ends) > SAVE
                if one.refused and one.how == "taken" and saved:
                    self.violation(f"presented again after it was refused: {one}; {other}")

    def judge_patience(self):
        """A broker that lives waits for an answer; closing the connection before would lose it."""
        for p in self.presentations:
            alive = p.life.killed is None or (p.ended is not None and p.ended < p.life.killed)
            if alive and p.how in ("gone", "lost") and p.ended - p.arrived < EXCHANGE - NOTICE:
                self.violation(f"a living broker left its exchange after {p.ended - p.arrived:.1f} s: {p}")
