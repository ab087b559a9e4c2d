"""Where a camera process gets its images: folders in order, videos in RGB, and a clear word when there is nothing."""

import time
from itertools import islice

import cv2
import numpy as np
import pytest

from runtime.errors import ConfigError, StationError
from runtime.sources import count_images, folder_images, images_below, live_images, open_source, video_images


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


def test_folders_come_in_natural_order_without_hidden_ones(tmp_path):
    """Folder ``lot2`` comes before ``lot10`` at every level, and nothing below a hidden folder is replayed."""
    for name in ("lot10/1.png", "lot2/tray10/1.png", "lot2/tray9/1.png", ".git/objects/1.png", "lot2/.cache/x/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in images_below(tmp_path)]
    assert found == ["lot2/tray9/1.png", "lot2/tray10/1.png", "lot10/1.png"]


def test_a_hidden_place_above_the_folder_does_not_matter(folder):
    """Only what is hidden below the folder is left out: the folder itself may lie below a hidden one."""
    assert [path.name for path in images_below(folder / ".hidden")] == ["1.png"]


def test_the_number_of_images_is_known_for_folders_only(folder, video):
    """A folder knows how many images it will give within a limit; a loop without one, a video and a device do not."""
    assert count_images(str(folder)) == 6
    assert [count_images(str(folder), limit=limit) for limit in (4, 9)] == [4, 6]
    assert [count_images(str(folder), loop=True, limit=limit) for limit in (None, 9)] == [None, 9]
    assert count_images(str(video)) is count_images("0", limit=3) is None


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
    shown = list(islice(open_source(str(video), loop=True), 7))
    assert [each.source for each in shown] == [f"{video.name}#{number}" for number in (0, 1, 2, 3, 4, 0, 1)]
    reds = [float(each.image[..., 0].mean()) for each in shown]
    assert reds[5:] == pytest.approx(reds[:2], abs=1)


def test_a_live_camera_that_stops_is_an_error(video):
    """A live source that gives no more pictures is a StationError naming it and how many came; a file just ends."""
    images = live_images(str(video))
    assert len([next(images) for _ in range(5)]) == 5
    with pytest.raises(StationError, match=r"line\.avi gave no picture after 5 frames"):
        next(images)


def test_live_pictures_are_taken_when_they_come_and_decoded_when_due(video):
    """Every picture is grabbed, those due are yielded, and each carries the time of its grab."""
    asked = []

    def due():
        time.sleep(0.002)
        asked.append(time.time_ns())
        return len(asked) in {1, 4}

    images = live_images(str(video), due)
    found = [next(images), next(images)]
    with pytest.raises(StationError, match="after 5 frames"):
        next(images)
    assert [float(each.image[..., 0].mean()) for each in found] == pytest.approx([0, 120], abs=4)
    assert len(asked) == 5
    assert asked[2] < found[1].acquired_ns < asked[3] - 1_000_000


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
