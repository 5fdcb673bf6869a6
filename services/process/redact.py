"""The one place where secrets are taken out of what leaves a process: lines, reasons, letters.

Three things go, each as `***`: the user and password of anything that looks like an address, what
is called a password (or the like) by the word before it, and every secret that this process was
told to `hide`. They are looked for in the text as it is, then in what is left once its escapes
(`%40`, `\\u0040`, also of each other) are undone; where only that shows one, the text comes back
with its escapes undone. Every pattern is linear in the text, which may be a stranger's.
"""

import base64
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from itertools import chain
from urllib.parse import quote, quote_plus, unquote, unquote_plus

GONE = "***"
MOST_KNOWN = 1000  # secrets beside the settings'; of more, the longest unused is forgotten
MOST_PASSING = 100  # beside them
SHORTEST = 4  # characters: what is shorter is found by its place only, else nothing were readable
SHORT = 8  # characters: below, only whole words count
SHORTEST_BASE64 = 6  # characters: fewer stand in any text by chance
DEEPEST = 3  # escapes of escapes

Needle = tuple[int, str, re.Pattern[str]]
"""How it starts (see _starts), what to look for, and what to take out where it is found."""

# A quote ends a word where it would in JSON; inside of a string of JSON it is escaped.
_QUOTE = r'"(?!\s*(?:[:}\]]|,\s*["{\[\d-]|$))'
_WORD = rf'(?:[^\s"\\]++|\\.|{_QUOTE})'
_BARE = r"""(?<![^\s"'=(\[{<,])(?=(?://)?[^\s"':@/=(\[{<,]{1,200}:(?!\\?/\\?/)[^\s@]{0,200}@)"""
_ADDRESS = re.compile(rf"(:\\?/\\?/|{_BARE})({_WORD}*+)", re.S)
_NO_PORT = re.compile(r"([^/?#:\[\]]*|\[[^\]]*\]):(?!\d{0,5}(?:[^\w%]|$))")
_JOINED = r"""(?:\\*["']\s*+[:=,]|\s*+[:=])\s*+(?:b(?=["']))?+"""
_QUOTED = r"""(\\*["'])(?:(?!(?<!\\)\2).)*+"""
_PROSE = r"(?<=\s)[A-Za-z]+ [a-z]"  # "password: expected at most ..." holds none
_PAIR = re.compile(
    r"(?=[pstai])((?:pass(?:word|wd|phrase)?|pas|pwd|secret|token|(?:api|private|internal)[_-]?key)s?"
    rf"{_JOINED})(?:{_QUOTED}|(?!null|true|false|None|[\[{{(]|{_PROSE}){_WORD}++)",
    re.I | re.S,
)
_LINE = rf'(?!Bearer KEY\b)(?:[^"\\\r\n]++|\\[^nr]|{_QUOTE})++'  # "send ... Bearer KEY": ours
_HEADER = re.compile(
    rf"((?:authorization|cookie){_JOINED})(?:{_QUOTED}|{_LINE})",
    re.I | re.S,
)
_NAMES = ("pas", "pwd", "secret", "token", "key", "authorization", "cookie")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.S)
_WHITE = {"n": "\n", "r": "\r", "t": "\t"}
_BASE64 = "[A-Za-z0-9+/_=-]"


