"""`edgead validate` names a NodeSet that is missing or is another file, before the station runs."""

import pytest

from edgead import PluginError, Publisher
from plugins.publishers.opcua.nodeset import check_nodeset
from plugins.publishers.opcua.publisher import OpcUaOptions
from runtime.preflight import check_station
from runtime.registry import Registry, load_plugins
from runtime.store import Store

WHOLE = """<UANodeSet xmlns="http://opcfoundation.org/UA/2011/03/UANodeSet.xsd">
  <Models><Model ModelUri="{uri}" Version="1.0.0"><RequiredModel ModelUri="http://opcfoundation.org/UA/"/></Model></Models>
  <UAObjectType NodeId="ns=1;i=1003" BrowseName="1:VisionSystemType"/>
</UANodeSet>"""
VISION = "http://opcfoundation.org/UA/MachineVision"
OTHER = "http://opcfoundation.org/UA/DI/"


@pytest.fixture
def validated(tmp_path):
    """Return a function that validates a station with one OPC UA publisher: (passed, detail)."""
    Store.create(tmp_path / "store")

    def check(registry=None, **options):
        places = "".join(f"{key}: ipc://{tmp_path}/{key}\n" for key in ("frames", "results", "status", "deliveries"))
        shown = "".join(f"    {key}: {value}\n" for key, value in {"anonymous": "true", **options}.items())
        path = tmp_path / "station.yaml"
        path.write_text(
            f"schema: edgead.station/1\nstation: line1\n{places}ledger: {{path: ledger}}\n"
            f"cameras: {{top: {{product: part, detector: nothing}}}}\npublishers:\n  opcua:\n{shown}"
        )
        registry = registry or load_plugins(("plugins.publishers",), entry_points=False)
        checks = {each["check"]: each for each in check_station(path, registry).checks}
        return checks["publisher opcua"]["ok"], checks["publisher opcua"]["detail"]

    return check


def test_the_right_file_passes(validated, tmp_path):
    """A NodeSet of OPC 40100-1 beside the station file is found and passes; without one nothing is looked for."""
    (tmp_path / "types.xml").write_text(WHOLE.format(uri=VISION))
    assert validated(nodeset="types.xml") == (True, "opcua with 0 secret(s)")
    assert validated() == (True, "opcua with 0 secret(s)")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "types.xml cannot be read: No such file or directory"),
        ("types, of course", "types.xml is not XML: syntax error: line 1, column 0"),
        (WHOLE.format(uri=VISION)[:-14], "types.xml is not XML: unclosed token"),
        ("<nothing/>", "types.xml is other XML"),
        (WHOLE.format(uri=OTHER), f"types.xml brings the types of {OTHER}; it is"),
    ],
)
def test_a_wrong_file_is_one_sentence(validated, tmp_path, content, says):
    """Missing, no XML, cut off, other XML, another NodeSet: the option, the file, what is wrong and where to get it."""
    if content is not None:
        (tmp_path / "types.xml").write_text(content)
    passed, detail = validated(nodeset="types.xml")
    assert not passed
    assert detail.startswith("nodeset: expected the NodeSet of OPC 40100-1 (Opc.Ua.MachineVision.NodeSet2.xml), ")
    assert says in detail
    assert detail.endswith("UA-Nodeset, under MachineVision")


def test_a_folder_is_no_file(validated):
    """A folder in the NodeSet's place cannot be read, and is told so."""
    assert "cannot be read: Is a directory" in validated(nodeset=".")[1]


def test_the_foundations_file_passes(nodeset):
    """The OPC Foundation's own file is taken, without a server."""
    check_nodeset(nodeset)


def test_a_publishers_broken_check_is_its_own_fault(validated, tmp_path):
    """Whatever a plugin's check raises names the plugin and lets the other checks go on."""

    class Careless(Publisher):
        """Trips over its own options."""

        name = "opcua"
        options_model = OpcUaOptions

        def check(self, options, base):
            raise KeyError(options.port, base.name)

        def run(self, feed, options, context):
            """Never run here."""

    registry = Registry(publishers={"opcua": Careless}, owners={"publisher 'opcua'": "toys 1"})
    says = f"its check of the options ended in KeyError: (4840, '{tmp_path.name}')"
    assert validated(registry) == (False, str(PluginError("opcua", says)))
