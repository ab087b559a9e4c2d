"""From good frames to everything that is learnt: codebook, foreground, heads, in the order of specification, 7.1."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgead import ConfigError, Frame, MaskedFrame
from plugins.cpr import grb, kmeans
from plugins.cpr.feb import WORDS as FOREGROUND_WORDS
from plugins.cpr.feb import Foreground, ForegroundFit, ForegroundMap, fit_foreground
from plugins.cpr.graph import Features, Learnt
from plugins.cpr.settings import map_shapes, score_pixels_of
from plugins.resize import PlainResize
from plugins.training.sparing import spared

if TYPE_CHECKING:
    from edgead import DetectorContext
    from plugins.cpr.lrb import LocalHeads
    from plugins.cpr.settings import CprSettings

#: Backbone maps kept in memory while learning; those of more references are computed again in every pass.
MEMORY_BYTES = 1 << 30
#: Seed of the authors, to which the caller's is added.
SEED = 66


@dataclass(frozen=True)
class Prepared:
    """What training may use beside the frames.

    ``rankings`` int64 [N, min(nearest, N - 1)]: the references most like each, itself left out, best first.
    ``foregrounds`` float32 [N, H1, W1], 0..1, None where there is no foreground.
    """

    is_object: bool
    rankings: Tensor
    foregrounds: Tensor | None


class Encoded:
    """Backbone maps of the references, one reference at a time, [1, Cj, Hj, Wj] on the context's device."""

    def __init__(
        self, references: Sequence[Frame], features: Features, settings: CprSettings, context: DetectorContext
    ) -> None:
        self.references, self.features, self.context = references, features, context
        self._size = settings.image_size
        # The last one only: it holds 5 MB, and every frame of a product may have a size of its own.
        self._resize: tuple[tuple[int, int, int], PlainResize] | None = None
        self._kept: list[tuple[Tensor, ...]] = []
        per_reference = 4 * sum(channels * side**2 for channels, side in map_shapes(settings))
        self._most = MEMORY_BYTES // per_reference

    def __len__(self) -> int:
        return len(self.references)

    def maps(self, what: str) -> Iterator[tuple[Tensor, ...]]:
        """Yield every reference's maps; ``what`` is shown as progress while they are computed."""
        for number in range(len(self)):
            if number < len(self._kept):
                yield self._kept[number]
                continue
            taps = self._encode(self.references[number])
            if number == len(self._kept) and number < self._most:
                self._kept.append(taps)
            self.context.progress(number + 1, len(self), what)
            yield taps

    def _encode(self, reference: Frame) -> tuple[Tensor, ...]:
        image = reference.image if reference.image.ndim == 3 else reference.image[:, :, None]  # noqa: PLR2004 - grey
        height, width, channels = image.shape
        shape = (height, width, channels)
        if self._resize is None or self._resize[0] != shape:
            self._resize = (shape, PlainResize(shape, self._size).to(self.context.device))
        frames = torch.from_numpy(image)[None].to(self.context.device)
        taps: tuple[Tensor, ...] = self.features(self._resize[1](frames))
        return taps


def learn(settings: CprSettings, encoded: Encoded) -> tuple[CprSettings, Learnt, dict[str, Any]]:
    """Return the settings with every "auto" decided, what was learnt, and statistics (JSON).

    Raises ``ConfigError`` where a foreground is asked for that cannot be told, or what training raises.
    """
    settings, centres, foreground, fit = _settled(settings, encoded)
    heads, shares, trained = _heads(settings, encoded, centres, foreground)
    settings = settings.model_copy(update={"raw_share": shares})
    statistics: dict[str, Any] = {"references": len(encoded), **trained}
    if fit is not None:
        statistics["foreground"] = {
            "ring": round(fit.ring, 3),
            "inner_ring": round(fit.inner_ring, 3),
            "centre": round(fit.centre, 3),
            "reason": fit.reason,
        }
    return settings, Learnt(centres.cpu(), foreground, heads), statistics


def training_pictures(settings: CprSettings, encoded: Encoded, count: int) -> list[MaskedFrame]:
    """Return the first ``count`` pictures that heads are trained on; raise ``ConfigError`` where none are trained."""
    reason = why_untrained(settings, len(encoded))
    if reason is not None:
        raise ConfigError(f"cpr: expected settings and good frames that heads are trained with, found {reason}")
    from plugins.cpr.training import planned

    settings, centres, foreground, _ = _settled(settings, encoded)
    _, pictures = planned(settings, encoded, prepare(settings, encoded, centres, foreground))
    drawn = [pictures.draw(number) for number in range(count)]
    return [MaskedFrame(Frame(each.image, each.kind), each.mask) for each in drawn]


