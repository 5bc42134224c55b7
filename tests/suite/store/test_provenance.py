"""Where results were computed, and what a run says whose jobs were computed in several places."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.suite.store.provenance import device_name, mixture, provenance, ran_on, versions

CPU = torch.device("cpu")
PLACE = {"processor": "P", "instruction set": "AVX2", "threads": "1", "torch": "2.12", "device": "cpu"}


def test_a_record_says_what_its_last_bits_depend_on() -> None:
    found = provenance(1.0, CPU)["ran_on"]
    assert set(found) == set(PLACE)
    assert found["threads"] == str(torch.get_num_threads())
    assert found["torch"] == versions()["torch"]


def test_the_number_of_threads_is_that_of_the_moment() -> None:
    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(kept + 1)
        assert ran_on(CPU)["threads"] == str(kept + 1)
        assert device_name(CPU).endswith(f"{kept + 1} threads")
    finally:
        torch.set_num_threads(kept)


def test_jobs_of_one_place_are_no_mixture() -> None:
    assert mixture([PLACE, PLACE]) == ""
    assert mixture([]) == ""


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({**PLACE, "threads": "2"}, "threads: 1 (2 jobs), 2 (1 jobs)"),
        ({**PLACE, "instruction set": "AVX512"}, "instruction set: AVX2 (2 jobs), AVX512 (1 jobs)"),
        ({**PLACE, "torch": "2.13"}, "torch: 2.12 (2 jobs), 2.13 (1 jobs)"),
        ({}, "processor: P (2 jobs), unknown (1 jobs); "),
    ],
)
def test_what_differs_is_told(other: dict[str, str], text: str) -> None:
    assert mixture([PLACE, PLACE, other]).startswith(text)
