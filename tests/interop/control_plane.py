"""The control plane of the interop tests: the vendor's generated services on the vendor's RPC runtime.

Started as `python control_plane.py FD`, where FD is a bound TCP socket that nobody listens on yet: until then a client is
refused, which is how a test shows a control plane that is down. The first line on standard input is JSON:
{"token": BEARER, "runner_id": UUID, "public_key": BASE64, "integrations": [..]}. It answers {"url": ...}. After that, one JSON
line in, one out:

  {"do": "put", "integrations": [SCMIntegration as proto3 JSON]}   adds or replaces by id
  {"do": "remove", "ids": [ID]}
  {"do": "churn", "every": S, "integration": SCMIntegration}       from now on puts it every S seconds, each time with another host
  {"do": "fail", "with": CODE or "html", "times": N, "retry_after": S}   the next N calls fail so
  {"do": "token", "token": BEARER}                                 the only bearer token accepted from now on
  {"do": "watch", "mode": MODE}      what WatchEvents does from now on, with new streams and, where it can, with open ones:
      "on"; "silent" takes streams and never sends; "missing" is a server without the method (404 page not found); any other is
      the code that ends each new stream at once
  {"do": "headers", "at_once": BOOL}   whether a stream's headers come before its first event; the runtime's own way is not to
  {"do": "kill"}                       cuts all open streams, without an end-of-stream message
  {"do": "flood", "events": N, "seconds": S}   sends N events, spread over S seconds
  {"do": "stats"}    {"calls": {METHOD: N}, "lists": [{"page_size", "token", "runner_ids"}], "watches": [WatchEventsRequest],
                      "streams_opened": N, "streams_open": N, "events_sent": N}

Every put and remove is told to the open streams. It ends when standard input does, so that nothing is left behind when the driver dies.
"""

import asyncio
import base64
import contextvars
import hmac
import json
import re
import socket
import sys
import uuid

import uvicorn
from buf.validate import validate_pb2
from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from gitpod.v1 import event_pb2, runner_configuration_pb2, runner_pb2
from gitpod.v1.event_connect import EventService, EventServiceASGIApplication
from gitpod.v1.runner_configuration_connect import RunnerConfigurationService, RunnerConfigurationServiceASGIApplication
from gitpod.v1.runner_connect import RunnerService, RunnerServiceASGIApplication
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from protobuf.wkt import Any

BASE_PATH = "/api"
OURS = event_pb2.RESOURCE_TYPE_RUNNER_SCM_INTEGRATION
# The stream that a WatchEvents request under way belongs to.
STREAM = contextvars.ContextVar("STREAM")
DEFAULT_PAGE_SIZE = 25
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class State:
    """What the services answer from; the commands on standard input change it."""

    def __init__(self, settings):
        self.token = settings["token"]
        self.runner_id = settings["runner_id"]
        self.public_key = base64.b64decode(settings.get("public_key", ""))
        self.integrations = {}
        self.calls = {}
        self.lists = []
        self.watches = []
        self.streams = set()
        self.streams_opened = 0
        self.events_sent = 0
        self.watch_mode = "on"
        self.headers_at_once = False
        self.tasks = set()
        self.failure = None
        self.failures = 0
        self.retry_after = None
        self.put(settings.get("integrations", []))

    def put(self, integrations):
        for entry in integrations:
            message = json_format.ParseDict(entry, runner_configuration_pb2.SCMIntegration())
            known = message.id in self.integrations
            self.integrations[message.id] = message
            self.announce(event_pb2.RESOURCE_OPERATION_UPDATE if known else event_pb2.RESOURCE_OPERATION_CREATE, message.id)
        return {}

    def remove(self, ids):
        for identifier in ids:
            del self.integrations[identifier]
            self.announce(event_pb2.RESOURCE_OPERATION_DELETE, identifier)
        return {}

    def announce(self, operation, identifier):
        event = event_pb2.WatchEventsResponse(operation=operation, resource_type=OURS, resource_id=identifier)
        if self.watch_mode == "silent":
            return
        for stream in self.streams:
            stream.queue.put_nowait(event)

    def churn(self, command):
        async def forever():
            number = 0
            while True:
                number += 1
                self.put([{**command["integration"], "host": f"churn-{number}.example.test"}])
                await asyncio.sleep(command["every"])

        self.start(forever())
        return {}

    def watch(self, mode):
        self.watch_mode = mode
        return {}

    def set_headers(self, at_once):
        self.headers_at_once = at_once
        return {}

    def kill(self):
        killed = len(self.streams)
        for stream in self.streams:
            stream.cut = True
            stream.queue.put_nowait(None)
        return {"killed": killed}

    def flood(self, command):
        events, seconds = command["events"], command["seconds"]

        async def pour():
            loop = asyncio.get_running_loop()
            begun, sent = loop.time(), 0
            while sent < events:
                due = min(events, int((loop.time() - begun) / seconds * events) + 1)
                for _ in range(due - sent):
                    self.announce(event_pb2.RESOURCE_OPERATION_UPDATE, str(uuid.uuid4()))
                sent = due
                await asyncio.sleep(0.005)

        self.start(pour())
        return {}

    def start(self, work):
        """Runs it beside the services, for as long as they do."""
        task = asyncio.get_running_loop().create_task(work)
        # The loop itself keeps only a weak reference.
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def fail(self, command):
        self.failure, self.failures, self.retry_after = command["with"], command["times"], command.get("retry_after")
        return {}

    def set_token(self, token):
        self.token = token
        return {}

    def stats(self):
        return {
            "calls": self.calls,
            "lists": self.lists,
            "watches": self.watches,
            "streams_opened": self.streams_opened,
            "streams_open": len(self.streams),
            "events_sent": self.events_sent,
        }

    def answer(self, command):
        return {
            "put": lambda: self.put(command["integrations"]),
            "remove": lambda: self.remove(command["ids"]),
            "churn": lambda: self.churn(command),
            "fail": lambda: self.fail(command),
            "token": lambda: self.set_token(command["token"]),
            "watch": lambda: self.watch(command["mode"]),
            "headers": lambda: self.set_headers(command["at_once"]),
            "kill": self.kill,
            "flood": lambda: self.flood(command),
            "stats": self.stats,
        }[command["do"]]()


