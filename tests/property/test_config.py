"""Laws of documents: dumping loses nothing, and no text breaks the loader."""

from copy import deepcopy
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.load import Source, load
from appliance.config.model import Model, changes, diff, dump
from appliance.config.notes import DocumentErrors, Note
from tests.property.documents import DOCUMENTS


def loaded(documents: list[dict[str, Any]]) -> Model:
    return load([Source("x", yaml.safe_dump_all(documents))])


def notes_of(text: str) -> tuple[Note, ...]:
    try:
        load([Source("x", text)])
    except DocumentErrors as error:
        return error.notes
    return ()


@given(DOCUMENTS)
@settings(max_examples=60, deadline=None)
def test_load_undoes_dump(documents: list[dict[str, Any]]) -> None:
    model = loaded(documents)
    assert len(model.documents) == len(documents)
    again = load([Source("y", dump(model))])
    assert again == model
    assert dump(again) == dump(model)
    assert diff(model, again) == ""


@given(DOCUMENTS, DOCUMENTS)
@settings(max_examples=30, deadline=None)
def test_a_diff_is_empty_only_between_equals(a: list[Any], b: list[Any]) -> None:
    before, after = loaded(a), loaded(b)
    assert (diff(before, after) == "") == (before == after)
    changed = [change for change in changes(before, after) if change.what != "unchanged"]
    assert bool(changed) == (before != after)


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_text_loads_or_is_refused(text: str) -> None:
    assert all(note.text for note in notes_of(text))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(DOCUMENTS.filter(bool), st.data())
@settings(max_examples=60, deadline=None)
def test_a_value_of_any_type_anywhere_loads_or_is_refused(
    documents: list[dict[str, Any]], data: st.DataObject
) -> None:
    documents = deepcopy(documents)
    node: Any = documents[0]
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        inner = node[key]
        if not (isinstance(inner, dict | list) and inner) or data.draw(st.booleans()):
            node[key] = data.draw(VALUES)
            break
        node = inner
    assert all(note.text and note.line > 0 for note in notes_of(yaml.safe_dump_all(documents)))
