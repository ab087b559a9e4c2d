"""`edgead sim` proves a station on this machine, and `edgead ledger` answers alike where there is no ledger."""

import pytest

from runtime.errors import LedgerError
from runtime.sim import chaos


@pytest.mark.parametrize("command", [("check",), ("show",), ("show", "--events"), ("export", "out.csv")])
def test_no_ledger_is_the_same_error_for_every_command(command, run, tmp_path, monkeypatch):
    """Check, show and export of a ledger that is not there end with the ledger's exit code and one line."""
    monkeypatch.chdir(tmp_path)
    done = run("ledger", *command, "--ledger", tmp_path / "nowhere")
    assert (done.code, done.out) == (LedgerError.exit_code, "")
    assert done.err.startswith("edgead: expected a ledger at ")
    assert len(done.err.splitlines()) == 1


def test_a_folder_in_use_is_not_taken_for_a_run(run, tmp_path):
    """`--keep` with a folder that holds something is refused before anything is started."""
    (tmp_path / "mine").write_text("")
    for command in ("chaos", "soak"):
        done = run("sim", command, "--keep", tmp_path)
        assert done.code == 2
        assert "choose another" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(200)
def test_chaos_on_the_command_line(run, tmp_path):
    """A small run shows its claims as a table, says its seed, keeps its folder, and ends with 0."""
    done = run("sim", "chaos", "--triggers", "120", "--kills", "1", "--seed", "4", "--keep", tmp_path / "kept")
    assert done.code == 0, done.err
    assert "seed 4" in done.err
    assert "parts answered: kill host" in done.err
    assert "triggers sent = results of the durable subscriber" in " ".join(done.out.split())
    assert "NO " not in done.out
    assert (tmp_path / "kept" / "ledger" / "ledger.sqlite").is_file()


def test_a_broken_claim_is_an_exit_code(run, monkeypatch):
    """A run that proves nothing because nothing was inspected ends with 1 and says what is missing, in JSON too."""
    seen = []

    def empty_run(seed, triggers, kills, folder, **_):
        evidence = recorded_nothing(seed, triggers, kills, folder)
        seen.append(folder)
        return evidence, {"seconds": 0.0}

    monkeypatch.setattr(chaos, "run_chaos", empty_run)
    done = run("sim", "chaos", "--triggers", "100", "--kills", "0", "--seed", "1", "--json")
    assert done.code == 1
    broken = {each["claim"] for each in done.last["claims"] if not each["holds"]}
    assert "triggers sent = inspections in the ledger" in broken
    assert "triggers sent = inspections in the ledger: expected 100, found 0" in done.err
    assert not seen[0].exists()


def recorded_nothing(seed, triggers, kills, folder):
    """Return what a station left behind that inspected nothing."""
    from runtime.ledger import Ledger
    from runtime.sim.plan import draw_plan
    from runtime.sim.verdicts import CAMERA_FILE, DURABLE_FILE, LIVE_FILE, Evidence

    (folder / "ledger").mkdir()
    Ledger(folder / "ledger" / "ledger.sqlite", "test").close()
    for name in (CAMERA_FILE, DURABLE_FILE, LIVE_FILE):
        (folder / name).write_text("")
    return Evidence(draw_plan(seed, triggers, kills), folder, (), 0.0)
