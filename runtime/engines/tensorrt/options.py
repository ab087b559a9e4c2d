"""What programs are converted and built with; every name is checked against what is installed.

torch-TensorRT takes ``**kwargs`` and drops what it does not know: a misspelt option changes nothing and says nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from runtime.errors import EngineError

#: Part of every key. Precision lives in the program (networks are strongly typed), so nothing here chooses one.
#: disable_tf32: float32 is float32; ten bits of mantissa would move grey levels and near-zero distances.
#: immutable_weights: not refittable, so that the builder may fold them; a bank is an input and needs no refit.
#: truncate_double: off: double precision is refused by the lint instead of losing digits unnoticed.
OPTIONS: Mapping[str, Any] = {
    "min_block_size": 1,
    "require_full_compilation": True,
    "disable_tf32": True,
    "immutable_weights": True,
    "truncate_double": False,
    "optimization_level": 3,
}
#: What an engine's key knows of this backend: the options, and the way ``fit`` rewrites programs.
KEY: Mapping[str, Any] = {**OPTIONS, "fit": 1}
#: Compute capabilities of desktop GPUs that an RTX engine is built for: Ampere, Ada, Blackwell. Turing (7.5) is left
#: out: its code lies beside the others' and takes 25 times their room.
RTX_CAPABILITIES = ("SM86", "SM89", "SM120")


def check_options(options: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Raise ``EngineError`` unless every option is a named parameter of ``function``; ``**kwargs`` does not count."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = {name for name, each in inspect.signature(function).parameters.items() if each.kind in kinds}
    unknown = sorted(set(options) - known)
    if unknown:
        raise EngineError(
            f"tensorrt: expected options {function.__module__}.{function.__qualname__} knows, found "
            f"{', '.join(unknown)}, which it would drop without a word: install the torch-tensorrt of constraints/, or "
            "correct the option"
        )
