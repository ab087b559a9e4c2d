"""Image files: what each kind of file becomes, what is refused, and what the overlay shows."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from runtime.errors import ConfigError, EdgeadError
from runtime.images import list_images, overlay, read_image, read_stored, write_png

RNG = np.random.default_rng(42)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_listing_is_natural_flat_and_by_suffix(tmp_path):
    """Numbers sort as numbers, suffixes match in any case; hidden files, other files and folders are left out."""
    for name in ("part10.png", "part2.PNG", "Part1.jpg", ".part3.png", "notes.txt", "²3.bmp"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["Part1.jpg", "part2.PNG", "part10.png", "²3.bmp"]


def test_listing_a_missing_folder_names_it(tmp_path):
    """A folder that does not exist is the integrator's error."""
    with pytest.raises(ConfigError, match="nowhere"):
        list_images(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR, np.repeat(GREY[:, :, None], 3, axis=2)], ids=["grey", "rgb", "equal"])
def test_lossless_files_come_back_as_pillow_wrote_them(tmp_path, suffix, pixels):
    """Grey stays [H, W], colour stays RGB [H, W, 3] even where its channels are equal."""
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    found = read_image(tmp_path / f"a{suffix}")
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, pixels)


def test_alpha_is_dropped_without_touching_the_colours(tmp_path):
    """A transparent PNG gives its stored colours."""
    rgba = np.dstack((COLOUR, GREY))
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOUR)


def test_sixteen_bits_round_to_eight(tmp_path):
    """Every 16-bit value v becomes round(v / 257), and the stored depth can be had as well."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_png(tmp_path / "a.png", values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rint(values / 257))
    np.testing.assert_array_equal(read_stored(tmp_path / "a.png"), values)


def test_exif_orientation_is_not_applied(tmp_path):
    """A JPEG marked as rotated keeps its stored rows and columns."""
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == COLOUR.shape


def encoded(pixels, kind):
    """Return the bytes of a picture in a file format."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        encoded(COLOUR, "PNG")[:-40],
        encoded(GREY.astype(np.float32), "TIFF"),
    ],
    ids=["empty", "text", "cut short", "float"],
)
def test_undecodable_files_are_refused_by_name(tmp_path, content):
    """Empty, foreign, damaged and float files are errors with the path, never pixels."""
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.png"):
        read_image(tmp_path / "bad.png")


def test_a_missing_file_is_refused_by_name(tmp_path):
    """A path without a file is an error with the path."""
    with pytest.raises(ConfigError, match=r"gone\.png.*No such file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("pixels", [GREY, COLOUR, COLOUR[::2, ::-1]], ids=["grey", "rgb", "strided"])
def test_pictures_written_are_read_back(tmp_path, pixels):
    """write_png then read_image is the identity, over an older file too, and leaves nothing else behind."""
    (tmp_path / "a.png").write_bytes(b"older")
    write_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_draft(tmp_path, monkeypatch):
    """When the rename fails, the error is a ConfigError, the old bytes stand and the draft is gone."""

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(b"older")
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(ConfigError, match="Permission denied"):
        write_png(tmp_path / "a.png", GREY)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"older")]


def test_writing_into_a_missing_folder_names_the_picture(tmp_path):
    """A folder that does not exist is the integrator's error."""
    with pytest.raises(ConfigError, match=r"a\.png"):
        write_png(tmp_path / "nowhere" / "a.png", GREY)


@pytest.mark.parametrize("pixels", [GREY.astype(np.float32), COLOUR.astype(np.uint16), COLOUR[:, :, :2], GREY[:0]])
def test_arrays_that_are_no_picture_are_refused(tmp_path, pixels):
    """Other dtypes, channel counts and empty arrays are not written."""
    with pytest.raises(EdgeadError, match="expected uint8"):
        write_png(tmp_path / "a.png", pixels)


@pytest.mark.parametrize("frame", [np.full((60, 80), 90, np.uint8), np.full((60, 80, 3), (200, 90, 30), np.uint8)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_overlay_leaves_the_frame_alone_where_nothing_is_anomalous(frame, dtype):
    """Under zeros every pixel is the frame's, as RGB; a hot spot colours and outlines its own place only."""
    quiet = overlay(frame, np.zeros((6, 8), dtype), 0.5, 1.0)
    expected = np.repeat(frame[:, :, None], 3, axis=2) if frame.ndim == 2 else frame
    np.testing.assert_array_equal(quiet, expected)
    hot = np.zeros((6, 8), dtype)
    hot[1:3, 1:3] = 1
    shown = overlay(frame, hot, 0.5, 1.0)
    assert (shown.dtype, shown.shape) == (np.uint8, (60, 80, 3))
    changed = (shown != expected).any(axis=2)
    assert changed[20, 20]
    assert not changed[40:].any()
    assert not changed[:, 50:].any()


def test_overlay_stays_see_through_and_grows_with_the_map():
    """At the peak the frame still shows, and a higher map value changes the frame more."""
    dark, bright = np.zeros((40, 40), np.uint8), np.full((40, 40), 255, np.uint8)
    peak = np.ones((4, 4), np.float32)
    assert (overlay(bright, peak, np.inf, 1.0).astype(int) - overlay(dark, peak, np.inf, 1.0)).min() > 80
    weak, strong = (np.abs(overlay(bright, peak, np.inf, scale).astype(int) - 255).sum() for scale in (5.0, 1.0))
    assert 0 < weak < strong


def white(picture):
    """Pixels drawn in the contour's white, on a frame without white."""
    return (picture == 255).all(axis=2)


def test_the_contour_surrounds_the_defect_mask():
    """White pixels lie on the edge of map > threshold: none inside, none outside, none when nothing passes."""
    frame = np.zeros((64, 64), np.uint8)
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[10:30, 20:50] = 1
    line = white(overlay(frame, anomaly_map, 0.5, 4.0))
    expected = np.zeros((64, 64), bool)
    expected[10:30, 20:50] = True
    expected[11:29, 21:49] = False
    np.testing.assert_array_equal(line, expected)
    assert not white(overlay(frame, anomaly_map, 1.0, 4.0)).any()


def test_a_peak_too_narrow_for_the_resize_is_still_outlined():
    """One map pixel past the threshold gets its contour even where the bilinear resize lowers it."""
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[20, 31] = 1
    assert white(overlay(np.zeros((75, 75), np.uint8), anomaly_map, 0.99, 4.0)).any()


@pytest.mark.parametrize(
    ("anomaly_map", "scale"),
    [
        (np.full((2, 2), np.nan), 1.0),
        (np.full((2, 2), np.inf), 1.0),
        (np.zeros((1, 2, 2)), 1.0),
        (np.zeros((2, 2)), 0.0),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(anomaly_map, scale):
    """NaN, infinity, extra axes and an empty scale are errors, not a clean picture."""
    with pytest.raises(EdgeadError, match="expected a"):
        overlay(GREY, anomaly_map, 0.5, scale)


def test_importing_the_reader_does_not_load_opencv():
    """A process that only lists files never pays for cv2."""
    code = "import sys, runtime.images; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