def why_untrained(settings: CprSettings, references: int) -> str | None:
    """Return why no heads are trained on so many references, or None: some are."""
    if settings.head_file is not None:
        return "a head_file, which is used instead"
    if settings.train == "none":
        return "train: none"
    if references < 2:  # noqa: PLR2004
        return f"{references} good frame(s), where each must have another to be compared with"
    if settings.raw_share == "auto":
        # Where training can spare nothing, heads would have seen every frame, and no threshold could be taken of any.
        return None if spared(references) else f"{references} good frames, too few to spare any, and raw_share: auto"
    return "raw_share: 1 in every layer" if min(settings.raw_shares) == 1 else None


def _settled(
    settings: CprSettings, encoded: Encoded
) -> tuple[CprSettings, Tensor, Foreground | None, ForegroundFit | None]:
    """Return the settings with all but ``raw_share`` decided, the codebook, the foreground, and how that was told."""
    seed = SEED + encoded.context.seed
    centres = _codebook(encoded, grb.WORDS, seed, "codebook")
    fit = None
    if (
        settings.foreground == "on"
        or (settings.foreground == "auto" and settings.kind != "texture")
        or settings.kind == "auto"
    ):
        fit = _foreground(encoded, seed)
    settings, foreground = _decided(settings, fit)
    return settings, centres, foreground, fit


def _codebook(encoded: Encoded, words: int, seed: int, what: str) -> Tensor:
    chosen, first, rows = None, 0, []
    for taps in encoded.maps(f"reading references for the {what}"):
        pixels = taps[0][0].flatten(1).T
        if chosen is None:
            chosen = kmeans.sample(len(encoded) * pixels.shape[0], seed)
        inside = chosen[(chosen >= first) & (chosen < first + pixels.shape[0])] - first
        rows.append(pixels[inside.to(pixels.device)])
        first += pixels.shape[0]
    return kmeans.kmeans(torch.cat(rows), words, seed)


def _foreground(encoded: Encoded, seed: int) -> ForegroundFit:
    centres = _codebook(encoded, FOREGROUND_WORDS, seed, "foreground")

    def finest() -> Iterator[Tensor]:
        return (taps[0][0] for taps in encoded.maps("telling foreground from background"))

    return fit_foreground(finest, centres, seed)


def _decided(settings: CprSettings, fit: ForegroundFit | None) -> tuple[CprSettings, Foreground | None]:
    """Decide kind and foreground: "auto" follows the fit and its veto, whatever was set explicitly stays."""
    helps = fit is not None and fit.helps
    found = None if fit is None else fit.foreground
    kind = settings.kind if settings.kind != "auto" else ("object" if helps else "texture")
    if settings.foreground == "on" and found is None:
        reason = "" if fit is None else fit.reason
        raise ConfigError(
            f"cpr: expected a foreground that can be told from the border, found {reason}: set it to auto"
        )
    # A kind that the user named is taken at its word; the veto is for those that nobody named.
    wanted = settings.foreground == "on" or (
        settings.foreground == "auto" and kind == "object" and (helps or settings.kind == "object")
    )
    used = found if wanted else None
    resolved = settings.model_copy(
        update={
            "layers": settings.layer_names,
            # Heads that are given are not trained, whatever the default is.
            "train": "none" if settings.head_file is not None else settings.train,
            "kind": kind,
            "foreground": "off" if used is None else "on",
            "score_pixels": score_pixels_of(settings),
        }
    )
    return resolved, used


def _heads(
    settings: CprSettings, encoded: Encoded, centres: Tensor, foreground: Foreground | None
) -> tuple[LocalHeads | None, tuple[float, ...], dict[str, Any]]:
    """Return heads, each layer's ``raw_share``, and statistics."""
    layers = len(settings.layer_names)
    if settings.head_file is not None:
        from plugins.cpr.published import load_heads

        path = Path(settings.head_file)
        heads = load_heads(path, tuple(channels for channels, _ in map_shapes(settings)), settings.local_width)
        return heads, (0.0,) * layers, {"head_file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if why_untrained(settings, len(encoded)) is not None:
        return None, (1.0,) * layers, {}
    from plugins.cpr.training import train_heads

    return train_heads(settings, encoded, prepare(settings, encoded, centres, foreground))


def prepare(settings: CprSettings, encoded: Encoded, centres: Tensor, foreground: Foreground | None) -> Prepared:
    """Return rankings and foreground maps of the references, for training; ``settings`` resolved."""
    codebook = grb.Codebook(centres)
    histograms = grb.Histograms(map_shapes(settings)[0][1]).to(centres.device)
    estimate = None if foreground is None else ForegroundMap(foreground).to(centres.device)
    counted, maps = [], []
    for taps in encoded.maps("ranking references"):
        counted.append(histograms(codebook(taps[0])))
        if estimate is not None:
            maps.append(estimate(taps[0]))
    rankings = grb.self_excluded_rankings(torch.cat(counted).cpu(), settings.nearest)
    return Prepared(settings.kind == "object", rankings, torch.cat(maps).cpu() if maps else None)
