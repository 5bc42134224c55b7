"""Properties of the split: disjoint, seeded, class balanced in every prefix, blind to file order."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from qpatchbench.data.splitting import (
    PARTS,
    Keys,
    Overlap,
    Parts,
    PartSizes,
    check_disjoint,
    content_hash,
    fingerprint,
    interleave,
    part_fingerprint,
    pixel_hashes,
    split_one_pool,
    split_two_pools,
)
from qpatchbench.errors import DataError


def make_keys(pool: str, per_class: list[int], contents: dict[int, bytes] | None = None) -> Keys:
    labels = [label for label, count in enumerate(per_class) for _ in range(count)]
    hashes = [(contents or {}).get(i, content_hash(f"{pool}{label}-{i}".encode())) for i, label in enumerate(labels)]
    return Keys([f"{pool}/{i}" for i in range(len(labels))], labels, hashes, hashes)


def shuffled(keys: Keys, seed: int) -> Keys:
    order = list(range(len(keys.ids)))
    random.Random(seed).shuffle(order)
    return Keys(*([values[i] for i in order] for values in vars(keys).values()))


def names(keys: Keys, order: list[int]) -> list[str]:
    return [keys.ids[i] for i in order]


def test_every_prefix_is_class_balanced() -> None:
    keys = make_keys("train", [20, 20, 20, 20])
    counts: Counter[int] = Counter({label: 0 for label in range(4)})
    for index in interleave(keys, seed=0):
        counts[keys.labels[index]] += 1
        assert max(counts.values()) - min(counts.values()) <= 1


def test_unequal_classes_stay_balanced_until_one_is_used_up() -> None:
    keys = make_keys("train", [3, 10])
    labels = [keys.labels[i] for i in interleave(keys, seed=0)]
    assert all(sorted(labels[i : i + 2]) == [0, 1] for i in (0, 2, 4))
    assert labels[6:] == [1] * 7


def test_one_image_per_class_gives_a_random_set_of_classes_not_the_first_ones() -> None:
    keys = make_keys("all", [1] * 200)
    first = [keys.labels[i] for i in interleave(keys, seed=0)[:50]]
    assert len(set(first)) == 50
    assert 70 < np.mean(first) < 130  # the mean of the 50 first classes would be 24.5


def test_order_is_blind_to_file_order_and_follows_the_seed() -> None:
    keys = make_keys("train", [15, 15, 15])
    reference = names(keys, interleave(keys, seed=1))
    for seed in range(5):
        other = shuffled(keys, seed)
        assert names(other, interleave(other, seed=1)) == reference
    assert names(keys, interleave(keys, seed=2)) != reference


def test_order_inside_a_class_is_that_of_the_seeded_hash() -> None:
    keys = make_keys("train", [30])
    order = interleave(keys, seed=7)
    digests = [content_hash((7).to_bytes(8, "big") + keys.content[i]) for i in order]
    assert all(first < second for first, second in pairwise(digests))


def test_duplicates_in_the_train_pool_are_kept_once_whatever_the_file_order() -> None:
    twin = content_hash(b"twin")
    keys = make_keys("train", [10, 10], {3: twin, 5: twin, 12: twin})
    order = interleave(keys, seed=0)
    assert len(order) == 18
    for seed in range(4):
        other = shuffled(keys, seed)
        assert names(other, interleave(other, seed=0)) == names(keys, order)


def test_equal_pixels_are_duplicates_even_if_their_files_differ() -> None:
    keys = make_keys("train", [4])
    keys = Keys(keys.ids, keys.labels, keys.content, [keys.pixels[0], keys.pixels[0], *keys.pixels[2:]])
    assert len(interleave(keys, seed=0)) == 3


def test_two_pools_are_disjoint_and_drop_train_images_that_are_evaluated() -> None:
    shared = content_hash(b"shared")
    train, test = make_keys("train", [40, 40], {7: shared}), make_keys("test", [10, 10], {4: shared})
    parts = split_two_pools("x", train, test, PartSizes(None, 10, 20, 100), seed=0)
    assert [len(getattr(parts, part)) for part in PARTS] == [49, 10, 20, 20]
    used = parts.train + parts.calibration + parts.craft
    assert 7 not in used
    assert len(set(used)) == len(used) == 79
    hashes = {p: [train.pixels[i] for i in getattr(parts, p)] for p in PARTS[:3]}
    assert check_disjoint({**hashes, "evaluation": [test.pixels[i] for i in parts.evaluation]}) == ()


def test_evaluated_images_are_dropped_from_train_even_when_evaluation_is_cut() -> None:
    shared = content_hash(b"shared")
    train, test = make_keys("train", [40], {7: shared}), make_keys("test", [50], {4: shared})
    short = split_two_pools("x", train, test, PartSizes(None, 5, 5, 1), seed=0)
    full = split_two_pools("x", train, test, PartSizes(None, 5, 5, 50), seed=0)
    assert (short.train, short.craft, short.calibration) == (full.train, full.craft, full.calibration)
    assert full.evaluation[:1] == short.evaluation


def test_duplicates_in_the_test_pool_are_kept() -> None:
    twin = content_hash(b"twin")
    test = make_keys("test", [10], {1: twin, 2: twin})
    parts = split_two_pools("x", make_keys("train", [10]), test, PartSizes(None, 1, 1, 10), seed=0)
    assert sorted(parts.evaluation) == list(range(10))


def test_train_images_cuts_train_only() -> None:
    train, test = make_keys("train", [40, 40]), make_keys("test", [10, 10])
    full = split_two_pools("x", train, test, PartSizes(None, 10, 20, 20), seed=0)
    cut = split_two_pools("x", train, test, PartSizes(6, 10, 20, 20), seed=0)
    assert cut == Parts(full.train[:6], full.calibration, full.craft, full.evaluation)
    assert Counter(train.labels[i] for i in cut.train) == {0: 3, 1: 3}


def test_one_pool_has_no_train_part_and_evaluates_the_rest() -> None:
    pool = make_keys("all", [1] * 100)
    parts = split_one_pool("x", pool, PartSizes(None, 10, 30, 1000), seed=0)
    assert [len(getattr(parts, part)) for part in PARTS] == [0, 10, 30, 60]
    assert sorted(parts.calibration + parts.craft + parts.evaluation) == list(range(100))
    assert len(split_one_pool("x", pool, PartSizes(None, 10, 30, 25), seed=0).evaluation) == 25


def test_one_pool_trains_where_it_is_told_how_many() -> None:
    pool = make_keys("all", [60, 60])
    without = split_one_pool("x", pool, PartSizes(None, 10, 30, 1000), seed=0)
    parts = split_one_pool("x", pool, PartSizes(20, 10, 30, 1000), seed=0)
    assert (parts.calibration, parts.craft) == (without.calibration, without.craft)
    assert parts.train + parts.evaluation == without.evaluation
    assert len(parts.train) == 20
    message = "at most 119 images for calibration_images + craft_images + train_images, found 10 + 30 + 80 = 120"
    with pytest.raises(DataError, match=re.escape(message)):
        split_one_pool("x", pool, PartSizes(80, 10, 30, 1000), seed=0)


def test_too_many_held_out_images_are_an_error_with_numbers() -> None:
    train, test = make_keys("train", [10]), make_keys("test", [10])
    with pytest.raises(DataError, match=r"^x: expected at most 10 images .* found 4 \+ 7 = 11: the train pool has 10"):
        split_two_pools("x", train, test, PartSizes(None, 4, 7, 10), seed=0)
    with pytest.raises(DataError, match=r"at most 9 .* found 4 \+ 6 = 10: the only pool"):
        split_one_pool("x", train, PartSizes(None, 4, 6, 10), seed=0)
    assert split_two_pools("x", train, test, PartSizes(None, 4, 6, 10), seed=0).train == []


def test_check_disjoint_names_every_overlap() -> None:
    overlaps = check_disjoint({"train": [b"b", b"a"], "craft": [b"c", b"a", b"b"], "evaluation": [b"c"]})
    assert overlaps == (
        Overlap("train", "craft", (b"a", b"b")),
        Overlap("craft", "evaluation", (b"c",)),
    )


def test_fingerprint_depends_on_pixels_labels_ids_parts_and_order() -> None:
    keys = Keys(["a", "b"], [0, 1], [b"0" * 16, b"1" * 16], [b"2" * 16, b"3" * 16])
    empty = Keys([], [], [], [])

    def of(train: Keys, craft: Keys = empty) -> str:
        parts = {"train": train, "calibration": empty, "craft": craft, "evaluation": empty}
        return fingerprint({part: part_fingerprint(part_keys) for part, part_keys in parts.items()})

    changed = [
        Keys(["a", "c"], keys.labels, keys.content, keys.pixels),
        Keys(keys.ids, [0, 2], keys.content, keys.pixels),
        Keys(keys.ids, keys.labels, keys.content, [b"2" * 16, b"4" * 16]),
        Keys(*(list(reversed(values)) for values in vars(keys).values())),
    ]
    assert len({of(keys), of(empty, keys), *map(of, changed)}) == 6
    # The source's hash decides the order only; what it does not change in the parts is no change.
    assert of(keys) == of(Keys(keys.ids, keys.labels, [b"x" * 16] * 2, keys.pixels))


def test_pixel_hashes_are_those_of_the_bytes_whatever_the_strides() -> None:
    pixels = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    expected = [content_hash(pixels[0].tobytes()), content_hash(pixels[1].tobytes())]
    assert pixel_hashes(pixels) == expected
    assert pixel_hashes(np.asfortranarray(pixels)) == expected
