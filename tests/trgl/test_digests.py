"""Digests tell images, states and generators apart, and leave tensors as they are."""

import torch
from small import SHAPE, network
from torch import Tensor, nn

from trgl.digests import fingerprints, generators, keys_of

FLOATS = torch.randn(21, *SHAPE)


class Extra(nn.Linear):
    """A layer whose state has a part that is no tensor, as those of quantization have."""

    def __init__(self, value: object) -> None:
        super().__init__(4, 4)
        self.value = value

    def get_extra_state(self) -> object:
        return self.value

    def set_extra_state(self, state: object) -> None:
        self.value = state


def test_digests_tell_apart_what_differs():
    keys = keys_of(FLOATS)
    assert len(set(keys)) == 21
    assert keys_of(FLOATS[[4, 4, 2]]) == [keys[4], keys[4], keys[2]]
    assert keys_of(FLOATS.contiguous(memory_format=torch.channels_last)) == keys
    assert keys_of(FLOATS.bfloat16()) == keys_of(FLOATS.bfloat16())
    near = FLOATS.clone()
    near[0, 1, 2, 3] = torch.nextafter(near[0, 1, 2, 3], torch.tensor(9.0))
    assert keys_of(near)[0] != keys[0]
    assert keys_of(near)[1:] == keys[1:]

    one, two = network(modules=2), network(modules=2)
    bodies = [[module.body for module in net] for net in (one, two)]
    assert fingerprints(bodies[0]) == fingerprints(bodies[1])
    assert len(set(fingerprints(bodies[0]))) == 3
    for name, tensor in two[1].body.state_dict().items():
        before = tensor.clone()
        tensor.copy_(tensor + 1)
        assert fingerprints(bodies[0])[:2] == fingerprints(bodies[1])[:2]
        assert fingerprints(bodies[0])[2] != fingerprints(bodies[1])[2], name
        tensor.copy_(before)
    before = generators(torch.device("cpu"))
    torch.rand(())
    assert not torch.equal(before[0], generators(torch.device("cpu"))[0])


def test_an_extra_state_is_part_of_it():
    layer = Extra({"scale": 1.5})
    before = fingerprints([layer])
    assert fingerprints([layer]) == before
    layer.value = {"scale": 1.25}
    assert fingerprints([layer])[1] != before[1]
    layer.value = torch.ones(3)
    tensor = fingerprints([layer])
    layer.value = torch.full((3,), 2.0)
    assert len({before[1], tensor[1], fingerprints([layer])[1]}) == 3


def test_an_extra_state_that_cannot_be_written_counts_as_changed():
    layer = Extra(lambda: None)  # cannot be pickled
    assert fingerprints([layer])[1] != fingerprints([layer])[1]


def test_what_was_digested_can_be_resized_and_released():
    layer, images = nn.Linear(4, 4), torch.randn(5, 3)
    fingerprints([layer])
    keys_of(images)
    for tensor in (layer.weight, layer.bias, images):
        assert tensor.untyped_storage().resizable()


def test_shapes_of_all_kinds():
    kinds: list[Tensor] = [torch.ones(2, 0), torch.ones(()), torch.ones(3, dtype=torch.bfloat16)]
    layer = nn.Module()
    for position, tensor in enumerate(
        [*kinds, torch.ones(3, 4).t(), torch.ones(1, 1).expand(3, 4)]
    ):
        layer.register_buffer(f"b{position}", tensor)
    assert fingerprints([layer]) == fingerprints([layer])