def check(message):
    """Applies the validation rules that the vendor ships inside its descriptors."""
    for field, value in message.ListFields():
        rules = field.GetOptions().Extensions[validate_pb2.field]
        values = value if field.label == FieldDescriptor.LABEL_REPEATED else [value]
        if rules.repeated.HasField("max_items") and len(values) > rules.repeated.max_items:
            raise ConnectError(Code.INVALID_ARGUMENT, f"{field.name}: too many items")
        limits = rules.int32
        for one in values:
            if (rules.string.uuid or rules.repeated.items.string.uuid) and not UUID.fullmatch(one):
                raise ConnectError(Code.INVALID_ARGUMENT, f"{field.name}: must be a valid UUID")
            if (limits.HasField("lte") and one > limits.lte) or (limits.HasField("gte") and one < limits.gte):
                raise ConnectError(Code.INVALID_ARGUMENT, f"{field.name}: out of range")
            if field.message_type is not None:
                check(one)


class Gate:
    """In front of every method: counts the call, wants the bearer token, and fails when told to."""

    def __init__(self, state):
        self.state = state

    async def on_start(self, ctx):
        state = self.state
        name = ctx.method.name
        state.calls[name] = state.calls.get(name, 0) + 1
        if state.failures > 0:
            state.failures -= 1
            raise self.injected(ctx)
        expected, given = f"Bearer {state.token}", ctx.request_headers.get("authorization", "")
        if not hmac.compare_digest(expected.encode(), given.encode()):
            raise ConnectError(Code.UNAUTHENTICATED, "invalid or missing token")

    async def on_end(self, token, ctx, error):
        """Nothing to do; the runtime asks for it."""

    def injected(self, ctx):
        delay = self.state.retry_after
        details = []
        if delay is not None:
            ctx.response_headers["RateLimit-RetryAfter"] = str(delay)
            # google.rpc.RetryInfo{retry_delay: Duration{seconds: delay}}; small delays fit one byte.
            details = [ErrorDetail(Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=bytes([10, 2, 8, delay])))]
        return ConnectError(Code(self.state.failure), "injected by the test", details)


class RunnerConfiguration(RunnerConfigurationService):
    def __init__(self, state):
        self.state = state

    async def list_scm_integrations(self, request, ctx):
        check(request)
        wanted = list(request.filter.runner_ids)
        size = request.pagination.page_size or DEFAULT_PAGE_SIZE
        self.state.lists.append({"page_size": request.pagination.page_size, "token": request.pagination.token, "runner_ids": wanted})
        rows = [row for row in self.state.integrations.values() if not wanted or row.runner_id in wanted]
        try:
            start = int(base64.b64decode(request.pagination.token, validate=True) or b"0")
        except ValueError:
            raise ConnectError(Code.INVALID_ARGUMENT, "pagination.token: not one of ours") from None
        response = runner_configuration_pb2.ListSCMIntegrationsResponse(integrations=rows[start : start + size])
        if start + size < len(rows):
            response.pagination.next_token = base64.b64encode(str(start + size).encode()).decode()
        return response

    async def get_scm_integration(self, request, ctx):
        check(request)
        found = self.state.integrations.get(request.id)
        if found is None:
            raise ConnectError(Code.NOT_FOUND, "SCM integration not found")
        return runner_configuration_pb2.GetSCMIntegrationResponse(integration=found)


