"""The process that builds: ``python -P -m runtime.engines.tensorrt.compiler WORK BACKEND``; see ``backend``.

Reads WORK/program.pt2; writes WORK/engine.plan, in TensorRT's own format, and WORK/bindings.json: names, shapes and
dtypes of its inputs and outputs in the program's order. Ends with code 3 and a sentence for an expected failure.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

#: Building yields to whatever inspects meanwhile.
_NICENESS = 10
REFUSED = 3
PLAN = "engine.plan"
BINDINGS = "bindings.json"


def main() -> None:
    """Build, politely."""
    work, backend = Path(sys.argv[1]), sys.argv[2]
    os.nice(_NICENESS)
    # Anybody's deprecations are not the reader's business; errors are.
    warnings.simplefilter("ignore")
    from runtime.errors import EngineError

    try:
        _build(work, backend)
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(REFUSED) from None


def _build(work: Path, backend: str) -> None:
    import torch

    from runtime.engines.tensorrt.marks import is_rtx
    from runtime.engines.tensorrt.native import import_torch_tensorrt
    from runtime.engines.tensorrt.options import RTX_CAPABILITIES

    rtx = is_rtx(backend)
    import_torch_tensorrt(rtx=rtx)
    from runtime.engines.tensorrt.convert import converted, plan

    network = converted(torch.export.load(work / "program.pt2"))
    bindings = network.bindings()
    (work / PLAN).write_bytes(plan(network, RTX_CAPABILITIES if rtx else ()))
    (work / BINDINGS).write_text(json.dumps(bindings), encoding="utf-8")


if __name__ == "__main__":
    main()
