"""A station in a process of its own, its publishers in theirs, and peers that are not our code."""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
import sys
from contextlib import ExitStack
from importlib import util
from pathlib import Path

import pytest

import edgead


def _load():
    # By path: the tests are no package. Test modules import it by this name.
    spec = util.spec_from_file_location("publisher_peers", Path(__file__).with_name("peers.py"))
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


peers = _load()


@pytest.fixture
def cell(tmp_path):
    """Return a maker of stations: ``cell(publishers, cameras)``, started."""
    with ExitStack() as stack:

        def make(publishers, cameras=("top",)):
            made = peers.Cell(tmp_path, publishers, cameras)
            stack.callback(made.kill)
            return made.start()

        yield make


@pytest.fixture
def outlets():
    """Return a starter of a cell's publishers."""
    with ExitStack() as stack:

        def start(cell, builtins=edgead.BUILTIN_PLUGINS, *, ready=True):
            made = peers.Outlets(cell, builtins, ready=ready)
            stack.callback(made.stop)
            return made

        yield start


@pytest.fixture
def plc():
    """Return a maker of connected Modbus clients: ``plc(port, unit)``."""
    if ctypes.util.find_library("modbus") is None:
        pytest.skip("libmodbus is not installed (Debian: apt-get install mbpoll)")
    with ExitStack() as stack:

        def make(port, unit=1):
            client = peers.LibModbus(port, unit)
            stack.callback(client.close)
            peers.wait_for(client.connect, "a Modbus server")
            return client

        yield make


@pytest.fixture
def broker(tmp_path):
    """Return a running mosquitto."""
    if not (shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").exists()) or not shutil.which("mosquitto_sub"):
        pytest.skip("mosquitto is not installed (Debian: apt-get install mosquitto mosquitto-clients)")
    made = peers.Broker(tmp_path).start()
    yield made
    made.stop()


@pytest.fixture
def listen(tmp_path):
    """Return a starter of mosquitto_sub: ``listen(port, *topics, options=())``."""
    with ExitStack() as stack:

        def start(port, *topics, options=()):
            made = peers.MosquittoSub(port, tmp_path, *topics, options=options)
            stack.callback(made.stop)
            return made

        yield start


@pytest.fixture(scope="session")
def found_opcua_node(tmp_path_factory):
    """Return a folder with node-opcua's client and NodeSets, or the reason why there is none."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return "node is not installed (Debian: apt-get install nodejs npm)"
    folder = tmp_path_factory.mktemp("node-opcua")
    shutil.copy(Path(__file__).parents[2] / "peers" / "opcua" / "package.json", folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    try:
        subprocess.run(command, check=True, timeout=180, capture_output=True)
    except subprocess.SubprocessError:
        return "node-opcua cannot be installed here: no registry of npm packages"
    return folder


@pytest.fixture(scope="session")
def opcua_node(found_opcua_node):
    """Return a folder with node-opcua's client and NodeSets: OPC UA that is neither ours nor asyncua's."""
    if isinstance(found_opcua_node, str):
        pytest.skip(found_opcua_node)
    return found_opcua_node


@pytest.fixture(scope="session")
def nodeset(opcua_node):
    """Return the OPC Foundation's NodeSet of OPC 40100-1, as node-opcua brings it."""
    return opcua_node / "node_modules" / "node-opcua-nodesets" / "nodesets" / "Opc.Ua.MachineVision.NodeSet2.xml"


@pytest.fixture
def opcua_peer(opcua_node):
    """Return a maker of connected OPC UA clients by node-opcua: ``opcua_peer(port)``."""
    with ExitStack() as stack:

        def make(port):
            client = peers.NodeOpcUa(opcua_node, port)
            stack.callback(client.close)
            return client

        yield make
