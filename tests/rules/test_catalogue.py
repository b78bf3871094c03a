"""The catalogue itself: codes, pages and tests of every rule, from the live registry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bninspect._plugins import plugins
from bninspect.rules import catalogue
from bninspect.rules._rule import SECTIONS, Rule

TESTS = "\n".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
EXPECTED = (
    [f"BN1{n:02}" for n in range(1, 17)]
    + [f"BN2{n:02}" for n in range(1, 12)]
    + [f"BN3{n:02}" for n in range(1, 9)]
    + [f"BN4{n:02}" for n in range(1, 13)]
    + [f"BN5{n:02}" for n in range(1, 6)]
)
RULES = list(catalogue().values())


def test_the_catalogue_is_whole():
    assert list(catalogue()) == EXPECTED
    functions = [value for module in plugins("rules").values() for value in vars(module).values()]
    found = {id(value) for value in functions if isinstance(value, Rule)}
    assert len(found) == len(RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_has_a_page(rule):
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", rule.name)
    assert rule.severity in ("error", "warning", "info")
    assert 10 < len(rule.title) < 100
    assert "\n\n" in rule.page
    for section in SECTIONS:
        assert len(rule.section(section)) > 10, section
    if rule.thresholds:
        thresholds = rule.section("Thresholds")
        assert all(re.search(rf"\b{name}\b", thresholds) for name in rule.thresholds)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_has_tests_that_it_fires_and_that_it_does_not(rule):
    code = rule.code.lower()
    assert re.search(rf"^def test_{code}_(\w+_)?hits", TESTS, re.MULTILINE)
    assert re.search(rf"^def test_{code}_(\w+_)?misses", TESTS, re.MULTILINE)


def test_the_family_is_that_of_the_file():
    families = {
        "state": "BN1",
        "start": "BN1",
        "mode": "BN2",
        "graph": "BN3",
        "data": "BN4",
        "data_batches": "BN4",
        "data_inputs": "BN4",
        "training": "BN5",
    }
    for name, module in plugins("rules").items():
        codes = [value.code for value in vars(module).values() if isinstance(value, Rule)]
        assert bool(codes) == (name in families)
        assert all(code.startswith(families[name]) for code in codes)


def test_rules_are_read_without_torch():
    code = "import sys; from bninspect.rules import catalogue; catalogue(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
