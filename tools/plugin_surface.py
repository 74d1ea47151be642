"""Record what the engine plugin leans on in an SGLang release, from that release's own source.

    python tools/plugin_surface.py sglang-0.5.23-*.whl [MORE.whl or site-packages ...]

Writes `tests/engine/plugin_surface/<version>.json`: constructors, the pooler's call, the fields of
a batch, and which of SGLang's ways in for outside code exist. Nothing is executed, the modules are
parsed. `tests/engine/test_plugin_surface.py` holds the plugin against these records, so that it is
known to fit releases that no machine at hand can run.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

from static_values import Tree

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "engine" / "plugin_surface"
MODELS = {"bert": "BertModel", "roberta": "XLMRobertaModel", "qwen3": "Qwen3ForCausalLM"}
FIELDS = (
    "extend_seq_lens",
    "extend_seq_lens_cpu",
    "extend_prefix_lens",
    "extend_prefix_lens_cpu",
    "dimensions",
)
ATTENTION = (
    ("bert", "BertModel", "encoder"),
    ("roberta", "XLMRobertaModel", "roberta"),
    ("roberta", "XLMRobertaBaseModel", "encoder"),
    ("bert", "BertEncoder", "layer"),
    ("bert", "BertLayer", "attention"),
    ("bert", "BertAttention", "self_attn"),
    ("bert", "BertSelfAttention", "attn"),
)
"""The way from a model to its attention layers: file, class, attribute."""


def surface(tree: Tree) -> dict[str, Any]:
    """The record of one release."""
    pooler = _parse(tree, "srt/layers/pooler.py")
    batch = _class(_parse(tree, "srt/model_executor/forward_batch_info.py"), "ForwardBatch")
    registry = tree.text("sglang/srt/models/registry.py") or ""
    engine = tree.text("sglang/srt/entrypoints/engine.py") or ""
    return {
        "models": {name: _model(tree, file, name) for file, name in MODELS.items()},
        "loader_passes": _loader(_parse(tree, "srt/model_loader/loader.py")),
        "pooler_output": _annotated(_class(pooler, "EmbeddingPoolerOutput")),
        "batch_fields": [name for name in FIELDS if name in _annotated(batch)],
        "attention_path": [
            f"{name}.{attribute}"
            for file, name, attribute in ATTENTION
            if _sets(_class(_parse(tree, f"srt/models/{file}.py"), name), attribute)
        ],
        "radix_attention": _arguments(
            _class(_parse(tree, "srt/layers/radix_attention.py"), "RadixAttention"), "__init__"
        ),
        "radix_attention_forward": _arguments(
            _class(_parse(tree, "srt/layers/radix_attention.py"), "RadixAttention"), "forward"
        ),
        "server_args_at_hand": "def get_server_args("
        in (tree.text("sglang/srt/runtime_context.py") or ""),
        "layer_activation": _sets(
            _class(_parse(tree, "srt/models/bert.py"), "BertIntermediate"), "intermediate_act_fn"
        ),
        "knows_gelu": '"gelu": nn.GELU()' in (tree.text("sglang/srt/layers/activation.py") or ""),
        "front_tokenizer": "self.tokenizer = get_tokenizer("
        in (tree.text("sglang/srt/managers/tokenizer_manager.py") or ""),
        "answer_is_built_in": _methods(
            tree, "srt/entrypoints/openai/serving_embedding.py", "OpenAIServingEmbedding"
        ),
        "channels": _channels(tree),
        "external_model_package": "SGLANG_EXTERNAL_MODEL_PACKAGE" in registry,
        "registry_models_dict": "self.models" in registry and "ModelRegistry = " in registry,
        "plugin_framework": tree.text("sglang/srt/plugins/hook_registry.py") is not None
        and "load_plugins()" in engine,
        "start_method_set_in": _start_method(_parse(tree, "srt/entrypoints/engine.py")),
        "launch_server_module": tree.text("sglang/launch_server.py") is not None,
    }


def _model(tree: Tree, file: str, name: str) -> dict[str, Any]:
    """A model class: what its constructor takes, whether it sets a pooler and how it calls it."""
    found = _class(_parse(tree, f"srt/models/{file}.py"), name)
    methods = {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}
    calls = [
        ast.unparse(node)
        for node in ast.walk(methods["forward"])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.pooler"
    ]
    body = ast.unparse(methods["__init__"])
    return {
        "constructor": _arguments(found, "__init__"),
        "load_weights": _arguments(found, "load_weights"),
        "sets": [n for n in ("pooler", "use_bert_pooler") if f"self.{n} = " in body],
        "pooler_calls": calls,
    }


def _loader(module: ast.Module) -> list[str]:
    """Keyword arguments with which the loader builds a model class."""
    (function,) = (
        node
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef) and node.name == "_initialize_model"
    )
    words: list[ast.expr | None] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "model_class":
            words += [ast.Constant(word.arg) for word in node.keywords]
        elif isinstance(node, ast.Dict):
            words += node.keys
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "kwargs":
            words.append(node.slice)
    passed = {word.value for word in words if isinstance(word, ast.Constant)}
    return sorted({"config", "quant_config", "sparse_head", "model_path"} & passed)


def _methods(tree: Tree, path: str, name: str) -> list[str]:
    """The method of a class that makes the answer to a call; empty where there is none."""
    if tree.text(f"sglang/{path}") is None:
        return []
    found = [n.name for n in _class(_parse(tree, path), name).body if hasattr(n, "args")]
    return [method for method in found if method == "_build_embedding_response"]


def _channels(tree: Tree) -> list[str]:
    """A scheduler's senders, where it opens its sockets in a class of its own."""
    path = "srt/managers/scheduler_components/ipc_channels.py"
    if tree.text(f"sglang/{path}") is None:
        return []
    found = _class(_parse(tree, path), "SchedulerIpcChannels")
    return [name for name in _annotated(found) if name.startswith("send_to_")]


def _start_method(module: ast.Module) -> list[str]:
    """Functions that set multiprocessing's start method: the plugin hooks the one it knows."""
    return [
        node.name
        for node in module.body
        if isinstance(node, ast.FunctionDef) and "set_start_method(" in ast.unparse(node)
    ]


def _parse(tree: Tree, path: str) -> ast.Module:
    text = tree.text(f"sglang/{path}")
    if text is None:
        raise SystemExit(f"there is no sglang/{path} in this release")
    return ast.parse(text)


def _class(module: ast.Module, name: str) -> ast.ClassDef:
    found = [n for n in ast.walk(module) if isinstance(n, ast.ClassDef) and n.name == name]
    if not found:
        raise SystemExit(f"there is no class {name} in this release")
    return found[0]


def _arguments(found: ast.ClassDef, method: str) -> list[str]:
    """Names of a method's arguments, without self."""
    (function,) = (n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == method)
    arguments = function.args
    return [a.arg for a in (*arguments.args[1:], *arguments.kwonlyargs)]


def _sets(found: ast.ClassDef, attribute: str) -> bool:
    return f"self.{attribute} = " in ast.unparse(found)


def _annotated(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(n.target) for n in node.body if isinstance(n, ast.AnnAssign)]


def main(paths: list[str]) -> None:
    """Write the record of every release named."""
    FOLDER.mkdir(exist_ok=True)
    for path in paths:
        tree = Tree(Path(path))
        record = {"sglang": tree.version(), **surface(tree)}
        file = FOLDER / f"{tree.version()}.json"
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
