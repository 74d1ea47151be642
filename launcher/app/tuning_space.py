"""What is worth trying for a profile on a machine: the dimensions of `tune`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from launcher.app.prepare import Prepared
from launcher.argv import FlagValue
from launcher.bench.tune import Dimension, Overlay
from launcher.hardware.inventory import Cpu, Gpu
from launcher.plan import precision

MOST_REPLICAS = 8
RUNNING = (8, 16, 32, 64, 128, 256)
PREFILL = (2048, 4096, 8192, 16384, 32768)
CHUNKS = (512, 1024, 2048, 4096, 8192)


def dimensions(found: Prepared) -> tuple[Dimension, ...]:
    """What to try, most important first; dimensions without a second value are left out."""
    plan, hardware = found.plan, found.hardware
    flags = found.settings.flags
    on_cpu = plan.device == "cpu"
    backends = _backends(flags, hardware.cpu, hardware.gpus, on_cpu)
    offered = (
        Dimension("attention backend", tuple(backends)),
        Dimension("dtype", tuple(_dtypes(found, hardware.gpus if not on_cpu else ()))),
        Dimension("replicas × threads", tuple(_replicas(found)) if on_cpu else ()),
        Dimension(
            "running requests",
            _near("max-running-requests", plan.expectation.max_running_requests, RUNNING),
        ),
        Dimension("prefill tokens", _near_flag(flags, "max-prefill-tokens", PREFILL)),
        Dimension(
            "chunk",
            # An encoder must see a whole text at once.
            () if plan.expectation.encoder else _near_flag(flags, "chunked-prefill-size", CHUNKS),
        ),
    )
    return tuple(each for each in offered if each.options)


def _backends(
    flags: Mapping[str, FlagValue], cpu: Cpu, gpus: tuple[Gpu, ...], on_cpu: bool
) -> Iterable[Overlay]:
    now = flags.get("attention-backend")
    if on_cpu:
        names = ["torch_native", *(["intel_amx"] if "amx_bf16" in cpu.flags else [])]
    else:
        newest = max((gpu.compute_capability for gpu in gpus), default=(0, 0))
        names = ["triton", *(["flashinfer"] if newest >= (8, 0) else [])]
        names += ["fa3"] if newest[0] == 9 else []
    for name in names:
        if name != now and (now is not None or len(names) > 1):
            yield Overlay(flags={"attention-backend": name})


def _dtypes(found: Prepared, gpus: tuple[Gpu, ...]) -> Iterable[Overlay]:
    now, cpu = found.plan.expectation.dtype, found.hardware.cpu
    if gpus:
        old = min(gpu.compute_capability for gpu in gpus) < (8, 0)
        names = ["float16"] if old else ["bfloat16", "float16"]
    else:
        names = ["bfloat16", "float32"] if cpu.computes_bf16 else ["float32"]
        plugin = found.settings.plugin
        if not precision.why_not_int8("cpu", cpu, found.checkpoint, plugin=plugin):
            names.append(precision.INT8)
    return (Overlay(settings={"dtype": name}) for name in names if name != now)


def _replicas(found: Prepared) -> Iterable[Overlay]:
    """The engine's own data parallelism: so many schedulers, the processors divided among them."""
    usable = found.hardware.cpu.usable
    now = (
        found.settings.flags.get("dp-size", 1),
        int(found.plan.engine.env.get("OMP_NUM_THREADS", usable)),
    )
    for replicas in range(1, min(usable, MOST_REPLICAS) + 1):
        threads = usable // replicas
        for count in dict.fromkeys((threads, max(1, threads // 2) if replicas == 1 else threads)):
            if (replicas, count) != now:
                said = replicas > 1 or "dp-size" in found.settings.flags
                flags: dict[str, FlagValue] = {"dp-size": replicas} if said else {}
                yield Overlay(settings={"threads": count}, flags=flags)


def _near_flag(
    flags: Mapping[str, FlagValue], name: str, ladder: tuple[int, ...]
) -> tuple[Overlay, ...]:
    now = flags.get(name)
    if now is None or isinstance(now, bool) or not isinstance(now, int) or now < 1:
        return ()
    return _near(name, now, ladder)


def _near(name: str, now: int, ladder: tuple[int, ...]) -> tuple[Overlay, ...]:
    """The next step down and up from the present value."""
    lower = [step for step in ladder if step < now][-1:]
    upper = [step for step in ladder if step > now][:1]
    return tuple(Overlay(flags={name: step}) for step in (*lower, *upper))
