"""HTML, SSML and Markdown are read as markup: what is marked is read, the marks are not."""

import html
import re
import warnings

from ms_core.text.english.numbers import cardinal, each, ordinal
from ms_core.text.english.sounds import pronunciations
from ms_core.text.phones import TextWarning

_TAG = re.compile(
    r"""<!--.{0,2000}?-->|<!DOCTYPE[^<>]{0,200}>|<\?[^<>]{0,200}\?>"""
    r"""|</?[A-Za-z][\w:-]{0,40}(?:\s+[\w:-]{1,40}\s*=\s*(?:"[^"<]{0,2000}"|'[^'<]{0,2000}'|[^\s"'<>=]{1,200}))*\s*/?>""",
    re.DOTALL | re.I,
)
_UNSEEN = re.compile(r"<(script|style)\b[^<>]{0,200}>.{0,20000}?</\1>", re.DOTALL | re.I)
_BLOCKS = ("p", "div", "li", "ul", "ol", "tr", "td", "th", "table", "h1", "h2", "h3", "h4", "h5", "h6", "title", "s")
_PAUSES = {"br": " , ", "break": " , ", "hr": " . "} | dict.fromkeys(_BLOCKS, " . ")
_ALIAS = re.compile(r"""<sub\s+alias\s*=\s*(["'])([^"'<>]{1,200})\1\s*>[^<>]{0,200}</sub\s*>""", re.I)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]\w{1,30});", re.I)

_MARKDOWN = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"^[ \t]*(?:```|~~~)[^\n`]{0,40}$", "\n"),  # fences of code, whose inside is read
        (r"^[ \t]*\|?[ \t]*:?-{3,}:?[ \t]*(?:\|[ \t]*:?-{3,}:?[ \t]*)+\|?[ \t]*$", ""),  # under a table's head
        (r"^[ \t]{0,3}(?:=+|(?:[-*_][ \t]*){3,})$", "\n\n"),  # under a heading, between parts
        (r"^[ \t]{0,3}#{1,6}[ \t]+(\S[^\n]{0,500}?)[ \t]*#*[ \t]*$", r"\n\n\1\n\n"),
        (r"^[ \t]{0,12}[-*+•][ \t]+(?:\[[ xX]\][ \t]+)?(?=[^\s\d])([^\n]{1,1000})$", r"\n\n\1\n\n"),
        (r"^[ \t]{0,3}>+[ \t]?(?=[A-Za-z\"'*_])", ""),
        (r"^[ \t]*\|([^\n]{1,500})\|[ \t]*$", lambda row: "\n\n" + row[1].replace("|", ",") + "\n\n"),
        (r"!?\[([^\[\]\n]{1,300})\]\((?:[^()\s]|\([^()\s]{0,100}\)){0,1000}(?:\s+\"[^\"\n]{0,200}\")?\)", r"\1"),
        (r"\[\^\w{1,20}\]", ""),
        (r"<(https?://[^\s<>]{1,200}|[\w.+-]{1,64}@[\w.-]{1,100})>", r"\1"),
        (r"(`{1,3})([^`\n]{1,300})\1", r"\2"),
        *[(r"(?<![\w*\\])(\*{1,3})(?=[^\s*])([^\n]{0,300}?[^\s*\\])\1(?![\w*])", r"\2")] * 2,
        *[(r"(?<![\w\\])(_{1,3})(?=[^\s_])([^\n]{0,300}?[^\s_\\])\1(?!\w)", r"\2")] * 2,
        (r"~~(?=\S)([^\n~]{1,300})~~", r"\1"),
        (r"(?<![\w=])==(?=[^\s=])([^\n=]{1,300})==(?![\w=])", r"\1"),
        (r"\\$|\\(?=[*_`#\[\]()~<>&+.!|-])", ""),
    )
)


def strip_markup(text: str) -> str:
    """The text without its markup; a TextWarning names the tags and comments that are left out."""
    left_out: dict[str, None] = {}

    def pause(tag: re.Match) -> str:
        left_out[tag[0] if len(tag[0]) <= 40 else tag[0][:37] + "..."] = None
        return _PAUSES.get(tag[0].strip("</>").split()[0].lower(), "") if tag[0].strip("</> ") else ""

    if "<" in text:
        text = _TAG.sub(pause, _UNSEEN.sub(pause, _ALIAS.sub(r"\2", text)))
    if left_out:
        named = list(left_out)
        more = f" and {len(named) - 8} more" if len(named) > 8 else ""
        warnings.warn(f"markup is not read aloud: {' '.join(named[:8])}{more}", TextWarning, stacklevel=4)
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    for pattern, replacement in _MARKDOWN:
        text = pattern.sub(replacement, text)
    return text


def say_as(kind: str, text: str) -> str:
    """A text as SSML's `interpret-as` wants it; letters come as phones in braces. Warns of kinds unknown."""
    kind = kind.lower()
    digits = "".join(c for c in text if c.isdecimal())
    if kind in ("characters", "spell-out", "verbatim"):
        names = [each(c) if c.isdecimal() else f"{{{' '.join(_letter(c))}}}" if _letter(c) else c for c in text]
        return " ".join(names)
    if kind in ("digits", "telephone"):
        return re.sub(r"\d+", lambda m: each(m[0]), text)
    if kind in ("cardinal", "number", "ordinal") and digits == text.replace(",", ""):
        return (ordinal if kind == "ordinal" else cardinal)(digits)
    if kind not in ("cardinal", "number", "ordinal", "date", "time", "currency", "unit", "fraction", "address"):
        warnings.warn(f"say-as {kind!r} is read as plain text", TextWarning, stacklevel=4)
    return text


def _letter(character: str) -> tuple[str, ...]:
    return pronunciations(character.lower() + ".")[0] if character.isascii() and character.isalpha() else ()
