"""One module, one batch."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from trgl_kernels import ModuleBoundary, collect_energy

from .accidents import DeviceMemoryError, Watch, frozen_memory_error, memory_error, naming_memory
from .meter import Meter
from .network import GreedyModule
from .optimizers import Together
from .transport import Weights

Criterion = Callable[[Tensor, Tensor], Tensor]


class LocalStep:
    """The training of one module: call it with a batch, and it hands on the detached features.

    L_k = criterion(F_k(T_k(x)), labels) + C_k · weight,  C_k = mean_i Σ_m e_{m,i} / z_m

    A local loss of the module takes the criterion's place.

    Args:
        number: k; 0 is an encoder that trains.
        module: gives (features, logits); its mode is the caller's business.
        criterion: (logits, labels) -> 0-dim tensor.
        optimizers: of the module's own parameters, and that of a head shared with other modules.
        device: of the module.
        weights: turn criterion and cost into the objective; None leaves out the penalty, and then
            no energy is computed.
        place: which of the weights is this module's, from 1.
        reduction: of the energies, "mean" or "sum".
        p: exponent of the energies.
        forward: what to call instead of the module, such as a compiled one.
        autocast: bfloat16, float16 with loss scaling, or None.
        clip_norm: maximal norm of the module's gradient, its head's included.
        accumulate: batches per optimizer step, whose gradients are averaged.
        replayed: `forward` replays CUDA graphs, into whose outputs the next replay writes.
        shared: parameters of the shared head, whose gradients no other module may see.

    Attributes:
        boundary: frees and counts what the step makes; set its `find`, `release` or `poison` for
            debugging.
        passing: the same for the passes of epochs in which the module does not train.

    Raises:
        ValueError: clip_norm, accumulate or autocast out of its range.

    Source: TRGL (Karkar et al., NeurIPS 2023), equation 10 and algorithm in section 3.2.
    """

    def __init__(
        self,
        number: int,
        module: GreedyModule,
        criterion: Criterion,
        optimizers: Sequence[Optimizer],
        device: torch.device,
        *,
        weights: Weights | None = None,
        place: int = 0,
        reduction: str = "mean",
        p: float = 2.0,
        forward: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
        autocast: torch.dtype | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        replayed: bool = False,
        shared: Sequence[nn.Parameter] = (),
    ) -> None:
        _check_settings(clip_norm, accumulate, autocast)
        self.number = number
        self.module = module
        self.criterion = criterion
        self.optimizers = list(optimizers)
        self.meter = Meter(device, weights is not None)
        self.weights = weights
        self.place = place
        self.reduction = reduction
        self.p = p
        self.forward = module if forward is None else forward
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.replayed = replayed
        self.scaler = torch.amp.GradScaler(device.type) if autocast is torch.float16 else None
        # tracing may leave constants in the compiled code: then what is held is only reported
        own = [module, *([criterion] if isinstance(criterion, nn.Module) else [])]
        self.boundary = ModuleBoundary(
            f"module {number}", own, self.optimizers, release=self.forward is module
        )
        self.passing = ModuleBoundary(f"module {number}, which is frozen", [module])
        self.watch = Watch(number, device)
        self._device = device
        self._samples = 0  # in the last batch
        self._autocast = autocast
        self.parameters = [p for o in self.optimizers for g in o.param_groups for p in g["params"]]
        self._together = Together(self.optimizers, self.parameters)
        self.pending = 0
        self._shared = list(shared) if accumulate > 1 else []
        self.held: list[Tensor | None] = [None] * len(self._shared)

    def begin(self) -> None:
        """Begins a run: forgets gradients of other backward passes and of one interrupted."""
        self.pending = 0
        self._together.rollback.begin()
        self.held = [None] * len(self._shared)
        self.module.zero_grad(set_to_none=True)
        self._together.zero_grad(set_to_none=True)
        if self.scaler is not None:  # its scale goes on, a step begun does not
            scale = self.scaler.state_dict()
            self.scaler = torch.amp.GradScaler(self._device.type)
            self.scaler.load_state_dict(scale)

    def __call__(
        self,
        x: Tensor,  # [N, *]
        labels: Tensor,  # [N]
        images: Tensor | None = None,  # [N, *input_shape]
    ) -> Tensor:  # [N, *]
        """Trains the module on one batch; returns its features for the next one, detached.

        Raises `trgl.DivergenceError` where loss or gradient are not finite, and
        `trgl.DeviceMemoryError` where memory runs out; its `updating` says whether an update that
        was under way could not be taken back.

        Whatever else the step made is gone when it returns. A local loss is given the images that
        the network was given; None stands for x.
        """
        self._samples = x.shape[0]
        try:
            with naming_memory(self._memory_error), self.boundary:
                return self._train(x, labels, x if images is None else images)
        except ValueError as error:
            if len(x) > 1 or "value per channel" not in str(error):
                raise
            raise ValueError(
                f"A batch norm trains on more than one value per channel, but module {self.number} "
                f"got a batch of 1 image, perhaps the last one of the epoch. Let the loader drop "
                f"it (drop_last=True), or choose another batch size."
            ) from error

    def _train(self, x: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """The step, in a frame of its own: its local tensors are gone when the boundary closes."""
        first = self.pending == 0
        cost: Tensor | None = None
        with self.precision():
            if self.weights is None:
                features, logits = self.forward(x)
            else:
                with collect_energy(self.p) as energies:
                    features, logits = self.forward(x)
                cost = energies.total(self.reduction)
            criterion = self.criterion(logits, labels)
            if self.module.local_loss is not None:
                criterion = self.module.local_loss(criterion, features, images, labels)
        if not isinstance(criterion, Tensor) or criterion.dim() != 0:
            raise _no_loss(self.number, criterion)
        objective = criterion
        if self.weights is not None and cost is not None:
            objective = self.weights.objective(self.place, criterion, cost, first)

        if not objective.requires_grad:
            raise ValueError(
                f"A loss must depend on the parameters that it trains, but that of module "
                f"{self.number} has no graph. Return it as it was computed, without detach()."
            )
        self.watch.loss(objective, criterion, cost, images)
        self._take_held()
        (objective if self.scaler is None else self.scaler.scale(objective)).backward()
        self.meter.add(criterion, cost, logits, labels)
        crossing = self.boundary.cross(features.detach().clone() if self.replayed else features)
        self.pending += 1
        if self.pending == self.accumulate:  # from here on nothing but the update needs memory
            self._update()
        else:
            self._hold(first)
        return crossing

    def update(self) -> None:
        """The optimizer step on the gradients of the batches since the last one, if any.

        Raises `trgl.DivergenceError` and `trgl.DeviceMemoryError` as a batch does.
        """
        with naming_memory(self._memory_error):
            self._update()

    def _update(self) -> None:
        batches, self.pending = self.pending, 0
        if batches == 0:
            return
        self._take_held()
        if self.scaler is not None:
            self.scaler.unscale_(self._together)
        if batches > 1:
            torch._foreach_div_([p.grad for p in self.parameters if p.grad is not None], batches)
        norm = None
        if self.clip_norm is not None:
            norm = clip_grad_norm_(self.parameters, self.clip_norm)
        if self.scaler is None:  # which itself skips an update that is not finite
            self.watch.gradients(self.parameters, norm)
        if self.scaler is None:  # past the hooks and the profiler's mark that `step` gets
            self._together.update()
        else:
            self.scaler.step(self._together)
            self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _memory_error(self, error: RuntimeError) -> DeviceMemoryError:
        broken = self._together.rollback.broken
        return memory_error(error, self.number, self._device, self._samples, broken)

    @torch.no_grad()
    def skip(
        self,
        x: Tensor,  # [N, *]
    ) -> Tensor:  # [N, *]
        """Runs the body only, for a module that does not train in this epoch.

        Whatever else it made is gone when it returns. Raises `trgl.DeviceMemoryError` where memory
        runs out.
        """
        place = self.number, self._device, x.shape[0]
        with naming_memory(lambda error: frozen_memory_error(error, *place)), self.passing:
            return self._pass(x)

    def _pass(self, x: Tensor) -> Tensor:
        with self.precision():
            features: Tensor = self.module.body(x)
        return self.passing.cross(features)

    def precision(self) -> AbstractContextManager[object]:
        """Autocast, where it is asked for."""
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._device.type, self._autocast)

    def _take_held(self) -> None:
        """Gives the shared head this module's gradients back."""
        for position, parameter in enumerate(self._shared):
            if self.held[position] is not None:
                parameter.grad, self.held[position] = self.held[position], None

    def _hold(self, first: bool) -> None:
        """Keeps this module's gradients until it goes on, those of a shared head off that head.

        Those made in the first batch are no surprise to the boundary then; later batches add to
        them in place.
        """
        for position, parameter in enumerate(self._shared):
            self.held[position], parameter.grad = parameter.grad, None
        own = [p.grad for p in self.parameters] if first else []
        for gradient in (*self.held, *own):
            if gradient is not None:
                self.boundary.keep(gradient)


