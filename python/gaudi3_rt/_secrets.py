"""What a secret looks like: the names of fields that hold one, and the forms that give one away in a text."""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

MASK = "[redacted]"

# Names

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LONGEST_NAME = 128
# Of words joined by _, so that apiKey, API_KEY and api-key are one.
_NAMES = re.compile(
    r"passw(?:or)?d|passphrase|passcode|secret|credential|authori[sz]ation"
    r"|(?:^|_)(?:basic_|http_|proxy_)?auth$|(?:^|_)cookies?$|(?:^|_)pwd$|(?:^|_)webhook(?:_url)?$"
    r"|(?:^|_)(?:db|user|root|admin|smtp|ftp|proxy|mysql|pg|redis)_?pass$"
    r"|(?:connection|conn)_?(?:string|str)$|(?:^|_)dsn$|access_?key_?id$"
    r"|(?:api|private|access|account|auth|client|deploy|encryption|license|master|service|session|shared|signing|ssh"
    r"|storage|subscription|wandb|openai|anthropic|azure|hf|huggingface|github|slack|stripe)_?keys?$"
    r"|(?:access|auth|api|bearer|refresh|session)_?tokens$"
)
# What a name is about when it ends so: not the secret, but where it is, or what it is like.
_HARMLESS_ENDS = re.compile(
    r"(?:age|arn|counts?|dir|enabled|endpoint|env|expires|expiry|field|files?|ids?|index|len|length|limit|names?|path"
    r"|policy|rate|required|size|ttl|types?|uri|url|variable|version)"
)
# A token that follows one of these is one of a model's, not one that opens a door.
_MODEL_TOKENS = re.compile(
    r"(?:additional|audio|begin|bos|cls|control|current|draft|each|end|eos|fim|first|generated|image|img|input|last|mask"
    r"|max|min|n|new|next|num|output|pad|per|predicted|prompt|sampled|sep|single|special|start|stop|target|text|tool|unk"
    r"|video)"
)
_MODEL_TOKEN_WORDS = frozenset(["subtoken", "pretoken", "detoken", "multitoken"])
_WORKING_DIRECTORIES = ("PWD", "OLDPWD")


@functools.lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a field, option, header or variable of this name holds a secret."""
    if name in _WORKING_DIRECTORIES:
        return False
    words = [word.lower() for word in _WORDS.findall(name[:_LONGEST_NAME])]
    while words and words[-1].isdigit():
        words.pop()
    if not words:
        return False
    last, joined = words[-1], "_".join(words)
    if _HARMLESS_ENDS.fullmatch(last):
        return joined.endswith(("access_key_id", "accesskey_id", "webhook_url"))
    if last.endswith("token"):
        if last == "token":
            return len(words) == 1 or not _MODEL_TOKENS.fullmatch(words[-2])
        return last not in _MODEL_TOKEN_WORDS
    return _NAMES.search(joined) is not None


# Texts


@dataclass(frozen=True)
class Form:
    """One way in which a text shows a secret.

    Attributes:
        triggers: a text that has none of these has no such secret; finding that out is all that most texts cost.
        mask: the text with such secrets masked.
        lower: triggers are looked for in the text's lower-case form.
        named: triggers are parts of a name that ``:`` or ``=`` follows.
    """

    triggers: tuple[str, ...]
    mask: Callable[[str], str]
    lower: bool = False
    named: bool = False


def _replace(pattern: str, replacement: str | Callable[[re.Match[str]], str], flags: int = 0) -> Callable[[str], str]:
    return functools.partial(re.compile(pattern, flags).sub, replacement)


# In double, single or escaped quotes, which may be left open.
_QUOTED = r""""(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?|(?P<quote>\\+["']).*?(?:(?P=quote)|\Z)"""
_NEXT = r",\s*[\w.-]+\s*[=:]"
_VALUE = rf"""{_QUOTED}|(?:(?!{_NEXT})[^\s&;"'<>\\])+?(?=[,)}}\]]*(?:[\s&;"'<>\\]|\Z)|{_NEXT})"""
_REST_OF_LINE = rf"""{_QUOTED}|[^\r\n"'\\]+"""
_NAME = rf"(?<![\w.-])[\w.-]{{1,{_LONGEST_NAME}}}"
_OPTION = rf"(?<![\w-])--[\w-]{{1,{_LONGEST_NAME}}}"
_QUOTES = r"""[\\"'\]]*"""
_ANNOTATION = r":\s*(?:str|bytes|Any|SecretStr|Optional\[str\]|str\s*\|\s*None)\s*=\s*"
_EMPTY = frozenset(["none", "null", "true", "false", "", "..."])
_SHORTEST_TOKEN = 8


