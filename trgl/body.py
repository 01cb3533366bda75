"""The layers of one module, run in order, under the names that they had in the whole model."""

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from trgl_kernels import collect, displacement_energy

from .tokens import Loose

Unit = tuple[str, nn.Module]


class Names(nn.Module):
    """A level of names between a body and its units, such as `layer1` in `layer1.0.conv1`."""


class Body(nn.Module):
    """T_k: named units run one after the other.

    y = u_n(… u_2(u_1(x)))

    The state_dict keys are those of the model from which the units come: the unit `layer1.0` of a
    ResNet holds `layer1.0.conv1.weight` here too. Units that are residual blocks report their own
    energies; inside a measured span they are silent, and the body reports the displacement of the
    span, ‖y − x‖_p^p. Both happen inside `collect_energy()` only.

    Args:
        units: pairs of a dotted name and a module, in the order of running.
        measured: pairs (first, last) of unit positions, both inclusive, ascending and disjoint:
            the measured spans. Each keeps its shape and does not change its input in place.

    Raises:
        ValueError: no unit, or a name that is taken.

    Source: TRGL (Karkar et al., NeurIPS 2023), equation 2.
    """

    def __init__(self, units: Iterable[Unit], measured: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self._paths: list[tuple[str, ...]] = []
        for name, unit in units:
            self._install(name, unit)
            self._paths.append(tuple(name.split(".")))
        if not self._paths:
            raise ValueError("A module needs at least one layer, but got none. Use fewer modules.")
        self.measured = tuple(measured)

    def _install(self, name: str, unit: nn.Module) -> None:
        *levels, leaf = name.split(".")
        parent: nn.Module = self
        for level in levels:
            child = parent._modules.get(level)
            if child is None:
                child = Names()
                self._check_name(parent, level, name)
                parent.add_module(level, child)
            if not isinstance(child, Names):
                raise ValueError(
                    f"A layer cannot lie inside another one, but {name!r} does. Rename it."
                )
            parent = child
        self._check_name(parent, leaf, name)
        parent.add_module(leaf, unit)
        if isinstance(unit, Loose):
            unit.held_by(parent, leaf)

    def _check_name(self, parent: nn.Module, level: str, name: str) -> None:
        if not level or hasattr(parent, level):
            raise ValueError(
                f"The layers of a module need names that differ and that are no attributes of an "
                f"nn.Module, but {name!r} is taken. Rename the layer."
            )

    @property
    def names(self) -> list[str]:
        """Dotted names of the units, in the order of running."""
        return [".".join(path) for path in self._paths]

    @property
    def units(self) -> list[nn.Module]:
        """The units, in the order of running."""
        found = []
        for path in self._paths:
            unit: nn.Module = self
            for level in path:
                unit = getattr(unit, level)
            found.append(unit)
        return found

    def named_units(self) -> list[Unit]:
        """Pairs of name and unit, as the constructor takes them."""
        return list(zip(self.names, self.units, strict=True))

    def forward(
        self,
        x: Tensor,  # [N, *]
    ) -> Tensor:  # [N, *]
        """Runs the units in order.

        Args:
            x: [N, *], what the first unit takes.

        Returns:
            [N, *], what the last unit gives.
        """
        collector = collect.current() if self.measured else None
        units = self.units
        if collector is None:
            return _run(units, x)
        position = 0
        for first, last in self.measured:
            x = _run(units[position:first], x)
            with collect.no_energy():
                y = _run(units[first : last + 1], x)
            collector.add(displacement_energy(x, y, p=collector.p), math.prod(y.shape[1:]))
            x, position = y, last + 1
        return _run(units[position:], x)


def _run(units: Sequence[nn.Module], x: Tensor) -> Tensor:
    for unit in units:
        x = unit(x)
    return x
