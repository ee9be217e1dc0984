"""The git host of the interop tests: nginx in front of `git http-backend`, open only to a token that is live right now.

Every request is put to the OAuth issuer's introspection endpoint (nginx `auth_request`), with the Basic password as the token.
"""

import base64
import contextlib
import http.server
import json
import os
import pathlib
import pwd
import socket
import subprocess
import threading
import urllib.parse
import urllib.request

from harness import Failed, Process, wait_until

START_TRIES = 5

NGINX = """\
{user}
daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            auth_request /.introspect;
            fastcgi_pass unix:{dir}/fcgi.sock;
            fastcgi_param SCRIPT_FILENAME {backend};
            fastcgi_param GIT_PROJECT_ROOT {dir}/repos;
            fastcgi_param GIT_HTTP_EXPORT_ALL 1;
            fastcgi_param GIT_CONFIG_NOSYSTEM 1;
            fastcgi_param GIT_PROTOCOL $http_git_protocol;
            fastcgi_param HOME {dir};
            fastcgi_param PATH {path};
            fastcgi_param PATH_INFO $uri;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REMOTE_ADDR $remote_addr;
            fastcgi_param REMOTE_USER $remote_user;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param SERVER_PROTOCOL $server_protocol;
        }}
        {locations}
        location = /.introspect {{
            internal;
            proxy_pass http://127.0.0.1:{gate};
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
        }}
    }}
}}
"""


def post_form(url, client, fields):
    """POSTs a form with HTTP Basic client authentication (RFC 6749 section 2.3.1) and returns the body."""
    pair = ":".join(urllib.parse.quote_plus(part) for part in client)
    headers = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    request = urllib.request.Request(url, urllib.parse.urlencode(fields).encode(), headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
        return response.read()


class Gate(http.server.BaseHTTPRequestHandler):
    """Answers nginx: 204 for a live token, 401 for anything else. Remembers who came."""

    def do_GET(self):
        kind, _, pair = self.headers.get("Authorization", "").partition(" ")
        username, password = "", ""
        if kind == "Basic":
            username, _, password = base64.b64decode(pair).decode(errors="replace").partition(":")
        host = self.server.git_host
        live = bool(password) and host.is_live(password)
        if password:
            host.visits.append((username, password, live))
        if live and host.after_next:
            # Done before nginx is told, so that no other request comes between.
            then, host.after_next = host.after_next, None
            then(password)
        self.send_response(204 if live else 401)
        if not live:
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.end_headers()

    def log_message(self, *_):
        """Silent: the default handler prints each request to the terminal."""


class GateServer(http.server.ThreadingHTTPServer):
    # A hundred gits may come at once, and one that is turned away here would look like a fault of the host's.
    request_queue_size = 512
    daemon_threads = True


class GitHost:
    """Starts on a free loopback port; `visits` lists (username, password, live) of every request that brought a password."""

    def __init__(self, world, issuer_url, resource_server, locations=""):
        self.world = world
        # Further places of nginx's configuration.
        self.locations = locations
        self.issuer_url = issuer_url
        self.resource_server = resource_server
        self.visits = []
        # Called with the token of the next request that is let in, once it is.
        self.after_next = None
        self.stack = contextlib.ExitStack()
        self.dir = world.dir("git-host")
        self.host = ""

    def is_live(self, token):
        body = post_form(f"{self.issuer_url}/token/introspection", self.resource_server, {"token": token})
        return json.loads(body).get("active") is True

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            gate = stack.enter_context(GateServer(("127.0.0.1", 0), Gate))
            gate.git_host = self
            threading.Thread(target=gate.serve_forever, daemon=True).start()
            stack.callback(gate.shutdown)
            fcgi = Process("fcgiwrap", [self.world.which("fcgiwrap"), "-f", "-s", f"unix:{self.dir}/fcgi.sock"], self.world)
            stack.enter_context(fcgi)
            self.start_nginx(stack, gate.server_address[1])
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def start_nginx(self, stack, gate_port):
        # nginx cannot be given port 0; another process may take the port between our look and its bind, hence the tries.
        for _ in range(START_TRIES):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            config = self.dir / "nginx.conf"
            config.write_text(self.config(port, gate_port))
            argv = [self.world.which("nginx"), "-e", self.dir / "error.log", "-p", self.dir, "-c", config]
            nginx = stack.enter_context(Process("nginx", argv, self.world))
            if wait_until(lambda port=port, nginx=nginx: listens(port) or nginx.child.poll() is not None, "nginx does not listen"):
                if nginx.child.poll() is None:
                    self.host = f"127.0.0.1:{port}"
                    return
        raise Failed(f"nginx did not start: {(self.dir / 'error.log').read_text()[-300:]}")

    def config(self, port, gate_port):
        exec_path = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
        backend = pathlib.Path(exec_path) / "git-http-backend"
        path = os.environ["PATH"]
        return NGINX.format(user=user, dir=self.dir, port=port, backend=backend, path=path, gate=gate_port, locations=self.locations)

    def new_repository(self, name):
        """A bare repository with one commit that accepts pushes; returns its URL."""
        bare = self.dir / "repos" / name
        seed = self.world.dir(f"seed-{name}")
        git = ["git", "-C", seed, "-c", "user.name=seed", "-c", "user.email=seed@example.test"]
        self.world.call(["git", "init", "-q", "--bare", "-b", "main", bare])
        self.world.call(["git", "-C", bare, "config", "http.receivepack", "true"])
        self.world.call(["git", "init", "-q", "-b", "main", seed])
        (seed / "README").write_text(f"{name}\n")
        self.world.call([*git, "add", "README"])
        self.world.call([*git, "commit", "-q", "-m", "Begin"])
        self.world.call([*git, "push", "-q", bare, "main"])
        return f"http://{self.host}/{name}"

    def commits(self, name):
        """How many commits the repository's main branch has on the host."""
        return int(self.world.call(["git", "-C", self.dir / "repos" / name, "rev-list", "--count", "main"]).stdout)


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