def _assignments(name: str, between: str, value: str, flags: int = 0) -> Callable[[str], str]:
    """Masks values of secret names. Values of other names may have assignments in them, so nothing skips those."""
    names, values = re.compile(f"(?P<name>{name}){between}", flags), re.compile(value)

    def mask(text: str) -> str:
        parts, done, at = [], 0, 0
        while found := names.search(text, at):
            at = found.end()
            if is_secret_name(found["name"]) and (given := values.match(text, at)):
                parts += [text[done:at], _masked(found["name"], given[0])]
                done = at = given.end()
        return "".join(parts) + text[done:]

    return mask


def _masked(name: str, value: str) -> str:
    bare = value.strip("\\\"'")
    if bare.startswith(MASK[:-1]) or bare.lower() in _EMPTY:
        return value
    if name.lower().endswith("token") and len(bare) < _SHORTEST_TOKEN:  # "unexpected token: }" is a parser's
        return value
    quote = value[: len(value) - len(value.lstrip("\\\"'"))]
    return f"{quote}{MASK}{quote}"


def _mask_basic(found: re.Match[str]) -> str:
    """``Basic`` and base64 of ``user:password``; not "basic training"."""
    try:
        decoded = base64.b64decode(found[2] + "=" * (-len(found[2]) % 4), validate=True)
    except binascii.Error:
        return found[0]
    return f"{found[1]}{MASK}" if b":" in decoded else found[0]


def _mask_aws_pair(found: re.Match[str]) -> str:
    """A secret key of AWS, which looks like any base64, is masked in texts that have an access key too."""
    text = found[0]
    has_all = re.search("[a-z]", text) and re.search("[A-Z]", text) and re.search("[0-9]", text)
    return MASK if has_all else text


_TOKENS = (
    r"(?<![A-Za-z0-9])(?:"
    r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{22,}|glpat-[\w-]{20,}"  # GitHub, GitLab
    r"|hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|wandb_v\d_\w{20,}|local-[0-9a-f]{40}"  # Hugging Face, W&B
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{10,}"  # Slack
    r"|(?<![\w-])sk-(?=[A-Za-z_-]*\d)[\w-]{20,}"  # OpenAI and those like it
    r"|[rsp]k_(?:live|test)_[A-Za-z0-9]{16,}"  # Stripe
    r"|AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}"  # Google
    r"|nvapi-[\w-]{20,}|dapi[0-9a-f]{32}|npm_[A-Za-z0-9]{36}|pypi-AgE[\w-]{20,}|dckr_pat_[\w-]{20,}"
    r"|(?<![\w-])eyJ[\w-]{5,}(?:\.[\w-]+){1,4}"  # JWT: base64url of {"
    r")"
)
_TOKEN_TRIGGERS = (
    "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "pat_", "pat-", "hf_", "api_org_", "local-", "xox", "xapp-", "sk-",
    "k_live_", "k_test_", "AIza", "ya29.", "GOCSPX-", "nvapi-", "dapi", "npm_", "pypi-AgE", "wandb_", "eyJ",
)  # fmt: skip

