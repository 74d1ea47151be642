"""What is done to inputs before they are embedded: cutting, prompts, ids of other tokenizers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer

from launcher.errors import QlaunchError
from launcher.gateway import model_tokenizer
from launcher.gateway.inputs import TEXT_BYTES, Checkpoint, InputRules
from launcher.gateway.model_tokenizer import ModelTokenizer
from launcher.gateway.openai_vocabulary import OpenAIVocabulary
from launcher.plan import guard
from tests.checkpoints import tokens
from tests.gateway.harness import Bench, Memory, run
from tests.gateway.scripted_server import truth

LONGEST = 8
PROMPTS = {"query": "search_query: ", "none": ""}
LONG = "the weather is lovely today and the sun shines over the quiet harbour"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tokenizers of three kinds, by what they put around texts; all cut and pad by themselves."""
    made = {
        "both": tokens.wordpiece(400),
        "end": tokens.byte_level(500, ("<pad>", "<end>"), "$A <end>"),
        "nothing": tokens.byte_level(500, ("<pad>",), "$A"),
    }
    result = {}
    for name, tokenizer in made.items():
        folder = tmp_path_factory.mktemp(name)
        tokenizer.enable_truncation(5)
        tokenizer.enable_padding(length=20)
        tokenizer.save(str(folder / "tokenizer.json"))
        result[name] = folder
    return result


