"""The texts of the long suite, written for it: the smoke's, and what the smoke has no time for.

Ordered by what they tell: where a slow CPU cannot take all, the last are left out. About 2,000
tokens with a tokenizer that knows the scripts.
"""

from __future__ import annotations

from typing import Final

from launcher.verify.texts import TEXTS, Text

LANGUAGES: Final[dict[str, str]] = {
    "ar": "تصل القوارب إلى الميناء قبل شروق الشمس بقليل.",
    "am": "ልጆቹ ከትምህርት ቤት በኋላ በወንዙ ዳር ይጫወታሉ።",
    "bn": "বৃষ্টির পরে গ্রামের রাস্তাটি কাদায় ভরে গেছে।",
    "cs": "Knihovna na náměstí zavírá v sobotu už v poledne.",
    "de": "Der Zug nach Süden fährt heute von einem anderen Gleis ab.",
    "el": "Ο φάρος ανάβει κάθε βράδυ μόλις δύσει ο ήλιος.",
    "en": "The lighthouse keeper writes the weather into a book every evening.",
    "es": "La panadera abre la tienda antes de que despierte el barrio.",
    "fa": "باغبان پیر هر صبح گل‌ها را با آب چاه سیراب می‌کند.",
    "fi": "Järven jää kantaa jo, mutta rannassa se on vielä ohutta.",
    "fr": "Le facteur traverse le pont à vélo malgré le vent du nord.",
    "he": "הרכבת הראשונה יוצאת מהתחנה עוד לפני הזריחה.",
    "hi": "बाज़ार में आज आम पिछले हफ़्ते से सस्ते बिक रहे हैं।",
    "id": "Nelayan itu memperbaiki jalanya sambil menunggu air pasang.",
    "it": "Il falegname misura due volte la tavola e la taglia una volta sola.",
    "ja": "祖母は毎朝、庭で摘んだ葉でお茶をいれます。",
    "ka": "მთის სოფელში თოვლი მაისამდე არ დნება.",
    "ko": "산 아래 작은 서점은 저녁마다 음악을 틀어 놓는다.",
    "nl": "De brug gaat open zodra het schip de bocht om komt.",
    "pl": "Zegar na wieży spóźnia się od zimy o siedem minut.",
    "pt": "O farol da ilha acende-se sozinho quando chega a neblina.",
    "ru": "Почтальон оставил письмо под дверью и ушёл по снегу.",
    "sv": "Båten ligger förtöjd tills stormen har dragit förbi.",
    "sw": "Mkulima anapanda mahindi kabla ya mvua kubwa kuanza.",
    "ta": "மழை நின்றதும் குழந்தைகள் தெருவில் படகு விட்டார்கள்.",
    "th": "ร้านก๋วยเตี๋ยวหัวมุมถนนเปิดจนถึงเที่ยงคืน",
    "tr": "Balıkçılar sabah erkenden ağlarını denize bırakır.",
    "uk": "На ярмарку продають мед, яблука й вишиті рушники.",
    "ur": "بوڑھا مالی شام کو پرندوں کے لیے پانی رکھتا ہے۔",
    "vi": "Chợ nổi họp từ lúc trời còn tối đến giữa buổi sáng.",
    "zh": "老钟表匠把每一个零件都擦得发亮。",
}
"""One sentence a language, by ISO 639-1 code: 31 languages in 14 scripts."""

CODE: Final[dict[str, str]] = {
    "python": (
        "def median(values):\n    ranked = sorted(values)\n    half = len(ranked) // 2\n"
        "    return ranked[half] if len(ranked) % 2 else sum(ranked[half - 1 : half + 1]) / 2\n"
    ),
    "c": (
        "size_t count(const char *s, char c) {\n    size_t n = 0;\n    while (*s)\n"
        "        n += *s++ == c;\n    return n;\n}\n"
    ),
    "rust": (
        "fn longest<'a>(words: &[&'a str]) -> Option<&'a str> {\n"
        "    words.iter().copied().max_by_key(|word| word.len())\n}\n"
    ),
    "go": (
        "func Sum(numbers <-chan int) (total int) {\n\tfor n := range numbers {\n"
        "\t\ttotal += n\n\t}\n\treturn total\n}\n"
    ),
    "javascript": (
        "const byYear = books.reduce((shelf, book) => {\n"
        "  (shelf[book.year] ??= []).push(book.title);\n  return shelf;\n}, {});\n"
    ),
    "sql": (
        "SELECT city, AVG(depth_mm) AS snow\nFROM stations JOIN readings USING (station_id)\n"
        "WHERE taken_at >= '2024-01-01'\nGROUP BY city HAVING COUNT(*) > 30;\n"
    ),
    "shell": 'for f in *.log; do\n  gzip -9 "$f" && mv "$f.gz" archive/\ndone\n',
    "haskell": (
        "runs :: Eq a => [a] -> [(a, Int)]\nruns = map (\\g -> (head g, length g)) . group\n"
    ),
}
"""One function or statement a programming language."""