class _Known:
    """The secrets of this process. Any thread may add one; readers see a whole table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Needle, ...]] = {}
        self._secrets: OrderedDict[str, tuple[Needle, ...]] = OrderedDict()
        self._passing: OrderedDict[str, tuple[Needle, ...]] = OrderedDict()
        self._by_start: dict[int, list[Needle]] = {}

    def keep(self, secret: str) -> None:
        """For good: a setting's are few, and no camera's may push them out."""
        with self._lock:
            if secret not in self._kept:
                self._secrets.pop(secret, None)
                self._kept[secret] = tuple(_needles(secret))
                self._sort()

    def add(self, secret: str) -> None:
        self._add(secret, self._secrets, MOST_KNOWN)

    def add_passing(self, secret: str) -> None:
        self._add(secret, self._passing, MOST_PASSING)

    def _add(self, secret: str, to: OrderedDict[str, tuple[Needle, ...]], most: int) -> None:
        with self._lock:
            if secret in self._kept:
                return
            if secret in to:
                to.move_to_end(secret)
                return
            to[secret] = tuple(_needles(secret))
            if len(to) > most:
                to.popitem(last=False)
            self._sort()

    def _sort(self) -> None:
        by_start: dict[int, list[Needle]] = {}
        for needle in chain(*self._kept.values(), *self._secrets.values(), *self._passing.values()):
            by_start.setdefault(needle[0], []).append(needle)
        self._by_start = by_start

    def found_in(self, text: str) -> Iterator[Needle]:
        """Those whose first characters are in the text: the time does not depend on how many
        secrets there are."""
        by_start = self._by_start
        if by_start:
            for start in by_start.keys() & _starts(text):
                yield from by_start[start]


def _starts(text: str) -> Iterator[int]:
    """Each four bytes that stand together, as a number: several times as fast as slices."""
    read = memoryview(text.encode("utf-8", "surrogatepass"))
    for at in range(SHORTEST):
        end = len(read) - (len(read) - at) % SHORTEST
        yield from read[at:end].cast("I").tolist()


_known = _Known()


def hide(secret: str) -> None:
    """From now on, in whatever form: as it is, percent-encoded, in JSON, in base64, alone or with
    a user name before it. What is hidden again counts as new; of many, the oldest is forgotten."""
    if len(secret) >= SHORTEST:
        _known.add(secret)


def hide_passing(secret: str) -> None:
    """Like `hide`; strangers may bring any number of these, which push out each other only."""
    if len(secret) >= SHORTEST:
        _known.add_passing(secret)


def redact(text: str) -> str:
    """The same text without secrets."""
    text = _ruled(text)
    deeper = text
    for _ in range(DEEPEST):
        before, deeper = deeper, _without_escapes(deeper)
        if deeper == before:
            break
        ruled = _ruled(deeper)
        if ruled != deeper:
            text = deeper = ruled
    return text


def redact_json(line: str) -> str:
    """A JSON object without secrets, still a JSON object: where taking one out broke it, the whole
    of it is the `event` of a new one."""
    redacted = redact(line)
    if redacted is not line and redacted != line:
        try:
            json.loads(redacted)
        except ValueError:
            return json.dumps({"event": redacted})
    return redacted


def _ruled(text: str) -> str:
    for _, needle, taken in _known.found_in(text):
        if needle in text:
            text = taken.sub(GONE, text)
    if "@" in text or "//" in text:
        text = _ADDRESS.sub(_without_userinfo, text)
    lower = text.lower()
    if any(name in lower for name in _NAMES):
        text = _PAIR.sub(_without_value, _HEADER.sub(_without_value, text))
    return text


def _without_userinfo(found: re.Match[str]) -> str:
    """Up to the last @ of the word: the first may be the password's own. Where there is none, the
    word may be cut: what follows a colon and is no port goes."""
    before, word = found.groups()
    _, at, place = word.rpartition("@")
    if at:
        return f"{before}{GONE}@{place}"
    cut = _NO_PORT.match(word)
    return f"{before}{cut[1]}:{GONE}" if cut else found[0]


def _without_value(found: re.Match[str]) -> str:
    quoted = found[2] or ""
    return f"{found[1]}{quoted}{GONE}"


def _without_escapes(text: str) -> str:
    if "\\" in text:
        text = _ESCAPE.sub(_unescaped, text)
    return unquote(text) if "%" in text else text


def _unescaped(found: re.Match[str]) -> str:
    """`\\xc3` is a byte: it goes on as `%c3`, for what is UTF-8 to become text together."""
    unicode, byte, other = found.groups()
    if byte:
        return f"%{byte}"
    if unicode:
        character = chr(int(unicode, 16))
        return "\ufffd" if "\ud800" <= character <= "\udfff" else character
    return _WHITE.get(other, other)


def _needles(secret: str) -> Iterator[Needle]:
    for form in sorted(_forms(secret), key=len, reverse=True):
        whole = re.escape(form)
        if len(form) < SHORT:
            whole = rf"(?<![A-Za-z0-9]){whole}(?![A-Za-z0-9])"
        yield next(_starts(form[:SHORTEST])), form, re.compile(whole)
    for part in _base64_parts(secret):
        whole = rf"(?<!{_BASE64}){_BASE64}*?{re.escape(part)}{_BASE64}*+"
        yield next(_starts(part[:SHORTEST])), part, re.compile(whole)


def _forms(secret: str) -> set[str]:
    """The usual ones, each of which can be cut out of a text that stays as it is."""
    as_bytes = secret.encode("utf-8", "surrogateescape")
    texts = {secret, as_bytes.decode("latin-1"), repr(as_bytes)[2:-1]}
    escaped = {
        json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        for text in texts
        for ascii_only in (True, False)
    }
    quoted = {way(as_bytes) for way in (partial(quote, safe=""), quote, quote_plus)}
    lower = {re.sub("%..", lambda found: found[0].lower(), form) for form in quoted}
    return texts | escaped | quoted | lower


def _base64_parts(secret: str) -> Iterator[str]:
    """What stands in base64 for the secret wherever it begins, without the characters that what
    is before or after it has a share in."""
    as_bytes = secret.encode("utf-8", "surrogateescape")
    for before in range(3):
        text = base64.b64encode(bytes(before) + as_bytes).decode()
        whole = text[-(-before * 8 // 6) : (before + len(as_bytes)) * 8 // 6]
        if len(whole) < SHORTEST_BASE64:
            continue
        yield whole
        if "+" in whole or "/" in whole:
            yield whole.translate(str.maketrans("+/", "-_"))


def hide_setting(value: str) -> None:
    """A secret as settings hold it: words between commas, each perhaps `role:key` or an address
    with a password. Never forgotten."""
    for secret in _parts_of_setting(value):
        if len(secret) >= SHORTEST:
            _known.keep(secret)


def _parts_of_setting(value: str) -> Iterator[str]:
    yield value.strip()
    for word in re.split(r"[\s,]+", value):
        _, colon, rest = word.partition(":")
        yield word
        if colon and not rest.startswith("//"):
            yield rest
        elif colon and "@" in rest:
            yield unquote_plus(rest[2:].rpartition("@")[0].partition(":")[2])
