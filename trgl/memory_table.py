"""The memory of one model, trained in several ways."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from trgl.forecast import Peak, largest_batch, predict_steps
from trgl.measure import Measured, measure_steps
from trgl.memory import SavedBytes, count_network, count_whole
from trgl.network import GreedyNetwork
from trgl.split import split
from trgl.transport import Transport
from trgl.zoo import Subject
from trgl_kernels import regularize
from trgl_kernels.blocks import Regularized
from trgl_kernels.convert import twin_of

METHODS = {
    "end-to-end": "ordinary training, without a penalty",
    "checkpointed": "end-to-end, every residual block run again in backward "
    "(torch.utils.checkpoint)",
    "vanilla": "module-wise, without a penalty",
    "regularized": "module-wise, with the penalty, nothing run again (--recompute none)",
    "recompute": "with the penalty, activations rebuilt in backward (what trgl.split chooses)",
    "recompute-heads": "and the heads run again in backward (of a recipe those that it says)",
    "balanced": "as recompute, cut so that the heaviest module keeps as little as it can; a "
    "recipe's heads as it says",
}
_WHOLE = ("end-to-end", "checkpointed")
UNPENALIZED = (*_WHOLE, "vanilla")


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Args:
        subject: the model.
        batch: N.
        modules: numbers of modules, each for every module-wise method.
        methods: names in `METHODS`; end-to-end comes first, asked for or not.
        device: "cpu" or a GPU's name.
        autocast: bfloat16 or None.
        fit: bytes for which the largest batch is sought; None seeks none.
        measure: train two batches as well.
    """

    subject: Subject
    batch: int
    modules: Sequence[int]
    methods: Sequence[str]
    device: str = "cpu"
    autocast: torch.dtype | None = None
    fit: int | None = None
    measure: bool = False


@dataclass(frozen=True)
class Row:
    """One method with one number of modules.

    Args:
        method: a name in `METHODS`.
        modules: K; 1 for the methods that train end to end.
        blocks: layers or blocks of every module that trains.
        saved: what each of them keeps for backward.
        peaks: of their steps, predicted.
        measured: of their steps; empty where nothing was measured.
        fits: the largest batch; None where none was sought.
    """

    method: str
    modules: int
    blocks: list[int]
    saved: list[SavedBytes]
    peaks: list[Peak]
    measured: list[Measured]
    fits: int | None

    @property
    def saved_totals(self) -> list[int]:
        """Bytes that every module keeps for backward."""
        return [one.total for one in self.saved]

    def as_dict(self) -> dict[str, Any]:
        """Everything, in bytes, as values that JSON knows."""
        values = dataclasses.asdict(self)
        for saved, total in zip(values["saved"], self.saved_totals, strict=True):
            saved["total"] = total
        return values


def methods_for(subject: Subject) -> tuple[str, ...]:
    """The methods that say something of a model: all, but for what it has not."""
    methods = METHODS if subject.has_energies else UNPENALIZED
    blocks = _has_blocks(subject.build())
    return tuple(method for method in methods if blocks or method != "checkpointed")


def _has_blocks(model: nn.Module) -> bool:
    return any(isinstance(m, Regularized) or twin_of(m) is not None for m in model.modules())


def check(plan: Plan) -> None:
    """Holds that the model can be cut into as many modules as are asked for, and penalized.

    Raises:
        ValueError: as `trgl.split`; or a penalty is asked for, and a module has nothing to measure;
            or checkpointing of residual blocks, and there are none.
    """
    model = plan.subject.build()
    if "checkpointed" in plan.methods and not _has_blocks(model):
        raise ValueError(
            "checkpointed runs every residual block again, but the model has none that is known; "
            "leave checkpointed out of --methods."
        )
    if all(method in _WHOLE for method in plan.methods):
        return
    penalized = any(method not in UNPENALIZED for method in plan.methods)
    for modules in plan.modules if penalized else [max(plan.modules)]:
        network = network_of(plan.subject, model, "vanilla", modules)
        bare = [k for k, module in enumerate(network, 1) if module.energy_terms == 0]
        if penalized and bare:
            raise ValueError(
                f"the penalty needs a block whose energy is measured in every module, but of "
                f"{modules} modules the number {bare[0]} has none; ask for fewer modules, or for "
                f"--methods end-to-end,vanilla."
            )


