"""Levels B, C and D in an environment of their own: torch-TensorRT and TensorRT-RTX beside this one, not in it.

Only what is missing is installed, into a folder of the test: 94 MB of wheels, no CUDA library, no GPU.
"""

import re
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
CONSTRAINTS = REPOSITORY / "constraints" / "tensorrt-levels.txt"
#: What runs in there, side by side: everything that needs the libraries.
TESTS = (["test_tensorrt_levels.py"], ["test_tensorrt_planted.py", "test_tensorrt_rtx.py"])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("torch_tensorrt") is not None, reason="the levels run in this environment itself"),
]


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """Return the Python of an environment that has this one's packages and the level's; skips where pip gets none."""
    folder = tmp_path_factory.mktemp("levels") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    ours = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    # addsitedir, not a path alone: an editable edgead is itself a .pth file in there.
    (site / "beside.pth").write_text("".join(f"import site; site.addsitedir({each!r})\n" for each in ours))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    done = subprocess.run(
        [*command, "--requirement", str(CONSTRAINTS)], capture_output=True, text=True, check=False, timeout=900
    )
    if done.returncode != 0:
        pytest.skip(f"torch-TensorRT and TensorRT-RTX cannot be installed here: {done.stderr.strip()[-300:]}")
    return python


def test_the_levels_pass_beside_this_environment(interpreter, tmp_path):
    """Every test of the levels passes with the pinned libraries, and none is skipped there."""
    running = []
    for number, names in enumerate(TESTS):
        command = [str(interpreter), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--show-capture=no"]
        command += ["--basetemp", str(tmp_path / str(number)), *(str(HERE / name) for name in names)]
        log = tmp_path / f"{number}.txt"
        with log.open("wb") as output:
            running.append((log, subprocess.Popen(command, stdout=output, stderr=output, cwd=REPOSITORY)))
    try:
        codes = [process.wait(timeout=1700) for _, process in running]
    finally:
        for _, process in running:
            process.kill()
            process.wait()
    said = [log.read_text(encoding="utf-8", errors="replace") for log, _ in running]
    tail = "\n".join(each[-6000:] for each in said)
    assert codes == [0, 0], tail
    passed = [int(each) for text in said for each in re.findall(r"\b(\d+) passed", text)]
    assert sum(passed) >= 30, tail
    assert "skipped" not in tail, tail
