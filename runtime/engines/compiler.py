"""The process that compiles: ``python -P -m runtime.engines.compiler WORK THREADS DEVICE``; see ``inductor``.

Reads WORK/program.pt2 and writes WORK/model.so, and WORK/model.json where the code calls back into torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Compiling yields to whatever inspects meanwhile.
_NICENESS = 10


def main() -> None:
    """Compile, politely."""
    work, threads, device = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.nice(_NICENESS)
    import torch
    from torch._inductor import aot_compile
    from torch.ao.quantization.fx import _decomposed as _decomposed  # the operations 8-bit programs are written in

    from runtime.engines.inductor import FALLBACKS, LIBRARY, OPTIONS

    # The generated loops are divided among as many threads as are set now.
    torch.set_num_threads(threads)
    program = torch.export.load(work / "program.pt2")
    with torch.no_grad():  # freezing is skipped without a word where gradients are on
        module = program.module()
        if torch.device(device).type == "cuda":
            module = module.to(device)
        inputs, _ = program.example_inputs
        moved = tuple(each.to(device) for each in inputs)
        library = Path(str(aot_compile(module, moved, options=OPTIONS)))
    library.rename(work / LIBRARY)
    fallbacks = library.with_suffix(".json")
    if fallbacks.exists():
        fallbacks.rename(work / FALLBACKS)


if __name__ == "__main__":
    main()