def rows(plan: Plan) -> Iterator[Row]:
    """The rows of the table, each as soon as it is known.

    Raises:
        ValueError: a model that cannot be split so, or cannot take such images.
    """
    model = plan.subject.build()
    yield _row(plan, model, "end-to-end", 1)
    for method in plan.methods:
        if method in _WHOLE and method != "end-to-end":
            yield _row(plan, model, method, 1)
    for modules in plan.modules:
        for method in plan.methods:
            if method not in _WHOLE:
                yield _row(plan, model, method, modules)


def network_of(
    subject: Subject,
    model: nn.Module,
    method: str,
    modules: int,
    autocast: torch.dtype | None = None,
) -> GreedyNetwork:
    """A network as a method trains it, of a copy of the model.

    Raises:
        ValueError: as `trgl.split`.
    """
    again = method in ("recompute", "recompute-heads", "balanced")
    copied = copy.deepcopy(model)
    if _has_blocks(copied):
        regularize(copied, "activation" if again else "none")
    balance: str | Sequence[int] = subject.by_hand.get(modules, "depth")
    network = split(
        copied,
        modules,
        subject.shape,
        subject.classes,
        balance="memory" if method == "balanced" else balance,
        recompute_heads=_heads_again(subject, method, modules),
        autocast=autocast,
        **{**subject.options, "head": subject.head(modules)},
    )
    if method == "checkpointed":
        for parent in list(network.modules()):
            for name, child in list(parent._modules.items()):
                if isinstance(child, Regularized):
                    parent._modules[name] = _Checkpointed(child)
    return network


def _heads_again(subject: Subject, method: str, modules: int) -> bool | int:
    """Which heads run again: a recipe's own number of them where it has one."""
    own = min(subject.recompute_heads, modules)
    if method == "recompute-heads":
        return own or True
    return own if method == "balanced" else 0


class _Checkpointed(nn.Module):
    """A block that keeps its input alone, and runs again in backward."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        for kind in type(block).__mro__:  # as one has it without this package, where it is known
            if not issubclass(kind, Regularized) and kind is not nn.Module:
                if issubclass(kind, nn.Module):
                    block.__class__ = kind
                break

    def forward(
        self,
        x: Tensor,  # [N, *]
    ) -> Tensor:  # [N, *]
        with set_checkpoint_early_stop(False):
            y: Tensor = checkpoint(self.block, x, use_reentrant=False)
        return y


def _row(plan: Plan, model: nn.Module, method: str, modules: int) -> Row:
    try:
        return _computed(plan, model, method, modules)
    except ValueError as error:
        if plan.batch > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"a BN trains on at least two values of each channel, but the model has one whose "
            f"features of one image are a single pixel, received batch 1; use 2 images or more, or "
            f"heads without BN, such as --head linear ({method})."
        ) from error


def _computed(plan: Plan, model: nn.Module, method: str, modules: int) -> Row:
    network = network_of(plan.subject, model, method, modules, plan.autocast).to(plan.device)
    whole = method in _WHOLE
    penalty = not whole and method != "vanilla"
    keywords: dict[str, Any] = {
        "regime": "end-to-end" if whole else "parallel",
        "transport": Transport() if penalty else None,
        "autocast": plan.autocast,
    }
    saved = (
        [count_whole(network, plan.batch, autocast=plan.autocast)]
        if whole
        else count_network(network, plan.batch, penalty=penalty, autocast=plan.autocast)
    )
    fits = None
    if plan.fit is not None:
        fits = largest_batch(
            lambda n: max(peak.total for peak in predict_steps(network, n, **keywords)), plan.fit
        )
    return Row(
        method=method,
        modules=modules,
        blocks=[len([n for n, _ in one.blocks if n != "body"]) for one in saved],
        saved=saved,
        peaks=predict_steps(network, plan.batch, **keywords),
        measured=measure_steps(network, plan.batch, **keywords) if plan.measure else [],
        fits=fits,
    )
