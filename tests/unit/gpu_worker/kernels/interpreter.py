"""Triton's interpreter, made to work with NumPy 2.4.

It takes the bounds of a loop that a kernel has loaded or computed from arrays of one element, by `int(array)`, which
NumPy allows for arrays without dimensions only.
"""

from typing import Any

from triton.runtime import interpreter


def allow_computed_loop_bounds() -> None:
    """Without effect on compiled kernels; may be called more than once."""
    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_with_index
