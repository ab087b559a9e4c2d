"""Refs: small files that hold a digest, the only files of a store that ever change their content.

``refs/templates/<product>/<digest>`` lists a template; ``refs/active/<product>/<detector>`` says which one runs. Each
holds the 64 hex digits and a newline, so that a flipped bit is seen.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from runtime.disk import durable
from runtime.errors import TemplateError
from runtime.store.manifest import SLUG
from runtime.store.objects import is_digest


def require_slug(kind: str, name: str) -> str:
    """Return ``name`` if a product or detector may be called so: it is about to become a path. Or ``TemplateError``."""
    if not re.fullmatch(SLUG, name):
        raise TemplateError(f"expected a {kind} name of a-z, 0-9, '.', '_', '-' (at most 64), found {name[:80]!r}")
    return name


def read_ref(path: Path) -> str | None:
    """Return the digest in a ref, None if there is no such file; anything else in it raises ``TemplateError``."""
    with durable.translated("read", path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    text = data.decode("ascii", errors="replace")
    if not (text.endswith("\n") and is_digest(text[:-1])):
        raise TemplateError(f"{path}: expected 64 hex digits and a newline, found {data[:80]!r}: damaged; {_ADVICE}")
    return text[:-1]


class Refs:
    """The refs of one store. Reading needs no lock; writing is done by the holder of the writer lock."""

    def __init__(self, root: Path) -> None:
        self._root = root / "refs"
        self._staging = root / "tmp"

    def active_path(self, product: str, detector: str) -> Path:
        """Return the file that says which template runs."""
        return self._root / "active" / require_slug("product", product) / require_slug("detector", detector)

    def template_path(self, product: str, digest: str) -> Path:
        """Return the file that lists a template."""
        return self._root / "templates" / require_slug("product", product) / digest

    def active_files(self) -> list[Path]:
        """Return every file under ``refs/active``, whatever its name, in order."""
        return sorted((self._root / "active").glob("*/*"))

    def template_files(self) -> list[Path]:
        """Return every file under ``refs/templates``, whatever its name, in order."""
        return sorted((self._root / "templates").glob("*/*"))

    def listed(self, product: str | None = None) -> list[tuple[str, str]]:
        """Return (product, digest) of every listed template, of one product or of all; no manifest is read."""
        pairs = [(path.parent.name, path.name) for path in self.template_files() if is_digest(path.name)]
        return [pair for pair in pairs if product in {None, pair[0]}]

    def list_template(self, product: str, digest: str) -> None:
        """Add a template to the listed ones, durably."""
        self._write(self.template_path(product, digest), digest)

    def activate(self, product: str, detector: str, digest: str) -> None:
        """Make ``digest`` the one that runs, in one step. Raises ``TemplateError``; then the old one still is."""
        self._write(self.active_path(product, detector), digest)

    def _write(self, path: Path, digest: str) -> None:
        durable.make_folder(path.parent)
        with durable.translated("read", path):
            before = path.read_bytes() if path.exists() else None
        try:
            durable.write_file(path, f"{digest}\n".encode(), self._staging)
        except TemplateError:
            # The last step may have failed after the rename: what is reported as refused must not be what runs.
            with suppress(OSError, TemplateError):
                if before is None:
                    path.unlink(missing_ok=True)
                elif path.read_bytes() != before:
                    durable.write_file(path, before, self._staging)
            raise


_ADVICE = "activate a template again with 'edgead templates activate DIGEST'"
