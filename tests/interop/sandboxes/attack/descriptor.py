"""Uses a connection that another process made: descriptor.py NUMBER gets it over that socket, then calls through it."""

import os
import socket
import sys
import tempfile
import threading

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import calls


def relay(connection, path):
    """A socket at the path whose one connection goes on through the given one. grpcio takes no descriptor."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)

    def pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass

    def serve():
        client, _ = listener.accept()
        threading.Thread(target=pump, args=(client, connection), daemon=True).start()
        pump(connection, client)

    threading.Thread(target=serve, daemon=True).start()


def through(connection, capability):
    """What GetToken answers over somebody else's connection."""
    with tempfile.TemporaryDirectory() as directory:
        relay(connection, f"{directory}/relay")
        return token(f"{directory}/relay", capability)


def token(path, capability):
    channel = calls.open_channel(path)
    answer = calls.call(channel, calls.BROKER + "GetToken", calls.message("github"), capability)
    channel.close()
    return answer.reason or answer.code


def main():
    with socket.socket(fileno=int(sys.argv[1])) as given:
        _, descriptors, _, _ = socket.recv_fds(given, 1, 1)
    try:
        os.setgroups([])
        os.setgid(1000)
        os.setuid(1000)
    except OSError:
        pass  # One uid is all that this sandbox has.
    capability = os.environ["CREDBROKER_CAPABILITY"]
    direct = token(os.environ["CREDBROKER_SOCKET"], capability)
    with socket.socket(fileno=descriptors[0]) as connection:
        print(f"itself {direct}, by the descriptor {through(connection, capability)}")


if __name__ == "__main__":
    main()