def _no_loss(number: int, criterion: object) -> ValueError:
    if isinstance(criterion, Tensor):
        returned, remedy = f"shape {list(criterion.shape)}", "Use reduction='mean'"
    else:
        returned, remedy = f"a {type(criterion).__name__}", "Return the loss as a tensor"
    return ValueError(
        f"A criterion must return a 0-dimensional tensor, but that of module {number} returned "
        f"{returned}. {remedy}."
    )


def _check_settings(clip_norm: object, accumulate: object, autocast: object) -> None:
    if not isinstance(accumulate, int) or isinstance(accumulate, bool) or accumulate < 1:
        raise ValueError(
            f"accumulate must be a whole number of batches, at least 1, but got {accumulate!r}. "
            f"Leave it out for an optimizer step per batch."
        )
    number = isinstance(clip_norm, Real) and not isinstance(clip_norm, bool)
    if clip_norm is not None and not (number and clip_norm > 0):  # type: ignore[operator]
        raise ValueError(
            f"clip_norm must be a positive number, or None for no bound, but got {clip_norm!r}. "
            f"Give the largest norm that a module's gradient may have."
        )
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(
            f"autocast must be torch.bfloat16, torch.float16 or None, but got {autocast!r}. Leave "
            f"it out for the network's own precision."
        )
