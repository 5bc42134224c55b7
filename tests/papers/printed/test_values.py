"""The transcription: nothing lost, nothing invented, every number in its printed place."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qpatchbench.errors import UnknownNameError
from qpatchbench.papers.printed.contradictions import contradictions
from qpatchbench.papers.printed.published_tables import Block, PublishedTable, published_table, published_tables
from qpatchbench.papers.printed.values import FACETS, PublishedValue, published_values

# Numbers in the tables 1, 2, 3, ... of each paper, counted in the papers.
COUNTS = {
    "triqdef": (32, 24, 18, 24, 144, 10, 48, 32, 24, 16, 16, 24, 48, 32, 32, 48, 40, 8),
    "qadtr": (0, 32, 24, 16, 16, 32, 18, 24, 15, 15, 30, 30, 20, 20, 20, 20, 9, 8, 4, 40, 20),
}
TABLES = tuple(published_tables().values())
SPELLINGS = {"10^{-5}": "1e-05", "10^{-4}": "0.0001", "50%": "50", ">7": "7"}


def drawn() -> list[PublishedValue]:
    return random.Random(20).sample(published_values(), 20)


def test_every_table_has_as_many_numbers_as_the_papers_print() -> None:
    assert [table.name for table in TABLES] == [
        f"{paper}.{number}" for paper, counts in COUNTS.items() for number in range(1, len(counts) + 1)
    ]
    assert [len(table.values) for table in TABLES] == [count for counts in COUNTS.values() for count in counts]
    assert len(TABLES) == 39
    assert len(published_values()) == 1033


def test_the_layouts_hold_every_number_once() -> None:
    placed = [value for table in TABLES for value in table.values]
    assert len(placed) == len(set(placed))
    assert set(placed) == set(published_values())


def test_a_number_stands_in_its_printed_row_and_column(subtests: pytest.Subtests) -> None:
    for table in TABLES:
        with subtests.test(table.name):
            looked_at = [value for block in table.blocks for value in stands_where_it_is_printed(table, block)]
            assert len(looked_at) == len(table.values)


def stands_where_it_is_printed(table: PublishedTable, block: Block) -> Iterator[PublishedValue]:
    """The numbers of a block, each after it was looked at."""
    assert len(set(block.row_names)) == len(block.rows)
    assert len(set(block.column_names)) == len(block.columns)
    for key, (name, row) in zip(block.rows, block.grid(), strict=True):
        for across, column, value in zip(block.columns, block.column_names, row, strict=True):
            if value is not None:
                assert (value.key(table.index), value.key(table.across)) == (key, across)
                assert value.printed_row in name
                assert value.printed_column in f"{name} {column}"
                assert (value.paper, value.table) == (table.paper, table.number)
                yield value


def test_blocks_are_full_but_for_the_table_of_latencies() -> None:
    holes = {
        table.name: sum(value is None for block in table.blocks for _, row in block.grid() for value in row)
        for table in TABLES
    }
    assert {name for name, count in holes.items() if count} == {"triqdef.18"}


def test_a_layout_by_eye() -> None:
    (block,) = published_table("triqdef.1").blocks
    assert block.column_names[:5] == ("LAVAN 32bit", "LAVAN 8bit", "LAVAN 4bit", "LAVAN 2bit", "GAP 32bit")
    rows = {name: [value.value_printed for value in row if value] for name, row in block.grid()}
    assert list(rows) == ["Res-56", "Res-20", "VGG-19", "VGG-16"]
    assert rows["VGG-19"] == ["88.95", "85.56", "79.81", "77.19", "95.79", "59.65", "48.70", "40.69"]


def test_a_table_of_blocks_by_eye() -> None:
    blocks = published_table("triqdef.8").blocks
    assert [block.row_names for block in blocks] == [
        ("source ResNet20",), ("source ResNet56",), ("source VGG-19",), ("source VGG-16",),
    ]  # fmt: skip
    assert blocks[3].column_names[0] == "target VGG-19 32bit"
    assert [value.value_printed for _, row in blocks[3].grid() for value in row if value][:4] == [
        "83.29", "78.48", "76.65", "74.39",
    ]  # fmt: skip


def test_digits_and_marks_are_those_of_the_value() -> None:
    for value in published_values():
        plain = SPELLINGS.get(value.value_printed, value.value_printed.strip("[]"))
        assert float(plain) == pytest.approx(value.value, rel=1e-12), value
        assert " | " in value.printed_as, value
        assert value.metric, value
        assert all(getattr(value, facet) == getattr(value, facet).strip() for facet in FACETS), value


def test_marks_of_the_print_are_kept() -> None:
    printed = [value.value_printed for value in published_values()]
    assert sum(text.startswith("[") for text in printed) == 24
    assert {"[2200]", ">7", "48.70", "10^{-5}", "50%", "1.00"} <= set(printed)


def test_facets_have_a_closed_vocabulary() -> None:
    values = published_values()
    assert {value.dataset for value in values} == {"cifar10", "imagenet", ""}
    assert {value.target_bits for value in values} == {"32", "8", "5", "4", "2", ""}
    assert {value.seen for value in values} == {"seen", "unseen", ""}
    assert all(value.quantization == "fp" for value in values if value.target_bits == "32" and value.quantization)
    assert all(0 <= value.value <= 100 for value in values if value.metric in ("asr", "clean_accuracy"))


def test_numbers_drawn_at_random_pivot_back_and_stand_in_the_paper(subtests: pytest.Subtests) -> None:
    """With QPATCHBENCH_PAPERS=folder of triqdef.txt and qadtr.txt, their line in the paper is looked up too."""
    for value in drawn():
        with subtests.test(f"{value.paper}.{value.table} {value.value_printed}"):
            pivots_back_and_stands_in_the_paper(value)


def pivots_back_and_stands_in_the_paper(value: PublishedValue) -> None:
    table = published_table(f"{value.paper}.{value.table}")
    homes = [block for block in table.blocks if value.key(table.index) in block.rows]
    found = [block.cells.get((value.key(table.index), value.key(table.across))) for block in homes]
    assert value in found
    row = next(row for block in homes for _, row in block.grid() if value in row)
    texts = os.environ.get("QPATCHBENCH_PAPERS")
    if texts:
        assert any(has_row(line, row) for line in (Path(texts) / f"{value.paper}.txt").read_text("utf-8").splitlines())


def has_row(line: str, row: list[PublishedValue | None]) -> bool:
    """Whether a line of text has the numbers of a row, one after the other."""
    printed = [value.value_printed for value in row if value is not None]
    return bool(re.search(r"(?<![\d.])" + r"\D{0,4}\s+\D{0,4}".join(map(re.escape, printed)) + r"(?![\d])", line))


def test_a_row_is_found_by_all_of_its_numbers() -> None:
    row = list(published_table("triqdef.1").blocks[0].grid())[0][1]
    assert has_row("Res-56\t86.43\t83.24\t76.22\t73.08\t84.40\t56.69\t54.22\t47.91", row)
    assert not has_row("Res-56\t86.43\t83.24\t76.22\t73.08\t84.40\t56.69\t54.22\t47.92", row)
    assert not has_row("Res-56\t86.43\t83.24\t76.22\t73.08\t84.40\t56.69\t54.22", row)


def test_the_contradictions_are_all_there_and_name_tables() -> None:
    known = contradictions()
    assert len(known) == 67
    assert len({each.id for each in known}) == 67
    assert {name for each in known for name in each.tables} <= set(published_tables())
    assert [each.id for each in known if not each.tables] == ["X14", "Q11", "Q18"]
    assert [each.id for each in published_table("triqdef.5").contradictions] == [
        *("X02", "X03", "X04", "X16", "T06", "T07", "T08", "T09", "T10", "T23"),
    ]
    assert published_table("qadtr.1").contradictions == ()


def test_a_contradiction_is_in_the_numbers_that_it_names() -> None:
    def clean(table: str) -> list[str]:
        values = published_table(table).values
        return [
            each.value_printed
            for each in values
            if (each.defense, each.target_bits, each.dataset) == ("pbat", "5", "cifar10")
        ]

    # X05: PBAT at 5 bits on CIFAR-10 is 81.6 in one paper and 81.5 in the other.
    assert clean("triqdef.4") == ["81.6"]
    assert clean("qadtr.9") == ["81.5"]


def test_a_table_of_words() -> None:
    table = published_table("qadtr.1")
    assert table.blocks == ()
    assert {(each.row, each.column) for each in table.words} == {
        (row, column) for row in ("at", "pbat", "dwq", "qadtr") for column in ("training", "inference", "resistance")
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("triqdef.55", "unknown table 'triqdef.55'. Did you mean: triqdef.5? Available: qadtr.1, qadtr.10,"),
        ("triqdf.5", "unknown table 'triqdf.5'. Did you mean: triqdef.5?"),
        ("", "unknown table ''. Available: "),
    ],
)
def test_an_unknown_table_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        published_table(name)
    assert str(caught.value).startswith(message)
