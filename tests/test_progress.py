"""How much time is left is learnt from the stages themselves, each kind by its own speed."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ia_lib.workflow import progress

pytestmark = pytest.mark.quick


class Stage:
    """As much of a stage as is looked at; `takes` is its time in seconds, `cost` what the kit thinks of it."""

    def __init__(self, name, cost, takes, before=0.0):
        self.name, self._cost, self.takes, self.before = name, cost, takes, before
        self.share, self.working, self.needs = before, False, []
        self.run, self.part = SimpleNamespace(corpus="minilab"), Path("no such folder")

    def __str__(self):
        return f"{self.name} {id(self)}"

    def cost(self):
        return self._cost

    def notebook(self, kind=""):
        return SimpleNamespace(is_file=lambda: self.working if kind == "running" else False, stat=lambda: None)


@pytest.fixture
def watched(monkeypatch, capsys):
    """A function that carries stages out one after the other and gives (seconds that are left, what is said)."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(progress.Watch, "_share", lambda self, stage: stage.share)
    monkeypatch.setattr(progress, "_minutes", lambda seconds: f"{seconds:.1f}")

    def carried_out(stages, starts=5.0):
        watch, said = progress.Watch(stages), []
        for number, stage in enumerate(stages):
            stage.working, begin, of = True, now[0], stage.takes * (1 - stage.before)
            while now[0] < begin + starts + of:
                now[0] += 1
                worked = max(0.0, now[0] - begin - starts)
                stage.share = min(0.99, stage.before + worked / stage.takes) if worked < of else 1.0
                watch.look()
                later = sum(one.takes + starts for one in stages[number + 1 :])
                line = capsys.readouterr().out
                if "left" in line:
                    said.append((begin + starts + of - now[0] + later, line.rsplit("  ", 1)[1].strip()))
                watch.next_line = 0.0
            stage.working = False
        return said

    return carried_out


def told(said):
    return [(left, float(text.split()[-2]), text.split()[0]) for left, text in said]


def test_a_long_stage_tells_from_its_own_first_steps(watched):
    # the kit thinks that tuning takes 50 s; it takes 900
    found = told(watched([Stage("data", 6, 6), Stage("tune", 50, 900), Stage("tune", 50, 900)]))
    later = [(left, guess) for left, guess, _ in found if left < 1750]
    assert len(later) > 1500
    for left, guess in later:
        assert guess == pytest.approx(left, rel=0.15, abs=15)


def test_a_resumed_stage_does_not_count_what_was_done_before(watched):
    found = told(watched([Stage("tune", 50, 1000, before=0.7)], starts=20.0))
    for left, guess, _ in found:
        assert guess == pytest.approx(left, rel=0.1, abs=15)
    assert len(found) > 250


def test_kinds_that_none_was_of_are_told_as_such(watched):
    found = told(watched([Stage("data", 6, 6), Stage("tune", 50, 500), Stage("evaluate", 200, 100)]))
    assert {word for left, _, word in found if 110 < left < 400} == {"at"}  # at least
    assert {word for left, _, word in found if left < 98} == {"about"}
    assert all(guess == pytest.approx(left, rel=0.15, abs=15) for left, guess, _ in found if left < 98)


def test_what_costs_little_says_little_of_what_costs_much(watched):
    # a real model: the data stage is slow for what it costs, tuning and evaluation are as fast as each other
    found = told(watched([Stage("data", 6, 20), Stage("tune", 1500, 400), Stage("evaluate", 1800, 500)]))
    assert all(guess == pytest.approx(left, rel=0.3) for left, guess, _ in found if 100 < left < 810)


def test_what_waits_for_another_stage_is_not_done_beside_it(monkeypatch):
    monkeypatch.setattr(progress.os, "cpu_count", lambda: 2)
    tune, evaluate, other = Stage("tune", 1, 1), Stage("evaluate", 1, 1), Stage("evaluate", 1, 1)
    evaluate.needs = [tune]
    watch = progress.Watch([tune, evaluate, other])
    left = {str(tune): 300.0, str(evaluate): 200.0, str(other): 100.0}
    assert watch._in_turn(left) == 500
    assert watch._in_turn(left | {str(tune): 0.0}) == 200
    assert watch._in_turn(left | {str(other): 450.0}) == 500
    monkeypatch.setattr(progress.os, "cpu_count", lambda: 1)
    assert watch._in_turn(left) == 600
