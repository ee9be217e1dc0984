"""A Git LFS server: the batch API with basic transfers (github.com/git-lfs/git-lfs, docs/api), in memory.

It asks nobody for a password: nginx stands in front of it, as it does for git.
"""

import http.server
import json
import re
import threading

MEDIA_TYPE = "application/vnd.git-lfs+json"
BATCH = re.compile(r"/(?P<repository>.+)/info/lfs/objects/batch")
OBJECT = re.compile(r"/(?P<repository>.+)/info/lfs/objects/(?P<oid>[0-9a-f]{64})")
# For nginx: git's own requests never have this in their path.
LOCATION = """location ~ /info/lfs/ {{
            auth_request /.introspect;
            proxy_pass http://127.0.0.1:{port};
            proxy_set_header Host $http_host;
        }}"""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status, body=b"", kind="application/octet-stream"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        asked = self.body()
        found = BATCH.fullmatch(self.path)
        if not found:
            # Among them locks, which a server need not have.
            self.reply(404, b"{}", MEDIA_TYPE)
            return
        batch = json.loads(asked)
        objects = [self.server.offer(batch["operation"], found["repository"], one, self.headers["Host"]) for one in batch["objects"]]
        self.reply(200, json.dumps({"transfer": "basic", "objects": objects}).encode(), MEDIA_TYPE)

    def do_PUT(self):
        content = self.body()
        self.server.objects[OBJECT.fullmatch(self.path)["oid"]] = content
        self.reply(200)

    def do_GET(self):
        content = self.server.objects.get(OBJECT.fullmatch(self.path)["oid"])
        self.reply(*((404, b"") if content is None else (200, content)))

    def log_message(self, *_):
        """Silent: the default handler prints each request to the terminal."""


class LfsHost(http.server.ThreadingHTTPServer):
    """`objects` is what was uploaded; `location` is what nginx needs to hand it its requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects = {}
        self.location = LOCATION.format(port=self.server_address[1])
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def offer(self, operation, repository, one, host):
        """Where to send or fetch an object; without a header, so that the client asks for a credential for it, too."""
        there = one["oid"] in self.objects
        answer = {"oid": one["oid"], "size": one["size"]}
        href = f"http://{host}/{repository}/info/lfs/objects/{one['oid']}"
        if operation == "download" and not there:
            return {**answer, "error": {"code": 404, "message": "no such object"}}
        if operation == "upload" and there:
            return answer
        return {**answer, "actions": {operation: {"href": href}}}
