"""A kubelet as a device plugin sees it, by the official messages and gRPC's own library.

It has the directory of the device plugins (the first argument) and the messages (the second), says
on stdout what happens, a JSON document a line, and does what lines on stdin tell it to. With
`deaf` it takes the first registration and does not listen; with any other third argument it refuses
all of them with these words.
"""

import collections
import importlib
import json
import os
import sys
import tempfile
import threading
from concurrent import futures

import grpc
from grpc_tools import protoc

directory, proto = sys.argv[1:3]
refusal = sys.argv[3] if len(sys.argv) > 3 else None
deaf = refusal == "deaf"
if deaf:
    refusal = None


def messages():
    """The modules that the official compiler makes of the messages."""
    place = tempfile.mkdtemp(prefix="kubelet-")
    name = os.path.basename(proto)
    arguments = [f"-I{os.path.dirname(proto)}", f"--python_out={place}", f"--grpc_python_out={place}", name]
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("the messages cannot be compiled")
    sys.path.insert(0, place)
    return importlib.import_module("api_pb2"), importlib.import_module("api_pb2_grpc")


api, services = messages()
plugins = {}
# Of how many plugins of each resource the kubelet has a list.
listening = collections.Counter()
output = threading.Lock()


def say(**event):
    with output:
        print(json.dumps(event), flush=True)


def listed(devices):
    nodes = lambda device: [node.ID for node in device.topology.nodes]
    return [{"id": device.ID, "health": device.health, "numa": nodes(device)} for device in devices]


def connect(request):
    """What the kubelet does with a plugin before it has taken it."""
    path = os.path.join(directory, request.endpoint)
    # As the kubelet, with a connection for each registration: the one before may lead elsewhere.
    options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"unix:{path}", options=options)
    plugin = services.DevicePluginStub(channel)
    options = plugin.GetDevicePluginOptions(api.Empty(), timeout=60)
    say(
        event="options",
        resource=request.resource_name,
        preStart=options.pre_start_required,
        preferred=options.get_preferred_allocation_available,
        mode=os.stat(path).st_mode & 0o7777,
    )
    return plugin


def listen(resource, plugin):
    """And what it does then."""
    try:
        for answer in plugin.ListAndWatch(api.Empty()):
            say(event="list", resource=resource, devices=listed(answer.devices))
        listening.subtract([resource])
        say(event="end", resource=resource)
    except grpc.RpcError as error:
        listening.subtract([resource])
        say(event="end", resource=resource, why=error.code().name)


class Registration(services.RegistrationServicer):
    def Register(self, request, context):
        options = request.options
        say(
            event="register",
            version=request.version,
            endpoint=request.endpoint,
            resource=request.resource_name,
            preferred=options.get_preferred_allocation_available,
            listening=listening[request.resource_name] > 0,
        )
        global deaf
        if refusal is not None:
            context.abort(grpc.StatusCode.UNKNOWN, refusal)
        resource = request.resource_name
        try:
            plugin = connect(request)
        except grpc.RpcError as error:
            context.abort(grpc.StatusCode.UNKNOWN, error.details())
        if deaf:
            deaf = False
            return api.Empty()
        plugins[resource] = plugin
        listening.update([resource])
        threading.Thread(target=listen, args=(resource, plugin), daemon=True).start()
        return api.Empty()


def allocate(plugin, containers):
    requests = [api.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
    answer = plugin.Allocate(api.AllocateRequest(container_requests=requests), timeout=60)
    container = lambda one: {
        "envs": dict(one.envs),
        "devices": [[d.container_path, d.host_path, d.permissions] for d in one.devices],
        "mounts": len(one.mounts),
        "annotations": dict(one.annotations),
        "cdi": len(one.cdi_devices),
    }
    return [container(one) for one in answer.container_responses]


def prefer(plugin, available, must, size):
    request = api.ContainerPreferredAllocationRequest(
        available_deviceIDs=available, must_include_deviceIDs=must, allocation_size=size
    )
    request = api.PreferredAllocationRequest(container_requests=[request])
    answer = plugin.GetPreferredAllocation(request, timeout=60)
    return [list(one.deviceIDs) for one in answer.container_responses]


def start(plugin, ids):
    plugin.PreStartContainer(api.PreStartContainerRequest(devices_ids=ids), timeout=60)


calls = {"allocate": allocate, "prefer": prefer, "start": start}

# As the kubelet does when it starts: nothing of the time before is left in the directory.
os.makedirs(directory, exist_ok=True)
for name in os.listdir(directory):
    os.remove(os.path.join(directory, name))
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
services.add_RegistrationServicer_to_server(Registration(), server)
server.add_insecure_port(f"unix:{directory}/kubelet.sock")
server.start()
say(event="ready")
for line in sys.stdin:
    command = json.loads(line)
    call = calls[command.pop("call")]
    plugin = plugins[command.pop("resource")]
    try:
        say(event="answer", answer=call(plugin, **command))
    except grpc.RpcError as error:
        say(event="answer", code=error.code().name, details=error.details())
