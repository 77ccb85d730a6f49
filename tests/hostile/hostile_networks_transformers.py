"""Small models of the transformers library, from configurations with random weights."""

from __future__ import annotations

import importlib
import logging
import os

import torch
from hostile_cases import B, call, network, padding, real, traced, trained, untraced, used, whole
from torch import nn

IDS, OTHER, MASK = whole(40, B, 6), whole(40, B, 9), padding(B, 6)
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attention_dropout": 0.0, "dropout": 0.0}


def pretrained(name: str, config: str, **options) -> nn.Module:
    """A model by the names of its class and configuration."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers = importlib.import_module("transformers")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    made = getattr(transformers, config)(**options)
    made._attn_implementation = options.get("attn_implementation", "eager")
    return getattr(transformers, name)(made)


def library(title, kind, config, example, *calls, options=None, slow=True, **expected):
    @network(f"transformers: {title}", example, *calls, slow=slow, compares_step=False, **expected)
    def build():
        return pretrained(kind, config, **(options or {}))


def text(**more):
    return {**TEXT, **OFF, **more}


ENCODER = (
    traced(input_ids=IDS, attention_mask=MASK),
    call(input_ids=OTHER),
    untraced(input_ids=IDS, output_hidden_states=True),
    untraced(input_ids=IDS, output_attentions=True),
)
library(
    "BERT classifier",
    "BertForSequenceClassification",
    "BertConfig",
    call(input_ids=IDS),
    *ENCODER,
    traced(input_ids=IDS, token_type_ids=whole(2, B, 6)),
    traced(input_ids=IDS, labels=whole(2, B)),
    trained(input_ids=IDS),
    options=text(),
    slow=False,
)
library(
    "BERT, scaled dot product attention",
    "BertForTokenClassification",
    "BertConfig",
    call(input_ids=IDS),
    *ENCODER,
    options=text(attn_implementation="sdpa"),
)
library(
    "BERT traced with a mask, called without",
    "BertModel",
    "BertConfig",
    call(input_ids=IDS, attention_mask=MASK),
    untraced(input_ids=IDS),
    call(input_ids=OTHER, attention_mask=padding(B, 9)),
    options=text(),
)
library(
    "BERT with tied masked-word head",
    "BertForMaskedLM",
    "BertConfig",
    call(input_ids=IDS),
    *ENCODER,
    traced(input_ids=IDS, labels=IDS),
    options=text(),
)
library(
    "DistilBERT",
    "DistilBertForSequenceClassification",
    "DistilBertConfig",
    call(input_ids=IDS),
    *ENCODER,
    options={
        "dim": 16,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 24,
        "vocab_size": 40,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
    },
)
library("RoBERTa", "RobertaForSequenceClassification", "RobertaConfig", call(input_ids=IDS), *ENCODER, options=text())
library(
    "ELECTRA", "ElectraForPreTraining", "ElectraConfig", call(input_ids=IDS), *ENCODER, options=text(embedding_size=12)
)
library(
    "ALBERT, one layer used twice",
    "AlbertForSequenceClassification",
    "AlbertConfig",
    call(input_ids=IDS),
    *ENCODER,
    options=text(embedding_size=12, classifier_dropout_prob=0.0),
)


def greedy(model, ids):
    return model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=-1)


def greedy_uncached(model, ids):
    return model.generate(ids, max_new_tokens=4, do_sample=False, use_cache=False, pad_token_id=0, eos_token_id=-1)


def beams(model, ids):
    return model.generate(ids, max_new_tokens=3, num_beams=2, do_sample=False, pad_token_id=0, eos_token_id=-1)


DECODER = (
    call(input_ids=OTHER),
    traced(input_ids=IDS, attention_mask=MASK),
    untraced(input_ids=IDS, use_cache=True),
    traced(input_ids=IDS, labels=IDS),
    used(greedy_uncached, IDS, may_refuse=True),
    used(greedy, IDS, may_refuse=True),
    used(beams, IDS, may_refuse=True),
    untraced(input_ids=IDS, output_attentions=True),
)
PLAIN = call(input_ids=IDS, use_cache=False)
library(
    "GPT-2",
    "GPT2LMHeadModel",
    "GPT2Config",
    PLAIN,
    *DECODER,
    slow=False,
    options={
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": 40,
        "n_positions": 32,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
library(
    "Llama with grouped queries",
    "LlamaForCausalLM",
    "LlamaConfig",
    PLAIN,
    *DECODER,
    options=text(num_key_value_heads=2),
)
library(
    "Llama, scaled dot product attention",
    "LlamaForCausalLM",
    "LlamaConfig",
    PLAIN,
    *DECODER,
    options=text(num_key_value_heads=2, attn_implementation="sdpa"),
)
library("Qwen2", "Qwen2ForCausalLM", "Qwen2Config", PLAIN, *DECODER, options=text(num_key_value_heads=2))
library("Mistral", "MistralForCausalLM", "MistralConfig", PLAIN, *DECODER, options=text(num_key_value_heads=2))
library(
    "OPT",
    "OPTForCausalLM",
    "OPTConfig",
    PLAIN,
    *DECODER,
    options={
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 24,
        "vocab_size": 40,
        "max_position_embeddings": 32,
        "word_embed_proj_dim": 16,
        **OFF,
    },
)
library(
    "T5",
    "T5ForConditionalGeneration",
    "T5Config",
    call(input_ids=IDS, decoder_input_ids=whole(40, B, 4), use_cache=False),
    traced(input_ids=IDS, attention_mask=MASK, decoder_input_ids=whole(40, B, 4), use_cache=False),
    used(greedy, IDS, may_refuse=True),
    used(greedy_uncached, IDS, may_refuse=True),
    options={
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": 40,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
    },
)

PIXELS = real(B, 3, 16, 16)
VIEWS = (
    untraced(pixel_values=PIXELS, output_hidden_states=True),
    untraced(pixel_values=PIXELS, output_attentions=True),
    traced(pixel_values=PIXELS, labels=whole(2, B)),
)
library(
    "ViT",
    "ViTForImageClassification",
    "ViTConfig",
    call(pixel_values=PIXELS),
    *VIEWS,
    options={**text(), "image_size": 16, "patch_size": 8},
)
library(
    "DeiT",
    "DeiTForImageClassification",
    "DeiTConfig",
    call(pixel_values=PIXELS),
    *VIEWS,
    options={**text(), "image_size": 16, "patch_size": 8},
)
library(
    "BEiT",
    "BeitForImageClassification",
    "BeitConfig",
    call(pixel_values=PIXELS),
    *VIEWS,
    options={
        **text(),
        "image_size": 16,
        "patch_size": 8,
        "drop_path_rate": 0.0,
        "use_relative_position_bias": True,
        "out_indices": [0, 1],
    },
)
library(
    "Swin",
    "SwinForImageClassification",
    "SwinConfig",
    call(pixel_values=real(B, 3, 32, 32)),
    traced(pixel_values=real(B, 3, 32, 32), labels=whole(2, B)),
    call(pixel_values=real(B, 3, 48, 48)),
    options={
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
        "drop_path_rate": 0.0,
    },
)
library(
    "ConvNeXt",
    "ConvNextForImageClassification",
    "ConvNextConfig",
    call(pixel_values=real(B, 3, 32, 32)),
    options={"hidden_sizes": [8, 8, 12, 12], "depths": [1, 1, 1, 1], "drop_path_rate": 0.0},
)
library(
    "SegFormer",
    "SegformerForImageClassification",
    "SegformerConfig",
    call(pixel_values=real(B, 3, 32, 32)),
    untraced(pixel_values=real(B, 3, 32, 32), output_attentions=True),
    options={
        "hidden_sizes": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 2],
        "decoder_hidden_size": 8,
        "drop_path_rate": 0.0,
        **OFF,
    },
)
library(
    "CLIP, two towers",
    "CLIPModel",
    "CLIPConfig",
    call(input_ids=IDS, pixel_values=PIXELS),
    traced(input_ids=IDS, pixel_values=PIXELS, attention_mask=MASK),
    options={
        "text_config": {**text(), "projection_dim": 8},
        "projection_dim": 8,
        "vision_config": {**text(), "image_size": 16, "patch_size": 8, "projection_dim": 8},
    },
)
library(
    "Wav2Vec2",
    "Wav2Vec2ForSequenceClassification",
    "Wav2Vec2Config",
    call(input_values=real(B, 200)),
    options={
        **text(),
        "conv_dim": [8, 8],
        "conv_stride": [5, 2],
        "conv_kernel": [10, 3],
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "classifier_proj_size": 8,
        "mask_time_prob": 0.0,
        "feat_proj_dropout": 0.0,
        "hidden_dropout": 0.0,
        "activation_dropout": 0.0,
        "layerdrop": 0.0,
    },
)


@network(
    "transformers: BERT within a user's own network, pooled by its mask",
    call(IDS),
    traced(IDS, MASK),
    call(OTHER),
    slow=True,
    compares_step=False,
)
class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = pretrained("BertModel", "BertConfig", **text()), nn.Linear(16, 3)

    def forward(self, ids, attention_mask=None):
        h = self.body(input_ids=ids, attention_mask=attention_mask).last_hidden_state
        if attention_mask is None:
            return self.head(h.mean(1))
        weights = attention_mask[..., None].to(h)
        return self.head((h * weights).sum(1) / torch.clamp(weights.sum(1), min=1e-9))
