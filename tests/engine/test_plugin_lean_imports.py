"""What the plugin leaves out of the engine's imports, and how it is there all the same."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import lean_imports

FILES = {
    "transformers/__init__.py": "",
    "transformers/loss/__init__.py": "",
    "transformers/loss/loss_utils.py": (
        "from . import heavy\nLOSS_MAPPING = {'ForCausalLM': heavy.loss}\nother = 7\n"
    ),
    "transformers/loss/heavy.py": "def loss():\n    return 'a loss'\n",
    "transformers/utils/__init__.py": "from .import_utils import is_torch_distributed_available\n",
    "transformers/utils/import_utils.py": (
        "def is_torch_distributed_available():\n    return True\n"
        "def is_torch_flex_attn_available():\n    return True\n"
    ),
    "torch/__init__.py": (
        "from . import compiler\ndef compile(f=None, **k):\n    return 'compiled'\n"
    ),
    "torch/compiler.py": "def disable(f=None):\n    import torch._dynamo\n    return 'disabled'\n",
    "torch/_dynamo/__init__.py": (
        "import heavy\nfrom ._trace_wrapped_higher_order_op import trace_wrapped\n"
        "def disable(f=None):\n    return 'disabled'\ngraph_break = 'real'\n"
    ),
    "torch/_dynamo/config.py": "limit = 8\n",
    "torch/_dynamo/_trace_wrapped_higher_order_op.py": (
        "class TransformGetItemToIndex:\n    pass\ntrace_wrapped = 5\n"
    ),
    "gguf/__init__.py": "from .vocab import *\n",
    "gguf/vocab.py": "import heavy\nclass SpecialVocab:\n    pass\n",
    "heavy.py": "",
    "triton/__init__.py": "raise ImportError('the real one')\n",
}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Packages as the engine imports them, with something heavy that they bring."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


CPU = {"SGLANG_USE_CPU_ENGINE": "1"}
"""What the launcher tells an engine that serves on a CPU."""


def run(packages: Path, code: str, *options: str, **env: str) -> str:
    """The output of `code` with the plugin's imports installed, in a Python of its own."""
    source = f"import sys\nfrom qlaunch_sglang import lean_imports\nlean_imports.install()\n{code}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", source, *options],
        env={"PYTHONPATH": f"{command.PLUGIN}:{packages}", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOSSES = (
    "from transformers.loss.loss_utils import LOSS_MAPPING\n"
    "print('transformers.loss.heavy' in sys.modules)\n"
)


def test_losses_are_imported_by_whoever_looks_for_one(packages: Path) -> None:
    code = LOSSES + (
        "print('ForCausalLM' in LOSS_MAPPING, LOSS_MAPPING['ForCausalLM'](), *LOSS_MAPPING)\n"
        "from transformers.loss.loss_utils import other\n"
        "print(other, LOSS_MAPPING.get('none', 8), len(LOSS_MAPPING))"
    )
    said = run(packages, code).splitlines()
    assert said == ["False", "True a loss ForCausalLM", "7 8 1"]


def test_a_profile_can_turn_it_off(packages: Path) -> None:
    assert run(packages, LOSSES, QLAUNCH_IMPORTS="all").split() == ["True"]


HEAVY = "print('heavy' in sys.modules)\n"


def test_the_compiler_is_executed_when_it_is_used_and_not_when_functions_are_marked(
    packages: Path,
) -> None:
    code = (
        "import torch._dynamo, torch._dynamo.config\n"
        "def f(): pass\n"
        "print(torch._dynamo.disable(f) is f, torch._dynamo.disable()(f) is f,"
        " torch.compiler.disable(f) is f, torch._dynamo.config.limit)\n"
        f"{HEAVY}"
        "torch._dynamo.trace_rules.clear_lru_cache()\n"
        f"{HEAVY}"
        "print(torch._dynamo.graph_break, torch._dynamo.disable(f))\n"
        f"{HEAVY}"
    )
    said = run(packages, code, **CPU).splitlines()
    assert said == ["True True True 8", "False", "False", "real disabled", "True"]


def test_a_class_of_the_compilers_is_looked_up_when_it_is_called(packages: Path) -> None:
    code = (
        "from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex\n"
        f"{HEAVY}"
        "made = TransformGetItemToIndex()\n"
        "print(type(made).__module__, type(made).__name__)\n"
        "from torch._dynamo import graph_break\n"
        "print(graph_break)\n"
    )
    module = "torch._dynamo._trace_wrapped_higher_order_op"
    said = run(packages, code, **CPU).splitlines()
    assert said == ["False", f"{module} TransformGetItemToIndex", "real"]


def test_what_is_marked_to_be_compiled_stays_as_it_is(packages: Path) -> None:
    code = (
        "import torch\ndef f(): pass\n"
        "print(torch.compile(f) is f, torch.compile(dynamic=True)(f) is f)\n"
    )
    assert run(packages, code, **CPU) == "True True\n"


@pytest.mark.parametrize("options", [(), ("--enable-torch-compile",)])
def test_who_compiles_or_serves_on_a_gpu_has_the_real_ones(
    packages: Path, options: tuple[str, ...]
) -> None:
    code = (
        "import torch\nprint(torch.compile(), torch.compiler.disable())\n"
        f"{HEAVY}"
        "from transformers.utils import is_torch_distributed_available as there\nprint(there())\n"
        "try:\n    import triton\nexcept ImportError as error:\n    print(error)\n"
    )
    said = run(packages, code, *options, **(CPU if options else {})).splitlines()
    assert said == ["compiled disabled", "True", "True", "the real one"]


def test_transformers_shards_nothing_on_a_cpu(packages: Path) -> None:
    code = "from transformers.utils import is_torch_distributed_available as there\nprint(there())"
    assert run(packages, code, **CPU) == "False\n"


def test_vocabularies_of_another_format_are_read_by_who_asks_for_one(packages: Path) -> None:
    code = f"import gguf\n{HEAVY}from gguf.vocab import SpecialVocab\n{HEAVY}"
    assert run(packages, code, **CPU).split() == ["False", "True"]


def test_kernels_of_triton_can_be_decorated_and_not_run(packages: Path) -> None:
    code = (
        "import triton, triton.language as tl\n"
        "from triton.language.extra import libdevice\n"
        "@triton.autotune(configs=[triton.Config({'B': 64}, num_warps=4)], key=['n'])\n"
        "@triton.jit\n"
        "def kernel(x, n: tl.constexpr, m: tl.constexpr | None = None):\n    'Adds.'\n"
        "class Mine(triton.KernelInterface):\n    pass\n"
        "print(kernel.__name__, kernel.__doc__, Mine.__bases__)\n"
        "for call in (lambda: kernel[(1,)](0, n=1), lambda: triton.runtime.driver.active.utils):\n"
        "    try:\n        call()\n    except RuntimeError as error:\n        print(error)\n"
        "print(hasattr(triton, '__path_of_mine__'), repr(tl.float32))\n"
    )
    assert run(packages, code, **CPU).splitlines() == [
        "kernel Adds. (<class 'object'>,)",
        "kernel is a kernel of Triton, which runs on no CPU",
        "0 active drivers ([]). There should only be one.",
        "False <triton.language.float32, which an embedding server on a CPU has not>",
    ]


def test_what_is_absent_holds_nothing_and_is_not_gone_through_without_an_end(
    packages: Path,
) -> None:
    """Python asks what has items and no end for one after the other: a start that never ended."""
    code = (
        "import triton.language as tl\n"
        "print(list(tl.dtypes), {d: 1 for d in tl.dtypes()}, 1 in tl.dtypes)\n"
    )
    assert run(packages, code, **CPU).splitlines() == ["[] {} False"]


def test_nothing_else_is_touched() -> None:
    finder = lean_imports._Finder({}, {})
    assert finder.find_spec("json") is None
    assert importlib.import_module("json").__spec__ is not None
