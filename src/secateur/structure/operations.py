"""Rules that say what each tensor operation does to conditions, by the operation's name in the dispatcher.

Operations that move data move the nodes; operations that combine tensors index by index unite them; contractions read
one operand's units with the other's weights. An operation without a rule locks the units that reach it, with the
reason: fewer units can then be removed, but none wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from secateur.structure.base import UNKNOWN, tensors_in
from secateur.structure.conditions import COMBINED, Nodes
from secateur.structure.contractions import Contractions
from secateur.structure.labels import Labels, unite
from secateur.structure.moves import Moves
from secateur.structure.zeros import Zeros


class Rules(Moves, Contractions, Zeros):
    """Applies the rules of one pass.

    Args:
        labels: nodes of all tensors.
        batch: number of samples in the example.
        stream: let norms run over the channels that stay, so that channels of residual streams can be removed.
    """

    def __init__(self, labels: Labels, batch: int, stream: bool) -> None:
        super().__init__(labels)
        self.batch = batch
        self.stream = stream
        self.pending: dict[int, tuple[list[Nodes | None], str]] = {}
        self._peeks: dict[str, None] = {}
        self.with_values = True

    def apply(self, name: str, func: Any, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Label the results of one operation."""
        for tensor in tensors_in((args, kwargs)):
            self.used(tensor)
        rule = _TABLE.get(name)
        if rule is None or self._writes_into_part(args, kwargs):
            self._unknown(name, args, kwargs, result)
        else:
            rule(self, name, args, kwargs, result, inplace)
        self._follow(name, func, args, kwargs, result, inplace)
        if inplace:
            for tensor in tensors_in(result):
                self.labels.see(tensor)

    def used(self, tensor: torch.Tensor) -> None:
        """Lock the units over which a tensor was reduced, now that an operation uses it."""
        self.labels.recognise(tensor)
        nodes, reason = self.pending.pop(id(tensor), ([], ""))
        for along in nodes:
            self.conditions.lock(along, reason)

    @property
    def peeks(self) -> tuple[str, ...]:
        """Where the network's code read values of inputs: other inputs may take other branches."""
        return tuple(self._peeks)

    def note_peek(self, what: str) -> None:
        """Note that code read values of inputs."""
        self._peeks[what] = None

    def _unknown(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        for tensor in tensors_in((args, kwargs)):
            self.labels.lock(tensor, UNKNOWN.format(name))
        for tensor in tensors_in(result):
            if len(self.labels.of(tensor)) != tensor.ndim:  # resized in place
                self.labels.set(tensor, [None] * tensor.ndim)

    def _writes_into_part(self, args: Any, kwargs: Any) -> bool:
        """Whether ``out`` is a part of another tensor, which would not be labelled with the units."""
        out = list(tensors_in(kwargs.get("out", ())))
        return any(len(self.labels.aliases(t)) > 1 for t in out)

    def _follow(self, name: str, func: Any, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Note which results depend on inputs and parameters, and which are no longer zero at removed units."""
        labels = self.labels
        operands, outputs = list(tensors_in((args, kwargs))), list(tensors_in(result))
        written = [key for t in outputs for key in labels.aliases(t)] if inplace or "out" in kwargs else []
        for known in (labels.dependent, labels.weighed):
            if any(id(t) in known for t in operands):
                known.update(map(id, outputs))
                known.update(written)
            if name == "_pack_padded_sequence" and id(args[1]) not in known:
                known.discard(id(outputs[1]))  # how many samples each step has follows from the lengths alone
        if any(self.has_units(t) for t in outputs) and not self._keeps_zeros(name, func, args, kwargs, result):
            for tensor in outputs:
                labels.set_nonzero(tensor)

    def _keeps_zeros(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> bool:
        rule = _TABLE.get(name)
        if rule in (Rules.same, Rules.pairwise) or (rule is Rules.reduce and len(list(tensors_in((args, kwargs)))) > 1):
            return self.elementwise(name, func, args, kwargs, result)
        return _ZEROS.get(rule, Rules.moved)(self, name, args, kwargs, result)  # type: ignore[arg-type]

    # -- index by index -----------------------------------------------------------------------------------------

    def same(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Functions of one tensor that keep its indices (copies, activations, ...)."""
        first = next(tensors_in(result))
        if any(t.ndim for t in tensors_in((args[1:], kwargs))):
            self.pairwise(name, args, kwargs, result, inplace)
        elif first.shape == args[0].shape and not _changes_layout(name, args[0], first):
            for output in tensors_in(result):
                self.labels.set(output, self.labels.of(args[0]))
        else:
            self._unknown(name, args, kwargs, result)

    def pairwise(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Functions of tensors that are broadcast and combined index by index."""
        operands = [t for t in tensors_in((args, kwargs)) if inplace or t is not result]
        if name in _SUMS:
            self.note_sum(operands)
        for output in tensors_in(result):
            self.labels.set(output, self.meet(operands, output.shape))
        if inplace and args[0]._is_view():
            self._written_view(args[0], operands)

    def _written_view(self, view: torch.Tensor, operands: Sequence[torch.Tensor]) -> None:
        # the rest of the storage is not labelled with the units of the other operands
        own = self.labels.of(view)
        for tensor in operands:
            if tensor is not view:
                for dim in range(-min(tensor.ndim, view.ndim), 0):
                    nodes = self.labels.of(tensor)[dim]
                    if nodes is not None and own[dim] is None:
                        self.conditions.lock(nodes, "is written into a part of another tensor")

    def copy_(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Copy one tensor into another."""
        into, source = args[0], args[1]
        before = self.labels.of(into)
        dims = self.meet([source], into.shape)
        if into._is_view() or id(into) in self.labels.dependent or len(self.labels.aliases(into)) > 1:
            for old, new in zip(before, dims, strict=True):
                if old is not None and new is not None:
                    self.conditions.unite(old, new)
                else:
                    self.conditions.lock(new if old is None else old, "is written into a part of another tensor")
        else:
            self.labels.set(into, dims)

    # -- reductions and windows ---------------------------------------------------------------------------------

    def reduce(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Sums, means, maxima over dimensions."""
        x = args[0]
        given = args[1] if len(args) > 1 and not isinstance(args[1], torch.dtype) else kwargs.get("dim")
        if isinstance(given, torch.Tensor):  # the elementwise maximum or minimum of two tensors
            self.pairwise(name, args, kwargs, result, inplace)
            return
        if name in ("norm", "linalg_vector_norm"):
            given = args[2] if len(args) > 2 else kwargs.get("dim")
        if given is None or (isinstance(given, (list, tuple)) and not given):
            over = set(range(x.ndim))
        else:
            over = {d % x.ndim for d in ([given] if isinstance(given, int) else given)}
        dims = self.labels.of(x)
        for output in tensors_in(result):
            # a mean over heads that is never used (attention weights, returned and dropped) locks nothing
            self.pending[id(output)] = ([dims[d] for d in over], f"is reduced across units by {name}")
            remaining = [None if d in over else n for d, n in enumerate(dims) if d not in over or output.ndim == x.ndim]
            self.labels.set(output, remaining if len(remaining) == output.ndim else [None] * output.ndim)

    def scan(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Operations along one dimension that keep its size (softmax, cumulative sums, sorting)."""
        dim = args[1] if len(args) > 1 else kwargs.get("dim", -1)
        what = "passes a softmax across units" if "softmax" in name else f"is mixed across units by {name}"
        self.labels.lock(args[0], what, [dim % args[0].ndim] if args[0].ndim else [])
        for output in tensors_in(result):
            dims = self.labels.of(args[0])
            self.labels.set(output, dims if output.shape == args[0].shape else [None] * output.ndim)

    def window(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Pooling and resampling of positions; leading dimensions are passed on."""
        x = args[0]
        lead = x.ndim - int(name[name.index("d", name.index("pool") if "pool" in name else 0) - 1])
        self.labels.lock(x, f"meets a window of {name} across units", range(lead, x.ndim))
        for output in tensors_in(result):
            self.labels.set(output, [*self.labels.of(x)[:lead], *[None] * (output.ndim - lead)])

    # -- norms --------------------------------------------------------------------------------------------------

    def batch_norm(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Per-channel scale and shift."""
        x = args[0]
        output = next(tensors_in(result))
        dims = list(self.labels.of(x))
        for tensor in args[1:5]:
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                dims[1] = unite(self.conditions, dims[1], self.labels.of(tensor)[0], COMBINED)
        if not isinstance(args[3], torch.Tensor):
            rest = [d for d in range(x.ndim) if d != 1]
            self.labels.lock(x, "is normalised over its positions, which are units", rest)
        self.labels.set(output, dims)

    def layer_norm(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Normalisation over the last dimensions."""
        x, count = args[0], len(args[1])
        if self.stream and count == 1:
            self.conditions.mark(self.labels.of(x)[-1], "stream")
        else:
            self.labels.lock(x, "is normalised across units by a layer norm", range(x.ndim - count, x.ndim))
        output = next(tensors_in(result))
        self.labels.set(output, self.meet([x, *tensors_in(args[2:4])], output.shape))

    def weight_norm(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Weight normalisation, with the norm as a separate parameter: a masked row would be divided by zero."""
        weight, *_ = tensors_in(result)
        for tensor in tensors_in(args):
            self.labels.lock(tensor, "is divided by its own norm in a weight normalisation")
        self.labels.set(weight, self.labels.of(args[0]))

    def group_norm(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Normalisation within groups of channels: only whole groups can be removed."""
        x, weight, bias, groups = args[0], args[1], args[2], int(args[6])
        dims = list(self.labels.of(x))
        if self.stream and groups == 1:
            self.conditions.mark(dims[1], "stream")
        else:
            outer, inner = self.conditions.fold(dims[1], (groups, x.shape[1] // groups))
            self.conditions.lock(inner, "is normalised together with others by a group norm")
            self.conditions.mark(outer, "group")
        self.labels.lock(x, "is normalised over its positions, which are units", range(2, x.ndim))
        for tensor in (weight, bias):
            if tensor is not None:
                unite(self.conditions, dims[1], self.labels.of(tensor)[0], COMBINED)
        self.labels.set(next(tensors_in(result)), dims)


_SUMS = frozenset("add sub rsub addcmul addcdiv lerp".split())


def _changes_layout(name: str, x: torch.Tensor, result: torch.Tensor) -> bool:
    return name == "as_strided" and (x.stride(), x.storage_offset()) != (result.stride(), result.storage_offset())


def _table() -> dict[str, Callable[..., None]]:
    rules: dict[Callable[..., None], str] = {
        Rules.same: "clone contiguous alias detach _to_copy lift_fresh lift to as_strided _conj resolve_conj relu "
        "hardtanh relu6 gelu silu sigmoid hardswish hardsigmoid tanh leaky_relu elu celu selu softplus mish exp exp2 "
        "log log2 log1p expm1 log_sigmoid_forward neg abs sqrt rsqrt reciprocal clamp clamp_min clamp_max square erf "
        "round floor ceil trunc sign sgn sin cos tan atan positive isnan isinf isfinite nan_to_num softshrink "
        "hardshrink threshold logical_not bernoulli dropout native_dropout feature_dropout fill zero masked_fill "
        "zeros_like ones_like empty_like full_like rand_like randn_like erfc erfinv lgamma digamma sinc asin acos "
        "asinh acosh atanh sinh cosh logit frac i0 log10 signbit isposinf isneginf deg2rad rad2deg special_entr "
        "special_log_ndtr special_erfcx special_i0e special_i1 special_i1e",
        Rules.pairwise: "add sub rsub mul div maximum minimum where addcmul addcdiv lerp pow prelu _prelu_kernel eq ne "
        "lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or fmod remainder floor_divide atan2 fmax "
        "fmin hypot xlogy bitwise_not bitwise_xor true_divide logaddexp logaddexp2 copysign heaviside nextafter "
        "rrelu_with_noise special_xlog1py",
        Rules.copy_: "copy",
        Rules.nothing: "sym_size size stride numel is_same_size new_zeros new_ones new_full new_empty "
        "new_empty_strided _local_scalar_dense item empty zeros ones",
        Rules.glu: "glu",
        Rules.view: "view _unsafe_view reshape _reshape_alias",
        Rules.permute: "permute transpose t swapaxes",
        Rules.expand: "expand broadcast_to",
        Rules.squeeze: "squeeze unsqueeze",
        Rules.slice: "slice narrow_copy",
        Rules.select: "select unbind",
        Rules.split: "split split_with_sizes unsafe_split unsafe_split_with_sizes unsafe_chunk",
        Rules.index: "index _unsafe_index",
        Rules.take: "index_select gather take_along_dim",
        Rules.embedding: "embedding",
        Rules.flip: "flip",
        Rules.roll: "roll",
        Rules.repeat: "repeat",
        Rules.pad: "constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d",
        Rules.unfold: "im2col",
        Rules.weight_norm: "_weight_norm_interface",
        Rules.shuffle_pixels: "pixel_shuffle pixel_unshuffle",
        Rules.shuffle_channels: "channel_shuffle native_channel_shuffle",
        Rules.join: "cat stack",
        Rules.reduce: "mean sum amax amin var std var_mean std_mean prod norm linalg_vector_norm argmax argmin any all "
        "logsumexp max min median count_nonzero nansum",
        Rules.scan: "_softmax _safe_softmax _log_softmax cumsum cumprod",
        Rules.window: "_adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d avg_pool1d "
        "avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool2d_with_indices max_pool3d_with_indices "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
        "upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa mkldnn_max_pool2d "
        "adaptive_avg_pool1d adaptive_max_pool1d",
        Rules.batch_norm: "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "cudnn_batch_norm miopen_batch_norm _batch_norm_no_update _batch_norm_with_update batch_norm",
        Rules.layer_norm: "native_layer_norm rms_norm _fused_rms_norm",
        Rules.group_norm: "native_group_norm",
        Rules.convolution: "convolution _convolution",
        Rules.matrix: "mm addmm bmm baddbmm linear",
        Rules.vector: "dot vdot mv addmv",
    }
    return {name: rule for rule, names in rules.items() for name in names.split()}


_TABLE = _table()
_ZEROS: dict[Callable[..., None], Callable[..., bool]] = {
    Rules.embedding: Rules.looked_up,
    Rules.take: Rules.looked_up,
    Rules.pad: Rules.padded,
    Rules.reduce: Rules.reduced,
    Rules.scan: Rules.scanned,
    Rules.batch_norm: Rules.batch_normed,
    Rules.layer_norm: Rules.normed,
    Rules.group_norm: Rules.normed,
    Rules.convolution: Rules.convolved,
    Rules.matrix: Rules.multiplied,
    Rules.vector: Rules.weighted,
}
"""For each rule, whether results are still zero at removed units; by default as for data that is moved."""
