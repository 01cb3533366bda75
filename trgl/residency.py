"""What has to be on the device, and what can wait in main memory."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from .encoder import FrozenEncoder
from .network import GreedyNetwork
from .step import LocalStep


class Residency:
    """Keeps what does not train off the device.

    The optimizer state of modules that do not train in an epoch waits in main memory, and comes
    back when they train again; that of a shared head stays. With `offload` the modules themselves
    wait too, unless features have to pass through them. All tensors keep their values bit by bit.
    On the CPU nothing moves.

    Args:
        network: from `trgl.split`, on the device.
        steps: of its modules, front to back.
        device: of the run.
        offload: modules wait too.

    Raises:
        ValueError: offload is neither True nor False.
    """

    def __init__(
        self,
        network: GreedyNetwork,
        steps: Sequence[LocalStep],
        device: torch.device,
        offload: bool = False,
    ) -> None:
        if not isinstance(offload, bool):
            raise ValueError(
                f"offload must be True or False, but got {offload!r}. It says whether modules wait "
                f"in main memory."
            )
        self.network = network
        self.steps = steps
        self.device = device
        self.offload = offload
        users = Counter(id(optimizer) for step in steps for optimizer in step.optimizers)
        self._optimizers = [
            (step.number, optimizer)
            for step in steps
            for optimizer in step.optimizers
            if users[id(optimizer)] == 1
        ]
        # layers and heads, not bodies: end to end, other bodies hold the same layers
        encoder = network.encoder
        bodies = [module.body for _, module in network.trained]
        parts = list(encoder.units) if isinstance(encoder, FrozenEncoder) else []
        parts += [unit for body in bodies for unit in body.units]
        parts += [module.head for _, module in network.trained]
        parts += [m.local_loss for _, m in network.trained if m.local_loss is not None]
        self._parts = {id(part): part for part in parts}
        self._away: set[int] = set()  # parts
        self._waiting: set[int] = set()  # tensors of optimizer states
        self._parked: set[int] = set()  # optimizers

    def check(self, phases: Sequence[Sequence[int]], cached: bool) -> None:
        """Holds that something can wait.

        Args:
            phases: the modules that train in every epoch.
            cached: the features of a frozen encoder are kept, after which it can wait too.

        Raises:
            ValueError: `offload` is asked for, and everything is needed in every epoch.
        """
        encoder_waits = cached and isinstance(self.network.encoder, FrozenEncoder)
        always = all(step.number in active for active in phases for step in self.steps)
        if self.offload and always and not encoder_waits:
            raise ValueError(
                "Offloading keeps modules in main memory that are not needed in an epoch, but got "
                "offload=True and all train in every epoch of this run. Leave it out, or use a "
                "sequential regime with several modules."
            )

    @property
    def moves(self) -> bool:
        """Whether the device has a memory of its own."""
        return self.device.type != "cpu"

    def begin(self, active: Sequence[int]) -> None:
        """Begins an epoch in which the modules `active` train; the others leave."""
        if not self.moves:
            return
        for number, optimizer in self._optimizers:
            if (id(optimizer) in self._parked) == (number in active):
                self._move_state(optimizer)
        if not self.offload:
            return
        first, last = min(active), max(active)
        needed: list[nn.Module] = []
        for step in self.steps:
            if step.number in active:
                needed.append(step.module)
            elif first < step.number < last:
                needed.append(step.module.body)
        keep = {id(layer) for module in needed for layer in module.modules()}
        for key, part in self._parts.items():
            if key not in keep and key not in self._away:
                part._apply(self.send)
                self._away.add(key)
        self.bring(needed)

    def bring(self, modules: Iterable[nn.Module]) -> None:
        """Puts modules on the device, where they stay until the next epoch begins."""
        if not self._away:
            return
        for module in modules:
            for layer in module.modules():
                if id(layer) in self._away:
                    layer._apply(self.fetch)
                    self._away.discard(id(layer))

    def close(self) -> None:
        """Ends a run: all modules are on the device again; optimizer states wait where they are."""
        self.bring(self._parts.values())

    def forget(self) -> None:
        """Optimizers have got new states, which are on the device."""
        self._waiting.clear()
        self._parked.clear()

    def send(self, tensor: Tensor) -> Tensor:
        """The same values in main memory."""
        return tensor.cpu()

    def fetch(self, tensor: Tensor) -> Tensor:
        """The same values on the device."""
        return tensor.to(self.device)

    def _move_state(self, optimizer: Optimizer) -> None:
        """Sends an optimizer's state away, or fetches what was sent: a step count may live there.

        Tensors that were in main memory all along, such as step counts, stay where they are.
        """
        parked = id(optimizer) in self._parked

        def move(tensor: Tensor) -> Tensor:
            if parked:
                if id(tensor) not in self._waiting:
                    return tensor
                self._waiting.discard(id(tensor))
                return self.fetch(tensor)
            if tensor.device.type == "cpu" and self.device.type != "cpu":
                return tensor
            sent = self.send(tensor)
            self._waiting.add(id(sent))
            return sent

        for key, values in optimizer.state.items():
            optimizer.state[key] = tree_map_only(Tensor, move, values)
        (self._parked.discard if parked else self._parked.add)(id(optimizer))
