"""`launcher.kubernetes.yaml`: what is written reads as the same values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.kubernetes.yaml import to_yaml

yaml = pytest.importorskip("yaml", reason="needs PyYAML, of the extra test")

# What Kubernetes can be sent at all: YAML knows no other characters.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff")
TEXTS = st.text(CHARACTERS, max_size=12) | st.sampled_from(
    ["yes", "No", "null", "~", "1e3", "0x1f", "2026-01-01", "-", "- a", "a: b", "#a", "&a", "*a"]
)
VALUES = st.recursive(
    TEXTS | st.integers(-(2**31), 2**31) | st.booleans(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(TEXTS, inner, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4))
def test_values_survive(value: dict[str, object]) -> None:
    """Texts stay texts, whatever they look like."""
    assert yaml.safe_load(to_yaml(value)) == value


def test_the_form_is_that_of_kubectl() -> None:
    """People read it."""
    text = to_yaml({"kind": "Job", "spec": {"rules": [{"a": 1, "b": ["x", "1"]}], "on": True}})

    assert text == (
        'kind: Job\nspec:\n  rules:\n  - a: 1\n    b:\n    - x\n    - "1"\n  "on": true\n'
    )
