"""Architectures of torchvision, timm and transformers at small sizes, with random weights in double precision.

All that `optional_arguments.py` draws from: the architecture is the published one, only widths, depths, vocabularies
and images are small.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

CLASSES, VOCABULARY, LENGTH, SIDE, BATCH = 6, 64, 8, 32, 2
Example = dict[str, Any]


@dataclass(frozen=True)
class SmallNetwork:
    """A network and its plain example.

    Attributes:
        name: library, and what it calls the network.
        make: the network with its first weights.
        inputs: the arguments of the plain call by name, for a number of samples and a length or side; None: as traced.
        generates: whether `generate` is to be compared.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int, int | None], Example]
    generates: bool = False

    def build(self, seed: int = 0) -> nn.Module:
        """The network in eval mode; weights that are constant at first are drawn, so that errors show."""
        torch.manual_seed(seed)
        model = self.make().eval().double().requires_grad_(False)
        for parameter in model.parameters():
            first = parameter.flatten()[:1]
            if not parameter.any():
                parameter.normal_(std=0.1)
            elif parameter.numel() > 1 and bool((parameter == first).all()):
                parameter.uniform_(0.5, 1.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        return model


NETWORKS: dict[str, SmallNetwork] = {}


def add(network: SmallNetwork) -> None:
    """Enter it in the list."""
    NETWORKS[network.name] = network


# -- inputs ----------------------------------------------------------------------------------------------------------


def ids(samples: int, length: int, seed: int = 1) -> torch.Tensor:
    """Tokens that are none of the special ones, [samples, length]."""
    return torch.randint(4, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(seed))


def real(*shape: int, seed: int = 1) -> torch.Tensor:
    """From the normal distribution."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def images(name: str, side: int = SIDE, channels: int = 3) -> Callable[[int, int | None], Example]:
    """Images [samples, channels, side, side]."""
    return lambda samples, size: {name: real(samples, channels, size or side, size or side)}


def text(samples: int, length: int | None) -> Example:
    """Tokens."""
    return {"input_ids": ids(samples, length or LENGTH)}


def pairs(samples: int, length: int | None) -> Example:
    """Tokens of an encoder and of a decoder."""
    size = length or LENGTH
    return {"input_ids": ids(samples, size), "decoder_input_ids": ids(samples, size - 3, 2)}


def text_in_boxes(samples: int, length: int | None) -> Example:
    """Tokens with their places on a page."""
    size = length or LENGTH
    corner = torch.randint(0, 20, (samples, size, 2), generator=torch.Generator().manual_seed(3))
    return {**text(samples, size), "bbox": torch.cat([corner, corner + 8], -1)}


def wave(samples: int, length: int | None) -> Example:
    """Sound [samples, length]."""
    return {"input_values": real(samples, (length or LENGTH) * 60)}


def spectrum(samples: int, length: int | None) -> Example:
    """Frames of a spectrum as Whisper takes them [samples, bins, frames]; their number is fixed."""
    return {"input_features": real(samples, 16, (length or LENGTH) * 2)}


def spectrum_and_text(samples: int, length: int | None) -> Example:
    """Frames and tokens of the decoder."""
    return {**spectrum(samples, None), "decoder_input_ids": ids(samples, (length or LENGTH) - 3, 2)}


# -- torchvision -----------------------------------------------------------------------------------------------------

TORCHVISION = {
    "resnet18": SIDE, "resnext50_32x4d": SIDE, "mobilenet_v2": SIDE, "mobilenet_v3_small": SIDE,
    "efficientnet_b0": SIDE, "densenet121": SIDE, "googlenet": 64, "inception_v3": 96, "shufflenet_v2_x0_5": SIDE,
    "regnet_y_400mf": SIDE, "mnasnet0_5": SIDE, "squeezenet1_1": 64, "convnext_tiny": 64, "swin_t": 64,
    "swin_v2_t": 64,
}  # fmt: skip


def _torchvision(name: str) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {"num_classes": CLASSES}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    made: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return made


def _vision_transformer() -> nn.Module:
    from torchvision.models import VisionTransformer

    made: nn.Module = VisionTransformer(
        SIDE, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=CLASSES
    )
    return made


for _name, _side in TORCHVISION.items():
    add(SmallNetwork(f"torchvision {_name}", partial(_torchvision, _name), images("x", _side)))
add(SmallNetwork("torchvision VisionTransformer", _vision_transformer, images("x")))


# -- timm ------------------------------------------------------------------------------------------------------------

_PATCHES = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
_WINDOWS = {"img_size": 64, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
TIMM: dict[str, Mapping[str, Any]] = {
    "vit_tiny_patch16_224": _PATCHES,
    "vit_small_patch16_18x2_224": _PATCHES,
    "vit_relpos_small_patch16_224": _PATCHES,
    "vit_base_patch16_siglip_224": _PATCHES,
    "vit_small_patch14_reg4_dinov2": _PATCHES,
    "deit_tiny_distilled_patch16_224": _PATCHES,
    "deit3_small_patch16_224": _PATCHES,
    "beit_base_patch16_224": _PATCHES,
    "beitv2_base_patch16_224": _PATCHES,
    "eva02_tiny_patch14_224": _PATCHES,
    "cait_xxs24_224": _PATCHES,
    "swin_tiny_patch4_window7_224": _WINDOWS,
    "swinv2_tiny_window8_256": _WINDOWS,
    "mixer_s16_224": {"img_size": 64},
    "gmlp_s16_224": {"img_size": 64},
    "xcit_nano_12_p16_224": {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4},
    "convmixer_768_32": {},
    "pvt_v2_b0": {},
    "poolformer_s12": {},
    "edgenext_xx_small": {},
    "mobilevit_xxs": {},
    "mobilenetv3_small_050": {},
    "efficientvit_b0": {},
    "efficientformer_l1": {"img_size": 224},
    "levit_128s": {"img_size": 224},
    "coat_tiny": {"img_size": 64},
    "resnet18": {},
    "resnest14d": {},
    "regnety_002": {},
    "hrnet_w18_small": {},
}
_TIMM_SIDES = {"img_size": 64}


def _timm(name: str) -> nn.Module:
    timm = importlib.import_module("timm")
    options = {key: value for key, value in TIMM[name].items() if value != 224}
    made: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)
    return made


for _name in TIMM:
    _side = int(TIMM[_name].get("img_size", _TIMM_SIDES["img_size"]))
    add(SmallNetwork(f"timm {_name}", partial(_timm, _name), images("x", _side)))


# -- transformers ----------------------------------------------------------------------------------------------------

_TEXT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "vocab_size": VOCABULARY, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_SHARED_KEYS = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8}
_PAIRS = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": VOCABULARY, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
_T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
_GPT2 = {
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "vocab_size": VOCABULARY, "n_positions": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": SIDE,
    "patch_size": 8,
}  # fmt: skip
_SWIN = {"image_size": SIDE, "patch_size": 2, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4}
_WAVE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 12,
    "conv_dim": [16, 16, 16], "conv_stride": [4, 2, 2], "conv_kernel": [8, 3, 2], "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 3, "classifier_proj_size": 16, "pad_token_id": 0,
}  # fmt: skip
_WHISPER = {
    **_PAIRS, "num_mel_bins": 16, "max_source_positions": 8, "max_target_positions": 32, "classifier_proj_size": 16,
    "num_languages": 2, "suppress_tokens": [], "begin_suppress_tokens": [],
}  # fmt: skip
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


@dataclass(frozen=True)
class _Family:
    """Models of one configuration class, all with the same options."""

    config: str
    models: tuple[str, ...]
    options: Mapping[str, Any]
    inputs: Callable[[int, int | None], Example] = text
    part: str = ""
    attention: tuple[str, ...] = ("",)


_BOTH = ("", "eager")
FAMILIES = (
    _Family("Bert", ("ForSequenceClassification", "ForMaskedLM"), _TEXT, attention=_BOTH),
    _Family("Bert", ("LMHeadModel",), {**_TEXT, "is_decoder": True, "add_cross_attention": True}),
    _Family("Roberta", ("ForTokenClassification",), _TEXT),
    _Family("Camembert", ("ForMaskedLM",), _TEXT),
    _Family("Ernie", ("Model",), _TEXT),
    _Family("DistilBert", ("ForSequenceClassification",), {
        "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": VOCABULARY,
    }, attention=_BOTH),
    _Family("Albert", ("ForSequenceClassification",), {**_TEXT, "embedding_size": 16}),
    _Family("Electra", ("ForPreTraining",), {**_TEXT, "embedding_size": 16}),
    _Family("MPNet", ("ForSequenceClassification",), _TEXT),
    _Family("Deberta", ("ForSequenceClassification",), {
        **_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False,
    }),
    _Family("DebertaV2", ("ForSequenceClassification",), {
        **_TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8,
    }),
    _Family("XLNet", ("ForSequenceClassification",), {
        "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "vocab_size": VOCABULARY,
    }),
    _Family("Funnel", ("Model",), {
        "vocab_size": VOCABULARY, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 4,
        "d_head": 8, "d_inner": 48,
    }),
    _Family("FNet", ("ForSequenceClassification",), _TEXT),
    _Family("MobileBert", ("ForSequenceClassification",), {
        **_TEXT, "embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2,
    }),
    _Family("SqueezeBert", ("ForSequenceClassification",), {
        **_TEXT, "embedding_size": 32, "q_groups": 1, "k_groups": 1, "v_groups": 1, "output_groups": 1,
        "post_attention_groups": 1, "intermediate_groups": 1,
    }),
    _Family("ConvBert", ("ForSequenceClassification",), {**_TEXT, "embedding_size": 32, "conv_kernel_size": 3}),
    _Family("RemBert", ("ForSequenceClassification",), {
        **_TEXT, "input_embedding_size": 16, "output_embedding_size": 16,
    }),
    _Family("MegatronBert", ("ForSequenceClassification",), _TEXT),
    _Family("RoFormer", ("ForSequenceClassification",), _TEXT),
    _Family("Nystromformer", ("ForSequenceClassification",), {**_TEXT, "num_landmarks": 4, "segment_means_seq_len": 8}),
    _Family("LayoutLM", ("ForSequenceClassification",), {**_TEXT, "max_2d_position_embeddings": 32}, text_in_boxes),
    _Family("ModernBert", ("ForSequenceClassification",), _TEXT),
    _Family("Esm", ("ForSequenceClassification",), _TEXT),
    _Family("GPT2", ("LMHeadModel", "ForSequenceClassification"), _GPT2, attention=_BOTH),
    _Family("GPT2", ("Model",), {**_GPT2, "add_cross_attention": True}),
    _Family("GPTNeo", ("ForCausalLM",), {
        "hidden_size": 32, "num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4,
        "intermediate_size": 48, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "window_size": 4,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }),
    _Family("GPTNeoX", ("ForCausalLM",), _TEXT),
    _Family("GPTJ", ("ForCausalLM",), {**_GPT2, "rotary_dim": 4}),
    _Family("CodeGen", ("ForCausalLM",), {**_GPT2, "rotary_dim": 4}),
    _Family("GPTBigCode", ("ForCausalLM",), _GPT2),
    _Family("OPT", ("ForCausalLM",), {
        **{k: v for k, v in _TEXT.items() if k != "intermediate_size"}, "ffn_dim": 48, "word_embed_proj_dim": 32,
    }),
    _Family("Bloom", ("ForCausalLM",), {
        "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    }),
    _Family("Llama", ("ForCausalLM", "ForSequenceClassification"), _SHARED_KEYS, attention=_BOTH),
    _Family("Mistral", ("ForCausalLM",), {**_SHARED_KEYS, "sliding_window": 4}),
    _Family("Mixtral", ("ForCausalLM",), {**_SHARED_KEYS, "num_local_experts": 3}),
    _Family("Qwen2", ("ForCausalLM",), _SHARED_KEYS),
    _Family("Qwen3", ("ForCausalLM",), _SHARED_KEYS),
    _Family("Gemma", ("ForCausalLM",), _SHARED_KEYS),
    _Family("Gemma2", ("ForCausalLM",), {**_SHARED_KEYS, "query_pre_attn_scalar": 8, "sliding_window": 4}),
    _Family("Phi", ("ForCausalLM",), _TEXT),
    _Family("Phi3", ("ForCausalLM",), {**_TEXT, "num_key_value_heads": 2}),
    _Family("Falcon", ("ForCausalLM",), _TEXT),
    _Family("StableLm", ("ForCausalLM",), {**_TEXT, "num_key_value_heads": 2}),
    _Family("Olmo2", ("ForCausalLM",), {**_TEXT, "num_key_value_heads": 2}),
    _Family("Cohere", ("ForCausalLM",), {**_TEXT, "num_key_value_heads": 2}),
    _Family("T5", ("ForConditionalGeneration",), _T5, pairs),
    _Family("T5", ("EncoderModel",), _T5),
    _Family("MT5", ("ForConditionalGeneration",), _T5, pairs),
    _Family("Bart", ("ForConditionalGeneration",), _PAIRS, pairs, attention=_BOTH),
    _Family("MBart", ("ForConditionalGeneration",), _PAIRS, pairs),
    _Family("Pegasus", ("ForConditionalGeneration",), _PAIRS, pairs),
    _Family("M2M100", ("ForConditionalGeneration",), _PAIRS, pairs),
    _Family("Marian", ("MTModel",), _PAIRS, pairs),
    _Family("Blenderbot", ("ForConditionalGeneration",), _PAIRS, pairs),
    _Family("ViT", ("ForImageClassification", "ForMaskedImageModeling"), {**_IMAGE, "encoder_stride": 8},
            images("pixel_values"), attention=_BOTH),
    _Family("DeiT", ("ForImageClassification", "ForImageClassificationWithTeacher"), _IMAGE, images("pixel_values")),
    _Family("ViTMSN", ("ForImageClassification",), _IMAGE, images("pixel_values")),
    _Family("Dinov2", ("ForImageClassification",), {**_IMAGE, "mlp_ratio": 2}, images("pixel_values")),
    _Family("Beit", ("ForImageClassification",), {
        **_IMAGE, "use_relative_position_bias": True, "use_mask_token": True,
    }, images("pixel_values")),
    _Family("Data2VecVision", ("Model",), {**_IMAGE, "use_relative_position_bias": True}, images("pixel_values")),
    _Family("Swin", ("ForImageClassification",), _SWIN, images("pixel_values")),
    _Family("Swinv2", ("ForImageClassification",), _SWIN, images("pixel_values")),
    _Family("Yolos", ("Model",), {**_IMAGE, "image_size": [SIDE, SIDE], "num_detection_tokens": 4},
            images("pixel_values")),
    _Family("Siglip", ("VisionModel",), _IMAGE, images("pixel_values"), part="Vision"),
    _Family("Siglip", ("TextModel",), _TEXT, part="Text"),
    _Family("CLIP", ("VisionModel",), _IMAGE, images("pixel_values"), part="Vision", attention=_BOTH),
    _Family("CLIP", ("TextModel",), _TEXT, part="Text"),
    _Family("Segformer", ("ForImageClassification",), {
        **_STAGES, "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16,
    }, images("pixel_values", 64)),
    _Family("PoolFormer", ("ForImageClassification",), _STAGES, images("pixel_values", 64)),
    _Family("ConvNext", ("ForImageClassification",), _STAGES, images("pixel_values", 64)),
    _Family("ConvNextV2", ("ForImageClassification",), _STAGES, images("pixel_values", 64)),
    _Family("ResNet", ("ForImageClassification",), {"embedding_size": 8, **_STAGES}, images("pixel_values", 64)),
    _Family("RegNet", ("ForImageClassification",), {"embedding_size": 8, "groups_width": 4, **_STAGES},
            images("pixel_values", 64)),
    _Family("PvtV2", ("ForImageClassification",), {
        **_STAGES, "image_size": 64, "num_attention_heads": [1, 2, 2, 4], "mlp_ratios": [2, 2, 2, 2],
    }, images("pixel_values", 64)),
    _Family("MobileNetV2", ("ForImageClassification",), {"image_size": 64, "depth_multiplier": 0.35},
            images("pixel_values", 64)),
    _Family("Whisper", ("ForConditionalGeneration",), _WHISPER, spectrum_and_text, attention=_BOTH),
    _Family("Whisper", ("ForAudioClassification",), _WHISPER, spectrum),
    _Family("Wav2Vec2", ("ForSequenceClassification", "ForCTC"), _WAVE, wave, attention=_BOTH),
    _Family("Hubert", ("ForCTC",), _WAVE, wave),
    _Family("WavLM", ("ForSequenceClassification",), {**_WAVE, "num_buckets": 8, "max_bucket_distance": 16}, wave),
    _Family("SEW", ("ForCTC",), {**_WAVE, "squeeze_factor": 2}, wave),
)  # fmt: skip


def _pretrained(family: _Family, model: str, attention: str) -> nn.Module:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    transformers = importlib.import_module("transformers")
    options = dict(family.options)
    if "For" in model and not model.endswith(("LM", "Generation", "CTC", "PreTraining", "Modeling")):
        options["num_labels"] = CLASSES
    config = getattr(transformers, f"{family.config}{family.part}Config")(**options)
    config._experts_implementation = "eager"  # the grouped products of others are of single precision only
    if attention:
        config._attn_implementation = attention
    made: nn.Module = getattr(transformers, family.config + model)(config)
    return made


for _family in FAMILIES:
    for _model in _family.models:
        for _attention in _family.attention:
            _generates = _model in ("LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "MTModel")
            add(
                SmallNetwork(
                    f"transformers {_family.config}{_model}{' eager' if _attention else ''}",
                    partial(_pretrained, _family, _model, _attention),
                    _family.inputs,
                    _generates,
                )
            )
