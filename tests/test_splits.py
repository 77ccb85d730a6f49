import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from marks import some_slow
from secateur.core.errors import RequestError
from secateur.core.files import cache_folder
from secateur.data import (
    Assignment,
    DataSettings,
    LabelledTable,
    SplitSettings,
    check_source,
    open_data,
    read_assignment,
    write_assignment,
)
from secateur.data.splits import assigned, part_by_class, part_by_group

SHARES = ((0.2, 0.1), (0.25, 0.25), (0.1, 0.1), (0.5, 0.25), (1 / 3, 1 / 3))  # test, then a unit fraction of the rest


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def table_of(groups: list[tuple[int, int]], **changes) -> LabelledTable:
    """Groups of (class, images), named after their place."""
    labels = np.array([label for label, size in groups for _ in range(size)], np.int64)
    names = tuple(f"g{number:03d}" for number, (_, size) in enumerate(groups) for _ in range(size))
    ids = tuple(f"{number:04d}.png" for number in range(len(labels)))
    classes = tuple("abcdefg"[: labels.max() + 1])
    where = tuple(f"manifest.csv row {number + 2}" for number in range(len(labels)))
    table = LabelledTable("manifest", ids, tuple(map(Path, ids)), labels, classes, names, where=where)
    return replace(table, **changes)


def even(groups: int = 10, size: int = 2, classes: int = 3) -> LabelledTable:
    return table_of([(label, size) for label in range(classes) for _ in range(groups)])


def splits_of(found: Assignment) -> dict[str, str]:
    return dict(zip(found.ids, found.splits, strict=True))


def divided_groups(found: Assignment) -> list[str]:
    parts = defaultdict(set)
    for group, split in zip(found.groups, found.splits, strict=True):
        parts[group].add(split)
    return [group for group, splits in parts.items() if len(splits) > 1]


# what holds for every manifest


@dataclass(frozen=True)
class Request:
    """Groups of one class each, at least three of each class; shares; a seed; an order of the rows."""

    groups: list[tuple[int, int]]
    shares: tuple[float, float]
    seed: int
    order: int


@st.composite
def requests(draw) -> Request:
    sizes = st.lists(st.integers(1, draw(st.sampled_from([1, 2, 5, 12]))), min_size=3, max_size=12)
    groups = [(label, size) for label in range(draw(st.integers(2, 4))) for size in draw(sizes)]
    return Request(
        draw(st.permutations(groups)), draw(st.sampled_from(SHARES)), draw(st.integers(0, 99)), draw(st.integers(0, 99))
    )


def check(request: Request) -> None:
    table = table_of(request.groups)
    test, val = request.shares
    found = assigned(table, SplitSettings(test=test, val=val), request.seed)
    assert not divided_groups(found)
    splits = np.array(found.splits)
    left = np.ones(len(table), bool)
    for split, share in (("test", test), ("val", val / (1 - test))):
        for label in range(len(table.class_names)):
            rows = table.labels == label
            largest = max(size for each, size in request.groups if each == label)
            wanted = share * np.sum(left & rows)
            assert abs(np.sum(rows & (splits == split)) - wanted) <= largest, (split, label)
            assert np.any(rows & (splits == split)), f"class {label} is absent from {split}"
        left &= splits != split
    order = np.random.default_rng(request.order).permutation(len(table))
    assert splits_of(assigned(table.subset(order), SplitSettings(test=test, val=val), request.seed)) == splits_of(found)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests())
def test_splits_keep_groups_whole_and_shares_within_one_group(request):
    check(request)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests())
def test_splits_of_a_thousand_manifests(request):
    check(request)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    labels=st.lists(st.integers(0, 2), min_size=30, max_size=80), members=st.integers(6, 30), seed=st.integers(0, 99)
)
def test_patients_with_several_classes_stay_whole_or_are_refused(labels, members, seed):
    labels = np.array(labels)
    groups = tuple(f"p{number}" for number in np.random.default_rng(seed).integers(0, members, len(labels)))
    plain = replace(table_of([(int(label), 1) for label in labels]), groups=groups)
    try:
        found = assigned(plain, SplitSettings(), seed)
    except RequestError:
        return  # in one of the patients' classes there are too few of them
    assert not divided_groups(found)
    for label in {*labels.tolist()}:
        assert {split for split, each in zip(found.splits, labels, strict=True) if each == label} == {
            "train",
            "val",
            "test",
        }


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.sampled_from([0.1, 0.2, 0.5]), st.integers(0, 99))
def test_classes_of_ungrouped_images_keep_their_shares(labels, share, seed):
    labels = np.array(labels)
    drawn = part_by_class(labels, share, seed)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert np.sum(labels[drawn] == label) == (max(1, round(share * count)) if count > 1 else 0)


