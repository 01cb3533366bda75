"""Wrong arguments are told by name, with what came and the remedy, in the same words everywhere."""

import os
import subprocess
import sys
from pathlib import Path

import mistakes
import pytest
import torch
from mistakes import BACKWARD, GOOD, MISTAKES, TYPES, UNRECOVERABLE, backward, forward, short

from trgl_kernels.call import call

FORWARD = [
    pytest.param(name, arguments, message, id=f"{name}-{i}")
    for table in (MISTAKES, TYPES)
    for name, cases in table.items()
    for i, (arguments, message) in enumerate(cases)
]
BY_HAND = [
    pytest.param(name, arguments, message, id=f"{name}-{argument}-{i % 2}")
    for name in BACKWARD
    for i, (arguments, message) in enumerate(short(name))
    for argument in arguments
]


@pytest.mark.parametrize(("name", "arguments", "message"), FORWARD)
def test_mistakes_are_explained(name, arguments, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        forward(name, arguments)()
    assert str(caught.value).startswith(f"{name}: ")


@pytest.mark.parametrize(("name", "arguments", "message"), BY_HAND)
def test_a_backward_operator_reads_no_further_than_its_arguments(name, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        backward(name, arguments)()


@pytest.mark.parametrize(("name", "arguments", "message"), UNRECOVERABLE)
def test_what_cannot_be_recovered_is_refused(name, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        backward(name, arguments)()


def test_what_is_right_is_not_refused() -> None:
    for name in GOOD:
        forward(name, {})()
    for name in BACKWARD:
        backward(name, {})()


def test_a_failure_of_another_kind_stays_what_it_is() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    fail._schema = torch.ops.trgl.displacement_energy.default._schema
    with pytest.raises(RuntimeError, match="out of memory"):
        call(fail, mistakes.MAP, mistakes.MAP, 2.0)


TELL = """
import mistakes
for call in mistakes.all_calls():
    try:
        call()
    except ValueError as error:
        print(str(error).splitlines()[0])
"""


def test_engines_tell_mistakes_in_the_same_words(engine) -> None:
    if engine != "compiled":
        pytest.skip("needs the compiled engine beside the reference")
    told = []
    for disabled in ("0", "1"):
        environment = {**os.environ, "TRGL_KERNELS_DISABLE_EXTENSION": disabled}
        folders = [str(Path(mistakes.__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
        command = [sys.executable, "-c", TELL]
        told.append(subprocess.run(command, env=environment, capture_output=True, text=True).stdout)
    assert told[0] == told[1]
    assert len(told[0].splitlines()) == len(list(mistakes.all_calls()))
