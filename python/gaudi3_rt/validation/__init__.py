"""Values, files and tensors from outside: returned unchanged, or refused with an error that says why.

See docs/validation.md.
"""

from gaudi3_rt.validation._tensors import TensorSpec, validate_batch, validate_tensor
from gaudi3_rt.validation._values import DataValidator

__all__ = ["DataValidator", "TensorSpec", "validate_batch", "validate_tensor"]
