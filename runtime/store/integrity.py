"""Proving that a template, or a whole store, is what it was when it was written.

Every byte is read and every digest recomputed. A finding is a ``Problem`` and not an exception, so that one damaged
object does not hide the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.disk import tensors
from runtime.errors import TemplateError
from runtime.store import reflog
from runtime.store.manifest import BankRecord, GoldenRecord, Manifest, PoolRecord, decode_manifest
from runtime.store.objects import Objects, is_digest
from runtime.store.refs import Refs, read_ref
from runtime.store.template import decode_bank, decode_golden, decode_pool

FORMAT = b"edgead.store/1\n"

#: ``check(manifest, data, where)`` raises ``TemplateError`` unless ``data`` is the object the manifest describes.
Check = Callable[[Manifest, bytes | bytearray, str], None]


@dataclass(frozen=True)
class Problem:
    """One finding: the file (relative to the store's root), what is wrong with it, ids of the templates it hits."""

    path: str
    what: str
    templates: tuple[str, ...] = ()

    def __str__(self) -> str:
        hits = ", ".join(digest[:12] for digest in self.templates)
        return f"{self.path}: {self.what}" + (f" (template {hits})" if hits else "")


def load_manifest(objects: Objects, digest: str) -> Manifest:
    """Return a template's manifest, its bytes proven.

    Raises ``TemplateError`` when it is missing, damaged or unlawful.
    """
    data = objects.read(digest)
    return decode_manifest(data, str(objects.path(digest)))


def check_bank(manifest: Manifest, data: bytes | bytearray, where: str) -> None:
    """Raise ``TemplateError`` unless ``data`` is the bank the manifest describes, every number finite."""
    tensors.require_finite(decode_bank(manifest, data, where), where)


def check_golden(manifest: Manifest, data: bytes | bytearray, where: str) -> None:
    """Raise ``TemplateError`` unless ``data`` is the golden frames of the manifest, every number finite."""
    decode_golden(manifest, data, where)
    tensors.require_finite(tensors.decode(data, where), where)


def check_pool(manifest: Manifest, data: bytes | bytearray, where: str) -> None:
    """Raise ``TemplateError`` unless ``data`` is the pool the manifest describes, every number finite."""
    tensors.require_finite(decode_pool(manifest, data, where), where)


@dataclass(frozen=True)
class Part:
    """One object a manifest names: what it is called in messages, its record, and what proves its bytes."""

    name: str
    record: BankRecord | GoldenRecord | PoolRecord
    check: Check


def parts(manifest: Manifest, *, pool: bool = True) -> list[Part]:
    """Return the objects of a template in the order they are stored and exported; the pool last, where there is one."""
    named = [Part("bank", manifest.bank, check_bank), Part("golden frames", manifest.golden, check_golden)]
    if pool and manifest.pool is not None:
        named.append(Part("pool", manifest.pool, check_pool))
    return named


def check_template(objects: Objects, digest: str, *, pool: bool = True) -> list[Problem]:
    """Return what is wrong with one template: manifest, bank, golden frames, pool; empty when it may be activated.

    ``pool=False`` leaves the pool out: what is left is all that a station reads.
    """
    try:
        manifest = load_manifest(objects, digest)
    except TemplateError as error:
        return [_problem(objects, objects.path(digest), error, digest)]
    return _check_objects(objects, {digest: manifest}, pool=pool)


def sweep(root: Path, objects: Objects, refs: Refs, *, pool: bool = True) -> list[Problem]:
    """Return what is wrong anywhere in the store: objects, listings, active refs, logs, the format file."""
    problems = [] if _reads(root / "format") == FORMAT else [Problem("format", f"expected {FORMAT!r}")]
    manifests: dict[str, Manifest] = {}
    for path in refs.template_files():
        problems += _check_listing(objects, path, manifests)
    problems += _check_objects(objects, manifests, pool=pool)
    used = {part.record.object for manifest in manifests.values() for part in parts(manifest)} | manifests.keys()
    problems += _check_strays(objects, used)
    for path in refs.active_files():
        problems += _check_active(objects, refs, path)
    for path in sorted((root / "log").glob("*/*")):
        problems += _check_log(objects, refs, path)
    return list(_merged(problems))


def misplaced(manifest: Manifest, product: str, detector: str) -> str | None:
    """Return what is wrong with this template running for ``product`` and ``detector``; None when it belongs there."""
    owner = manifest.product, manifest.detector.name
    if owner == (product, detector):
        return None
    return (
        f"expected a template of {product!r} for detector {detector!r}, found one of {owner[0]!r} for detector "
        f"{owner[1]!r}; choose one with 'edgead templates activate'"
    )


def refusal(action: str, digest: str, problems: Iterable[Problem]) -> str:
    """Return the message of an action refused because of these problems."""
    found = "; ".join(f"{problem.path}: {problem.what}" for problem in problems)
    return f"cannot {action} {digest[:12]}: expected every byte as it was stored, found {found}"


def _check_listing(objects: Objects, path: Path, manifests: dict[str, Manifest]) -> Iterator[Problem]:
    """Check one file under ``refs/templates``; add the manifest it lists to ``manifests``."""
    digest = path.name
    if not is_digest(digest):
        yield _problem(objects, path, "expected a file named by a template id, found this; remove it")
        return
    try:
        content: str | None = read_ref(path)
    except TemplateError as error:
        yield _problem(objects, path, error, digest)
    else:
        if content != digest:
            yield _problem(objects, path, f"expected its own name as content, found {content}", digest)
    try:
        manifest = load_manifest(objects, digest)
    except TemplateError as error:
        yield _problem(objects, objects.path(digest), error, digest)
        return
    if manifest.product != path.parent.name:
        what = f"expected a template of product {path.parent.name!r}, found one of {manifest.product!r}"
        yield _problem(objects, path, what, digest)
    manifests[digest] = manifest


def _check_objects(objects: Objects, manifests: Mapping[str, Manifest], *, pool: bool) -> list[Problem]:
    """Check banks, golden frames and pools; an object that many templates share is read once."""
    users: dict[tuple[str, int], list[tuple[str, Check]]] = {}
    for digest, manifest in manifests.items():
        for part in parts(manifest, pool=pool):
            users.setdefault((part.record.object, part.record.size), []).append((digest, part.check))
    problems = []
    for (named, size), uses in users.items():
        path = objects.path(named)
        try:
            data = objects.read(named, size)
        except TemplateError as error:
            problems.append(_problem(objects, path, error, *dict(uses)))
            continue
        for digest, check in uses:
            try:
                check(manifests[digest], data, str(path))
            except TemplateError as error:
                problems.append(_problem(objects, path, error, digest))
    return problems


def _check_strays(objects: Objects, used: set[str]) -> Iterator[Problem]:
    """Check the objects that no listed template names: an interrupted write left them, or a listing is gone."""
    for path in objects:
        digest = path.parent.name + path.name
        if digest in used:
            continue
        if not is_digest(digest):
            yield _problem(objects, path, "expected a file named by its sha256, found this; remove it")
            continue
        try:
            objects.read(digest)
        except TemplateError as error:
            yield _problem(objects, path, error)


def _check_active(objects: Objects, refs: Refs, path: Path) -> Iterator[Problem]:
    try:
        refs.active_path(path.parent.name, path.name)
        digest = read_ref(path)
    except TemplateError as error:
        yield _problem(objects, path, error)
        return
    if (path.parent.name, digest) not in refs.listed():
        hit = [digest] if digest else []
        yield _problem(objects, path, f"dangling: expected a listed template, found {digest}; activate another", *hit)
        return
    try:
        manifest = load_manifest(objects, str(digest))
    except TemplateError:
        return  # _check_listing has it
    if wrong := misplaced(manifest, path.parent.name, path.name):
        yield _problem(objects, path, wrong, str(digest))


def _check_log(objects: Objects, refs: Refs, path: Path) -> Iterator[Problem]:
    try:
        active = refs.active_path(path.parent.name, path.name.removesuffix(".jsonl"))
        log = reflog.read_log(path)
    except TemplateError as error:
        yield _problem(objects, path, error)
        return
    if log.torn:
        yield _problem(objects, path, "torn last line, cut short by a crash; the next write removes it")
    try:
        digest = read_ref(active)
    except TemplateError:
        return  # _check_active has it
    if log.moves and digest not in {log.moves[-1].old, log.moves[-1].new}:
        yield _problem(
            objects, active, f"expected what the log says, {log.moves[-1].new}, found {digest}; activate one"
        )


def _reads(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _problem(objects: Objects, path: Path, what: TemplateError | str, *templates: str) -> Problem:
    return Problem(str(path.relative_to(objects.root)), str(what).removeprefix(f"{path}: "), templates)


def _merged(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield each (file, finding) once, with every template it hits."""
    merged: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        key = (problem.path, problem.what)
        seen = merged.get(key, replace(problem, templates=()))
        merged[key] = replace(seen, templates=tuple(dict.fromkeys((*seen.templates, *problem.templates))))
    yield from merged.values()
