"""What `python -m tests.portable` plays, and how it counts."""

from __future__ import annotations

from pathlib import Path

from tests.portable import INSTRUCTION_SETS, THREADS, playable, read, settings

REPORT = """<testsuites><testsuite>
  <testcase classname="tests.a" name="test_held"/>
  <testcase classname="tests.a" name="test_broke[1]"><failure message="assert 1 &lt; 0&#10;where">t</failure></testcase>
  <testcase classname="tests.b" name="test_no_fixture"><error message="no such file">trace</error></testcase>
  <testcase classname="tests.b" name="test_elsewhere"><skipped message="no engine"/></testcase>
</testsuite></testsuites>"""


def test_every_set_is_played_with_every_number_of_threads_and_seeds_follow() -> None:
    found = list(settings(tuple(INSTRUCTION_SETS), 5))
    assert len(found) == len(INSTRUCTION_SETS) * len(THREADS) + 5
    assert {(each.environment["ATEN_CPU_CAPABILITY"], each.threads) for each in found[:-5]} == {
        (name.lower(), threads) for name in INSTRUCTION_SETS for threads in (1, 2)
    }
    assert [each.shift for each in found] == [0] * (len(found) - 5) + [1, 2, 3, 4, 5]
    assert len({each.title for each in found}) == len(found)


def test_the_plainest_set_can_always_be_played() -> None:
    assert next(playable()) == "DEFAULT"


def test_skipped_tests_were_not_tried_and_broken_ones_are_told(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    outcome = read(report)
    assert outcome.tried == 3
    assert outcome.broken == ("tests.a::test_broke[1]: assert 1 < 0", "tests.b::test_no_fixture: no such file")
