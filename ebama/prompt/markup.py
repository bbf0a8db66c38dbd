"""What programs read in a prompt, and no person: weights, tags, parameters, calls; and the marks of a list."""

from __future__ import annotations

import functools
import re
from string import ascii_lowercase

from . import lexicon
from .alignment import LABEL, NUMBER_SIGNS

_PARAMETER = r"(?:--[a-z]+|[-—–][a-z]+(?= [\d.:]+(?!\S)))"
_TITLE = r"(?:(?:(?:positive|image|text|main|revised|final|new|midjourney) )?prompt(?: \d+)?|positive|caption)"
_CALL = r"(?:\w{1,20} *= *)?pipe\w{0,20}\( *"
_BOARDS = r"(?:anime|cartoon|furry|pony|real)"
_RATINGS = r"(?:safe|questionable|explicit|general|sensitive)"
_TOLD = r"(?:prompts?|captions?|descriptions?|alt text|titles?|ideas?|versions?|variations?|suggestions?|options?)"
# These part phrases.
_FOR_PROGRAMS = (
    # what an assistant says before a prompt, and what it was asked
    r"^(?i:\W*(?:(?:sure|certainly|absolutely|of course|okay|ok|great)\b[!,. ]+)?(?:here(?:['’]s| is| are)|below is|"
    rf"(?:you (?:can|could) )?(?:use|try)) (?:\w+ ){{0,3}}{_TOLD}\b[^:.]{{0,60}}:)(?=\s)",
    r"^(?i:\W*(?:sure|certainly|absolutely|of course)\b *[!,.])",
    r"^(?i:(?:please )?(?:write|create|generate|give) (?:me )?an? (?:\w+ ){0,2}prompt (?:for|of|about)\b)",
    # commands, titles, calls
    r"^(?i:/imagine +(?:prompt *:)?|#+ *prompt *,|"
    rf"(?:{_CALL}|const |[\"'{{#*> ]+)?{_TITLE}[\"'*]* *[:=]\**|{_CALL}(?=[\"']))",
    # arguments of a call
    r"\b(?:[a-z]+(?:_[a-z]+)+|seed|steps|eta|width|height|strength) ?= ?-?[\d.]+(?:\)[\w.]*\[0\])?\)?(?= *(?:,|$))",
    # networks and breaks in angles
    r"<\w+:[^<>]*>|<(?i:break)>",
    # tags that say where a picture is from
    rf"\bsource(?:_{_BOARDS}|: ?{_BOARDS}(?= *(?:,|$)))\b|\bartist:[^\s,|()\[\]{{}}]+",
    rf"\brating(?:[_:]{_RATINGS}|: {_RATINGS}(?= *(?:,|$)))\b|\bscore_\d(?:_up)?\b",
    # words of web UIs
    r"\b(?:BREAK|ADD(?:BASE|COL|ROW|COMM)|AND_(?:PERP|SALT|TOPK))\b",
    r"\b(?:MASK|FEATHER|COUPLE)\([^()]*\)|\bembedding:[\w./-]+",
    # marks of lists
    rf"(?<!\S)\(?\d{{1,2}}\)(?= )|\d\ufe0f?\u20e3|{NUMBER_SIGNS}",
    # addresses
    r"\b(?:https?://|www\.)\S+",
    # what is said to somebody
    r"(?<!\S)[:;]-?[dDoOpP3)(](?![^\s,.])",
    r"(?<=\w )(?i:xd+|lol|lmao|rofl|omg|haha(?:ha)*|hehe|pl[sz]|thx|thanks|thank you)"
    r"(?= *(?:$|[,.;!?]|(?:and|an?|the)\b))",
    # settings of a camera
    r"\b[fF](?:/\d+(?:\.\d+)?|\d\.\d)\b|\bISO ?\d{2,6}\b|\b1/\d{2,4} ?s(?:ec)?\b",
    # weights of Compel
    r"(?<=[)\"”])\.[a-z]+\([\d., ]*\)?",
    # parameters, in the end with all that follows
    rf"(?<=\S ){_PARAMETER}(?!\S).*|(?<!\S){_PARAMETER}(?: [\d.:]+)?(?!\S)",
    r"(?i:[\"']?\bnegative[_ ]prompt[\"'*]* *[:=].*|\bsteps: \d+, sampler:.*)",
    r"(?<=\w )###(?= )[^#:]*$",
)
_MARKUP = re.compile("|".join(_FOR_PROGRAMS), re.DOTALL)
# Lines and parts that begin so; in a prompt with a title, sentences too.
_NEGATIVE = re.compile(r"(?<=[\n|]) *[\"'*]*negative[\"'*]* *:.*", re.DOTALL | re.IGNORECASE)
_ASIDE = re.compile(  # what an assistant says after a prompt, a note, a line of hyphens
    r"(?:(?<=[.!?\n])|(?<=[.!?\n][\"”)])) *"
    r"(?i:let me know|feel free to|(?:i )?hope (?:this|that|it)|would you like)\b.*|"
    r"(?<=\w )(?:Let me know|Feel free to|(?:I h|H)ope (?:this|that|it)|Would you like)\b.*|"
    r"(?:(?<=\n)|\()[* ]*(?i:notes?)\**:[^\n)]*\)?|(?<=\n) *-{3,} *(?=\n)",
    re.DOTALL,
)
_TITLED = re.compile(rf"^\W*{_TITLE}\W*:(?:(?!\bnegative\b).)*?[.,;]( *negative *:.*)", re.DOTALL | re.IGNORECASE)
_LINE_TAGS = frozenset(("br", "p", "div", "li", "ul", "ol", "hr", "tr", "td", "h1", "h2", "h3"))  # they part phrases
_TEXT_TAGS = frozenset(("b", "i", "u", "em", "strong", "span", "font"))
# These part none; nor do counts, ages and sizes: "red cars x2, bowls (x3)", "26 y.o woman", "a car 1024x1024".
_COUNT = r"(?<=\w )(?:x\d{1,2}(?= *(?:[,.;|]|and\b|$))|\(x\d{1,2}\))|(?:^|(?<=[,.;|] ))x\d{1,2}(?= )"
_TAG = re.compile(
    r"</(\w+) *>|<(\w+)(?: +[\w-]+=[^<>]*)?(/?) *>|<!--.*?-->|(?<=\w)\(e?s\)|<\|\w+\|>|\[/?(?:b|i|u)\]|"
    r"\b\d{1,3}(?: y\.?/?o|y\.o)\.?(?![\w-])|\b\d{3,5} ?[xX×] ?\d{3,5}(?: ?px)?\b|"
    rf"(\\[nrt]|\n) *(?:[-*•](?=\w))?(?=(\w*))|(?<=\w){NUMBER_SIGNS}|{_COUNT}"
)
_NUMERAL = r"-?(?:\d+\.?|\d*\.\d+)"
_WEIGHT = re.compile(  # "(red:1.3)", "red car::2"; "( red : 1.3 )"; "(red)1.3"
    rf"(?<!\d)::?{_NUMERAL}([)\]}}>]*)(?![\w:.])|\s:\s?{_NUMERAL}(?=\s?[)\]}}>])|(?<=\)){_NUMERAL}(?![\w:.])"
)
_WEIGHT_BEFORE = re.compile(rf"(?<![\w:.]){_NUMERAL}::(?=[^\W\d_])(?:([^:]*)::)?")  # "1.2::red car::, 0.8::bowl::"
_MORE_OR_LESS = re.compile(r"(?<=[\w)\"])(?:\+{1,5}|-{1,5})(?=[\s,.)]|$)")  # "red++ car", "(red car)-"
_ESCAPE = re.compile(r"\\(?=[^\w\s]|_)")  # "red\_car", "\(red\)"
_MARK = re.compile(r"(?<![^\s,])([(\[#]?)(\d{1,2}|[a-zA-Z]|[ivx]{2,4}|[IVX]{2,4})(?!\w)([).\]:]?)(?= ?[^\W\d_])")
_ROMAN = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii"]
_NUMBERINGS = ([str(n) for n in range(1, 100)], [*ascii_lowercase], [*ascii_lowercase.upper()], _ROMAN)

