"""The public names, and what importing them costs."""

import subprocess
import sys

import pytest

import trgl_kernels
from trgl_kernels import blocks


@pytest.mark.parametrize("package", [trgl_kernels, blocks], ids=lambda p: p.__name__)
def test_every_name_is_there(package) -> None:
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'RegularizedUnicorn'"):
        package.RegularizedUnicorn  # noqa: B018


def test_torchvision_is_imported_for_its_blocks_alone() -> None:
    script = (
        "import sys, torch, trgl.cli.main, trgl_kernels\n"
        "trgl_kernels.regularize(trgl_kernels.RegularizedPreActBlock(4, 4))\n"
        "assert 'torchvision' not in sys.modules\n"
        "trgl_kernels.RegularizedBasicBlock\n"
        "assert 'torchvision.models' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
