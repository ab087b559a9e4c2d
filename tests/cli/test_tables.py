"""What a person reads: tables that fit 80 columns, one row a thing, no column name broken in two."""

import pytest

NUMBERS = {"cases": [], "machine": {}}


def body(text):
    """Return the lines of a table below its rule."""
    lines = text.splitlines()
    return lines[next(number for number, line in enumerate(lines) if set(line.strip()) == {"\u2500"}) + 1 :]


@pytest.mark.parametrize("command", ["plugins", "doctor", "weights list", "validate nosuch.yaml"])
def test_tables_fit_80_columns(command, run):
    """Tables fit a terminal of 80 columns."""
    done = run(*command.split())
    assert max(map(len, done.out.splitlines())) <= 80
    assert "\u2500" in done.out


def test_templates_list_is_a_line_each(calibrated, run):
    """`templates list` shows every template on one line of its own, its id short enough to type."""
    store, template = calibrated
    (row,) = [line for line in body(run("templates", "list", "--store", store).out) if line.strip()]
    assert row.split()[:4] == [template[:12], "part", "hetmm", "yes"]


def test_weights_list_is_a_line_each(run):
    """`weights list` has one line for every weight file, and every licence below."""
    out = run("weights", "list").out
    table, licences = out.split("licences")
    rows = [line.split() for line in body(table) if line.strip()]
    assert rows[0] == ["efficientnet_lite0", "present", "efficientnet-lite0-57934424.pth"]
    assert {row[1] for row in rows[1:]} == {"missing"}
    assert all(row[0] in licences for row in rows)


def test_evaluate_is_a_line_a_class(dataset, quick, run):
    """`evaluate` shows a line for all and for each class under whole column names."""
    out = run("evaluate", dataset, *quick).out
    assert "image_auroc   pixel_auroc" in out
    rows = [line.split()[0] for line in body(out) if line.strip()][:8]
    assert rows == ["all", "chip", "contamination", "dent", "missing_hole", "scratch", "smeared_print", "stain"]


def test_bench_shows_every_figure(monkeypatch, run):
    """`bench host` shows a line for each figure, and its name is the one of --json."""
    import runtime.bench

    case = {"case": "320 x 320 rgb8", "bytes": 307200, "echo_ms_p50": 0.25, "host_ms_p50": 1.5, "ratio_p50": 6.0}
    other = case | {"case": "2048 x 2448 mono8", "host_ms_p50": 7.25}
    measured = {"cases": [case, other], "machine": {"cpu": "some cpu", "cores": 2}}
    monkeypatch.setattr(runtime.bench, "bench_host", lambda _frames, _progress: measured)
    out = run("bench", "host").out
    rows = {line.split()[0]: line.split()[1:] for line in body(out) if line.strip()}
    assert "320 x 320 rgb8   2048 x 2448 mono8" in out
    assert rows["host_ms_p50"] == ["1.5", "7.25"]
    assert rows.keys() >= {"bytes", "echo_ms_p50", "ratio_p50", "cpu", "cores"}
    assert max(map(len, out.splitlines())) <= 80


def test_init_says_what_to_do_next(tmp_path, run):
    """`init` makes a station that `validate` reads, and its advice names the product of the station file."""
    done = run("init", tmp_path / "line 1")
    assert done.code == 0
    assert "--product part " in done.err or "--product bracket " in done.err
    assert f"edgead run '{tmp_path}/line 1/station.yaml'" in done.err
    checks = run("validate", tmp_path / "line 1" / "station.yaml", "--json").last["checks"]
    assert checks[0]["ok"], checks[0]
