"""The template store, laid out like git: immutable templates, and refs that say which one runs.

    format                           "edgead.store/1"
    objects/ab/cdef…                 manifests, banks, golden frames, pools; the name is the content's sha256
    refs/templates/<product>/<id>    a listed template (id = sha256 of its manifest)
    refs/active/<product>/<detector> the id that runs; a station file names the detector, so each has its own
    log/<product>/<detector>.jsonl   who created, imported, activated, rolled back what, when and why
    lock, tmp/                       one writer at a time; its unfinished files, swept by the next writer

Order of writing: objects, then manifest, then log, then ref, each synced before the next. So whatever a ref names is
complete, and the log never knows less than the refs. A crash at any point leaves the old state or the new one. Readers
take no lock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.disk import durable, tensors
from runtime.errors import TemplateError
from runtime.store import archive, integrity, reflog
from runtime.store.activation import Activation as Activation
from runtime.store.activation import Switch
from runtime.store.integrity import FORMAT
from runtime.store.integrity import Problem as Problem
from runtime.store.manifest import (
    DetectorIdentity,
    Manifest,
    Reference,
    Thresholds,
    build_manifest,
    decode_manifest,
    encode_manifest,
)
from runtime.store.objects import Objects, digest_of
from runtime.store.reflog import LogEntry as LogEntry
from runtime.store.refs import Refs, read_ref
from runtime.store.template import GoldenFrame, Template, encode_golden

if TYPE_CHECKING:
    import numpy as np

#: As in git: shorter prefixes are typing mistakes more often than names.
MIN_PREFIX_DIGITS = 4
_FOLDERS = ("objects", "refs/active", "refs/templates", "log", "tmp")


class Store:
    """A template store on disk. Opening reads one small file; every method may raise ``TemplateError``."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._objects = Objects(self.root)
        self._refs = Refs(self.root)
        self._switch = Switch(self.root, self._objects, self._refs)
        with durable.translated("read", self.root / "format"):
            try:
                found = (self.root / "format").read_bytes()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise TemplateError(
                    f"expected a template store in {self.root}, found none; 'edgead calibrate' makes one"
                ) from error
        if found != FORMAT:
            raise TemplateError(f"{self.root / 'format'}: expected {FORMAT!r}, found {found[:80]!r}; update edgead")

    @classmethod
    def create(cls, root: str | Path) -> Store:
        """Make an empty store, or open the one that is there. Raises ``TemplateError`` in a folder with other files."""
        folder = Path(root)
        if not (folder / "format").exists():
            with durable.translated("create a store in", folder):
                others = {path.name for path in folder.iterdir()} if folder.exists() else set()
            if others - {name.partition("/")[0] for name in _FOLDERS} - {"lock"}:
                raise TemplateError(
                    f"expected an empty folder for a new store, found files in {folder}; choose another"
                )
            durable.make_folder(folder)
            with durable.writer_lock(folder / "lock"):
                for name in _FOLDERS:
                    durable.make_folder(folder / name)
                durable.write_file(folder / "format", FORMAT, folder / "tmp")
        return cls(folder)

    def put_template(
        self,
        *,
        product: str,
        detector: DetectorIdentity,
        settings: Mapping[str, Any],
        bank: Mapping[str, np.ndarray],
        capacity: int,
        valid: int,
        map_shape: tuple[int, int],
        thresholds: Thresholds,
        golden: Sequence[GoldenFrame],
        who: str,
        why: str = "",
        held_out_scores: Sequence[float] = (),
        references: Sequence[Reference] = (),
        weights: Mapping[str, str] | None = None,
        statistics: Mapping[str, Any] | None = None,
        parent: str | None = None,
        pool: Mapping[str, np.ndarray] | None = None,
    ) -> Template:
        """Store a template and list it; activates nothing. The same content again is the same template, logged once.

        ``bank`` and ``pool``: arrays of the dtypes in ``runtime.disk.tensors.DTYPES``, all finite; an empty pool is
        none.
        ``map_shape``: (height, width) of the anomaly maps.
        """
        objects = [tensors.encode(bank), encode_golden(golden), *([tensors.encode(pool)] if pool else [])]
        manifest = build_manifest(
            product=product,
            detector=detector,
            settings=dict(settings),
            weights=dict(weights or {}),
            bank=_described(objects[0], capacity=capacity, valid=valid, tensors=tensors.layout(bank)),
            map_shape=map_shape,
            thresholds=thresholds,
            held_out_scores=[float(score) for score in held_out_scores],
            golden=_described(objects[1], count=len(golden)),
            references=list(references),
            statistics=dict(statistics or {}),
            parent=parent,
            pool=_described(objects[2], tensors=tensors.layout(pool)) if pool else None,
        )
        for part, data in zip(integrity.parts(manifest), objects, strict=True):
            part.check(manifest, data, part.name)
        return self._admit(encode_manifest(manifest), manifest, objects, action="create", who=who, why=why)

    def put_manifest(self, manifest: Manifest, *, who: str, why: str = "") -> Template:
        """Store a template whose objects (bank, golden frames, pool) are here already: other thresholds, same arrays.

        Make it with ``old.manifest.model_copy(update={"thresholds": ..., "parent": old.digest})``.
        """
        data = encode_manifest(manifest)
        manifest = decode_manifest(data, "new manifest")
        objects = []
        for part in integrity.parts(manifest):
            objects.append(self._objects.read(part.record.object, part.record.size))
            part.check(manifest, objects[-1], part.name)
        return self._admit(data, manifest, objects, action="create", who=who, why=why)

    def listed(self, product: str | None = None) -> list[tuple[str, str]]:
        """Return (product, id) of every template, or of one product's; no manifest is read, so damaged ones show."""
        return self._refs.listed(product)

    def templates(self, product: str | None = None) -> list[Template]:
        """Return every template, or one product's, ordered by product and id. A damaged manifest raises."""
        return [self._load(digest) for _, digest in self._refs.listed(product)]

    def template(self, id_or_prefix: str) -> Template:
        """Return the one listed template whose id begins so (at least ``MIN_PREFIX_DIGITS`` hex digits)."""
        if not re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX_DIGITS},64}}", id_or_prefix):
            raise TemplateError(
                f"expected {MIN_PREFIX_DIGITS} to 64 hex digits of a template id, found {id_or_prefix[:80]!r}; {_LIST}"
            )
        matches = sorted({digest for _, digest in self._refs.listed() if digest.startswith(id_or_prefix)})
        if len(matches) != 1:
            found = ", ".join(digest[:12] for digest in matches[:5]) or "none"
            raise TemplateError(
                f"expected one template whose id begins with {id_or_prefix}, found {found} in {self.root}; {_LIST}"
            )
        return self._load(matches[0])

    def active(self, product: str, detector: str) -> Template:
        """Return the template that runs for this product and detector; one of another is refused."""
        digest = read_ref(self._refs.active_path(product, detector))
        if digest is None:
            raise TemplateError(
                f"expected an active template of {product!r} for detector {detector!r}, found none in {self.root}; "
                f"make one with 'edgead calibrate … --activate', or choose one with 'edgead templates activate'"
            )
        template = self._load(digest)
        if wrong := integrity.misplaced(template.manifest, product, detector):
            raise TemplateError(f"{self._refs.active_path(product, detector)}: {wrong}")
        return template

    def activate(self, id_or_prefix: str, *, who: str, why: str = "") -> Activation:
        """Prove every byte of a template, then make it the one that runs, in one step.

        On ``TemplateError`` the old one still runs. If it runs already nothing is written and ``changed`` is False.
        """
        with self._writing():
            return self._switch.move(self.template(id_or_prefix), "activate", who, why)

    def rollback(self, product: str, detector: str, *, who: str, why: str = "") -> Activation:
        """Undo the newest activation that is not undone yet: repeated, it walks back a, b, c to b, then to a.

        Proves the template it goes back to as ``activate`` does; on ``TemplateError`` the present one stays.
        """
        with self._writing():
            return self._switch.move(self._load(self._switch.before(product, detector)), "rollback", who, why)

    def undo(self, bad: str, good: str, *, who: str, why: str) -> bool:
        """Make ``good`` active again where ``bad`` still is, as a rollback if ``good`` was active just before it.

        False, and nothing is written, where another one is active already: somebody chose it.
        """
        with self._writing():
            template = self._load(good)
            product, detector = template.manifest.product, template.manifest.detector.name
            if read_ref(self._refs.active_path(product, detector)) != bad:
                return False
            log = reflog.read_log(self._switch.log_path(product, detector))
            stack = reflog.replay(log, bad).stack
            action: reflog.Action = "rollback" if stack[-2:-1] == (good,) else "activate"
            return self._switch.move(template, action, who, why).changed

    def verify(self, id_or_prefix: str | None = None, *, pool: bool = True) -> list[Problem]:
        """Read every byte of one template, or of the whole store, and return what is wrong; empty when nothing is.

        ``pool=False`` leaves out the pools, which nothing on the line reads.
        """
        if id_or_prefix is None:
            return integrity.sweep(self.root, self._objects, self._refs, pool=pool)
        matches = {digest for _, digest in self._refs.listed() if digest.startswith(id_or_prefix)}
        digest = matches.pop() if len(matches) == 1 else self.template(id_or_prefix).digest
        return integrity.check_template(self._objects, digest, pool=pool)

    def log(self, product: str, detector: str) -> list[tuple[LogEntry, bool]]:
        """Return the ref log, oldest first: each entry, and whether it took effect (False: a crash cut it short)."""
        log = reflog.read_log(self._switch.log_path(product, detector))
        interrupted = reflog.replay(log, read_ref(self._refs.active_path(product, detector))).interrupted
        return [(entry, entry not in interrupted) for entry in log.entries]

    def export(self, id_or_prefix: str, file: str | Path) -> Path:
        """Write one template, every byte proven, as a tar file for ``import_``; never over a file that is there."""
        template, target = self.template(id_or_prefix), Path(file)
        if target.exists():
            raise TemplateError(f"expected a new file to export to, found {target}; choose another name or remove it")
        if problems := integrity.check_template(self._objects, template.digest):
            raise TemplateError(integrity.refusal("export", template.digest, problems))
        names = [template.digest, *(part.record.object for part in integrity.parts(template.manifest))]
        data = archive.pack(*map(self._objects.read, names))
        durable.write_file(target, data, target.parent)
        return target

    def import_(self, file: str | Path, *, who: str, why: str = "") -> Template:
        """Store and list the template in an exported file once every byte is proven; activates nothing."""
        found = archive.unpack(Path(file))
        return self._admit(found.manifest_bytes, found.manifest, found.objects, action="import", who=who, why=why)

    def _load(self, digest: str) -> Template:
        return Template(digest, integrity.load_manifest(self._objects, digest), self._objects)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the one writer; sweep what an earlier one left unfinished."""
        with durable.writer_lock(self.root / "lock"):
            with durable.translated("sweep", self.root / "tmp"):
                for unfinished in (self.root / "tmp").iterdir():
                    unfinished.unlink()
            yield

    def _admit(
        self,
        data: bytes,
        manifest: Manifest,
        objects: Sequence[bytes | bytearray],
        *,
        action: reflog.Action,
        who: str,
        why: str,
    ) -> Template:
        """Write objects, manifest, log entry and listing, in this order."""
        digest = digest_of(data)
        with self._writing():
            for each in (*objects, data):
                self._objects.put(each)
            if (manifest.product, digest) not in self._refs.listed():
                log = self._switch.log_path(manifest.product, manifest.detector.name)
                reflog.append(log, action=action, who=who, old=None, new=digest, why=why)
                self._refs.list_template(manifest.product, digest)
        return Template(digest, manifest, self._objects)


def _described(data: bytes, **fields: Any) -> dict[str, Any]:
    return {"object": digest_of(data), "size": len(data), **fields}


_LIST = "'edgead templates list' shows them"
