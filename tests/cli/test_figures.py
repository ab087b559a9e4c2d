"""Figures of a bench as Markdown: every figure is there, in tables that any reader of Markdown draws."""

from runtime.commands.figures import print_markdown

FIGURES = {
    "took_s": 1.25,
    "engines": [{"engine": "a", "p50_ms": 12345.6, "note": None}, {"engine": "b|c", "p50_ms": 0.1234, "batch": 4}],
    "machine": {"cpu": "some\nCPU", "inner": {"cores": 2}},
}
EXPECTED = """## bench x

| figure | value |
| --- | --- |
| took_s | 1.25 |

### engines

| engine | p50_ms | note | batch |
| --- | --- | --- | --- |
| a | 12346 | - | - |
| b\\|c | 0.1234 | - | 4 |

### machine

| figure | value |
| --- | --- |
| cpu | some CPU |

#### inner

| figure | value |
| --- | --- |
| cores | 2 |

"""


def test_figures_as_markdown(capsys):
    """Single figures are rows, listed objects are rows of one table, objects are parts; nothing breaks a table."""
    print_markdown("bench x", FIGURES)
    assert capsys.readouterr().out == EXPECTED