_BETWEEN_PHRASES = lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS
_BEFORE_A_PHRASE = _BETWEEN_PHRASES | lexicon.DETERMINERS | lexicon.NUMBERS
_IN_A_PHRASE = _BEFORE_A_PHRASE | lexicon.ADJECTIVES
_STOPS = tuple(".,;:!?")
_SHORT = 30  # characters of a line


def without_markup(prompt: str) -> str:
    """A prompt as long as it was, without what only programs read."""
    for said in (_NEGATIVE, _ASIDE):
        prompt = said.sub(lambda match: " " * len(match[0]), prompt)
    prompt = _ESCAPE.sub(" ", prompt)
    if titled := _TITLED.match(prompt):
        prompt = prompt[: titled.start(1)].ljust(len(prompt))
    closed = {match[1].lower() for match in _TAG.finditer(prompt) if match[1]}

    def blank(match: re.Match[str]) -> str:
        name = (match[1] or match[2] or "").lower()
        if match[2] and not (name in closed | _LINE_TAGS | _TEXT_TAGS or match[3] or "=" in match[0]):
            return match[0]  # "a <red> car"
        parts = match.start() and (name in _LINE_TAGS or (match[4] and _begins_a_phrase(match)))
        return ("," if parts else " ").ljust(len(match[0]))

    def part(match: re.Match[str]) -> str:
        if match[0].startswith("###") and "#" in match.string[: match.start()]:  # a heading
            return match[0]
        before = word_before(match.string, match.start())
        return ("," if match.start() and before not in _BEFORE_A_PHRASE else " ").ljust(len(match[0]))

    def without_weight(match: re.Match[str]) -> str:
        parts = "," if match[0].startswith("::") else ""  # "red car::2 blue bowl::1"
        return (match[1] or parts).ljust(len(match[0]))

    prompt = _MORE_OR_LESS.sub(_without_more_or_less, prompt)
    prompt = _MARKUP.sub(part, _without_list_marks(_TAG.sub(blank, prompt)))
    return _WEIGHT.sub(without_weight, _WEIGHT_BEFORE.sub(_without_weight_before, prompt))