FORMS = (
    Form(
        ("PRIVATE KEY",),
        _replace(
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----|\Z)",
            MASK,
            re.DOTALL,
        ),
    ),
    Form(("hooks.slack.com",), _replace(r"(hooks\.slack\.com/\w+/)[\w/-]+", rf"\1{MASK}")),
    Form(("@",), _replace(r"(://[^\s/?#:@\"'<>]*:)[^\s/?#\"'<>]+@", rf"\1{MASK}@")),
    Form(("@",), _replace(r"(://)(?=[^\s/?#:@]*\d)[^\s/?#:@\"'<>\[\]]{20,}@", rf"\1{MASK}@")),
    Form(
        ("authorization", "cookie"),
        _assignments(
            r"\b(?:proxy-)?authorization|(?:set-)?cookie", rf"{_QUOTES}\s*[:=]\s*", _REST_OF_LINE, re.IGNORECASE
        ),
        lower=True,
        named=True,
    ),
    Form(("bearer",), _replace(r"(?i)\b(bearer\s+)(?=\S*\d|\S{24})[\w.~+/=-]{12,}", rf"\1{MASK}"), lower=True),
    Form(("basic",), _replace(r"(?i)\b(basic\s+)([\w+/]{8,}={0,2})", _mask_basic), lower=True),
    Form(
        ("pass", "pwd", "secret", "token", "key", "credential", "auth", "cookie", "conn", "dsn", "webhook"),
        _assignments(_NAME, rf"{_QUOTES}\s*(?:{_ANNOTATION}|=>|:=|==?|:)\s*", _VALUE),
        lower=True,
        named=True,
    ),
    Form(("--",), _assignments(_OPTION, r"\s+(?!-)", _VALUE)),
    Form(
        ("sig=", "signature=", "-credential="),
        _replace(r"(?i)([?&](?:[\w-]+-)?(?:sig|signature|credential)=)[^&\s\"'#]+", rf"\1{MASK}"),
        lower=True,
    ),
    Form(
        ("wandb",),
        _replace(r"(?i)(\bwandb\W+(?:login|api[ _-]?key)\W+(?:--?\S+\s+)*)[0-9a-f]{40}\b", rf"\1{MASK}"),
        lower=True,
    ),
    Form(("AKIA", "ASIA"), _replace(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])", _mask_aws_pair)),
    Form(("AKIA", "ASIA"), _replace(r"(?<![A-Za-z0-9])A[KS]IA[0-9A-Z]{16}(?![A-Za-z0-9])", MASK)),
    Form(_TOKEN_TRIGGERS, _replace(_TOKENS, MASK)),
)
# The first look has to be cheap, for most texts get no other. It is at the lower-case form, and may see too much.
_SHORTEST = 8
_RARE = "_-=AJ"  # no small letters, which triggers that are looked for in lower case could have as capitals


def _triggers(*, named: bool) -> list[str]:
    """All, less those that contain another."""
    triggers = {trigger for form in FORMS if form.named is named for trigger in form.triggers}
    return sorted(t for t in triggers if not any(other in t for other in triggers - {t}))


def _by_rarity(triggers: list[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Triggers with the rare character that they have, or with none: texts without it need no look for them."""
    rarity = {t: next((character for character in _RARE if character in t), "") for t in triggers}
    return tuple((one, tuple(t.lower() for t in triggers if rarity[t] == one)) for one in ("", *_RARE))


_ANYWHERE = _by_rarity(_triggers(named=False))
# Goes on to the end of a name and its quotes also where neither : nor = follows: twice over them would be quadratic.
_NAMED = re.compile(rf"""(?:{"|".join(_triggers(named=True))})[^\s:="'\\\]]*{_QUOTES}\s*([:=])?""")


def _may_show_secret(text: str, lower: str) -> bool:
    for rare, triggers in _ANYWHERE:
        if rare in text:
            for trigger in triggers:
                if trigger in lower:
                    return True
    end = max(lower.rfind(":"), lower.rfind("=")) + 1
    return end > 0 and any(_NAMED.findall(lower, 0, end))


def mask_text(text: str) -> str:
    """The text with what looks like a secret masked; itself if nothing does."""
    if len(text) < _SHORTEST:
        return text
    lower = text.lower()
    if not _may_show_secret(text, lower):
        return text
    for form in FORMS:
        if any(map((lower if form.lower else text).__contains__, form.triggers)):
            text = form.mask(text)
    return text


@functools.lru_cache(maxsize=4096)
def look_at_name(name: str) -> tuple[str, str]:
    """A field's name as it is shown, and the name itself if it is one of a secret, else ""."""
    return mask_text(name), name if is_secret_name(name) else ""
