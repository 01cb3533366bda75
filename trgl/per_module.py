"""What a user gives once for all modules or once for each, resolved for every module."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .compiled import compiled, replays
from .network import GreedyModule, GreedyNetwork
from .reasons import reason_of
from .step import Criterion, LocalStep
from .transport import Multipliers, Transport, Weights

OptimizerBuilder = Callable[[list[nn.Parameter]], Optimizer]
Epochs = int | Sequence[int] | Callable[[int], int]


def epochs_of(epochs: Epochs, numbers: Sequence[int]) -> dict[int, int]:
    """Epochs of every module, by number.

    Args:
        epochs: a number, a list of one per module, or a function of the module's number.
        numbers: of the modules that train, front to back.

    Raises:
        ValueError: a list of another length, or epochs that are no whole number ≥ 1.
    """
    if callable(epochs):
        counts = [epochs(number) for number in numbers]
    elif isinstance(epochs, Sequence) and not isinstance(epochs, str):
        counts = list(epochs)
        if len(counts) != len(numbers):
            raise ValueError(
                f"A list of epochs needs one entry for each module that trains, {len(numbers)}, "
                f"but got {len(counts)}."
            )
    else:
        counts = [epochs] * len(numbers)
    for number, count in zip(numbers, counts, strict=True):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(
                f"Epochs must be whole numbers of at least 1, but module {number} has {count!r}."
            )
    return dict(zip(numbers, counts, strict=True))


def criteria_of(
    criterion: Criterion | Sequence[Criterion] | None,
    numbers: Sequence[int],
    device: torch.device,
) -> list[Criterion]:
    """Criteria of all modules; None is cross-entropy.

    Args:
        criterion: (logits, labels) -> 0-dim tensor, or a list of one per module.
        numbers: of the modules that train, front to back.
        device: where criteria with weights of their own go.

    Raises:
        ValueError: a list of another length, or an entry that is no callable.
    """
    criteria: list[Criterion]
    if criterion is None:
        criteria = [nn.CrossEntropyLoss()] * len(numbers)
    elif isinstance(criterion, Sequence | nn.ModuleList):
        criteria = list(criterion)
    else:
        criteria = [criterion] * len(numbers)
    if len(criteria) != len(numbers):
        raise ValueError(
            f"A list of criteria needs one entry for each module that trains, {len(numbers)}, but "
            f"got {len(criteria)}."
        )
    for one in criteria:
        if not callable(one):
            raise ValueError(f"A criterion must be a callable, but got {type(one).__name__}.")
        if isinstance(one, type):
            raise ValueError(
                f"A criterion is called with logits and labels, but got the class {one.__name__}. "
                f"Pass an instance: {one.__name__}()."
            )
        if isinstance(one, nn.Module):
            one.to(device)
    return criteria


def build_optimizer(
    builder: OptimizerBuilder, parameters: list[nn.Parameter], owner: str
) -> Optimizer:
    """Calls the user's optimizer callable.

    Args:
        builder: from parameters to an Optimizer.
        parameters: of `owner`.
        owner: for errors.

    Raises:
        ValueError: it is no callable, or it returns something else, or an optimizer of parameters
            that it was not given.
    """
    if not callable(builder):
        raise ValueError(
            f"optimizer must be a callable from parameters to an Optimizer, such as "
            f"lambda parameters: torch.optim.SGD(parameters, lr=0.003), but got "
            f"{type(builder).__name__}."
        )
    optimizer = builder(parameters)
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            f"The optimizer callable must return a torch.optim.Optimizer whose step takes no "
            f"closure, but for {owner} it returned {type(optimizer).__name__}."
        )
    own = set(map(id, parameters))
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    foreign = sum(id(parameter) not in own for parameter in held)
    if foreign:
        raise ValueError(
            f"The optimizer of {owner} must hold parameters that the callable was given, but "
            f"{foreign} of its {len(held)} are others. Build it from the callable's argument."
        )
    return optimizer


def weights_of(
    transport: Transport | Multipliers | None,
    modules: Sequence[tuple[int, GreedyModule]],
    device: torch.device,
    whole: bool = False,
) -> Weights | None:
    """What weighs the transport costs of all modules; None leaves them out.

    Args:
        transport: the user's choice.
        modules: pairs of number and module of all that train, front to back; 0 has no penalty.
        device: of the run.
        whole: the network trains end to end, as one module.

    Raises:
        ValueError: it is something else, it doubles end to end, it has values for another number of
            modules, or a module has no energy to penalize.
    """
    if transport is None:
        return None
    if not isinstance(transport, Transport | Multipliers):
        raise ValueError(
            f"transport must be a trgl.Transport, trgl.Multipliers or None, but got "
            f"{transport!r}. For a fixed weight write transport=trgl.Transport(tau=0.5)."
        )
    if whole and isinstance(transport, Transport) and transport.double:
        raise ValueError(
            "End to end the network is one module, so that tau cannot double in its second half. "
            "Use Transport(tau) without double."
        )
    penalized = [(number, module) for number, module in modules if number > 0]
    for number, module in penalized:
        if module.energy_terms == 0:
            raise ValueError(
                f"A transport cost needs energies, but module {number} has no regularized block "
                f"and measures no displacement. Split with energy='displacement', which needs in "
                f"every module a block that keeps its shape, or with energy='module', which needs "
                f"modules that keep theirs; or train with transport=None. A DenseNet, whose layers "
                f"concatenate, trains without a penalty alone."
            )
    return transport.start(len(penalized), device)


def steps_of(
    modules: Sequence[tuple[int, GreedyModule]],
    optimizer: OptimizerBuilder,
    criteria: Sequence[Criterion],
    device: torch.device,
    *,
    shared: Sequence[nn.Parameter] = (),
    transport: Transport | Multipliers | None = None,
    weights: Weights | None = None,
    whole: bool = False,
    compile: bool | Mapping[str, Any] = False,
    autocast: torch.dtype | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
) -> tuple[list[LocalStep], list[Optimizer]]:
    """The steps of all modules, and the optimizer of the head that they share, if any.

    Args:
        modules: pairs of number and module of all that train, front to back.
        optimizer: from parameters to an Optimizer, called for the shared head, then per module.
        criteria: one per module.
        device: of the run.
        shared: parameters of the head that the modules 1 to K share.
        transport: the user's choice.
        weights: what it gives; module 0 has no penalty.
        whole: the network trains end to end, as one module.
        compile, autocast, clip_norm, accumulate: as for `Trainer`.

    Raises:
        ValueError: a module without parameters that can be trained, or what `build_optimizer` and
            `LocalStep` refuse.
    """
    options = dict(compile) if isinstance(compile, Mapping) else {}
    replayed = bool(compile) and replays(options, device)
    if replayed and accumulate > 1:
        raise ValueError(
            f"Gradients that a CUDA graph made are gone with the next batch, but got accumulate="
            f"{accumulate} with compile={options!r}. Use a larger batch, or another mode."
        )
    together = [build_optimizer(optimizer, list(shared), "the shared head")] if shared else []
    taken = {id(p) for p in shared}
    steps: list[LocalStep] = []
    for (number, module), criterion in zip(modules, criteria, strict=True):
        own = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
        if not own and not shared:
            raise ValueError(
                f"Module {number} has no parameter that can be trained. Use fewer modules, or "
                f"leave its head unfrozen."
            )
        optimizers = [build_optimizer(optimizer, own, f"module {number}")] if own else []
        steps.append(
            LocalStep(
                number,
                module,
                criterion,
                optimizers + (together if number > 0 else []),
                device,
                weights=weights if number > 0 else None,
                place=1 if whole else number,
                reduction="mean" if transport is None else transport.reduction,
                p=2.0 if transport is None else transport.p,
                forward=compiled(module, number, options) if compile else None,
                autocast=autocast,
                clip_norm=clip_norm,
                accumulate=accumulate,
                replayed=replayed,
                shared=shared if number > 0 else (),
            )
        )
    return steps, together


def device_of(device: torch.device | str | None, here: torch.device) -> torch.device:
    """The device of a run.

    Args:
        device: the user's choice; None is `here`.
        here: where the network is.

    Raises:
        ValueError: no such device, or none that this machine has.
    """
    if device is None:
        return here
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"device must be a device that this machine and PyTorch have, but got {device!r}: "
            f"{reason_of(error)} Use 'cpu', or leave it out to train where the network is."
        ) from error
    return found


def check_run(network: object, evaluate_every: object, seed: object, compile: object) -> None:
    """Holds that the settings of a run as a whole are what they must be.

    Raises:
        ValueError: another network than that of `split`, or a setting out of its range.
    """
    if not isinstance(network, GreedyNetwork):
        raise ValueError(
            f"A Trainer trains a GreedyNetwork, but got {type(network).__name__}. Split the model "
            f"first: trgl.split(model, modules, input_shape, num_classes)."
        )
    for name, value, least in (("evaluate_every", evaluate_every, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(
                f"{name} must be a whole number of at least {least}, but got {value!r}. Leave it "
                f"out for the default."
            )
    if not isinstance(compile, bool | Mapping):
        raise ValueError(
            f"compile must be True, False or the options of torch.compile, but got {compile!r}. "
            f"Write options as compile={{'mode': ...}}."
        )
