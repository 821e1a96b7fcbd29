"""The shapes of the built-in models, and how their weights begin."""

from __future__ import annotations

from torch import nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

HEAD_DIM = 32
MAX_POSITIONS = 4096
LARGE_LAYERS = 8
CLOSER_LAYERS = 4


def small_config(vocabulary: int, ids: dict[str, int]) -> Qwen3VLConfig:
    """Qwen3-VL: 3 language layers, 4 vision layers."""
    return Qwen3VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 160,
            "intermediate_size": 432,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "num_key_value_heads": 5,
            "head_dim": HEAD_DIM,
            "max_position_embeddings": MAX_POSITIONS,
            "rope_parameters": _rope(interleaved=True),
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_heads": 4,
            "patch_size": 14,
            "out_hidden_size": 160,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [1, 2],
        },
        tie_word_embeddings=True,
        **_special(ids),
    )


def large_config(
    vocabulary: int, ids: dict[str, int], *, layers: int = LARGE_LAYERS
) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL: 8 language layers, 5 vision layers, all of them with full attention."""
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 160,
            "intermediate_size": 432,
            "num_hidden_layers": layers,
            "num_attention_heads": 5,
            "num_key_value_heads": 5,
            "max_position_embeddings": MAX_POSITIONS,
            "rope_parameters": _rope(interleaved=False),
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 5,
            "hidden_size": 160,
            "intermediate_size": 432,
            "num_heads": 5,
            "patch_size": 14,
            "out_hidden_size": 160,
            "window_size": 112,
            "fullatt_block_indexes": [0, 1, 2, 3, 4],
        },
        tie_word_embeddings=True,
        **_special(ids),
    )


def build_small(vocabulary: int, ids: dict[str, int]) -> Qwen3VLForConditionalGeneration:
    """Make the small model with fresh weights; DeepStack begins silent."""
    model = Qwen3VLForConditionalGeneration(small_config(vocabulary, ids))
    init_fan_in(model)
    for merger in model.model.visual.deepstack_merger_list:
        nn.init.zeros_(merger.linear_fc2.weight)
    return model


def build_large(vocabulary: int, ids: dict[str, int]) -> Qwen2_5_VLForConditionalGeneration:
    """Make the large model with fresh weights."""
    model = Qwen2_5_VLForConditionalGeneration(large_config(vocabulary, ids))
    init_fan_in(model)
    return model


def build_closer(vocabulary: int, ids: dict[str, int]) -> Qwen2_5_VLForConditionalGeneration:
    """Make the closer model, of the large one's shape with fewer language layers."""
    return Qwen2_5_VLForConditionalGeneration(large_config(vocabulary, ids, layers=CLOSER_LAYERS))


def init_fan_in(model: nn.Module) -> None:
    """Start every linear map at 1/sqrt(fan_in); the usual 0.02 is far too little at this width."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            fan_in = module.weight[0].numel()
            residual = name.endswith(("proj", "down_proj", "o_proj", "linear_fc2"))
            quiet = residual and not name.endswith(("q_proj", "k_proj", "v_proj", "gate_proj"))
            nn.init.normal_(module.weight, std=(0.5 if quiet else 1.0) * fan_in**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def _rope(*, interleaved: bool) -> dict[str, object]:
    rope: dict[str, object] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [6, 5, 5] if interleaved else [4, 6, 6],
    }
    if interleaved:
        rope["mrope_interleaved"] = True
    return rope


def _special(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def parameters(module: nn.Module) -> int:
    """Count a module's weights."""
    return sum(p.numel() for p in module.parameters())
