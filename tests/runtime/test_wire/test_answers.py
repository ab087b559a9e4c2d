"""Maps and previews in bytes: what comes back, how exactly, and how much room it takes."""

import numpy as np
import pytest

from runtime.errors import EdgeadError
from runtime.inspection import MapInfo
from runtime.wire.answers import PREVIEW_SIDE_PX, decode_map, decode_preview, encode_map, encode_preview
from runtime.worker.slots import PREVIEW_BYTES, answer_bytes

RANDOM = np.random.default_rng(7)
RAW = MapInfo(encoding="raw", dtype="float16", height=3, width=4)
PNG = MapInfo(encoding="png16", dtype="uint16", height=3, width=4)


def there_and_back(anomaly_map, encoding):
    """Return (info, payload bytes, decoded map)."""
    info, payload = encode_map(anomaly_map, encoding)
    data = bytes(memoryview(payload).cast("B"))
    return info, data, decode_map(info, data)


def test_raw_keeps_eleven_bits():
    """A raw map comes back with float16's precision: half a unit in its eleventh bit."""
    original = RANDOM.uniform(0, 50, (37, 53)).astype(np.float32)
    info, data, decoded = there_and_back(original, "raw")
    assert (info.encoding, info.dtype, info.height, info.width) == ("raw", "float16", 37, 53)
    assert len(data) == 37 * 53 * 2
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, original, rtol=2**-11, atol=2**-25)


def test_raw_is_little_endian_row_major():
    """The bytes of a raw map are what the protocol says, on any machine: 1.0 is 00 3C, row after row."""
    _, payload = encode_map(np.array([[1, 2], [0.5, -1]], np.float32), "raw")
    assert memoryview(payload).cast("B").hex() == "003c" + "0040" + "0038" + "00bc"


def test_raw_clips_what_float16_cannot_say():
    """Values beyond 65504 become 65504, never infinity: a subscriber's arithmetic stays finite."""
    _, _, decoded = there_and_back(np.array([[1e9, -1e9, 65504, 3e38]], np.float32), "raw")
    assert decoded.tolist() == [[65504, -65504, 65504, 65504]]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 250), (1e-6, 2e-6), (-3e38, 3e38), (1000, 1000.5)])
def test_png16_errs_by_half_a_step(low, high):
    """A png16 map is within half a step, range / 65535 / 2, of the original, whatever its range."""
    original = RANDOM.uniform(low, high, (41, 29)).astype(np.float32)
    info, data, decoded = there_and_back(original, "png16")
    step = (float(original.max()) - float(original.min())) / 65535
    assert info.scale == pytest.approx(step)
    assert data.startswith(b"\x89PNG")
    rounding = np.spacing(np.abs(original)).astype(np.float64)  # the decoded map is float32 again
    assert (np.abs(decoded.astype(np.float64) - original) <= step * 0.5001 + rounding).all()


@pytest.mark.parametrize("encoding", ["raw", "png16"])
@pytest.mark.parametrize("value", [0.0, 3.25, -7.5])
def test_a_constant_map_survives(value, encoding):
    """A map without any range, as a black frame gives, comes back as it was."""
    _, _, decoded = there_and_back(np.full((5, 6), value, np.float32), encoding)
    assert (decoded == value).all()


def test_no_map_is_no_bytes():
    """Encoding "none" describes nothing and sends nothing."""
    assert encode_map(np.zeros((4, 4), np.float32), "none") == (None, b"")


@pytest.mark.parametrize("shape", [(1, 1), (256, 256), (1024, 1024), (3, 16384), (16384, 3)])
@pytest.mark.parametrize("encoding", ["raw", "png16"])
def test_the_worst_map_fits_its_slot(shape, encoding):
    """Even a map of pure noise, which no PNG compresses, fits the room reserved for one answer."""
    _, payload = encode_map(RANDOM.random(shape, np.float32), encoding)
    assert memoryview(payload).nbytes <= answer_bytes(shape, preview=False)


@pytest.mark.parametrize("payload", [b"", b"\0" * 23, b"\0" * 26, b"nonsense" * 4])
@pytest.mark.parametrize("info", [RAW, PNG], ids=["raw", "png16"])
def test_a_payload_that_is_no_map_is_refused(info, payload):
    """Bytes that are not the map they claim to be give an error that says what was expected."""
    with pytest.raises(EdgeadError, match="3 x 4"):
        decode_map(info, payload)


def test_a_png_of_another_shape_is_refused():
    """A sound PNG map of another height is not taken for the announced one."""
    _, payload = encode_map(np.zeros((4, 4), np.float32), "png16")
    with pytest.raises(EdgeadError, match="3 x 4"):
        decode_map(PNG, payload)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (480, 640)), ((1200, 1920), (400, 640)), ((16000, 512), (640, 20)), ((1, 16384), (1, 640))],
)
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "RGB"])
def test_previews_keep_their_proportions_within_the_limit(size, expected, channels):
    """A preview is the whole frame, its longer side at most 640 pixels, never enlarged."""
    picture = decode_preview(encode_preview(np.full((*size, *channels), 90, np.uint8)))
    assert picture.shape == (*expected, 3)
    assert max(picture.shape) <= PREVIEW_SIDE_PX


def test_previews_keep_red_red():
    """Channels stay in RGB order through the JPEG."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 200
    red, green, blue = decode_preview(encode_preview(image)).mean(axis=(0, 1))
    assert red > 180
    assert max(green, blue) < 20


def test_the_worst_preview_fits_its_slot():
    """A preview of pure colour noise fits the room reserved for previews: it never costs the inspection."""
    noise = RANDOM.integers(0, 256, (2000, 2000, 3), np.uint8)
    assert len(encode_preview(noise)) <= PREVIEW_BYTES
    assert len(encode_preview(noise[:PREVIEW_SIDE_PX, :PREVIEW_SIDE_PX])) <= PREVIEW_BYTES


@pytest.mark.parametrize("payload", [b"", b"no picture"])
def test_a_payload_that_is_no_jpeg_is_refused(payload):
    """Bytes that are no picture give an error, not a crash in the display."""
    with pytest.raises(EdgeadError, match="JPEG"):
        decode_preview(payload)
