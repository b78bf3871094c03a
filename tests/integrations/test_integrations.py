"""What is said where a trainer's package is not installed."""

from __future__ import annotations

import sys

import pytest

from bninspect import integrations
from bninspect.errors import SourceError


@pytest.mark.parametrize(("name", "package"), [("LightningWatch", "lightning"), ("TransformersWatch", "transformers")])
def test_a_package_that_is_missing_is_named(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.pytorch", None)
    monkeypatch.delitem(sys.modules, f"bninspect.integrations.{package}", raising=False)
    with pytest.raises(SourceError, match=f"{name} is for {package}, which is not installed: pip install {package}"):
        getattr(integrations, name)


def test_there_is_nothing_else():
    with pytest.raises(AttributeError, match="has no attribute 'KerasWatch'"):
        integrations.KerasWatch  # noqa: B018
