"""What is done to inputs before they are looked up and sent: prompts, cutting, refusals.

Keys are made of what comes out of here: of what is really embedded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from launcher.gateway.identity import Input
from launcher.gateway.model_tokenizer import ModelTokenizer, NoTokenizerError, Tokenizers
from launcher.gateway.openai_vocabulary import OpenAIVocabulary
from launcher.gateway.problems import RequestError
from launcher.gateway.request import EmbeddingCall, Truncation

if TYPE_CHECKING:
    from tokenizers import Encoding

EmptyTexts = Literal["server", "refuse"]
IdsOf = Literal["model", "any"]
_NO_CHECKPOINT: Final = "the gateway does not know the checkpoint of this model, which `{}` needs"
TEXT_BYTES: Final = 65_536
"""Bytes of a text that every service takes (`plan.guard.TEXT_BYTES`). Ids have no such bound."""


_OTHER_TOKENS: Final = (
    "the model's texts cannot be cut: its engine cuts them into other tokens than its"
    " tokenizer.json does by itself (options or tokens in tokenizer_config.json,"
    " sentence_bert_config.json or another file beside it); send shorter texts"
)


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model by its files."""

    folder: str
    longest: int
    """Most tokens of one input, special tokens counted."""
    prompts: Mapping[str, str] = {}
    """Prompt by its name, from config_sentence_transformers.json."""
    of_service: bool = False
    """Whether the server is a service of this installation: it embeds token ids as they are, and
    refuses longer inputs itself."""
    other_tokens: bool = False
    """Whether its engine cuts texts into other tokens than tokenizer.json by itself does."""


class InputRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway does where a request says nothing."""

    truncate: Truncation = "none"
    empty: EmptyTexts = "server"
    """Texts of nothing but white space."""
    ids_of: IdsOf = "model"
    """`model`: only those that the model's own tokenizer makes, where that is known."""
    openai: OpenAIVocabulary | None = None
    """Token ids are of this vocabulary, and are embedded as the text they stand for."""
    own_options: bool = True
    """Whether the gateway has a command line of its own, whose options a refusal may name: that of
    a service has none."""


class Prepared(msgspec.Struct, frozen=True):
    """A request as it is embedded."""

    call: EmbeddingCall
    cut: int
    """Inputs that were cut."""


class Preparation:
    """Prepares the inputs of requests."""

    def __init__(self, rules: InputRules) -> None:
        self._rules = rules
        self._tokenizers = Tokenizers()

    async def prepare(self, call: EmbeddingCall, checkpoint: Checkpoint | None) -> Prepared:
        """The call with its inputs as they are to be embedded.

        Raises:
            RequestError: 400: it asks for what is not known of this model, or an input is refused.
        """
        inputs = call.inputs
        if self._rules.empty == "refuse":
            _refuse_empty(inputs)
        if self._rules.openai is not None:
            inputs = _as_texts(inputs, self._rules.openai)
        if call.prompt_name is not None:
            if checkpoint is None:
                raise self._no_checkpoint("prompt_name")
            inputs = _prompted(inputs, call.prompt_name, checkpoint)
        if checkpoint is None:
            if call.truncate == "end":
                raise self._no_checkpoint("truncate")
            return _prepared(call, inputs, 0)
        if (call.truncate or self._rules.truncate) == "end":
            return await self._cut(call, inputs, checkpoint)
        await self._check(inputs, checkpoint)
        return _prepared(call, inputs, 0)

    async def _cut(
        self, call: EmbeddingCall, inputs: tuple[Input, ...], checkpoint: Checkpoint
    ) -> Prepared:
        try:
            tokenizer = await self._tokenizers.of(checkpoint.folder)
        except NoTokenizerError as error:
            text = f"the model's texts cannot be cut: {error}"
            raise RequestError(400, "no_tokenizer", text, param="truncate") from None
        self._check_ids(inputs, tokenizer)
        longest = checkpoint.longest
        changed: dict[int, Input] = dict(_too_long_ids(inputs, tokenizer, longest))
        cut = len(changed)
        for place, text, encoding in await _tokenized(inputs, tokenizer, longest):
            too_long = len(encoding.ids) > longest
            cut += too_long
            if not checkpoint.of_service:
                if too_long:
                    changed[place] = await tokenizer.cut_text(text, encoding, longest)
            elif too_long or len(text.encode()) > TEXT_BYTES:
                if checkpoint.other_tokens:
                    raise RequestError(400, "no_tokenizer", _OTHER_TOKENS, param="truncate")
                changed[place] = tokenizer.cut_ids(encoding.ids, longest)
        whole = tuple(changed.get(place, item) for place, item in enumerate(inputs))
        return _prepared(call, whole, cut)

    async def _check(self, inputs: tuple[Input, ...], checkpoint: Checkpoint) -> None:
        """Refuse what the model cannot have meant, and what its server would cut unasked."""
        with_ids = any(not isinstance(item, str) for item in inputs)
        if checkpoint.of_service and not (with_ids and self._rules.ids_of == "model"):
            return
        try:
            tokenizer = await self._tokenizers.of(checkpoint.folder)
        except NoTokenizerError:
            return
        self._check_ids(inputs, tokenizer)
        if checkpoint.of_service:
            return
        longest = checkpoint.longest
        for place, _ids in _too_long_ids(inputs, tokenizer, longest):
            raise _exceeds(place, longest)
        for place, _text, encoding in await _tokenized(inputs, tokenizer, longest):
            if len(encoding.ids) > longest:
                raise _exceeds(place, longest)

    def _check_ids(self, inputs: Iterable[Input], tokenizer: ModelTokenizer) -> None:
        if self._rules.ids_of == "any":
            return
        for place, item in enumerate(inputs):
            if not isinstance(item, str):
                self._check_own(place, item, tokenizer)

    def _check_own(self, place: int, ids: tuple[int, ...], tokenizer: ModelTokenizer) -> None:
        """Refuse token ids that another tokenizer made: the model would embed other words."""
        why = _why_foreign(ids, tokenizer)
        if why is None:
            return
        text = (
            f"input[{place}] has token ids that the tokenizer of this model does not make ({why});"
            " send texts (LangChain: check_embedding_ctx_length=False), or ids of its own tokenizer"
        )
        if self._rules.own_options:
            text += ", or start the gateway with --openai-vocabulary or --token-ids any"
        raise RequestError(400, "foreign_token_ids", text, param="input")

    def _no_checkpoint(self, field: str) -> RequestError:
        text = _NO_CHECKPOINT.format(field)
        if self._rules.own_options:
            text += ": start it with --checkpoint NAME=MODEL"
        return RequestError(400, "no_checkpoint", text, param=field)


