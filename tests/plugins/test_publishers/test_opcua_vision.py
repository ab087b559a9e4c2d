"""OPC 40100-1 through node-opcua, which is neither ours nor asyncua: states, jobs, recipes, results."""

from __future__ import annotations

import time
from datetime import datetime

import publisher_peers as peers  # loaded by conftest.py
import pytest

from edgead import RESULT_FIELDS, result_values

pytest.importorskip("asyncua", reason="asyncua is not installed: pip install 'edgead[opcua]'")

pytestmark = [pytest.mark.system, pytest.mark.slow]
TYPES = "http://opcfoundation.org/UA/MachineVision"
DONE, REFUSED, UNKNOWN = 0, -1, -3
#: Numbers of the NodeSet's types.
MEAS, PART, RECIPE, INTERNAL_RECIPE, PRODUCT, JOB = 3015, 3004, 3002, 3013, 3003, 3016
CONFIGURATION, RESULT = 3008, 3021
JOB_STARTED, READY, RESULT_READY, CHANGED, ERROR, RESOLVED = 1013, 1023, 1024, 1018, 1019, 1020
CAUSE = (("Int32", 1), ("String", "test"))


class System:
    """A client's view of the VisionSystem of the camera ``top``."""

    def __init__(self, client):
        self.client = client
        self.types = client.namespaces.index(TYPES)
        self.root = f"ns={client.namespaces.index('urn:edgead:results:1')};s=cell4.top.VisionSystem"
        self.machine = f"{self.root}.VisionStateMachine"
        self.mode = f"{self.machine}.AutomaticModeStateMachine"

    def names(self, node):
        """Return browse name -> number of its type, of what lies below a node."""
        found = self.client.ask("browse", node=node)["names"]
        return {
            name.split(":")[1]: kind.split("i=")[-1] for name, _, kind in found if name.startswith(f"{self.types}:")
        }

    def call(self, parent, method, *inputs):
        """Call a method; return its outputs."""
        named = [[f"ns={self.types};i={kind}", {"id": value}] if isinstance(kind, int) else [kind, value]
                 for kind, value in inputs]  # fmt: skip
        found = self.client.ask("call", object=parent, method=f"{parent}.{method}", inputs=named)
        assert found["status"] == "Good", found
        return found["outputs"]

    def start(self, meas, part):
        """Call StartSingleJob; return (job id, error)."""
        ids = ((MEAS, meas), (PART, part), (RECIPE, ""), (PRODUCT, ""))
        job, error = self.call(self.mode, "StartSingleJob", *ids, ("Variant", []))
        return job["id"], error

    def state(self, machine):
        """Return (name, number of the state's node) of a machine."""
        text, number = self.client.read(f"{machine}.CurrentState", f"{machine}.CurrentState.Id")
        return text["text"], int(number.split("i=")[1])

    def until(self, wanted, machine=None):
        """Wait until a machine is in a state; return it with its number."""
        node = machine or self.machine
        return peers.wait_for(lambda: (found := self.state(node))[0] == wanted and found, wanted)

    def listen(self, kind, *fields):
        """Subscribe to events of one of the NodeSet's types."""
        chosen = ["EventType", *(f"{self.types}:{name}" for name in fields)]
        self.client.ask("listen", node=self.root, type=f"ns={self.types};i={kind}", fields=chosen)

    def heard(self, kind, number):
        """Wait until that many events of a type came; return their fields."""
        give_up = time.monotonic() + peers.WAIT_S
        while True:
            found = [
                each[1:] for each in self.client.ask("events", number=0)["events"] if each[0].endswith(f"i={kind}")
            ]
            if len(found) >= number:
                return found
            assert time.monotonic() < give_up, f"{number} events {kind}, found {len(found)}"
            time.sleep(0.05)


@pytest.fixture
def vision(cell, outlets, opcua_peer, nodeset):
    """Return a maker of (cell, System) of a station whose cameras are VisionSystems."""

    def make(**options):
        port = peers.free_port()
        shown = {"port": port, "anonymous": True, "security": "none", "nodeset": str(nodeset)}
        line = cell({"opcua": {**shown, **options}})
        outlets(line)
        system = System(opcua_peer(port))
        system.until("Operational")
        return line, system

    return make


def content_of(found):
    """Return a ResultContent as values by field."""
    named = {each.name: value for each, value in zip(RESULT_FIELDS, found, strict=True)}
    numbers = {each.name for each in RESULT_FIELDS if each.kind == "uint"}
    return {name: int(value) if name in numbers and value is not None else value for name, value in named.items()}


