"""The claims as data: complete, and about things that exist."""

from __future__ import annotations

import pytest

from qpatchbench.errors import UnknownNameError
from qpatchbench.papers.claims.hypotheses import Claim, Selection, claims, claims_of
from qpatchbench.papers.claims.select import FACETS
from qpatchbench.papers.printed.published_tables import PAPERS, published_tables
from qpatchbench.registry import REGISTRIES

CLAIMS = claims()


def sides(claim: Claim) -> list[Selection]:
    return [side for side in (claim.hypothesis.rows, claim.hypothesis.baseline) if side is not None]


def test_claims_have_ids_of_their_own() -> None:
    assert len(CLAIMS) >= 30
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert all(claim.id.startswith(f"{claim.paper}-") for claim in CLAIMS)


def test_a_claim_says_where_it_stands_and_rests_on_tables_of_its_paper(subtests: pytest.Subtests) -> None:
    for claim in CLAIMS:
        with subtests.test(claim.id):
            assert claim.paper in PAPERS
            assert claim.where
            assert claim.says
            assert set(claim.tables) <= set(published_tables())
            assert {table.partition(".")[0] for table in claim.tables} <= {claim.paper}


def test_a_hypothesis_is_about_facets_and_components_that_exist(subtests: pytest.Subtests) -> None:
    for claim in CLAIMS:
        with subtests.test(claim.id):
            has_a_hypothesis_about_what_exists(claim)


def has_a_hypothesis_about_what_exists(claim: Claim) -> None:
    hypothesis = claim.hypothesis
    assert hypothesis is not None
    assert {*hypothesis.vary, *hypothesis.each} <= FACETS
    assert "dataset" in hypothesis.each
    assert (hypothesis.baseline is None) == (hypothesis.statistic == "level") == (not hypothesis.vary)
    assert claim.tables or hypothesis.quantity == "gradient_cosine", "which the paper has in a figure"
    for side in sides(claim):
        assert set(side.facets) <= FACETS
        for kind, components in side.components.items():
            for name, fields in components:
                assert set(fields) <= set(REGISTRIES[f"{kind}s"].get(name).model_fields), name
    if hypothesis.quantity == "asr_common":
        # Common images are those of the bit-widths of one training.
        assert hypothesis.vary == ("target_bits",)
    if hypothesis.baseline is not None:
        differing = {
            name
            for name in hypothesis.rows.facets.keys() | hypothesis.baseline.facets.keys()
            if hypothesis.rows.facets.get(name) != hypothesis.baseline.facets.get(name)
        }
        assert differing <= set(hypothesis.vary)


def test_a_hypothesis_in_one_line() -> None:
    (claim,) = (claim for claim in CLAIMS if claim.id == "triqdef-unseen-pbat-points")
    assert str(claim.hypothesis) == "difference of asr below -40 points in every dataset, model, target_bits"
    (claim,) = (claim for claim in CLAIMS if claim.id == "triqdef-unseen-pbat-relative")
    assert str(claim.hypothesis) == "ratio of asr below 0.6 times in every dataset, model, target_bits"
    assert [each.id for each in claim.contradictions] == ["T09", "X02", "X03"]


def test_claims_of_one_paper() -> None:
    assert claims_of(None) == CLAIMS
    assert claims_of("triqdef") + claims_of("qadtr") == CLAIMS
    with pytest.raises(UnknownNameError, match=r"unknown paper 'triqdf'. Did you mean: triqdef\?"):
        claims_of("triqdf")
