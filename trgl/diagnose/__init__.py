"""What the papers argue from, measured on a trained network, module by module."""

from trgl.diagnose.lipschitz import QUANTILES, LipschitzRatios, lipschitz_ratios
from trgl.diagnose.modules import Diagnosis, ModuleDiagnosis, diagnose
from trgl.diagnose.sample import draw
from trgl.diagnose.separability import Separability, separability
from trgl.diagnose.transport import TransportGap, transport_gap

__all__ = [
    "QUANTILES",
    "Diagnosis",
    "LipschitzRatios",
    "ModuleDiagnosis",
    "Separability",
    "TransportGap",
    "diagnose",
    "draw",
    "lipschitz_ratios",
    "separability",
    "transport_gap",
]
