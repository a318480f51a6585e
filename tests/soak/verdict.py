"""The end: what is looked at when all is over, and the summary."""

import datetime
import json
import re
import statistics
from collections import Counter

from record import LATE
from world import FIXTURE, LOGS, credbroker

# A broker that is not asked logs nothing for some seconds; longer jumps in its log are its clock's.
JUMP = 25
# Growth: the median of the last quarter of a life over that of its first, without the first tenth. Of the threads for
# work that blocks, as many stay as were once busy at the same time, and each has some memory of its own: two for each
# family, and some. What leaks with each of thousands of exchanges is more.
GROWTH_KIB = 6144
GROWTH_THREADS = 24
GROWTH_DESCRIPTORS = 8
# At rest, with no client left: the lowest of some seconds beside the same before any client came. The audit file and the
# runtime's own are opened with the first call.
REST_DESCRIPTORS = 6
# Lines of the audit that die with a broker: what 20 ms of 50 clients can be.
UNWRITTEN = 16
OPERATIONS = {"get": "GetToken", "refresh": "RefreshToken", "watch": "WatchToken"}


def judge_growth(soak, record, minutes):
    lines = []
    for slot, broker in soak.brokers.items():
        life = max(broker.lives, key=lambda life: len(life.samples))
        samples = life.samples[len(life.samples) // 10 :]
        quarter = len(samples) // 4
        if quarter < 10:
            lines.append(f"{life}: lived too short to be judged")
            continue
        first, last = (
            [statistics.median(column) for column in zip(*part, strict=True)][1:]
            for part in (samples[:quarter], samples[-quarter:])
        )
        most = [max(column) for column in zip(*samples, strict=True)][1:]
        (resident, threads, descriptors), (resident_then, threads_then, descriptors_then) = first, last
        lines.append(
            f"{life}, {samples[-1][0] - samples[0][0]:.0f} s: "
            f"resident {resident / 1024:.1f} -> {resident_then / 1024:.1f} MiB (most {most[0] / 1024:.1f}), "
            f"threads {threads:.0f} -> {threads_then:.0f} (most {most[1]}), "
            f"descriptors {descriptors:.0f} -> {descriptors_then:.0f} (most {most[2]}), "
            f"{life.processor:.0f} s of processor time"
        )
        for what, before, after, bound in zip(
            ("resident KiB", "threads", "descriptors"),
            first,
            last,
            (GROWTH_KIB, GROWTH_THREADS, GROWTH_DESCRIPTORS),
            strict=True,
        ):
            if after > before + bound:
                record.violation(f"{life} grew: {what} {before:.0f} -> {after:.0f}, more than {bound}")
        before, after = soak.rest_before[slot], soak.rest_after[slot]
        lines.append(
            f"  at rest, {broker.lives[0]} before and {broker.life} after: threads {before[1]} -> {after[1]}, "
            f"descriptors {before[2]} -> {after[2]}"
        )
        if after[2] > before[2] + REST_DESCRIPTORS:
            record.violation(f"{broker.life} keeps descriptors when nobody is there: {before[2]} -> {after[2]}")
    if not any(len(life.samples) * 4 > minutes * 60 for broker in soak.brokers.values() for life in broker.lives):
        record.violation("no broker lived for a quarter of the run: its growth says nothing")
    return lines


def judge_files(soak, record):
    """What is left after an orderly end of both brokers."""

    def names(place):
        return sorted(str(path.relative_to(FIXTURE / place)) for path in (FIXTURE / place).rglob("*") if not path.is_dir())

    if names("runtime") != ["credbroker/lock"]:
        record.violation(f"left in the runtime directory: {names('runtime')}")
    for place in ("tmp", "a", "b"):
        if names(place):
            record.violation(f"left in {place}: {names(place)}")
    store = names("data")
    if any(name.endswith(".tmp") for name in store) or len(store) != soak.files_before:
        record.violation(f"the store has {len(store)} files instead of {soak.files_before}: {store}")
    return f"store {soak.files_before} files -> {len(store)} (most {max(soak.files)}); runtime {len(names('runtime'))}"


def judge_audit(soak, record):
    """The record that the brokers keep beside ours: a line for each token that a client has, and the chain as it was written."""
    audit = sorted((FIXTURE / "state").rglob("*.jsonl"))
    lines = broken = size = 0
    told = Counter()
    for path in audit:
        size += path.stat().st_size
        for text in path.read_bytes().splitlines():
            lines += 1
            try:
                line = json.loads(text)
            except ValueError:
                broken += 1
                continue
            if line.get("event") == "gap":
                record.violation(f"{path.name} has lost lines: {line}")
            if line.get("outcome") == "ok":
                told[line["operation"]] += 1
    killed = record.events["kill broker"]
    # A killed process may have left half of its last line.
    if broken > killed:
        record.violation(f"{broken} audit lines are broken, but only {killed} brokers were killed")
    for kind, operation in OPERATIONS.items():
        if told[operation] < record.delivered[kind] - UNWRITTEN * killed:
            record.violation(f"{record.delivered[kind]} tokens of {operation}, but only {told[operation]} lines of the audit")
    lives = sum(len(broker.lives) for broker in soak.brokers.values())
    # One for each, made with its first call; another one when it is full.
    if not lives - killed <= len(audit) <= lives + size // (32 << 20):
        record.violation(f"{len(audit)} audit files of {lives} brokers")
    calls = sum(record.delivered.values()) + sum(record.errors.values())
    if lines > 2 * calls + 1000:
        record.violation(f"{lines} audit lines for {calls} answers")
    return (
        f"audit {len(audit)} files, {lines} lines ({broken} cut off), {size / 2**20:.1f} MiB, for {dict(record.delivered)} "
        f"the lines {dict(told)}; audit verify: {verify_audit(record, len(audit), killed)}"
    )


def verify_audit(record, files, killed):
    """What `audit verify` says of each file, counted: whole, or of a killed broker without its closing line."""
    done = credbroker("audit", "verify")
    verdicts = Counter(re.findall(r"^\S+\.jsonl: (whole|no closing line|.*)", done.stdout, re.MULTILINE))
    cut = verdicts["no closing line"]
    if sum(verdicts.values()) != files or set(verdicts) - {"whole", "no closing line"} or cut > killed:
        record.violation(f"{killed} brokers were killed, and audit verify says\n{done.stdout}{done.stderr}")
    if done.returncode != (65 if cut else 0):
        record.violation(f"audit verify ended with {done.returncode}: {done.stderr}")
    return dict(verdicts)


def judge_logs(record):
    panics = errors = 0
    for path in LOGS.glob("broker-*"):
        text = path.read_text(errors="replace")
        panics += text.count("panicked")
        for line in text.splitlines():
            # An answer that took longer than its token lives is told of as an error, as it should be.
            if '"level":"ERROR"' in line and "has expired already" not in line:
                errors += 1
                record.violation(f"{path.name} logged an error: {line[:300]}")
    if panics:
        record.violation(f"{panics} panics in the brokers' logs")


def judge_clocks(record):
    """That the brokers saw what was done to their clocks: the times in their logs jump, by more than any stop."""
    seen = {"clock forward": 0, "clock back": 0}
    for path in LOGS.glob("broker-*"):
        times = [
            datetime.datetime.fromisoformat(found)
            for found in re.findall(r'"timestamp":"([^"]+)Z"', path.read_text(errors="replace"))
        ]
        for one, other in zip(times, times[1:], strict=False):
            jump = (other - one).total_seconds()
            if abs(jump) > JUMP:
                seen["clock forward" if jump > 0 else "clock back"] += 1
    if not all(seen.values()):
        record.violation(f"the clocks of the brokers were set, and their logs do not show it: {seen}")
    return seen


def judge_counts(record, counts):
    """The provider's own counts beside the door's record: nothing went by it."""
    rotated = sum(p.rotated for p in record.presentations)
    refused = sum(p.refused for p in record.presentations)
    if (counts["refreshed"], counts["refused"]) != (rotated, refused):
        record.violation(f"the provider counts {counts}, the door {rotated} rotations and {refused} refusals")


def judge_events(record, minutes, events):
    for kind in events:
        if not record.events[kind]:
            record.violation(f"this never happened: {kind}; the run proves nothing about it")
    if not record.events["exchanges that a kill hit"]:
        record.violation("no kill hit an exchange: the run proves nothing about answers that die with a broker")
    if set(record.delivered) != {"get", "refresh", "watch"}:
        record.violation(f"tokens were delivered only by {sorted(record.delivered)}")
    if record.rotations() < minutes * 30:
        record.violation(f"{record.rotations()} rotations in {minutes} minutes are too few")


def summary(soak, record, minutes, seed, events):
    counts = soak.provider.counts()
    reused, losses = record.judge_reuse()
    worst, excused = record.judge_late()
    record.judge_one_at_a_time()
    record.judge_patience()
    record.judge_marks()
    judge_counts(record, counts)
    judge_events(record, minutes, events)
    judge_logs(record)
    jumps = judge_clocks(record)
    growth, files = judge_growth(soak, record, minutes), judge_files(soak, record)
    audit = judge_audit(soak, record)
    print(f"\nSoak of {minutes} minutes, seed {seed}")
    print("events: " + ", ".join(f"{kind} {count}" for kind, count in sorted(record.events.items())))
    print(f"clocks: of what was done to them and undone, the brokers' logs show jumps of more than {JUMP} s: {jumps}")
    print(
        f"tokens delivered: {sum(record.delivered.values())} {dict(record.delivered)}; refused calls: {dict(record.errors)}"
    )
    gaps = {family: f"{record.gap[family]:.0f}" for family in sorted(record.generations)}
    print(f"longest time without a token, seconds: {gaps}; all came back {soak.recovered:.1f} s after the last event")
    print(
        f"the latest token came {worst:+.2f} s from its end (allowed {LATE:+.2f}); "
        f"{excused} came late to or from a process that was stopped meanwhile"
    )
    print(
        f"presentations {len(record.presentations)}, rotations {record.rotations()}, refusals {len(record.refusals)}; "
        f"the provider: {counts}"
    )
    print(f"spent tokens presented again, as they may: {dict(reused)}")
    kinds = Counter(kind for _, _, _, kind, _ in losses)
    print(
        f"families lost and logged in anew: {len(record.lost)} ({dict(kinds)}); "
        f"NEEDS_LOGIN after a login, for the cooldown: {record.cooled}"
    )
    for p, family, generation, kind, why in losses:
        print(f"  {family}.{generation} ({kind}): {why}; {p.life} was refused at {record.at(p.answered)}")
    for line in growth:
        print(line)
    print(files)
    print(audit)
    print("what happened: " + (f"{len(record.wrong)} VIOLATIONS" if record.wrong else "nothing that may not"))
    for what in record.wrong[:50]:
        print(f"  ! {what}")
    return 1 if record.wrong else 0
