"""appliance.registry.revisions: a change is kept before it is published, and current after."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config.model import Model
from appliance.errors import Conflict, NotFound
from appliance.registry.revisions import REVISIONS_MAX, Revisions
from appliance.registry.store import Store
from tests.unit.appliance.sites import model, own, policy

ONE = model(policy("{action: DENY, rules: [{}]}", "one"))
TWO = model(
    policy("{action: DENY, rules: [{}]}", "one"), own("Service", "s", "{ports: [{port: 1}]}")
)
CHANGED = model(policy("{action: ALLOW, rules: [{}]}", "one"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state.db")


@pytest.fixture
def revisions(store: Store) -> Revisions:
    return Revisions(store)


def done(revisions: Revisions, model: Model, before: Model, deadline: int = 0) -> int:
    number = revisions.begin(model, before, now=1, by="t", summary="s", deadline=deadline)
    revisions.finish(number)
    return number


def test_a_revision_is_current_only_when_finished(revisions: Revisions) -> None:
    number = revisions.begin(ONE, Model(), now=1, by="uid 0", summary="one")
    assert revisions.current == 0
    assert revisions.list()[0].state == "publishing"
    revisions.finish(number)
    assert revisions.current == number
    assert revisions.list()[0].state == "applied"
    assert revisions.model(number) == ONE


def test_what_was_begun_is_forgotten_at_the_next_start(store: Store) -> None:
    first = done(Revisions(store), ONE, Model())
    begun = Revisions(store).begin(TWO, ONE, now=2, by="t", summary="s", deadline=99)
    again = Revisions(store)
    assert again.recover() == [begun]
    assert (again.current, again.pending()) == (first, None)
    assert again.list()[0].state == "refused"


def test_generations_rise_with_changes_only(revisions: Revisions) -> None:
    first = done(revisions, ONE, Model())
    second = done(revisions, TWO, ONE)
    third = done(revisions, CHANGED, TWO)
    key = ("AuthorizationPolicy", "default", "one")
    assert [revisions.generations(n)[key] for n in (first, second, third)] == [1, 1, 2]


def test_a_document_that_is_only_written_differently_keeps_its_text(store: Store) -> None:
    selector = "selector: {matchLabels: {%s}}, rules: [{}]"
    before = model(policy("{" + selector % "a: b, c: d" + "}", "one"))
    same = policy("{action: ALLOW, " + selector % "c: d, a: b" + "}", "one")
    first = done(Revisions(store), before, Model())
    after = model(same, own("Service", "s", "{ports: [{port: 1}]}"))
    again = Revisions(store)
    second = done(again, after, again.model(first))
    assert again.model(second) == after
    assert again.generations(second)["AuthorizationPolicy", "default", "one"] == 1


def test_one_change_waits_at_a_time(revisions: Revisions) -> None:
    first = done(revisions, ONE, Model())
    waiting = done(revisions, CHANGED, ONE, deadline=50)
    assert revisions.list()[0].state == "pending"
    with pytest.raises(Conflict, match="waits to be confirmed"):
        revisions.begin(TWO, CHANGED, now=2, by="t", summary="s")
    reverted = revisions.revert("late")
    assert (reverted.revision, reverted.previous, revisions.current) == (waiting, first, first)
    with pytest.raises(Conflict, match="nothing waits"):
        revisions.confirm()


def test_a_confirmed_change_stays(revisions: Revisions) -> None:
    done(revisions, ONE, Model())
    waiting = done(revisions, CHANGED, ONE, deadline=50)
    revisions.confirm()
    assert (revisions.current, revisions.pending()) == (waiting, None)
    assert revisions.before(waiting) == waiting - 1


def test_old_revisions_go_but_never_the_current_one(revisions: Revisions, store: Store) -> None:
    done(revisions, ONE, Model())
    kept = done(revisions, CHANGED, ONE)
    for _ in range(REVISIONS_MAX + 5):
        number = revisions.begin(TWO, CHANGED, now=1, by="t", summary="s")
        revisions.abandon(number, "refused")
    with store.transaction():
        revisions._prune()
    assert len(revisions.list()) == REVISIONS_MAX + 1
    assert revisions.model(kept) == CHANGED
    (texts,) = store.one("SELECT count(*) FROM texts") or (0,)
    assert texts == 3


def test_an_unknown_revision_is_said(revisions: Revisions) -> None:
    with pytest.raises(NotFound, match="no revision 7"):
        revisions.model(7)
    assert revisions.model(0) == Model()