# shares, seeds


@pytest.mark.parametrize("share", [0.03, 0.15, 0.3, 0.4, 0.45, 0.6, 0.7])
def test_other_shares_are_met_by_several_folds(share):
    table = even(groups=120, size=1)
    drawn = part_by_group(table.labels, table.groups, share, seed=0)
    for label in range(3):
        assert np.sum(table.labels[drawn] == label) == pytest.approx(share * 120, abs=6)


@pytest.mark.parametrize("share", some_slow([0.9, 0.94, 0.96, 0.98, 0.999], 0.999))
def test_large_shares_leave_little(share):
    table = even(groups=100, size=1)
    drawn = part_by_group(table.labels, table.groups, share, seed=0)
    assert len(drawn) == pytest.approx(share * 300, abs=5)
    assert {*np.delete(table.labels, drawn)} == {0, 1, 2}


def test_the_usual_shares():
    found = assigned(even(groups=20), SplitSettings(), 0)
    assert Counter(found.splits) == {"train": 84, "val": 12, "test": 24}


def test_seeds_differ():
    table = even()
    one, same, other = (assigned(table, SplitSettings(), seed) for seed in (0, 0, 1))
    assert one == same
    assert one.splits != other.splits
    assert one.digest == other.digest


def test_a_seed_gives_the_same_split_on_any_machine():
    """As measured once; another result of the same seed would make published splits worthless."""
    found = assigned(even(groups=5, size=1, classes=2), SplitSettings(), 0)
    assert "".join(split[1] for split in found.splits) == "rrearrraer"


def test_folds_of_many_groups_are_kept_and_damaged_ones_made_again():
    table = even(groups=300, size=1)
    one = part_by_group(table.labels, table.groups, 0.2, seed=3)
    kept = max((cache_folder("splits")).glob("*.npy"), key=lambda file: file.stat().st_mtime_ns)
    for damage in (b"", kept.read_bytes()[:-100], b"no array"):
        kept.write_bytes(damage)
        assert np.array_equal(part_by_group(table.labels, table.groups, 0.2, seed=3), one)
    np.save(kept, np.full(len(table), 9))
    assert np.array_equal(part_by_group(table.labels, table.groups, 0.2, seed=3), one)


# splits that a table has


def test_given_splits_are_used_and_missing_ones_parted_off():
    table = even()
    given = np.array(["train"] * len(table), dtype="<U5")
    given[:6] = "test"
    given[20:26] = "test"
    given[40:46] = "test"
    found = assigned(replace(table, splits=tuple(given)), SplitSettings(), 0)
    assert [split == "test" for split in found.splits] == [split == "test" for split in given]
    assert Counter(found.splits)["val"] == 6
    assert not divided_groups(found)
    whole = tuple(np.where(given == "test", "test", np.where(np.arange(len(table)) % 20 > 15, "val", "train")))
    assert assigned(replace(table, splits=whole), SplitSettings(), 0).splits == whole


def test_groups_that_the_table_itself_has_in_several_splits_are_named():
    table = even()
    given = ["train"] * len(table)
    given[5] = "test"
    leaking = replace(table, splits=tuple(given))
    with pytest.raises(RequestError) as caught:
        assigned(leaking, SplitSettings(), 0)
    assert re.match(
        r"manifest.csv row 7: group 'g002' is in test, but in train in manifest.csv row 6; .*data.split.by=image",
        str(caught.value),
    )
    accepted = assigned(leaking, SplitSettings(by="image"), 0)
    assert any("groups" in note and "are in several splits" in note for note in accepted.notes)


def test_a_table_without_training_images():
    table = even()
    with pytest.raises(RequestError, match="data 'manifest' has no training images"):
        assigned(replace(table, splits=("test",) * len(table)), SplitSettings(), 0)


# what cannot be split


def test_too_few_groups_are_named_with_their_counts():
    groups = [(0, 2)] * 9 + [(1, 4)] * 2 + [(2, 5)]
    with pytest.raises(RequestError) as caught:
        assigned(table_of(groups), SplitSettings(), 0)
    assert (
        "too few groups of a class to split into train, test, val: 'b' has 2 (8 images), 'c' has 1 (5 images), at"
        in (str(caught.value))
    )
    # image by image they are enough
    assert {*assigned(table_of(groups), SplitSettings(by="image"), 0).splits} == {"train", "val", "test"}
    few = assigned(replace(table_of([(0, 1)] * 9 + [(1, 1)] * 2), groups=None), SplitSettings(), 0)
    assert few.notes == ("there are no val images of b",)


