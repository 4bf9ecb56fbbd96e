"""TCP proxies before PostgreSQL: one loses answers to COMMIT, so that the server commits and the client never hears of
it; one looks like a connection pooler."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

#: A simple query's text as it travels, with its closing NUL.
_COMMIT = b"COMMIT\x00"
#: How the message begins that tells the number of the server's process, with its length.
_BACKEND_KEY = b"K\x00\x00\x00\x0c"


class LossyProxy:
    """Forwards every connection made to its `port`; see `lose`."""

    def __init__(self, target_port: int) -> None:
        """Forward to this port of 127.0.0.1."""
        self.target_port = target_port
        #: How many answers were lost so far.
        self.lost = 0
        self._to_lose = 0
        self._is_cut = False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, count: int) -> None:
        """Of the next `count` COMMITs, forward each, then close the connection in place of its answer."""
        with self._lock:
            self._to_lose += count

    def cut(self) -> None:
        """End all connections, and take no others until `mend`."""
        self._is_cut = True
        for end in list(self._open):
            self._end(end)

    def mend(self) -> None:
        """Take connections again."""
        self._is_cut = False

    def close(self) -> None:
        """End all connections and listen no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in list(self._open):
            self._end(end)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_cut:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self.target_port))
                self._open |= {client, server}
                losing = threading.Event()
                threading.Thread(target=self._forward, args=(client, server, losing), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client, losing), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        with self._both(client, server):
            while data := client.recv(65536):
                if _COMMIT in data and self._take():
                    losing.set()
                server.sendall(data)

    def _answer(self, server: socket.socket, client: socket.socket, losing: threading.Event) -> None:
        with self._both(client, server):
            while data := server.recv(65536):
                if losing.is_set():
                    # The server has answered, so it has committed.
                    self.lost += 1
                    return
                client.sendall(self.answer(data))

    def answer(self, data: bytes) -> bytes:
        """What the client gets in the place of what the server has sent."""
        return data

    def _take(self) -> bool:
        with self._lock:
            if self._to_lose == 0:
                return False
            self._to_lose -= 1
            return True

    @contextlib.contextmanager
    def _both(self, *ends: socket.socket) -> Iterator[None]:
        try:
            with contextlib.suppress(OSError):
                yield
        finally:
            for end in ends:
                self._end(end)

    def _end(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
        self._open.discard(end)


class PoolerProxy(LossyProxy):
    """Tells a client another process number than that of the server's process, as a connection pooler does."""

    def answer(self, data: bytes) -> bytes:
        """With another number in the server's message on how to cancel (BackendKeyData)."""
        begin = data.find(_BACKEND_KEY)
        if begin < 0:
            return data
        number = begin + len(_BACKEND_KEY)
        return data[:number] + b"\x7f\xff\xff\xff" + data[number + 4 :]