def _begins_a_phrase(line_break: re.Match[str]) -> bool:
    """Whether a phrase ends before a line break, or one as programs write it, and another begins after it."""
    text, after = line_break.string[: line_break.start()].rstrip(" "), line_break[5].lower()
    if text.endswith(_STOPS):
        return False  # it parts them already
    line = text[text.rfind("\n") + 1 :]
    before, words = word_before(text, len(text)), line.split()
    if (":" in line or before not in _IN_A_PHRASE) and LABEL.match(line_break.string, line_break.end()):
        return True
    goes_on = before.endswith("ing") and (len(words) > 2 or after in lexicon.DETERMINERS)  # "a dog chasing"
    begins = after in _IN_A_PHRASE or re.match(r"\d{1,2}[.):]|\W", line_break.string[line_break.end() :]) is not None
    is_wrapped = len(line) > _SHORT or _is_wrapped(line_break.string)
    goes_on |= is_wrapped and not begins and any(word in lexicon.DETERMINERS for word in words[:1])
    goes_on |= text.endswith("-") or before in _IN_A_PHRASE or before in lexicon.ATTRIBUTES
    return not goes_on and after not in _BETWEEN_PHRASES


@functools.lru_cache(maxsize=16)
def _is_wrapped(prompt: str) -> bool:
    """Whether lines go on as those of a list do not: "a big fire" "truck"; "a teddy" "bear" "and a doll"."""
    lines = prompt.lower().split("\n")
    return len(lines) == 2 or any(word in _BETWEEN_PHRASES for line in lines for word in line.split()[:1])


def _without_more_or_less(match: re.Match[str]) -> str:
    """A single "-" may be a dash instead, as in "a dog- a cat"."""
    is_weight = len(match[0]) > 1 or match[0] == "+" or word_before(match.string, match.start()) in lexicon.ADJECTIVES
    return " " * len(match[0]) if is_weight else match[0]


def _without_weight_before(match: re.Match[str]) -> str:
    start, inside = match[0].index("::") + 2, match[1]
    if inside is None:
        return " " * start
    in_a_phrase = word_before(match[0], match.end(1) - match.start()) in lexicon.ADJECTIVES  # "1.3::red:: hair"
    return " " * start + inside + ("  " if in_a_phrase else ", ")


def _without_list_marks(prompt: str) -> str:
    """A prompt without the marks of a list, which count up from its beginning or from a stop: "a) car b) bowl"."""
    for numbering in (*_NUMBERINGS, [numeral.upper() for numeral in _ROMAN]):
        row: list[re.Match[str]] = []
        for mark in _MARK.finditer(prompt):
            before, label, after = mark.groups()
            if label != numbering[len(row) % len(numbering)] or not (before or after):
                continue
            if row:
                goes_on = (before, after) == row[0].group(1, 3) and mark.start() > row[-1].end() + 1
            else:
                goes_on = word_before(prompt, mark.start()) in ("", *_STOPS)
            row += [mark] * goes_on
        if len(row) > 1:
            for mark in row:
                sign = "," if mark.start() else " "
                prompt = prompt[: mark.start()] + sign.ljust(len(mark[0])) + prompt[mark.end() :]
    return prompt


def word_before(prompt: str, i: int) -> str:
    """The last word or stop before a character; empty if there is none."""
    return "".join(re.findall(r"\w+|[.,;:!?]", prompt[max(0, i - 40) : i].lower())[-1:])