ODD: Final[dict[str, str]] = {
    "emoji_only": "🐈‍⬛🏳️‍🌈👩🏽‍🚒🇯🇵",
    "mixed_direction": "The sign says «שלום» and below it «مرحبا», then 42 metres to the left.",
    "combining": "nai\u0308ve cafe\u0301 A\u030a, and the same composed: naïve café Å",
    "full_width": "ＦＵＬＬ　ｗｉｄｔｈ　１２３ against plain width 123",
    "zero_width": "zero\u200bwidth\u200dmarks\ufeff hide between letters",
    "mathematics": "∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−f(a)|<ε",
    "markup": "<p class='note'>A &amp; B &lt; C</p>\n\n| a | b |\n|---|---|\n",
    "address": "https://example.org/a/very/long/path?with=query&and=%20escapes#fragment",
    "numbers": "3.14159 2,718 1e-9 0x1F 007 -40 ½ Ⅷ ٤٢",
    "shouting": "WHY IS EVERYTHING IN CAPITALS?!?!",
    "one_letter": "a",
    "one_mark": "?",
    "one_character": "水",
    "spaces": "  many   spaces \t and a tab,\n\n\nthen empty lines  ",
    "repeated": "echo echo echo echo echo echo echo echo echo echo echo echo",
    "unbroken": "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "meaning_of_life": "importance of life and of everything that comes with it",
    "special_token": "A text may spell [SEP], </s> or <|im_start|> without meaning it.",
}
"""What tokenizers, and people, stumble over."""

_COMMON = (
    "Minutes of the harbour committee. Present were the harbour master, two pilots, the owner of "
    "the ice house and a clerk. The committee met in the room above the chandler's shop because "
    "the hall was being painted. After the roll was called, the clerk read the letter that had "
    "come by the morning boat, and then the members turned to the only question before them: "
)

PREFIXED: Final[dict[str, str]] = {
    "prefix_dredge": f"{_COMMON}whether to dredge the channel before winter.",
    "prefix_fees": f"{_COMMON}how much a fishing boat should pay for a night at the quay.",
    "prefix_light": f"{_COMMON}who should mend the light at the end of the mole.",
    "prefix_none": f"{_COMMON}nothing was decided.",
}
"""Texts that share some 75 tokens: what a prefix cache keeps, and must not keep for an encoder."""

QUERIES: Final[dict[str, str]] = {
    "query_tide": "when is the tide highest at the old quay",
    "query_zh": "港口什么时候最忙",
    "query_braces": "what does {query} mean in a {task} template",
}
"""Asked as they are, and with the model card's instruction before them."""

PASSAGE: Final = (
    "The ferry leaves the north shore at seven and takes forty minutes when the water is calm. "
    "On the upper deck people read, sleep or look for seals; below, lorries stand in two rows and "
    "their drivers drink coffee from paper cups. Halfway across, the wind turns cold and gulls "
    "follow the wake. The captain has made the crossing eleven thousand times and still notes "
    "every one of them by hand. In spring the ferry carries lambs, in autumn apples, and once it "
    "carried a church bell that rang at each wave. When fog comes down the horn sounds every two "
    "minutes, and on the far shore somebody lights a lamp. "
)
"""Repeated and cut to make a text of an exact number of tokens."""

FILLER: Final = " a"
"""One token in the tokenizers of the families served; the count that comes back decides."""


def _named(group: str, texts: dict[str, str], prefix: str = "") -> list[tuple[str, Text]]:
    return [(group, Text(f"{prefix}{name}", text)) for name, text in texts.items()]


_GROUPED: Final = (
    *(("smoke", each) for each in TEXTS),
    *_named("prefix", PREFIXED),
    *_named("query", QUERIES),
    *_named("languages", LANGUAGES, "lang_"),
    *_named("code", CODE, "code_"),
    *_named("odd", ODD),
)
CORPUS: Final[tuple[Text, ...]] = tuple(text for _, text in _GROUPED)
"""Every fixed text, in the order of the first call."""
GROUPS: Final[dict[str, str]] = {text.name: group for group, text in _GROUPED}
"""Kind of each fixed text, by its name."""
ALONE: Final = ("zh_weather", "one_token", "prefix_flood", "lang_ru", "code_c", "emoji_only")
"""Asked one by one; three of them are the smoke's."""
IDS: Final = (*ALONE, "lang_th", "importance")
"""Asked as token ids too."""


def group_of(name: str) -> str:
    """Kind of the text `name`: made texts carry theirs before a colon (`long:511`)."""
    return GROUPS.get(name) or name.partition(":")[0]
