"""The vendor's generated client against a control plane: `python vendor_client.py URL RUNNER_ID`, bearer token on stdin.

Speaks JSON, as scm-agent does. Prints `ok NAME` or `not ok NAME: reason` for each thing that the vendor's client relies on.
With `--watch N` after that it prints the next N events of WatchEvents instead, one JSON object a line.
"""

import json
import sys
import uuid

from connectrpc.code import Code
from connectrpc.compat import google_protobuf_json_codec
from connectrpc.errors import ConnectError
from gitpod.v1 import event_pb2
from gitpod.v1.event_connect import EventServiceClientSync
from gitpod.v1.pagination_pb2 import PaginationRequest
from gitpod.v1.runner_configuration_connect import RunnerConfigurationServiceClientSync
from gitpod.v1.runner_configuration_pb2 import GetSCMIntegrationRequest, ListSCMIntegrationsRequest

MAX_PAGES = 100
WATCH_MS = 60_000


def client(url, token, kind=RunnerConfigurationServiceClientSync, timeout_ms=10_000):
    class Authorization:
        def on_start_sync(self, ctx):
            ctx.request_headers["Authorization"] = f"Bearer {token}"

        def on_end_sync(self, token, ctx, error):
            pass

    return kind(url, codec=google_protobuf_json_codec(), send_compression=None, interceptors=[Authorization()], timeout_ms=timeout_ms)


def list_all(service, runner_id, page_size):
    found, token = [], ""
    for _ in range(MAX_PAGES):
        request = ListSCMIntegrationsRequest(
            pagination=PaginationRequest(page_size=page_size, token=token),
            filter=ListSCMIntegrationsRequest.Filter(runner_ids=[runner_id]),
        )
        reply = service.list_scm_integrations(request)
        assert len(reply.integrations) <= page_size, "a page is longer than asked for"
        found.extend(reply.integrations)
        token = reply.pagination.next_token
        if not token:
            return found
    raise AssertionError("the list does not end")


def watch(url, token, count):
    """Prints so many events, as the organization's SCM integrations change."""
    ours = event_pb2.RESOURCE_TYPE_RUNNER_SCM_INTEGRATION
    request = event_pb2.WatchEventsRequest(
        organization=True, resource_type_filters=[event_pb2.WatchEventsRequest.ResourceTypeFilter(resource_type=ours)]
    )
    events = client(url, token, EventServiceClientSync, WATCH_MS).watch_events(request)
    for _, event in zip(range(count), events):
        operation, kind = event_pb2.ResourceOperation.Name(event.operation), event_pb2.ResourceType.Name(event.resource_type)
        print(json.dumps({"operation": operation, "type": kind, "id": event.resource_id}), flush=True)


def code_of(call, request):
    try:
        call(request)
    except ConnectError as error:
        return error.code
    return None


def main(url, runner_id, token):
    service = client(url, token)
    everything = list_all(service, runner_id, 100)

    def lists_the_runners_integrations():
        assert everything, "the list is empty"
        assert all(one.runner_id == runner_id for one in everything), "an integration of another runner"
        assert any(one.oauth.encrypted_client_secret for one in everything), "no integration has a sealed secret"

    def pages_join_to_the_whole():
        paged = list_all(service, runner_id, 7)
        assert [one.id for one in paged] == [one.id for one in everything], "small pages give another list than large ones"

    def gets_what_it_lists():
        for one in everything:
            reply = service.get_scm_integration(GetSCMIntegrationRequest(id=one.id))
            assert reply.integration == one, f"get and list differ for {one.id}"

    def an_unknown_id_is_not_found():
        code = code_of(service.get_scm_integration, GetSCMIntegrationRequest(id=str(uuid.uuid4())))
        assert code is Code.NOT_FOUND, f"got {code}"

    def a_wrong_token_is_unauthenticated():
        code = code_of(client(url, "wrong").list_scm_integrations, ListSCMIntegrationsRequest())
        assert code is Code.UNAUTHENTICATED, f"got {code}"

    def another_runners_list_is_empty():
        assert list_all(service, str(uuid.uuid4()), 100) == [], "a runner without integrations got some"

    failed = 0
    for case in [value for value in locals().values() if callable(value) and value is not service]:
        name = case.__name__.replace("_", " ")
        try:
            case()
            print(f"ok {name}", flush=True)
        except (AssertionError, ConnectError) as error:
            failed += 1
            print(f"not ok {name}: {error}", flush=True)
    return failed


if __name__ == "__main__":
    bearer = sys.stdin.readline().strip()
    if sys.argv[3:4] == ["--watch"]:
        watch(sys.argv[1], bearer, int(sys.argv[4]))
        sys.exit(0)
    sys.exit(1 if main(sys.argv[1], sys.argv[2], bearer) else 0)