def test_a_job_goes_through_the_state_machines(vision):
    """StartSingleJob gives JobStarted, Ready and ResultReady with its ids and every field; twice it is one job."""
    line, system = vision(acknowledge=True)
    assert system.names(system.root) == {
        "VisionStateMachine": "1017", "RecipeManagement": "1004", "ConfigurationManagement": "1006",
        "ResultManagement": "1007", "SystemState": "63",
    }  # fmt: skip
    assert system.state(system.machine) == ("Operational", 5031)
    assert system.state(system.mode) == ("Ready", 5057)
    for kind in (JOB_STARTED, READY):
        system.listen(kind, "JobId")
    fields = ("ResultId", "JobId", "PartId", "ResultState", "CreationTime", "ProcessingTimes", "ResultContent")
    system.listen(RESULT_READY, *fields)
    assert system.start("77", "SN-9") == ("77", DONE)
    assert system.start("77", "SN-9") == ("77", DONE)
    assert system.start("77", "SN-10") == ("", REFUSED)
    assert system.heard(JOB_STARTED, 1)[0] == [{"id": "77"}]
    assert system.heard(READY, 1)[0] == [{"id": "77"}]
    ((result, job, part, state, created, times, content),) = system.heard(RESULT_READY, 1)
    (inspection,) = line.results()
    assert content_of(content) == result_values(inspection, historical=False)
    assert (result["id"], job["id"], part["id"]) == (inspection.result_id, "77", "SN-9")
    assert state == (4 if inspection.verdict == 3 else 1)
    assert datetime.fromisoformat(created).timestamp() == pytest.approx(inspection.published_ns / 1e9, abs=2e-3)
    assert times["processingDuration"] == pytest.approx(inspection.detect_us / 1000)
    _, again, error = system.call(
        f"{system.root}.ResultManagement", "GetResultById", (RESULT, result["id"]), ("Int32", 0)
    )
    assert (again["resultId"], again["partId"], again["creationTime"], error) == (result, part, created, DONE)
    assert len(line.results()) == 1


def test_the_managers_answer(vision):
    """Recipes, configurations and results are listed, filtered and cut as asked; what cannot be done is refused."""
    line, system = vision()
    system.listen(RESULT_READY, "ResultId")
    line.produce(20)
    ids = [each["id"] for (each,) in system.heard(RESULT_READY, 20)]
    made = line.results()
    assert ids == [each.result_id for each in made]
    results = f"{system.root}.ResultManagement"

    def listed(state=0, part="", most=0, start=0):
        named = [(MEAS, ""), (PART, part), (RECIPE, ""), (INTERNAL_RECIPE, ""), (CONFIGURATION, ""),
                 (CONFIGURATION, ""), (PRODUCT, ""), (JOB, "")]  # fmt: skip
        cut = [("UInt32", most), ("UInt32", start), ("Int32", 0)]
        found = system.call(results, "GetResultListFiltered", ("Int32", state), *named, *cut)
        assert found[1] == len(found[3] or [])
        return found[0], [each["resultId"]["id"] for each in found[3] or []]

    assert listed() == (True, ids)
    assert listed(most=5, start=10) == (False, ids[10:15])
    assert listed(part=made[4].part_id) == (True, [ids[4]])
    assert listed(state=4) == (True, [each.result_id for each in made if each.verdict == 3])
    assert system.call(results, "GetResultById", (RESULT, "none"), ("Int32", 0))[2] == UNKNOWN
    pieces = system.call(results, "GetResultComponentsById", (RESULT, ids[0]), ("Int32", 0))
    assert (pieces[6]["id"], pieces[-1]) == (made[0].part_id, DONE)
    configurations = f"{system.root}.ConfigurationManagement"
    (active,) = system.client.read(f"{configurations}.ActiveConfiguration")
    activate = lambda name: system.call(configurations, "ActivateConfiguration", (CONFIGURATION, name))[0]  # noqa: E731
    assert activate(active["internalId"]["id"]) == DONE
    assert activate("x") == REFUSED
    recipes = f"{system.root}.RecipeManagement"
    assert system.call(recipes, "PrepareRecipe", (RECIPE, "9"), (INTERNAL_RECIPE, ""))[1:] == [False, REFUSED]
    assert system.call(recipes, "PrepareRecipe", (RECIPE, "9"), (INTERNAL_RECIPE, ""))[0]["id"] == "9"
    assert system.call(recipes, "UnprepareRecipe", (RECIPE, "9"), (INTERNAL_RECIPE, ""))[1] == REFUSED


def test_states_follow_the_station_and_halt(vision):
    """Halt takes no more jobs until Reset; a host that is gone is Error, with its events and SystemState."""
    line, system = vision()
    for kind in (CHANGED, ERROR, RESOLVED):
        system.listen(kind)
    assert system.call(system.machine, "Halt", *CAUSE) == [DONE]
    assert system.state(system.machine) == ("Halted", 5029)
    assert system.start("1", "A")[1] == REFUSED
    assert system.call(system.machine, "Reset", *CAUSE) == [DONE]
    system.until("Operational")
    system_state = f"{system.root}.SystemState"
    assert system.client.read(system_state)[0]["state"] == 1
    line.kill()
    system.until("Error")
    assert system.client.read(system_state)[0]["state"] == 5
    system.heard(ERROR, 1)
    line.start()
    system.until("Operational")
    system.heard(RESOLVED, 1)
    assert len(system.heard(CHANGED, 5)) == 5
    assert system.start("1", "A") == ("1", DONE)


def test_a_wrong_nodeset_is_one_sentence(cell, outlets, tmp_path):
    """A file that is not the NodeSet ends the publisher with a sentence that names the file."""
    (tmp_path / "types.xml").write_text("<nothing/>")
    shown = {"port": peers.free_port(), "anonymous": True, "security": "none", "nodeset": "types.xml"}
    line = cell({"opcua": shown})
    running = outlets(line, ready=False)
    peers.wait_for(lambda: "types.xml" in running.status()["opcua"]["last_error"], "the sentence")
    assert "expected the NodeSet of OPC 40100-1" in running.status()["opcua"]["last_error"]