class Runner(RunnerService):
    def __init__(self, state):
        self.state = state

    async def get_runner(self, request, ctx):
        check(request)
        if request.runner_id != self.state.runner_id:
            raise ConnectError(Code.NOT_FOUND, "runner not found")
        status = runner_pb2.RunnerStatus(public_key=self.state.public_key)
        return runner_pb2.GetRunnerResponse(runner=runner_pb2.Runner(runner_id=self.state.runner_id, status=status))


class Events(EventService):
    def __init__(self, state):
        self.state = state

    async def watch_events(self, request, ctx):
        check(request)
        state, stream = self.state, STREAM.get()
        state.watches.append(json_format.MessageToDict(request))
        if state.watch_mode not in ("on", "silent"):
            raise ConnectError(Code(state.watch_mode), "no events here")
        wanted = [one.resource_type for one in request.resource_type_filters]
        state.streams_opened += 1
        state.streams.add(stream)
        try:
            while (event := await stream.queue.get()) is not None:
                if not wanted or event.resource_type in wanted:
                    state.events_sent += 1
                    yield event
        finally:
            state.streams.discard(stream)


class Stream:
    """One WatchEvents request, between the runtime and the connection."""

    def __init__(self):
        # Events to send; None ends it.
        self.queue = asyncio.Queue()
        self.cut = False
        self.started = False

    async def serve(self, service, scope, receive, send, headers_at_once):
        async def hear():
            message = await receive()
            if message["type"] == "http.disconnect":
                # The runtime by itself would notice at the next event only.
                self.queue.put_nowait(None)
            return message

        async def say(message):
            is_start = message["type"] == "http.response.start"
            # A reply that is started and not finished is a connection that the server below us breaks off.
            if (is_start and self.started) or (self.cut and not is_start):
                return
            self.started = True
            await send(message)

        if headers_at_once:
            # Said before the runtime could choose a compression, so it may not.
            kept = [(name, value) for name, value in scope["headers"] if name != b"connect-accept-encoding"]
            scope = {**scope, "headers": kept}
            await say({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/connect+json")]})
        STREAM.set(self)
        await service(scope, hear, say)


def application(state):
    """The three services under one base path, and the proxy in front of them that sometimes answers in HTML."""
    options = {"interceptors": [Gate(state)]}
    mounted = [
        RunnerConfigurationServiceASGIApplication(RunnerConfiguration(state), **options),
        RunnerServiceASGIApplication(Runner(state), **options),
        EventServiceASGIApplication(Events(state), **options),
    ]

    async def page(send, status, media_type, body):
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", media_type)]})
        await send({"type": "http.response.body", "body": body})

    async def serve(scope, receive, send):
        service = next((app for app in mounted if scope["path"].startswith(f"{BASE_PATH}{app.path}/")), None)
        watching = scope["path"].endswith("/WatchEvents")
        if service is None or (watching and state.watch_mode == "missing"):
            await page(send, 404, b"text/plain; charset=utf-8", b"404 page not found\n")
        elif state.failures > 0 and state.failure == "html":
            state.failures -= 1
            method = scope["path"].rpartition("/")[2]
            state.calls[method] = state.calls.get(method, 0) + 1
            await page(send, 502, b"text/html", b"<html><title>Bad Gateway</title></html>")
        elif watching:
            await Stream().serve(service, {**scope, "root_path": BASE_PATH}, receive, send, state.headers_at_once)
        else:
            await service({**scope, "root_path": BASE_PATH}, receive, send)

    return serve


async def main(descriptor):
    loop = asyncio.get_running_loop()
    state = State(json.loads(sys.stdin.readline()))
    listener = socket.socket(fileno=descriptor)
    config = uvicorn.Config(application(state), log_level="warning", lifespan="off", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = loop.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    host, port = listener.getsockname()
    print(json.dumps({"url": f"http://{host}:{port}{BASE_PATH}"}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(state.answer(json.loads(line))), flush=True)
    for stream in state.streams:
        stream.queue.put_nowait(None)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
