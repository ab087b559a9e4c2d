"""Where a camera process gets its images: folders in order, videos in RGB, and a clear word when there is nothing."""

from itertools import islice

import cv2
import numpy as np
import pytest

from runtime.errors import ConfigError
from runtime.sources import folder_images, images_below, open_source, video_images


@pytest.fixture
def folder(tmp_path):
    """Return a folder of pictures at two levels; the value of every pixel is the picture's place in the order."""
    names = ["a.png", "part2.png", "part10.png", "x/1.png", "x/y/1.png", "z/1.png"]
    for value, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((4, 6), value, np.uint8))
    (tmp_path / ".hidden").mkdir()
    cv2.imwrite(str(tmp_path / ".hidden" / "1.png"), np.zeros((4, 6), np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_is_replayed_in_order(folder):
    """Images come folder by folder in natural order, with their path relative to the folder as source."""
    found = list(folder_images(folder))
    assert [each.source for each in found] == ["a.png", "part2.png", "part10.png", "x/1.png", "x/y/1.png", "z/1.png"]
    assert [int(each.image[0, 0]) for each in found] == [0, 1, 2, 3, 4, 5]
    assert all(each.image.shape == (4, 6) for each in found)
    stamps = [each.acquired_ns for each in found]
    assert stamps == sorted(stamps)


def test_a_folder_is_replayed_for_ever(folder):
    """With loop the first image follows the last one."""
    found = [each.source for each in islice(open_source(str(folder), loop=True), 13)]
    assert found[6:12] == found[:6]
    assert found[12] == "a.png"


def test_a_folder_without_images_is_refused(tmp_path):
    """An empty folder and one that is not there are both refused, naming them."""
    with pytest.raises(ConfigError, match="found none"):
        images_below(tmp_path)
    with pytest.raises(ConfigError, match="nowhere"):
        images_below(tmp_path / "nowhere")


def test_a_damaged_image_is_refused_by_name(folder):
    """A file that does not decode stops the replay with its path, after the images before it."""
    (folder / "part2.png").write_bytes(b"\x89PNG")
    images = folder_images(folder)
    assert next(images).source == "a.png"
    with pytest.raises(ConfigError, match=r"part2\.png"):
        next(images)


@pytest.fixture
def video(tmp_path):
    """Return a video of 5 frames, 64 x 48 px, red growing by 40 levels from frame to frame."""
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV has no MJPG writer")
    for index in range(5):
        writer.write(np.full((48, 64, 3), (0, 0, 40 * index), np.uint8))  # BGR
    writer.release()
    return path


def test_a_video_is_read_as_rgb(video):
    """Frames of a video file come as uint8 RGB [H, W, 3], in order, and end with the file."""
    found = [each.image for each in open_source(str(video))]
    assert [(image.shape, image.dtype) for image in found] == [((48, 64, 3), np.uint8)] * 5
    reds = [float(image[..., 0].mean()) for image in found]
    assert reds == pytest.approx([0, 40, 80, 120, 160], abs=4)
    assert all(image[..., 2].mean() < 4 for image in found)


def test_a_video_is_repeated(video):
    """With loop a video file is opened again when it ends."""
    reds = [float(each.image[..., 0].mean()) for each in islice(open_source(str(video), loop=True), 7)]
    assert reds[5:] == pytest.approx(reds[:2], abs=1)


def test_what_opencv_cannot_read_is_refused(tmp_path):
    """A device that is not there and a file that is no video are refused, naming them, also when asked to repeat."""
    (tmp_path / "text.avi").write_bytes(b"no video")
    for source in ("63", str(tmp_path / "text.avi")):
        with pytest.raises(ConfigError, match=f"{source}.*OpenCV|OpenCV.*{source}"):
            next(open_source(source))
    with pytest.raises(ConfigError, match="OpenCV"):
        next(video_images(str(tmp_path / "text.avi"), loop=True))


@pytest.mark.parametrize("source", ["0", "rtsp://camera/stream"])
def test_a_live_source_is_not_repeated(source):
    """A device or a stream cannot be repeated, and asking for it is refused before anything is opened."""
    with pytest.raises(ConfigError, match="--loop"):
        open_source(source, loop=True)


def test_nothing_there(tmp_path):
    """A path with nothing at it is refused with what could have been given."""
    with pytest.raises(ConfigError, match="folder of images"):
        open_source(str(tmp_path / "nowhere"))