def test_classes_that_only_one_patient_has():
    table = even()
    groups = list(table.groups)
    groups[40:] = [f"all{row % 3}" for row in range(20)]
    found = assigned(replace(table, groups=tuple(groups)), SplitSettings(), 0)
    assert not divided_groups(found)
    with pytest.raises(RequestError, match=r"too few groups .*'c' has 1 \(20 images\)"):
        assigned(replace(table, groups=(*groups[:40], *["one"] * 20)), SplitSettings(), 0)


@pytest.mark.parametrize(
    "wrong",
    [{"test": 0.0}, {"val": 1.0}, {"test": 0.7, "val": 0.3}, {"by": "lesion"}, {"singles": True, "by": "image"}],
)
def test_impossible_settings(wrong):
    with pytest.raises(ValidationError):
        SplitSettings(**wrong)


@pytest.mark.slow
def test_without_scikit_learn_only_groups_cannot_be_split(tmp_path):
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "sys.path.insert(0, 'tests')\n"
        "from test_splits import *\n"
        "print(Counter(assigned(even(), SplitSettings(by='image'), 0).splits)['test'])\n"
        "assigned(even(), SplitSettings(), 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "12"
    assert "a split by group needs the package sklearn; pip install 'secateur[tables]'" in done.stderr


# as published for HAM10000


def test_test_images_of_single_image_groups():
    table = table_of([(label, size) for label in range(3) for size in (1,) * 20 + (3,) * 10])
    found = assigned(table, SplitSettings(singles=True), 0)
    sizes = Counter(table.groups)
    tested = [group for group, split in zip(found.groups, found.splits, strict=True) if split == "test"]
    assert len(tested) == 12
    assert {sizes[group] for group in tested} == {1}
    assert not divided_groups(found)
    assert any("only from groups of one image" in note for note in found.notes)
    shuffled = table.subset(np.random.default_rng(0).permutation(len(table)))
    assert splits_of(assigned(shuffled, SplitSettings(singles=True), 0)) == splits_of(found)
    few = table_of([(0, 1)] * 5 + [(1, 1)] + [(1, 2)] * 5)
    with pytest.raises(RequestError, match=r"class 'b' has 1 group\(s\) of one image, too few"):
        assigned(few, SplitSettings(singles=True), 0)
    with pytest.raises(RequestError, match="has no groups; data.split.singles needs to know them"):
        assigned(replace(table, groups=None), SplitSettings(singles=True), 0)


# split files


@pytest.fixture
def written(tmp_path) -> Path:
    write_assignment(assigned(even(), SplitSettings(), 5), tmp_path / "split.csv")
    return tmp_path / "split.csv"


def test_a_split_file_gives_the_same_split(written, tmp_path):
    table = even()
    found = assigned(table, SplitSettings(), 5)
    again = assigned(table, SplitSettings(file=written), 0)
    assert again == found
    kept = read_assignment(written)
    assert splits_of(kept) == splits_of(found)
    assert (kept.digest, kept.class_names) == (found.digest, found.class_names)
    assert dict(zip(kept.ids, kept.groups, strict=True)) == dict(zip(found.ids, found.groups, strict=True))
    order = np.random.default_rng(0).permutation(len(table))
    write_assignment(assigned(table.subset(order), SplitSettings(), 5), tmp_path / "other.csv")
    assert (tmp_path / "other.csv").read_bytes() == written.read_bytes()
    assert written.read_text().splitlines()[1:3] == ["image_id,split,group,label", f"0000.png,{found.splits[0]},g000,a"]


def test_awkward_names_survive(tmp_path):
    table = even(size=1)
    ids = tuple(f'ü "{number}",\n#x' for number in range(len(table)))
    odd = replace(table, ids=ids, class_names=(" a;b", "nan", "01"), groups=None)
    found = assigned(odd, SplitSettings(), 0)
    write_assignment(found, tmp_path / "split.csv")
    assert assigned(odd, SplitSettings(file=tmp_path / "split.csv"), 1) == found


def changed(file: Path, old: str, new: str) -> None:
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new, 1))


