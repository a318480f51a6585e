"""Keeps a key in the user's kernel keyrings and a segment of shared memory until it is stopped: keeper.py KEY SEGMENT.

When it is ready it says the keyrings' numbers.
"""

import ctypes
import platform
import signal
import sys

libc = ctypes.CDLL(None, use_errno=True)
ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]


def main():
    name, number = sys.argv[1].encode(), int(sys.argv[2])
    key, text = (sys.stdin.readline().strip().encode() for _ in range(2))
    # The user's own keyring, and its default session's.
    keys = [libc.syscall(ADD_KEY, b"user", name, key, len(key), ring) for ring in (-4, -5)]
    segment = libc.shmget(number, 4096, 0o1600)
    libc.shmat.restype = ctypes.c_void_p
    at = libc.shmat(segment, None, 0)
    assert all(key > 0 for key in keys) and segment >= 0 and at not in (None, ctypes.c_void_p(-1).value), ctypes.get_errno()
    ctypes.memmove(at, text, len(text))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    # KEYCTL_GET_KEYRING_ID
    print("ready", *(libc.syscall(KEYCTL, 0, ring, 0) for ring in (-4, -5)), flush=True)
    signal.sigwait([signal.SIGTERM])
    for key in keys:
        libc.syscall(KEYCTL, 21, key)  # KEYCTL_INVALIDATE
    libc.shmctl(segment, 0, None)  # IPC_RMID


if __name__ == "__main__":
    main()
