"""Benchmark data sets on disk: each is recognised in the form it is published in, whole or in part."""

import cv2
import numpy as np
import pytest

from calibration.dataset import read_mask
from calibration.layouts import BENCHMARKS, read_benchmark
from runtime.errors import ConfigError

GREY = np.full((8, 8), 90, np.uint8)


def put(path, values=GREY):
    """Write a tiny picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", values)[1].tobytes())


def mask(value=255, rows=slice(0, 2)):
    """Return a mask with ``value`` in some rows."""
    values = np.zeros((8, 8), np.uint8)
    values[rows] = value
    return values


def put_category(folder, *defects, masks=True):
    """Write a category in the MVTec layout: two references, a good test image, one image of each defect."""
    for name in ("train/good/0.png", "train/good/1.png", "test/good/0.png"):
        put(folder / name)
    for defect in defects:
        put(folder / f"test/{defect}/0.png")
        if masks:
            put(folder / f"ground_truth/{defect}/0_mask.png", mask())


def test_the_benchmarks_are_the_published_ones():
    """Fifteen categories of MVTec AD, then VisA, LOCO, magnetic tiles, MVTec 3D-AD and BTAD, and no name twice."""
    assert [len(each.categories) for each in BENCHMARKS] == [15, 12, 5, 1, 10, 3]
    names = [category for each in BENCHMARKS for category in each.categories]
    assert len(set(names)) == len(names)


def test_mvtec_with_some_categories_names_the_missing_ones(tmp_path):
    """Categories that are there are read in the benchmark's order; the others are named, and so are foreign folders."""
    put_category(tmp_path / "grid", "bent")
    put_category(tmp_path / "bottle", "broken_large", "contamination")
    put_category(tmp_path / "my_own_part", "dent")
    found = read_benchmark(tmp_path)
    assert found.benchmark.name == "mvtec-ad"
    assert list(found.categories) == ["bottle", "grid"]
    assert [each.label for each in found.categories["bottle"].test] == ["broken_large", "contamination", "good"]
    assert len(found.missing) == 13
    assert {"cable", "zipper"} < set(found.missing)
    assert found.warnings == ("folders that are no category of MVTec AD are not read: my_own_part",)


def test_one_category_by_its_own_folder(tmp_path):
    """The folder of a single category is recognised by its name."""
    put_category(tmp_path / "screw", "scratch_head")
    found = read_benchmark(tmp_path / "screw")
    assert (found.benchmark.name, list(found.categories), found.warnings) == ("mvtec-ad", ["screw"], ())


def test_loco_takes_several_masks_of_an_image(tmp_path):
    """MVTec LOCO: the folder of masks of one image is united, and validation images are no references."""
    folder = tmp_path / "pushpins"
    put_category(folder, "logical_anomalies", "structural_anomalies", masks=False)
    put(folder / "validation/good/0.png")
    for name in ("logical_anomalies", "structural_anomalies"):
        put(folder / f"ground_truth/{name}/0/000.png", mask(255, slice(0, 2)))
        put(folder / f"ground_truth/{name}/0/001.png", mask(250, slice(5, 6)))
    found = read_benchmark(tmp_path)
    assert found.benchmark.name == "mvtec-loco"
    assert found.benchmark.averaged_classes == ("logical_anomalies", "structural_anomalies")
    pushpins = found.categories["pushpins"]
    assert len(pushpins.references) == 2
    for sample in pushpins.test:
        assert read_mask(sample, (8, 8)).any(axis=1).tolist() == [
            sample.is_defect and row in {0, 1, 5} for row in range(8)
        ]


def put_visa(root, rows):
    """Write VisA as published, for one category: files where the table says, and the table."""
    for _, _, _, image, truth in rows:
        put(root / image)
        if truth:
            put(root / truth, mask(3))
    lines = ["object,split,label,image,mask", *(",".join(row) for row in rows)]
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def visa_rows(category="candle"):
    """Return the table of a small VisA."""
    images = f"{category}/Data/Images"
    return [
        (category, "train", "normal", f"{images}/Normal/0010.png", ""),
        (category, "train", "normal", f"{images}/Normal/0009.png", ""),
        (category, "test", "normal", f"{images}/Normal/0011.png", ""),
        (category, "test", "anomaly", f"{images}/Anomaly/000.png", f"{category}/Data/Masks/Anomaly/000.png"),
    ]


def test_visa_as_published(tmp_path):
    """VisA is read by its table: split, labels and masks, whose class numbers all count as defect."""
    put_visa(tmp_path, visa_rows())
    found = read_benchmark(tmp_path)
    assert (found.benchmark.name, list(found.categories), len(found.missing)) == ("visa", ["candle"], 11)
    assert found.warnings == ()
    candle = found.categories["candle"]
    assert [each.path.name for each in candle.references] == ["0009.png", "0010.png"]
    assert [each.label for each in candle.test] == ["anomaly", "good"]
    assert read_mask(candle.test[0], (8, 8)).sum() == 16


def test_visa_converted(tmp_path):
    """VisA as the authors' script converts it to the MVTec layout is read too."""
    put_category(tmp_path / "pcb1", "bad")
    found = read_benchmark(tmp_path)
    assert (found.benchmark.name, list(found.categories)) == ("visa", ["pcb1"])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("candle,train,anomaly,a.png,", "1cls.csv:6: expected only normal images in train, found a.png"),
        ("candle,test,normal,b.png,", "1cls.csv:6: expected a file at .*b.png, found none"),
        ("candle,val,normal,a.png,", "1cls.csv:6: expected five fields with a split of train, test .* split 'val'"),
        ("candle,test,odd,a.png,", "1cls.csv:6: .* label 'odd'"),
        ("candle,test,normal", "1cls.csv:6: expected five fields"),
        ("candle,test,normal,a.png,,x", "1cls.csv:6: expected five fields"),
    ],
)
def test_a_faulty_table_is_refused_with_its_line(tmp_path, row, words):
    """Whatever is wrong with VisA's table is told with file and line, not guessed."""
    put_visa(tmp_path, visa_rows())
    put(tmp_path / "a.png")
    with (tmp_path / "split_csv/1cls.csv").open("a", encoding="utf-8") as stream:
        stream.write(row + "\n")
    with pytest.raises(ConfigError, match=words):
        read_benchmark(tmp_path)


