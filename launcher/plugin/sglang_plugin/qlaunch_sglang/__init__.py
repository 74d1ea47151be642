"""qlaunch's plugin for SGLang: runs inside the engine, through SGLang's own extension points.

Two ways in, both official, neither touches an installed file:

- the entry point `sglang.srt.plugins` (SGLang ≥ 0.5.12) calls `register` in the front and in the
  scheduler; it hooks the place where the front chooses how to start its children (`fork_start`),
  the loop of what hands requests to several schedulers (`calm_controller`), how it hands out a
  call's texts (`shared_calls`) and a text alone (`least_loaded`), what the scheduler takes for its
  next batch (`even_batches`), its sleep between requests (`trimming`), the making of the tokenizer
  where texts go to it in lower case (`lower_case`), what SGLang changes of it (`own_tokenizer`),
  the making of the cache of keys and values (`no_cache`), the way of vectors from the scheduler to
  the front (`no_detokenizer`; `straight` where there is a detokenizer), the making of a grammar
  backend (`no_grammar`), the front's answers to `/health` (`prompt_health`) and to SIGTERM
  (`prompt_stop`), when it freezes its heap (`timely_freeze`), the reading of a call's texts
  (`call_slices`), the writing of answers (`answers`), what is fused by compiled kernels where there
  are none (`torch_kernels`), and how quickly all of this is hooked (`one_look`);
- `SGLANG_EXTERNAL_MODEL_PACKAGE=qlaunch_sglang.encoders` (or `.decoders`) makes SGLang's model
  registry take the classes of that package over its own of the same name.

The launcher puts this folder on the engine's PYTHONPATH. Nothing of the launcher is imported here.
"""

__version__ = "1.0"


def register() -> None:
    """Entry point of SGLang's plugin framework."""
    import gc

    from qlaunch_sglang import (
        answers,
        call_slices,
        calm_controller,
        even_batches,
        fork_start,
        least_loaded,
        lower_case,
        no_cache,
        no_detokenizer,
        no_grammar,
        one_look,
        own_tokenizer,
        prompt_health,
        prompt_stop,
        shared_calls,
        straight,
        timely_freeze,
        torch_kernels,
        trimming,
    )

    # CPython's own, which sitecustomize.py raised while the engine was importing.
    gc.set_threshold(700, 10, 10)
    one_look.register()
    fork_start.register()
    calm_controller.register()
    shared_calls.register()
    least_loaded.register()
    even_batches.register()
    trimming.register()
    lower_case.register()
    own_tokenizer.register()
    no_cache.register()
    if not no_detokenizer.register():
        straight.register()
    no_grammar.register()
    prompt_health.register()
    prompt_stop.register()
    timely_freeze.register()
    answers.register()
    call_slices.register()
    torch_kernels.register()