def reference(folder: Path) -> Tokenizer:
    """The library's own cutting, which ours is held to."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def uncut(folder: Path) -> Tokenizer:
    tokenizer = reference(folder)
    tokenizer.no_truncation()
    return tokenizer


def cut(folder: Path, text: str) -> list[int]:
    ids: list[int] = reference(folder).encode(text).ids
    return ids


def checkpoint(folder: Path, *, of_service: bool = True) -> Checkpoint:
    return Checkpoint(folder=str(folder), longest=LONGEST, prompts=PROMPTS, of_service=of_service)


class TestTruncation:
    @pytest.mark.parametrize("kind", ["both", "end", "nothing"])
    def test_long_texts_are_cut_as_the_tokenizers_library_cuts(
        self, kind: str, folders: dict[str, Path]
    ) -> None:
        async def work() -> None:
            folder = folders[kind]
            async with Bench(Memory(), checkpoint=checkpoint(folder)) as bench:
                reply = await bench.ask(["sun", LONG, "Zürich"], truncate="end")
                counts = [len(uncut(folder).encode(text).ids) for text in ("sun", LONG, "Zürich")]
                assert counts[0] < LONGEST < counts[1]
                assert counts[2] <= LONGEST
                wanted: list[Any] = ["sun", cut(folder, LONG), "Zürich"]
                assert reply.vectors == [truth(item) for item in wanted]
                assert reply.headers["X-Truncated-Inputs"] == "1"
                for call in bench.server.calls:  # never texts and ids in one call
                    assert len({type(item) for item in call["input"]}) == 1
                assert reply.headers["X-Cache-Misses"] == "3"
                page = (await bench.get("metrics"))[1]
                assert 'qlaunch_gateway_truncated_inputs_total{model="m"} 1.0' in page

        run(work())

    def test_nothing_is_cut_by_a_tokenizer_that_is_not_the_engine_s(
        self, folders: dict[str, Path]
    ) -> None:
        """The ids of a tokenizer.json that keeps capitals are not those of a lower-cased text."""

        async def work() -> None:
            known = msgspec.structs.replace(checkpoint(folders["both"]), other_tokens=True)
            async with Bench(Memory(), checkpoint=known) as bench:
                reply = await bench.ask(["sun", LONG], truncate="end")
                assert (reply.status, reply.body["error"]["code"]) == (400, "no_tokenizer")
                assert (await bench.ask("sun", truncate="end")).vectors == [truth("sun")]

        run(work())

    def test_texts_of_few_tokens_and_many_bytes_go_as_their_tokens(
        self, folders: dict[str, Path]
    ) -> None:
        """A service refuses texts by their bytes before it counts tokens, cut or not."""

        async def work() -> None:
            assert TEXT_BYTES == guard.TEXT_BYTES
            folder = folders["both"]
            spaced = f"sun{' ' * TEXT_BYTES}"
            ids = [int(one) for one in uncut(folder).encode(spaced).ids]
            assert len(ids) < LONGEST
            async with Bench(Memory(), checkpoint=checkpoint(folder)) as bench:
                reply = await bench.ask(["sun", spaced], truncate="end")
                assert reply.vectors == [truth("sun"), truth(ids)]
                assert reply.headers["X-Truncated-Inputs"] == "0"

        run(work())

    def test_cut_texts_are_kept_as_what_was_embedded(self, folders: dict[str, Path]) -> None:
        async def work() -> None:
            folder = folders["both"]
            async with Bench(Memory(), checkpoint=checkpoint(folder)) as bench:
                await bench.ask(LONG, truncate="end")
                await bench.kept()
                # Another text with the same beginning, and its token ids, are the same input.
                assert (await bench.ask(LONG + " again", truncate="END")).hits == 1
                assert (await bench.ask(cut(folder, LONG))).hits == 1
                # The whole text is not: it was never embedded.
                bench.server.refused = lambda item: item == LONG
                assert (await bench.ask(LONG)).status == 400
                assert (await bench.ask(LONG, truncate="none")).status == 400
                assert (await bench.ask("sun", truncate="end")).headers["X-Truncated-Inputs"] == "0"

        run(work())

    @pytest.mark.parametrize("kind", ["both", "end", "nothing"])
    def test_token_ids_are_cut_too_and_end_as_they_did(
        self, kind: str, folders: dict[str, Path]
    ) -> None:
        async def work() -> None:
            folder = folders[kind]
            async with Bench(Memory(), checkpoint=checkpoint(folder)) as bench:
                reply = await bench.ask([uncut(folder).encode(LONG).ids], truncate=True)
                assert reply.vectors == [truth(cut(folder, LONG))]
                assert reply.headers["X-Truncated-Inputs"] == "1"

        run(work())

    def test_before_a_server_at_a_url_a_text_stays_a_text(self, folders: dict[str, Path]) -> None:
        async def work() -> None:
            known = checkpoint(folders["both"], of_service=False)
            async with Bench(Memory(), checkpoint=known) as bench:
                reply = await bench.ask([LONG, "sun"], truncate="end")
                (call,) = bench.server.calls
                beginning, other = call["input"]
                assert LONG.startswith(beginning)
                assert other == "sun"
                assert cut(folders["both"], beginning) == cut(folders["both"], LONG)
                assert reply.headers["X-Truncated-Inputs"] == "1"

        run(work())

    @pytest.mark.parametrize("value", [LONG, list(range(5, 5 + LONGEST + 1))])
    def test_what_a_server_at_a_url_would_cut_unasked_is_refused(
        self, value: Any, folders: dict[str, Path]
    ) -> None:
        async def work() -> None:
            known = checkpoint(folders["both"], of_service=False)
            rules = InputRules(ids_of="any")
            async with Bench(Memory(), checkpoint=known, rules=rules) as bench:
                reply = await bench.ask(value)
                assert reply.status == 400
                assert reply.body["error"]["code"] == "context_length_exceeded"
                assert f"more than {LONGEST} tokens" in reply.body["error"]["message"]
                assert bench.server.calls == []

        run(work())

    def test_the_gateways_own_rule_can_be_refused_by_a_request(
        self, folders: dict[str, Path]
    ) -> None:
        async def work() -> None:
            known = checkpoint(folders["both"])
            rules = InputRules(truncate="end")
            async with Bench(Memory(), checkpoint=known, rules=rules) as bench:
                assert (await bench.ask(LONG)).headers["X-Truncated-Inputs"] == "1"
                reply = await bench.ask(LONG, truncate="none")
                assert reply.vectors == [truth(LONG)]  # this server takes all

        run(work())

    def test_without_a_checkpoint_it_is_refused_and_not_passed_on(self) -> None:
        async def work() -> None:
            async with Bench(Memory(), rules=InputRules(truncate="end")) as bench:
                reply = await bench.ask("x", truncate="end")
                assert (reply.status, reply.body["error"]["code"]) == (400, "no_checkpoint")
                assert "--checkpoint" in reply.body["error"]["message"]
                assert (await bench.ask("x")).vectors == [truth("x")]
                assert "truncate" not in bench.server.calls[0]

        run(work())

    def test_without_a_tokenizer_it_is_refused(self, tmp_path: Path) -> None:
        async def work() -> None:
            async with Bench(Memory(), checkpoint=checkpoint(tmp_path)) as bench:
                reply = await bench.ask("x", truncate="end")
                assert (reply.status, reply.body["error"]["code"]) == (400, "no_tokenizer")
                (tmp_path / "tokenizer.json").write_text("{")
                reply = await bench.ask("x", truncate="end")
                assert reply.body["error"]["code"] == "no_tokenizer"
                assert (await bench.ask("x")).status == 200

        run(work())


TEXTS = st.text(
    st.sampled_from("ab cdé ß測🙂 \t[SEP]ﷺ") | st.characters(codec="utf-8"), max_size=80
)


@pytest.mark.parametrize("kind", ["both", "end", "nothing"])
@given(text=TEXTS)
@settings(max_examples=150, deadline=None)
def test_any_text_is_cut_as_the_library_cuts_and_fits(
    kind: str, text: str, folders: dict[str, Path]
) -> None:
    async def work() -> None:
        tokenizer = ModelTokenizer(folders[kind] / "tokenizer.json")
        (encoding,) = await tokenizer.encode([text])
        if len(encoding.ids) <= LONGEST:
            assert cut(folders[kind], text) == encoding.ids
            return
        assert tokenizer.may_exceed(text, LONGEST)
        assert list(tokenizer.cut_ids(encoding.ids, LONGEST)) == cut(folders[kind], text)
        beginning = await tokenizer.cut_text(text, encoding, LONGEST)
        assert text.startswith(beginning)
        (again,) = await tokenizer.encode([beginning])
        assert len(again.ids) <= LONGEST

    run(work())


@pytest.mark.parametrize("kind", ["both", "end", "nothing"])
@given(text=TEXTS)
@settings(max_examples=150, deadline=None)
def test_reading_only_a_beginning_changes_nothing(
    kind: str, text: str, folders: dict[str, Path]
) -> None:
    async def work() -> None:
        tokenizer = ModelTokenizer(folders[kind] / "tokenizer.json")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model_tokenizer, "LEAST_READ", 4)
            patch.setattr(model_tokenizer, "CHARACTERS", 1)
            (encoding,) = await tokenizer.beginnings([text], LONGEST)
        assert list(tokenizer.cut_ids(encoding.ids, LONGEST)) == cut(folders[kind], text)

    run(work())


def test_of_a_very_long_text_only_the_beginning_is_read(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 MB read whole took 17 s and 1 GB."""
    tokenizer = ModelTokenizer(folders["both"] / "tokenizer.json")
    read: list[int] = []
    encode = ModelTokenizer.encode

    async def counting(self: ModelTokenizer, texts: Sequence[str]) -> list[Encoding]:
        read.extend(len(text) for text in texts)
        return await encode(self, texts)

    async def work() -> None:
        monkeypatch.setattr(ModelTokenizer, "encode", counting)
        spaces = " " * 50_000 + LONG
        texts = [LONG * 100_000, "sun", "x" * 3_000_000, spaces]
        first, short, word, late = await tokenizer.beginnings(texts, LONGEST)
        assert list(tokenizer.cut_ids(first.ids, LONGEST)) == cut(folders["both"], LONG)
        assert short.ids == cut(folders["both"], "sun")
        assert len(word.ids) == 3  # one unknown token, wherever it is cut
        assert list(tokenizer.cut_ids(late.ids, LONGEST)) == cut(folders["both"], LONG)

    run(work())
    assert max(read) <= 3_000_000
    assert sum(size for size in read if size > 100_000) < 12_000_000