def test_a_table_with_other_columns_is_refused(tmp_path):
    """A table of another split has other columns: refused, naming both."""
    put_visa(tmp_path, visa_rows())
    (tmp_path / "split_csv/1cls.csv").write_text("object,image\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"1cls.csv:1: expected the columns object, split, .*'image'"):
        read_benchmark(tmp_path)


def test_magnetic_tiles_are_known_by_their_defects(tmp_path):
    """A folder of one category under any name is the magnetic tile set when its defect classes are."""
    put_category(tmp_path / "some_folder", "crack", "fray")
    found = read_benchmark(tmp_path / "some_folder")
    assert (found.benchmark.name, list(found.categories), found.missing) == ("mtd", ["magnetic_tile"], ())


@pytest.mark.data
def test_the_magnetic_tiles_beside_the_repository(data_folder):
    """The real set is recognised with every reference and test image."""
    [(category, dataset)] = read_benchmark(data_folder / "mtd").categories.items()
    assert (category, len(dataset.references), len(dataset.test)) == ("magnetic_tile", 762, 582)


def test_two_benchmarks_in_one_folder_are_refused(tmp_path):
    """Categories of two benchmarks in one folder would mix two means: refused, naming both."""
    put_category(tmp_path / "bottle", "dent")
    put_category(tmp_path / "candle", "bad")
    with pytest.raises(ConfigError, match=r"expected one benchmark .* found MVTec AD and VisA"):
        read_benchmark(tmp_path)


@pytest.mark.parametrize("defects", [("dent",), ("crack", "dent"), ()])
def test_an_unknown_set_lists_the_known_ones(tmp_path, defects):
    """A folder that is no benchmark is refused with the category names that would make it one."""
    put_category(tmp_path / "part", *defects)
    for folder in (tmp_path, tmp_path / "part"):
        with pytest.raises(ConfigError, match=r"found none of: MVTec AD \(bottle, .*magnetic tile defects \(blowhole"):
            read_benchmark(folder)


def test_a_missing_folder_is_told(tmp_path):
    """A path that is no folder is refused by name."""
    with pytest.raises(ConfigError, match=r"found none at .*nowhere"):
        read_benchmark(tmp_path / "nowhere")


def test_a_category_without_test_images_is_refused(tmp_path):
    """A category that was unpacked in part is refused before anything is evaluated."""
    put_category(tmp_path / "grid", "bent")
    put(tmp_path / "wood/train/good/0.png")
    with pytest.raises(ConfigError, match=r"MVTec AD, wood: .*found no test images: unpack the whole category"):
        read_benchmark(tmp_path)


def test_mvtec_3d_is_read_in_colour(tmp_path):
    """Of MVTec 3D-AD the colour images and the masks beside them are read, good parts with their empty masks."""
    folder = tmp_path / "bagel"
    for name in ("train/good/rgb/000.png", "train/good/rgb/001.png", "test/good/rgb/000.png", "test/hole/rgb/000.png"):
        put(folder / name)
    put(folder / "test/good/gt/000.png", mask(rows=slice(0, 0)))
    put(folder / "test/hole/gt/000.png", mask())
    put(folder / "validation/good/rgb/000.png")
    found = read_benchmark(tmp_path)
    assert (found.benchmark.name, list(found.categories), len(found.missing)) == ("mvtec-3d", ["bagel"], 9)
    bagel = found.categories["bagel"]
    assert [each.name for each in bagel.references] == ["train/good/rgb/000.png", "train/good/rgb/001.png"]
    assert [(each.name, each.label) for each in bagel.test] == [
        ("test/good/rgb/000.png", "good"), ("test/hole/rgb/000.png", "hole"),
    ]  # fmt: skip
    assert [int(read_mask(each, (8, 8)).sum()) for each in bagel.test] == [0, 16]


def test_btad_is_read_by_its_own_words(tmp_path):
    """Of BTAD ok is good and ko is a defect, its masks matched by stem whatever their format."""
    for name in ("train/ok/0000.png", "test/ok/0001.png", "test/ko/0002.png", "ground_truth/ko/0002.png"):
        put(tmp_path / "02" / name, mask() if name.startswith("ground") else GREY)
    found = read_benchmark(tmp_path)
    assert (found.benchmark.name, found.missing) == ("btad", ("01", "03"))
    test = found.categories["02"].test
    assert [(each.label, each.is_defect) for each in test] == [("ko", True), ("good", False)]
    assert int(read_mask(test[0], (8, 8)).sum()) == 16


def test_relatives_with_something_missing_are_refused(tmp_path):
    """A category without references, and a defect image without its mask, are refused by name."""
    put(tmp_path / "a/02/test/ko/0002.png")
    with pytest.raises(ConfigError, match="expected train/ok and test"):
        read_benchmark(tmp_path / "a")
    for name in ("train/ok/0.png", "test/ko/7.png"):
        put(tmp_path / "b/02" / name)
    with pytest.raises(ConfigError, match=r"expected a mask for \S*7"):
        read_benchmark(tmp_path / "b")
