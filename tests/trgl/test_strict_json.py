"""JSON that every reader takes."""

from __future__ import annotations

import pytest

from trgl.strict_json import to_json


def test_json_is_strict() -> None:
    text = to_json({1: (float("-inf"), 0.5, "é", None, True)}, indent=None)
    assert text == '{"1": [null, 0.5, "é", null, true]}'
    with pytest.raises(TypeError):
        to_json({"a": object()})
