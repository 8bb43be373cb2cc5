"""KerasHub's backbones, small: each is made by a call without a download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

TOKENS, LENGTH, IMAGE, BATCH = 50, 24, 64, 16

SIZES = {"vocabulary_size": TOKENS, "num_layers": 2, "hidden_dim": 32}
HEADS = {**SIZES, "num_heads": 2, "intermediate_dim": 64}
LENGTHS = {**HEADS, "max_sequence_length": LENGTH}
GROUPED = {
    **SIZES,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_dim": 64,
}
SHAPE = {"image_shape": (IMAGE, IMAGE, 3)}
PATCHES = {
    **SHAPE,
    "patch_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
}
RESIDUAL = {
    **SHAPE,
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 64],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_strides": [1, 2],
}
EXPERTS = {"num_experts": 4, "top_k": 2}
MIX = {
    **SHAPE,
    "num_layers": 2,
    "hidden_dims": [16, 32],
    "layerwise_depths": [2, 2],
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [4, 2],
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
    "max_drop_path_rate": 0.1,
}
T5GEMMA = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {
        "hidden_dim": 32,
        "intermediate_dim": 64,
        "num_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "layer_types": ["full_attention"] * 2,
    }.items()
}

TEXT: dict[str, dict[str, Any]] = {
    "Albert": {**LENGTHS, "embedding_dim": 16},
    "Bart": LENGTHS,
    "Bert": LENGTHS,
    "Bloom": HEADS,
    "DebertaV3": {**LENGTHS, "bucket_size": 16},
    "DistilBert": LENGTHS,
    "Electra": {
        **{name: value for name, value in LENGTHS.items() if name[0] != "v"},
        "vocab_size": TOKENS,
        "embedding_dim": 16,
    },
    "ESM": LENGTHS,
    "FNet": {name: value for name, value in LENGTHS.items() if name != "num_heads"},
    "Falcon": {**SIZES, "num_attention_heads": 2, "intermediate_dim": 64},
    "GPT2": LENGTHS,
    "GPTNeoX": LENGTHS,
    "Gemma": {**GROUPED, "head_dim": 16},
    "Gemma3": {**GROUPED, "head_dim": 16, "image_size": 16},
    "GptOss": {**GROUPED, **EXPERTS},
    "Llama": GROUPED,
    "Llama3": GROUPED,
    "Mistral": {**GROUPED, "sliding_window": 16},
    "Mixtral": {**GROUPED, **EXPERTS},
    "OPT": LENGTHS,
    "Phi3": GROUPED,
    "Qwen": GROUPED,
    "Qwen3": {**GROUPED, "head_dim": 16},
    "Qwen3Moe": {**GROUPED, **EXPERTS, "moe_intermediate_dim": 32, "head_dim": 16},
    "QwenMoe": {
        **GROUPED,
        **EXPERTS,
        "moe_intermediate_dim": 32,
        "shared_expert_intermediate_dim": 32,
    },
    "RWKV7": {
        "vocabulary_size": TOKENS,
        "hidden_size": 32,
        "head_size": 16,
        "num_layers": 2,
        "intermediate_dim": 64,
    },
    "Roberta": LENGTHS,
    "RoformerV2": {**HEADS, "head_size": 16},
    "SmolLM3": {
        **SIZES,
        "intermediate_dim": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_layer_enabled_list": [True] * 2,
        "layer_types": ["attention"] * 2,
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": 64,
        "rope_theta": 1e4,
        "partial_rotary_factor": 1.0,
    },
    "T5": HEADS,
    "T5Gemma": {"vocabulary_size": TOKENS, **T5GEMMA},
    "Whisper": {
        **HEADS,
        "num_mels": 16,
        "max_encoder_sequence_length": 2 * LENGTH,
        "max_decoder_sequence_length": LENGTH,
    },
    "XLMRoberta": LENGTHS,
    "XLNet": HEADS,
}

IMAGES: dict[str, dict[str, Any]] = {
    "CSPNet": {
        **SHAPE,
        "stem_filters": 16,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [1, 2],
        "stackwise_strides": [1, 2],
        "stackwise_num_filters": [16, 32],
        "block_type": "dark_block",
        "stage_type": "dark",
    },
    "DINOV2": {
        **PATCHES,
        "intermediate_dim": 64,
        "position_embedding_shape": (IMAGE, IMAGE, 3),
    },
    "DINOV3": {**PATCHES, "intermediate_dim": 64},
    "DeiT": {**PATCHES, "intermediate_dim": 64},
    "DenseNet": {**SHAPE, "stackwise_num_repeats": [2, 2], "growth_rate": 8},
    "EfficientNet": {
        "input_shape": (IMAGE, IMAGE, 3),
        "stackwise_kernel_sizes": [3, 3],
        "stackwise_num_repeats": [1, 2],
        "stackwise_input_filters": [16, 16],
        "stackwise_output_filters": [16, 24],
        "stackwise_expansion_ratios": [1, 4],
        "stackwise_squeeze_and_excite_ratios": [0.0, 0.25],
        "stackwise_strides": [1, 2],
        "stackwise_block_types": ["fused", "unfused"],
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "num_features": 64,
    },
    "HGNetV2": {
        **SHAPE,
        "depths": [1, 2],
        "embedding_size": 16,
        "hidden_sizes": [32, 64],
        "stem_channels": [3, 16, 16],
        "hidden_act": "relu",
        "use_learnable_affine_block": False,
        "stackwise_stage_filters": [(16, 16, 32, 1, 1, 3), (32, 16, 64, 2, 1, 3)],
        "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, False],
    },
    "MiT": MIX,
    "MobileNet": {
        **SHAPE,
        "stackwise_expansion": [[16, 24], [32, 48]],
        "stackwise_num_blocks": [2, 2],
        "stackwise_num_filters": [[16, 16], [24, 24]],
        "stackwise_kernel_size": [[3, 3], [5, 5]],
        "stackwise_num_strides": [[2, 1], [2, 1]],
        "stackwise_se_ratio": [[None, None], [0.25, 0.25]],
        "stackwise_activation": [["relu"] * 2, ["hard_swish"] * 2],
        "stackwise_padding": [[1, 1], [2, 2]],
        "output_num_filters": 64,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "last_layer_filter": 64,
        "squeeze_and_excite": 0.5,
    },
    "MobileNetV5": {
        **SHAPE,
        "stackwise_block_types": [["er"], ["uir", "uir"]],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_filters": [[24], [48, 48]],
        "stackwise_strides": [[2], [2, 1]],
        "stackwise_act_layers": [["relu"], ["relu", "relu"]],
        "stackwise_exp_ratios": [[4.0], [6.0, 6.0]],
        "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
        "stackwise_dw_kernel_sizes": [[0], [5, 5]],
        "stackwise_dw_start_kernel_sizes": [[0], [0, 0]],
        "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
        "stackwise_exp_kernel_sizes": [[3], [0, 0]],
        "stackwise_pw_kernel_sizes": [[1], [0, 0]],
        "stackwise_num_heads": [[0], [0, 0]],
        "stackwise_key_dims": [[0], [0, 0]],
        "stackwise_value_dims": [[0], [0, 0]],
        "stackwise_kv_strides": [[0], [0, 0]],
        "stackwise_use_cpe": [[False], [False, False]],
        "use_msfa": False,
    },
    "ResNet": {**RESIDUAL, "block_type": "basic_block"},
    "ResNet, bottleneck": {**RESIDUAL, "block_type": "bottleneck_block"},
    "ResNet, pre-activation": {
        **RESIDUAL,
        "block_type": "basic_block",
        "use_pre_activation": True,
    },
    "SwinTransformer": {
        **SHAPE,
        "embed_dim": 16,
        "depths": (2, 2),
        "num_heads": (2, 2),
        "window_size": 4,
    },
    "VGG": {
        **SHAPE,
        "stackwise_num_repeats": [1, 1, 2],
        "stackwise_num_filters": [16, 32, 32],
    },
    "ViT": {**PATCHES, "mlp_dim": 64},
    "ViTDet": {
        **SHAPE,
        "hidden_size": 32,
        "num_layers": 2,
        "intermediate_dim": 64,
        "num_heads": 2,
        "global_attention_layer_indices": [1],
        "patch_size": 8,
        "num_output_channels": 16,
        "window_size": 4,
    },
    "Xception": {
        **SHAPE,
        "stackwise_conv_filters": [[16, 16], [32, 32]],
        "stackwise_pooling": [True, False],
    },
}


def _segformer(hub: Any) -> Any:
    encoder = hub.models.MiTBackbone(**MIX)
    return hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=32)


def _deeplab(hub: Any) -> Any:
    encoder = hub.models.ResNetBackbone(**RESIDUAL, block_type="basic_block")
    return hub.models.DeepLabV3Backbone(
        image_encoder=encoder,
        spatial_pyramid_pooling_key="P3",
        low_level_feature_key="P2",
        upsampling_size=2,
        dilation_rates=[2, 4],
        projection_filters=16,
        **SHAPE,
    )


def _contrastive(hub: Any, kind: str) -> Any:
    vision = getattr(hub.models, f"{kind}VisionEncoder")(
        patch_size=16,
        hidden_dim=32,
        num_layers=2,
        num_heads=2,
        intermediate_dim=64,
        **SHAPE,
    )
    text = getattr(hub.models, f"{kind}TextEncoder")(
        vocabulary_size=TOKENS,
        embedding_dim=32,
        hidden_dim=32,
        num_layers=2,
        num_heads=2,
        intermediate_dim=64,
        max_sequence_length=LENGTH,
    )
    last = {"projection_dim": 32} if kind == "CLIP" else {}
    make = getattr(hub.models, f"{kind}Backbone")
    return make(vision_encoder=vision, text_encoder=text, **last)


def _segment_anything(hub: Any) -> Any:
    options = {**IMAGES["ViTDet"], "num_output_channels": 8}
    return hub.models.SAMBackbone(
        image_encoder=hub.models.ViTDetBackbone(**options),
        prompt_encoder=hub.layers.SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(8, 8),
            input_image_size=(IMAGE, IMAGE),
            mask_in_channels=16,
        ),
        mask_decoder=hub.layers.SAMMaskDecoder(
            num_layers=2,
            hidden_size=8,
            intermediate_dim=32,
            num_heads=2,
            embedding_dim=8,
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=8,
        ),
    )


COMPOSED: dict[str, Callable[[Any], Any]] = {
    "CLIP": lambda hub: _contrastive(hub, "CLIP"),
    "DeepLabV3": _deeplab,
    "SAM": _segment_anything,
    "SegFormer": _segformer,
    "SigLIP": lambda hub: _contrastive(hub, "SigLIP"),
}

NAMES = (*TEXT, *IMAGES, *COMPOSED)


def backbone(hub: Any, name: str) -> Any:
    """Return the backbone of that name, the same each time."""
    keras.utils.set_random_seed(0)
    if name in COMPOSED:
        return COMPOSED[name](hub)
    make = getattr(hub.models, f"{name.partition(',')[0]}Backbone")
    return make(**(TEXT.get(name) or IMAGES[name]))


def batch(model: Any, rows: int = BATCH) -> Any:
    """Return standardised images, tokens and masks, as the model takes them."""
    generator = np.random.default_rng(0)
    inputs = model.input
    named = inputs if isinstance(inputs, dict) else {"": inputs}
    data = {}
    for name, symbol in named.items():
        shape = (rows, *(size or LENGTH for size in symbol.shape[1:]))
        if "mask" in name and len(shape) == 2:
            data[name] = np.ones(shape, "int32")
        elif "int" in symbol.dtype:
            most = 2 if "segment" in name else TOKENS
            data[name] = generator.integers(0, most, shape).astype("int32")
        else:
            if name in ("boxes", "points", "labels"):
                shape = (rows, 1, *symbol.shape[2:])
            elif name == "masks":
                shape = (rows, 1, IMAGE, IMAGE, 1)
            elif symbol.shape[1:3] == (None, None):
                shape = (rows, IMAGE, IMAGE, *symbol.shape[3:])
            data[name] = generator.standard_normal(shape).astype("float32")
    return data if isinstance(inputs, dict) else data[""]
