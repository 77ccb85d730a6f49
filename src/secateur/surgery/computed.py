"""Functions that a bundle may run when it is loaded: those that compute weights from parameters.

Surgery replaces computed weights (standardised convolutions, parametrisations) by the values that recorded steps give,
and so does loading. The steps may come from an untrusted bundle, and some of PyTorch's functions never end, or end the
process, on malicious arguments: only functions with which weights are usually computed are run.
"""

from __future__ import annotations

from secateur.core.errors import RequestError
from secateur.selection.plan import Edits

_ARITHMETIC = (
    "add sub mul div truediv floordiv mod pow radd rsub rmul rtruediv rfloordiv rmod rpow iadd isub imul itruediv ipow "
    "true_divide multiply divide subtract neg negative pos abs absolute invert sqrt rsqrt square reciprocal exp log "
    "log2 log1p expm1 sigmoid tanh softplus relu relu6 gelu silu clamp clip clamp_min clamp_max minimum maximum sign "
    "round floor ceil trunc sin cos erf lerp addcmul addcdiv where masked_fill eq ne lt le gt ge and or xor copysign"
)
_REDUCTIONS = (
    "sum mean var std var_mean std_mean amax amin max min prod norm vector_norm matrix_norm norm_except_dim normalize "
    "frobenius_norm softmax log_softmax logsumexp cumsum"
)
_ALGEBRA = (
    "matmul rmatmul mm bmm mv dot vdot inner outer ger addmm addmv baddbmm einsum tensordot kron matrix_exp "
    "householder_product orgqr qr solve inv solve_triangular cross trace linear conv1d conv2d conv3d weight_norm "
    "batch_norm layer_norm rms_norm group_norm instance_norm pad"
)
_ORDER = (
    "reshape view view_as reshape_as flatten unflatten ravel unsqueeze squeeze permute transpose t swapaxes swapdims "
    "movedim moveaxis expand expand_as broadcast_to repeat repeat_interleave tile cat concat concatenate stack hstack "
    "vstack chunk split unbind narrow select index_select gather take_along_dim getitem flip roll rot90 tril triu diag "
    "diagonal diag_embed block_diag contiguous clone detach to type type_as float double half bfloat16 get "
    "view_as_real view_as_complex real imag complex"
)
_NEW = "zeros ones full eye empty arange tensor as_tensor zeros_like ones_like full_like empty_like new_zeros new_ones"
_KNOWN = frozenset(f"{_ARITHMETIC} {_REDUCTIONS} {_ALGEBRA} {_ORDER} {_NEW}".split())


def check_computed(edits: Edits) -> None:
    """Refuse recorded steps that compute weights with a function that is not usual for that.

    Raises:
        RequestError: naming the module and the function.

    Example:
        >>> step = {"call": "torch.special.laguerre_polynomial_l", "args": [], "kwargs": {}}
        >>> check_computed(Edits(code={"conv": {"baked": {"weight": {"steps": [step], "output": None}}}}))
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: the weights of module 'conv' are computed with \
'torch.special.laguerre_polynomial_l', which bundles do not run; give the module plain weights first
    """
    for path, code in edits.code.items():
        baked = code.get("baked") or {}
        for computation in baked.values():
            for step in computation["steps"]:
                name = str(step["call"])
                if not name.startswith("module:") and _base_name(name) not in _KNOWN:
                    raise RequestError(
                        f"the weights of module '{path}' are computed with '{name[:80]}', which bundles do not run; "
                        "give the module plain weights first"
                    )


def _base_name(name: str) -> str:
    """The base name of a function: ``sub`` for ``torch.Tensor.__sub__``, ``torch.sub`` and ``torch.Tensor.sub_``."""
    return name.rpartition(".")[2].strip("_").removeprefix("linalg_")