FOREIGN = {
    "id missing": (lambda f: drop(f, "0003.png"), "image '0003.png' is not in it (59 are, 60 in the data)"),
    "id of other data": (lambda f: append(f, "9.png,train,g,a"), "image '9.png' of the file is not in the data"),
    "a label changed": (lambda f: changed(f, "g001,a", "g001,b"), "image '0002.png' is 'b' in it, but 'a' in the data"),
    "digest of other data": (lambda f: changed(f, "labels: ", "labels: 0"), "its digest is not that of its rows"),
    "unknown split": (lambda f: changed(f, ",val,", ",dev,"), "split 'dev' is unknown; known: train, val, test"),
    "id twice": (
        lambda f: append(f, "0003.png,train,g001,a"),
        "split.csv row 63: image '0003.png' is in split.csv row",
    ),
    "no header": (
        lambda f: changed(f, "image_id,split", "id,part"),
        "has no column 'image_id'; expected image_id, split",
    ),
    "no labels": (lambda f: changed(f, ",label\n", ",lable\n"), "has no column 'label'"),
    "rows cut": (lambda f: changed(f, ",g000,a\n", "\n"), "split.csv row 3: 2 cells, but the header has 4"),
    "no rows": (lambda f: f.write_text("image_id,split,group,label\n"), "has no rows"),
    "empty": (lambda f: f.write_text(""), "is empty"),
    "absent": (lambda f: f.unlink(), "does not exist"),
    "no text": (lambda f: f.write_bytes(b"\xff\xfe\x00"), "is not UTF-8"),
}


def drop(file: Path, name: str) -> None:
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if name not in line))


def append(file: Path, line: str) -> None:
    file.write_text(file.read_text() + line + "\n")


@pytest.mark.parametrize("name", FOREIGN)
def test_split_files_of_other_data_are_refused(written, name):
    change, message = FOREIGN[name]
    change(written)
    with pytest.raises(RequestError) as caught:
        assigned(even(), SplitSettings(file=written), 0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_split_files_may_be_written_by_hand(written):
    content = written.read_text().split("\n", 1)[1]
    written.write_text(re.sub(r"(000[67].png),(train|test)", r"\1,val", content))
    found = splits_of(assigned(even(), SplitSettings(file=written), 0))
    assert found["0006.png"] == found["0007.png"] == "val"


def test_split_files_that_leak_say_so(written):
    found = splits_of(read_assignment(written))
    changed(written, "0000.png,train", "0000.png,test") if found["0000.png"] == "train" else changed(
        written, f"0000.png,{found['0000.png']}", "0000.png,train"
    )
    with pytest.raises(RequestError, match=r"split file '.*split.csv': manifest.csv row 3: group 'g000' is in "):
        assigned(even(), SplitSettings(file=written), 0)
    (note,) = assigned(even(), SplitSettings(file=written, by="image"), 0).notes
    assert note.startswith("1 of 30 groups (2 images) are in several splits")


@pytest.mark.parametrize("split", ["val", "test"])
def test_what_a_split_file_lacks_is_parted_off_by_group(tmp_path, split):
    table = even(size=4)
    found = assigned(table, SplitSettings(), 5)
    given = tuple("train" if each == split else each for each in found.splits)
    write_assignment(replace(found, splits=given), tmp_path / "split.csv")
    again = assigned(table, SplitSettings(file=tmp_path / "split.csv"), 0)
    assert not divided_groups(again)
    assert {*again.splits} == {"train", "val", "test"}
    assert all(new in (old, split) for new, old in zip(again.splits, given, strict=True))
    assert [f"gives no {split} images" in note for note in again.notes] == [True]


def test_of_a_split_file_only_images_that_were_left_out_may_be_absent(written):
    table = even()
    kept = [row for row in range(len(table)) if row != 3]
    again = assigned(table.subset(kept), SplitSettings(file=written), 0)
    assert splits_of(again) == {i: s for i, s in splits_of(read_assignment(written)).items() if i != "0003.png"}
    with pytest.raises(RequestError, match="image '0003.png' of the file is not in the data"):
        assigned(replace(table.subset(kept), left_out=frozenset({"0004.png"})), SplitSettings(file=written), 0)


def test_an_absent_split_file_is_refused_before_anything_is_opened(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "0.png").write_bytes(b"never opened")
    asked = DataSettings(source=str(tmp_path / "pets"), resize=8, split={"file": tmp_path / "nothing.csv"})
    for call in (check_source, open_data):
        with pytest.raises(RequestError, match=r"table '.*nothing.csv' does not exist"):
            call(asked)