def _prepared(call: EmbeddingCall, inputs: tuple[Input, ...], cut: int) -> Prepared:
    if inputs is call.inputs:
        return Prepared(call, cut)
    return Prepared(msgspec.structs.replace(call, inputs=inputs), cut)


def _refuse_empty(inputs: Iterable[Input]) -> None:
    for place, item in enumerate(inputs):
        if isinstance(item, str) and not item.strip():
            text = f"input[{place}] is an empty text"
            raise RequestError(400, "bad_input", text, param="input")


def _as_texts(inputs: tuple[Input, ...], vocabulary: OpenAIVocabulary) -> tuple[Input, ...]:
    if all(isinstance(item, str) for item in inputs):
        return inputs
    return tuple(
        item if isinstance(item, str) else vocabulary.text(place, item)
        for place, item in enumerate(inputs)
    )


def _prompted(inputs: tuple[Input, ...], name: str, checkpoint: Checkpoint) -> tuple[Input, ...]:
    prompt = checkpoint.prompts.get(name)
    if prompt is None:
        known = ", ".join(sorted(checkpoint.prompts)) or "it has none"
        text = f"no such prompt; of this model: {known}"
        raise RequestError(400, "prompt_unknown", text, param="prompt_name")
    texts = [item for item in inputs if isinstance(item, str)]
    if len(texts) != len(inputs):
        text = "`prompt_name` goes with texts: a prompt cannot be put before token ids"
        raise RequestError(400, "bad_prompt_name", text, param="prompt_name")
    return tuple(prompt + text for text in texts) if prompt else inputs


def _too_long_ids(
    inputs: Iterable[Input], tokenizer: ModelTokenizer, longest: int
) -> Iterable[tuple[int, tuple[int, ...]]]:
    """Token ids that are too many, by place, cut."""
    for place, item in enumerate(inputs):
        if not isinstance(item, str) and len(item) > longest:
            yield place, tokenizer.cut_ids(item, longest)


async def _tokenized(
    inputs: Iterable[Input], tokenizer: ModelTokenizer, longest: int
) -> list[tuple[int, str, Encoding]]:
    """Texts that may have too many tokens, by place, with the first of their tokens."""
    doubtful = [
        (place, item)
        for place, item in enumerate(inputs)
        if isinstance(item, str) and tokenizer.may_exceed(item, longest)
    ]
    encodings = await tokenizer.beginnings([text for _place, text in doubtful], longest)
    return [
        (place, text, encoding) for (place, text), encoding in zip(doubtful, encodings, strict=True)
    ]


def _why_foreign(ids: tuple[int, ...], tokenizer: ModelTokenizer) -> str | None:
    largest = max(ids)
    if largest >= tokenizer.vocabulary:
        return f"{largest} is beyond its vocabulary of {tokenizer.vocabulary}"
    if tokenizer.prefix and ids[: len(tokenizer.prefix)] != tokenizer.prefix:
        return f"its texts begin with {_listed(tokenizer.prefix)}"
    if tokenizer.suffix and ids[-len(tokenizer.suffix) :] != tokenizer.suffix:
        return f"its texts end with {_listed(tokenizer.suffix)}"
    return None


def _listed(ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids))


def _exceeds(place: int, longest: int) -> RequestError:
    return RequestError(
        400,
        "context_length_exceeded",
        f"input[{place}] has more than {longest} tokens, which this model takes at most;"
        ' `truncate: "end"` has it cut',
        param="input",
    )
