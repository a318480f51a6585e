"""Outside of the sandbox, as a user that the broker does not know: accomplice.py SITE DESCRIPTOR, a listening socket. It takes
a connection's descriptor and a capability, and says what GetToken answers over it."""

import os
import socket
import sys

sys.path[:0] = [sys.argv[1], os.path.join(sys.argv[1], "attack")]

import descriptor

with socket.socket(fileno=int(sys.argv[2])) as listener:
    client, _ = listener.accept()
with client:
    capability, descriptors, _, _ = socket.recv_fds(client, 200, 1)
    with socket.socket(fileno=descriptors[0]) as connection:
        outcome = descriptor.through(connection, capability.decode())
    client.sendall(f"{outcome} for uid {os.getuid()} outside".encode())
