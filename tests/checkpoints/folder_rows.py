"""Adapters, what a training leaves, and what is no checkpoint at all, in the matrix."""

from __future__ import annotations

from functools import partial

from tests.checkpoints import make_bert, make_qwen3
from tests.checkpoints.decoder_edits import emptied, lora, torch_file, touched
from tests.checkpoints.edit import edited, without, writing
from tests.checkpoints.matrix import Row, Section

_qwen3 = partial(make_qwen3, dtype="float32")

_ROWS = (
    Row(
        name="qwen3-training",
        what="a training checkpoint with the model's weights beside optimizer.pt",
        source="transformers' Trainer",
        make=edited(_qwen3, touched("optimizer.pt", "trainer_state.json", "rng_state.pth")),
    ),
    Row(
        name="qwen3-shards",
        what="three shards and their index",
        source="larger models",
        make=partial(make_qwen3, dtype="float16", shards=3),
    ),
    Row(
        name="lora",
        what="a LoRA adapter beside the base's config.json",
        source="sentence-transformers#2979",
        make=edited(_qwen3, without("model.safetensors"), lora),
        says=("a LoRA adapter", "merge it first"),
    ),
    Row(
        name="lora-alone",
        what="adapter_config.json and adapter_model.safetensors alone",
        source="peft",
        make=edited(emptied, lora),
        says=("a LoRA adapter", "merge it first"),
    ),
    Row(
        name="lora-beside-model",
        what="an adapter beside a whole model",
        source="peft",
        make=edited(_qwen3, lora),
        says=("beside a whole model",),
    ),
    Row(
        name="prompt-tuning",
        what="a PROMPT_TUNING adapter",
        source="peft",
        make=edited(
            emptied,
            writing("adapter_config.json", {"peft_type": "PROMPT_TUNING"}),
        ),
        says=("PROMPT_TUNING", "cannot be merged"),
    ),
    Row(
        name="adapter-hub",
        what="an adapter of the `adapters` library",
        source="AdapterHub",
        make=edited(
            partial(make_bert),
            without("model.safetensors"),
            writing("adapter_config.json", {"config": {"reduction_factor": 16}, "model_name": "b"}),
        ),
        says=("an adapter of b", "merge it first"),
    ),
    *(
        Row(
            name=name,
            what=what,
            source=source,
            make=edited(emptied, touched(*files)),
            says=says,
        )
        for name, what, source, files, says in (
            ("diffusers", "a diffusers pipeline", "diffusers", ("model_index.json",), ("images",)),
            ("gguf", "GGUF files only", "llama.cpp", ("model-q8_0.gguf",), ("llama.cpp",)),
            ("onnx", "ONNX files only", "optimum", ("onnx/model.onnx",), ("ONNX",)),
            ("openvino", "OpenVINO files only", "optimum", ("openvino_model.xml",), ("OpenVINO",)),
            ("deepspeed", "DeepSpeed shards", "Trainer", ("zero_to_fp32.py",), ("DeepSpeed",)),
            ("fsdp", "FSDP shards", "Trainer", ("m_0/__0_0.distcp",), ("FSDP",)),
            ("llama-original", "`params.json`", "Meta", ("params.json",), ("original format",)),
            ("tensorflow", "`tf_model.h5` only", "transformers 3", ("tf_model.h5",), ("TensorF",)),
            (
                "trainer-only",
                "a Trainer's state",
                "Trainer",
                ("trainer_state.json",),
                ("training",),
            ),
        )
    ),
    Row(
        name="stray-safetensors",
        what="another .safetensors beside model.safetensors",
        source="consolidated.safetensors of Mistral's repositories",
        make=edited(_qwen3, torch_file("consolidated.safetensors")),
        says=("consolidated.safetensors", "read both"),
    ),
    *(
        Row(
            name=f"stray-{name}",
            what=f"{file} beside weights that are not quantised",
            source=source,
            make=edited(_qwen3, writing(file, said)),
            says=(file, "as SGLang reads it"),
        )
        for name, file, source, said in (
            (
                "modelopt",
                "hf_quant_config.json",
                "NVIDIA's ModelOpt",
                {"quantization": {"quant_algo": "FP8"}},
            ),
            (
                "modelslim",
                "quant_model_description.json",
                "Ascend's ModelSlim",
                {"model_quant_type": "W8A8"},
            ),
        )
    ),
)


SECTIONS = (Section("Adapters, and what is no checkpoint", "cpu-qwen3-0.6b", _ROWS),)