class TestPrompts:
    def test_a_prompt_by_name_goes_before_each_text_and_into_the_key(
        self, folders: dict[str, Path]
    ) -> None:
        async def work() -> None:
            async with Bench(Memory(), checkpoint=checkpoint(folders["both"])) as bench:
                reply = await bench.ask(["a", "b"], prompt_name="query")
                assert reply.vectors == [truth("search_query: a"), truth("search_query: b")]
                assert "prompt_name" not in bench.server.calls[0]
                await bench.kept()
                assert (await bench.ask("search_query: a")).hits == 1
                assert (await bench.ask("a")).hits == 0
                await bench.kept()
                assert (await bench.ask("a", prompt_name="none")).hits == 1

        run(work())

    def test_a_prompt_counts_for_the_length(self, folders: dict[str, Path]) -> None:
        async def work() -> None:
            folder = folders["both"]
            async with Bench(Memory(), checkpoint=checkpoint(folder)) as bench:
                reply = await bench.ask(LONG, prompt_name="query", truncate="end")
                assert reply.vectors == [truth(cut(folder, "search_query: " + LONG))]

        run(work())

    @pytest.mark.parametrize(
        ("value", "name", "code", "says"),
        [
            ("a", "STS", "prompt_unknown", "of this model: none, query"),
            ([5, 6], "query", "bad_prompt_name", "token ids"),
            ("a", 5, "bad_prompt_name", "must be a string"),
        ],
    )
    def test_what_cannot_be_is_a_400(
        self, value: Any, name: Any, code: str, says: str, folders: dict[str, Path]
    ) -> None:
        async def work() -> None:
            async with Bench(Memory(), checkpoint=checkpoint(folders["both"])) as bench:
                reply = await bench.ask(value, prompt_name=name)
                assert (reply.status, reply.body["error"]["code"]) == (400, code)
                assert says in reply.body["error"]["message"]
                assert bench.server.calls == []

        run(work())

    def test_without_a_checkpoint_it_says_so(self) -> None:
        async def work() -> None:
            async with Bench(Memory()) as bench:
                reply = await bench.ask("a", prompt_name="query")
                assert (reply.status, reply.body["error"]["code"]) == (400, "no_checkpoint")
                assert (await bench.ask("a", prompt_name=None)).status == 200

        run(work())


