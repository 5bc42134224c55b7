"""Names of plugin packages: what is taken as it is, what is refused, and what is suggested instead."""

from __future__ import annotations

import pytest

from qpatchbench.errors import QPatchBenchError
from qpatchbench.scaffold import KINDS, names_for
from qpatchbench.scaffold.naming import Names, checked_names, nearest_name


def test_every_name_follows_from_one() -> None:
    names = names_for("defense", "patch_shield_2")
    assert names == Names("defense", "patch_shield_2")
    assert names.module == "qpatchbench_patch_shield_2"
    assert names.distribution == "qpatchbench-patch-shield-2"
    assert names.class_name == "PatchShield2"


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("PatchShield", "patch_shield"),
        ("HTTPGuard", "http_guard"),
        ("patch-shield", "patch_shield"),
        ("patch shield!", "patch_shield"),
        ("patch__shield", "patch_shield"),
        ("_shield_", "shield"),
        ("2shields", "shields"),
        ("Schild für Bilder", "schild_f_r_bilder"),
        ("../../etc/passwd", "etc_passwd"),
        ("", "my_attack"),
        ("42", "my_attack"),
        ("--", "my_attack"),
    ],
)
def test_a_name_out_of_shape_is_refused_with_the_nearest(typed: str, nearest: str) -> None:
    with pytest.raises(QPatchBenchError) as refused:
        names_for("attack", typed)
    assert str(refused.value) == (
        "expected a name in snake_case (lower-case letters, digits and single underscores, a letter first), found "
        f"{typed!r}. Nearest: {nearest}"
    )
    assert names_for("attack", nearest).name == nearest


@pytest.mark.parametrize("name", ["a", "x2", "a_b_c", "json", "torch", "class"])
def test_names_of_modules_and_keywords_do_no_harm(name: str) -> None:
    assert names_for("defense", name).module == f"qpatchbench_{name}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("attack", "none"),
        ("defense", "true"),
        ("defense", "defense"),
        ("attack", "field"),
        ("model", "preprocessing"),
        ("preprocessor", "mapping"),
        ("dataset", "pools"),
        ("attack", "image_set"),
    ],
)
def test_a_class_that_its_file_would_shadow_is_refused(kind: str, name: str) -> None:
    class_name = Names(kind, name).class_name
    with pytest.raises(QPatchBenchError) as refused:
        names_for(kind, name)
    assert str(refused.value) == (
        f"expected a name whose class is free, found {name!r}: {class_name} means something else in the file that is "
        f"written. Nearest: {name}_{kind}"
    )
    assert names_for(kind, f"{name}_{kind}").class_name not in (class_name, kind.capitalize())


def test_a_name_that_is_too_long_is_refused() -> None:
    assert names_for("model", "x" * 30).class_name == "X" + "x" * 29
    with pytest.raises(QPatchBenchError, match="expected a name of at most 30 characters, found 'x*', which has 31"):
        names_for("model", "x" * 31)


def test_nothing_is_occupied_unless_said() -> None:
    assert checked_names("defense", "field").class_name == "Field"
    with pytest.raises(QPatchBenchError, match="Field means something else"):
        checked_names("defense", "field", frozenset({"Field"}))


def test_the_nearest_name_of_a_good_name_is_itself() -> None:
    for kind in KINDS:
        assert nearest_name(f"my_{kind}_2") == f"my_{kind}_2"
