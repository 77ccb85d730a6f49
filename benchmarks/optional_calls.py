"""All calls of a network: with every optional argument of its forward, with other sizes, with caches, in generation."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from small_networks import BATCH, CLASSES, LENGTH, SIDE, Example, SmallNetwork, ids, real

ALWAYS = ("output_attentions", "output_hidden_states", "return_dict")
"""What networks of transformers take among their further keywords."""

Run = Callable[[nn.Module], Any]


class Calls:
    """All calls of one network.

    Args:
        network: from the list.
        model: the same, built.
    """

    def __init__(self, network: SmallNetwork, model: nn.Module) -> None:
        self.network = network
        self.model: Any = model
        self.plain = network.inputs(BATCH, None)
        signature = inspect.signature(model.forward)
        self.names = [name for name, p in signature.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
            self.names += [name for name in ALWAYS if name not in self.names]
        self.optional = [name for name in self.names if name not in self.plain]
        self.kind = next(iter(self.plain))
        self.unknown: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, Run]]:
        """Names and calls."""
        yield "plain", self._with({})
        for samples in (1, 3):
            yield f"{samples} samples", self._with(self.network.inputs(samples, None))
        size = self.plain[self.kind].shape[-1]
        other = LENGTH + 5 if self.kind in ("input_ids", "input_values", "input_features") else size + SIDE
        yield "another size", self._with(self.network.inputs(BATCH, other))
        for name in self.optional:
            values = list(self._values(name))
            if not values:
                self.unknown.append(name)
            yield from values
        yield from self._together()
        if self.network.generates:
            yield "generate, greedy", self._generate({})
            yield "generate, beams", self._generate({"num_beams": 3})
            yield "generate, without cache", self._generate({"use_cache": False})

    def _with(self, more: Example, *without: str) -> Run:
        arguments = {k: v for k, v in {**self.plain, **more}.items() if k not in without}
        return lambda model: model(**arguments)

    def _values(self, name: str) -> Iterator[tuple[str, Run]]:
        """Calls that give an argument; none when no value is known for it."""
        make = getattr(self, f"_{name}", None)
        if make is not None:
            for title, run in make():
                yield f"{name}{title}", run
        elif name.startswith("output_") or name in ("return_loss", "use_mems"):
            yield name, self._with({name: True})
        elif name in ("use_cache", "return_dict"):
            yield name, self._with({name: not getattr(getattr(self.model, "config", None), name, True)})

    def _together(self) -> Iterator[tuple[str, Run]]:
        """Several at a time."""
        values: Example = {}
        if self.kind == "input_ids":
            values = {
                "attention_mask": padding(self._tokens),
                "token_type_ids": self._types(),
                "position_ids": self._positions(),
            }
        values |= {"output_attentions": True, "output_hidden_states": True}
        values = {name: value for name, value in values.items() if name in self.optional}
        if len(values) > 1:
            yield " and ".join(values), self._with(values)

    def _generate(self, options: Example) -> Run:
        given = {k: v for k, v in self.plain.items() if not k.startswith("decoder")}
        settings = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}

        def run(model: Any) -> Any:
            return model.generate(**given, **settings, **options)

        return run

    @property
    def _tokens(self) -> torch.Tensor:
        tokens: torch.Tensor = next(v for k, v in self.plain.items() if k in ("input_ids", "input_values"))
        return tokens

    @property
    def _width(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    def _patches(self) -> int:
        config = self.model.config
        return int(config.image_size // config.patch_size) ** 2

    def _types(self) -> torch.Tensor:
        return (torch.arange(self._tokens.shape[1]) > 3).long().expand(BATCH, -1)

    def _positions(self) -> torch.Tensor:
        return torch.arange(self._tokens.shape[1]).flip(0).expand(BATCH, -1)

    # -- one method for each argument that is no switch -------------------------------------------------------------

    def _attention_mask(self) -> Iterator[tuple[str, Run]]:
        if self.kind == "pixel_values":
            found = self.model(**self.plain, output_hidden_states=True)
            tokens = torch.zeros(found.hidden_states[-1].shape[:2])
        elif self.kind == "input_features":
            tokens = self.plain[self.kind][:, 0]
        else:
            tokens = self._tokens
        yield "", self._with({"attention_mask": padding(tokens)})
        yield " padded in front", self._with({"attention_mask": padding(tokens).flip(1)})
        yield " of ones", self._with({"attention_mask": torch.ones_like(padding(tokens))})
        if self.kind == "input_ids":
            four = padding(tokens).bool()[:, None, None].expand(-1, -1, tokens.shape[1], -1)
            yield " of four dimensions", self._with({"attention_mask": four.contiguous()})

    def _decoder_attention_mask(self) -> Iterator[tuple[str, Run]]:
        yield "", self._with({"decoder_attention_mask": padding(self.plain["decoder_input_ids"])})

    def _encoder_attention_mask(self) -> Iterator[tuple[str, Run]]:
        states = real(BATCH, 5, self._width)
        yield "", self._with({"encoder_hidden_states": states, "encoder_attention_mask": padding(states[..., 0])})

    def _encoder_hidden_states(self) -> Iterator[tuple[str, Run]]:
        yield "", self._with({"encoder_hidden_states": real(BATCH, 5, self._width)})

    def _encoder_outputs(self) -> Iterator[tuple[str, Run]]:
        states = real(BATCH, 8, int(self.model.config.d_model))
        yield "", self._with({"encoder_outputs": (states,)}, self.kind)

    def _token_type_ids(self) -> Iterator[tuple[str, Run]]:
        yield "", self._with({"token_type_ids": self._types()})

    def _task_type_ids(self) -> Iterator[tuple[str, Run]]:
        yield "", self._with({"task_type_ids": self._types()})

    def _position_ids(self) -> Iterator[tuple[str, Run]]:
        yield "", self._with({"position_ids": self._positions()})

    def _decoder_position_ids(self) -> Iterator[tuple[str, Run]]:
        length = self.plain["decoder_input_ids"].shape[1]
        yield "", self._with({"decoder_position_ids": torch.arange(length).flip(0).expand(BATCH, -1)})

    def _inputs_embeds(self) -> Iterator[tuple[str, Run]]:
        yield "", self._with({"inputs_embeds": real(*self._tokens.shape, self._width)}, "input_ids")

    def _decoder_inputs_embeds(self) -> Iterator[tuple[str, Run]]:
        shape = self.plain["decoder_input_ids"].shape
        width = int(self.model.config.d_model)
        yield "", self._with({"decoder_inputs_embeds": real(*shape, width)}, "decoder_input_ids")

    def _labels(self) -> Iterator[tuple[str, Run]]:
        kind = type(self.model).__name__
        if kind.endswith("CTC"):
            yield "", self._with({"labels": ids(BATCH, 3) % 8 + 1})
        elif "Classification" in kind and "Token" not in kind:
            regress = self._with({"labels": real(BATCH, CLASSES)})
            # networks remember the kind of labels that comes first, so that each kind has a copy
            yield " to regress", lambda model: regress(copy.deepcopy(model))
            yield "", self._with({"labels": torch.arange(BATCH) % CLASSES})
        elif "decoder_input_ids" in self.plain:
            yield "", self._with({"labels": self.plain["decoder_input_ids"]}, "decoder_input_ids")
        else:
            values = self._tokens % (2 if "Token" in kind or "PreTraining" in kind else 50)
            yield "", self._with({"labels": values})

    def _logits_to_keep(self) -> Iterator[tuple[str, Run]]:
        yield "", self._with({"logits_to_keep": 2})

    def _cache(self, name: str = "cache") -> Iterator[tuple[str, Run]]:
        last = "decoder_input_ids" if "decoder_input_ids" in self.plain else "input_ids"

        def run(more: Example, length: int) -> Run:
            def both(model: nn.Module) -> Any:
                first = model(**self.plain, use_cache=True)
                held = next((first[k] for k in ("cache", "past_key_values") if k in first), None)
                if held is None:
                    raise ValueError("the network gives no cache")
                following = {**self.plain, last: ids(BATCH, length, 5), name: held, "use_cache": True}
                return first, model(**following, **more)

            return both

        yield " of a first call", run({}, 1)
        yield " of a first call, three tokens", run({}, 3)
        if last == "input_ids":
            mask = padding(torch.zeros(BATCH, LENGTH + 1)).flip(1)
            yield " of a first call, attention_mask", run({"attention_mask": mask}, 1)

    def _past_key_values(self) -> Iterator[tuple[str, Run]]:
        yield from self._cache("past_key_values")

    def _mems(self) -> Iterator[tuple[str, Run]]:
        def both(model: nn.Module) -> Any:
            first = model(**self.plain, use_mems=True)
            return first, model(**{**self.plain, "mems": first.mems, "use_mems": True})

        yield " of a first call", both

    def _perm_mask(self) -> Iterator[tuple[str, Run]]:
        length = self._tokens.shape[1]
        yield "", self._with({"perm_mask": torch.ones(length, length).triu(1).double().expand(BATCH, -1, -1)})

    def _target_mapping(self) -> Iterator[tuple[str, Run]]:
        length = self._tokens.shape[1]
        yield "", self._with({"target_mapping": torch.eye(length).double()[-2:].expand(BATCH, -1, -1)})

    def _input_mask(self) -> Iterator[tuple[str, Run]]:
        yield "", self._with({"input_mask": 1 - padding(self._tokens)})

    def _interpolate_pos_encoding(self) -> Iterator[tuple[str, Run]]:
        yield "", self._with({"interpolate_pos_encoding": True})
        side = self.plain[self.kind].shape[-1] * 2
        yield ", another size", self._with({**self.network.inputs(BATCH, side), "interpolate_pos_encoding": True})

    def _bool_masked_pos(self) -> Iterator[tuple[str, Run]]:
        masked = torch.arange(self._patches()).remainder(3).eq(0).expand(BATCH, -1)
        yield "", self._with({"bool_masked_pos": masked})

    def _attn_mask(self) -> Iterator[tuple[str, Run]]:
        shapes: list[torch.Size] = []
        block = next(m for n, m in self.model.named_modules() if n.endswith("blocks.0"))
        handle = block.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
        self.model(**self.plain)
        handle.remove()
        tokens = shapes[0][1]
        yield "", self._with({"attn_mask": torch.ones(tokens, tokens).tril().bool()})
        yield " to add", self._with({"attn_mask": real(tokens, tokens)})
        yield " of each sample", self._with({"attn_mask": real(BATCH, 1, tokens, tokens)})

    def _is_causal(self) -> Iterator[tuple[str, Run]]:
        yield "", self._with({"is_causal": True})


def padding(tokens: torch.Tensor) -> torch.Tensor:
    """Ones, and zeros at the end of every other sequence, for tokens [samples, length]."""
    mask = torch.ones(tokens.shape[:2], dtype=torch.long)
    mask[::2, -(tokens.shape[1] // 3) :] = 0
    return mask
