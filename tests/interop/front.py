"""A TLS front for the control plane, in the driver itself, that can break connections in ways that no HTTP server will."""

import contextlib
import socket
import ssl
import struct
import threading

from harness import expect

IDLE_SECONDS = 30
# Closing with this sends a reset instead of an end.
RESET = struct.pack("ii", 1, 0)


class Front:
    """`https://127.0.0.1:PORT/api`, with a certificate of an authority of its own (`ca_file`), in front of a plain port.

    `mode` is what becomes of connections from now on: `pass`; `reset` after the request began to arrive; `certificate`, one
    that nobody trusts; `garbage` instead of TLS. Setting it cuts those that are open, as an outage does.
    """

    def __init__(self, world, port):
        self.port = port
        self.connections = 0
        directory = world.dir("front")
        trusted, strange = self.certificate(world, directory, "trusted"), self.certificate(world, directory, "strange")
        self.ca_file = directory / "trusted.pem"
        self.contexts = {"pass": trusted, "reset": trusted, "certificate": strange}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}/api"
        self.mode = "pass"
        self.lock = threading.Lock()
        self.open = set()
        self.thread = threading.Thread(target=self.accept, daemon=True)

    @staticmethod
    def certificate(world, directory, name):
        """A self-signed certificate that is its own authority, and the TLS context of its server."""
        key, pem = directory / f"{name}.key", directory / f"{name}.pem"
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
        world.call([*argv, *names, "-keyout", key, "-out", pem])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, key)
        return context

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        # Wakes the thread that accepts, which closing alone does not.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(IDLE_SECONDS)
        self.listener.close()
        self.cut()
        expect(not self.thread.is_alive(), "the front's thread does not end")

    def set(self, mode):
        self.mode = mode
        self.cut()

    def cut(self):
        with self.lock:
            for one in self.open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=[client, self.mode], daemon=True).start()

    @contextlib.contextmanager
    def keep(self, one):
        """Closes it at the end, and lets `cut` reach it before."""
        with self.lock:
            self.open.add(one)
        try:
            yield one
        finally:
            with self.lock:
                self.open.discard(one)
            one.close()

    def serve(self, client, mode):
        # Whatever a client does to its connection is its own affair.
        with contextlib.suppress(OSError):
            client.settimeout(IDLE_SECONDS)
            if mode == "garbage":
                with client:
                    client.recv(4096)
                    client.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                return
            with self.keep(self.contexts[mode].wrap_socket(client, server_side=True)) as inner:
                if mode == "reset":
                    inner.recv(1)
                    inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    return
                with self.keep(socket.create_connection(("127.0.0.1", self.port), IDLE_SECONDS)) as outer:
                    # A request has its answer after it, so one direction may wait for the other's end.
                    back = threading.Thread(target=self.pump, args=[outer, inner], daemon=True)
                    back.start()
                    self.pump(inner, outer)
                    back.join(IDLE_SECONDS)

    @staticmethod
    def pump(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