@pytest.mark.parametrize("text", ["", " \t\n"])
def test_empty_texts_can_be_refused(text: str) -> None:
    async def work() -> None:
        async with Bench(Memory(), rules=InputRules(empty="refuse")) as bench:
            reply = await bench.ask(["a", text])
            assert (reply.status, reply.body["error"]["code"]) == (400, "bad_input")
            assert "input[1]" in reply.body["error"]["message"]
            assert bench.server.calls == []
        async with Bench(Memory()) as bench:
            assert (await bench.ask(["a", text])).vectors == [truth("a"), truth(text)]

    run(work())


class TestForeignTokenIds:
    """LangChain's OpenAIEmbeddings sends ids of tiktoken's vocabulary to any model."""

    @pytest.mark.parametrize(
        ("kind", "ids", "why"),
        [
            ("both", [15339, 1917], "beyond its vocabulary of"),
            ("both", [30, 40], "begin with 2"),
            ("both", [2, 40], "end with 3"),
            ("end", [30, 40], "end with 1"),
            ("nothing", [9906], "beyond its vocabulary of"),
        ],
    )
    @pytest.mark.parametrize("truncate", ["end", "none"])
    def test_ids_that_the_models_tokenizer_does_not_make_are_refused(
        self, kind: str, ids: list[int], why: str, truncate: str, folders: dict[str, Path]
    ) -> None:
        async def work() -> None:
            async with Bench(Memory(), checkpoint=checkpoint(folders[kind])) as bench:
                own = cut(folders[kind], "sun")
                reply = await bench.ask([own, ids], truncate=truncate)
                assert (reply.status, reply.body["error"]["code"]) == (400, "foreign_token_ids")
                assert why in reply.body["error"]["message"]
                assert "input[1]" in reply.body["error"]["message"]
                assert "check_embedding_ctx_length" in reply.body["error"]["message"]
                assert bench.server.calls == []
                assert (await bench.ask(own)).vectors == [truth(own)]

        run(work())

    @pytest.mark.parametrize("own_options", [True, False])
    def test_options_are_named_where_there_are_some(
        self, own_options: bool, folders: dict[str, Path]
    ) -> None:
        """The gateway of a service was to be started with options that it does not have."""

        async def work() -> None:
            rules = InputRules(own_options=own_options)
            async with Bench(
                Memory(), checkpoint=checkpoint(folders["both"]), rules=rules
            ) as bench:
                said = (await bench.ask([[30, 40]])).body["error"]["message"]
                assert ("--token-ids any" in said) is own_options
            async with Bench(Memory(), rules=rules) as bench:
                said = (await bench.ask("a", truncate="end")).body["error"]["message"]
                assert ("--checkpoint" in said) is own_options

        run(work())

    def test_any_are_taken_where_that_is_wanted_or_nothing_is_known(
        self, folders: dict[str, Path]
    ) -> None:
        async def work() -> None:
            known = checkpoint(folders["both"])
            rules = InputRules(ids_of="any")
            async with Bench(Memory(), checkpoint=known, rules=rules) as bench:
                assert (await bench.ask([30, 40])).vectors == [truth([30, 40])]
            async with Bench(Memory()) as bench:
                assert (await bench.ask([30, 40])).vectors == [truth([30, 40])]

        run(work())

    def test_openais_ids_are_embedded_as_their_text(
        self, tmp_path: Path, folders: dict[str, Path]
    ) -> None:
        file = tmp_path / "small.tiktoken"
        words = {9: b"Hello", 20: b" w\xc3", 21: b"\xb6rld", 5: b"!"}
        lines = [b"%b %d\n" % (base64.b64encode(word), rank) for rank, word in words.items()]
        file.write_bytes(b"".join(lines))

        async def work() -> None:
            rules = InputRules(openai=OpenAIVocabulary(file))
            known = checkpoint(folders["both"])
            async with Bench(Memory(), checkpoint=known, rules=rules) as bench:
                reply = await bench.ask([[9, 20, 21, 5], [20]])
                assert reply.vectors == [truth("Hello wörld!"), truth(" w\ufffd")]
                await bench.kept()
                assert (await bench.ask("Hello wörld!")).hits == 1
                assert (await bench.ask([9], prompt_name="query")).vectors == [
                    truth("search_query: Hello")
                ]
                odd = await bench.ask([9, 10])
                assert (odd.status, odd.body["error"]["code"]) == (400, "foreign_token_ids")
                assert "token id 10" in odd.body["error"]["message"]

        run(work())

    @pytest.mark.parametrize("content", [b"", b"no base64 1\n", b"aGVsbG8= x\n", b"###\n"])
    def test_a_file_that_is_no_vocabulary_is_refused(self, content: bytes, tmp_path: Path) -> None:
        file = tmp_path / "v.tiktoken"
        file.write_bytes(content)
        with pytest.raises(QlaunchError) as caught:
            OpenAIVocabulary(file)
        assert caught.value.code == "bad_vocabulary"
        with pytest.raises(QlaunchError, match="cannot be read"):
            OpenAIVocabulary(tmp_path / "absent")
