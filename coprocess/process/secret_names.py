"""Which names name a secret: judged by the words in them, as no list of names is ever whole.

`X-Vault-Token`, `accessToken`, `PGPASSWORD` and `db_password` are one thing: the last word says what the
value is. So `token_url` names no secret, and neither does `keyboard`, which only begins like one.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache

#: Of what is known by value: a shorter one is in many words that are no secret.
SHORTEST_KNOWN = 6


class Sensitivity(IntEnum):
    """What a name says of its value."""

    HARMLESS = 0
    #: Perhaps a secret, perhaps not: `key`, `code`. The value decides, see `is_plausible`.
    DOUBTFUL = 1
    SECRET = 2


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SECRET_WORDS = _words(
    """
    authorization cookie cred credential csrf hmac jwt otp passcode passphrase passwd passwort password pw pwd
    secret signature token totp xsrf
    """
)
#: A word that ends in one of these is one, written without a separator: `accesstoken`, `phpsessid`.
_ENDINGS = tuple(
    _words(
        """
        accesskey accesskeyid apikey authkey authorization cookie credential jwt originatingrequest passcode
        passphrase passwd password privatekey samlrequest samlresponse secret secretkey sessid sessionid
        signature subscriptionkey token
        """
    )
)
_DOUBTFUL_WORDS = _words(
    "assertion auth bearer code key keyid nonce pass pin session sid sig state ticket verifier"
)
#: In a header's name of several words these are plain: `X-Auth`, `X-Session`.
_PLAIN_IN_HEADERS = _words("auth bearer key pass pin session sid sig ticket")
#: What only the query of a URL or a form has for a secret.
_QUERY_NAMES = _words(
    "auth_code code device_code hash invite_code relaystate reset_code state user_code verification_code"
)
_KEYS_TO_SOMETHING = _words(
    """
    access account admin api app application auth client consumer deploy encryption function functions
    hmac license master oauth private secret service shared signing ssh storage subscription webhook
    """
)
_KEYS_TO_NOTHING = _words(
    """
    cache composite dedup foreign group idempotency index lookup map missing natural partition primary
    public routing row shard socket sort surrogate tls unique unknown
    """
)
#: What the last word says about the words before it: of the secret, and not the secret.
_ABOUT = _words(
    """
    accept age alg algorithm algorithms at bucket check checks class config configs count crt dir
    disabled domain domains enabled endpoint error errors exception expiration expire expired expires
    expiry failed failure failures file files folder format formats handler header headers host htm html
    in invalid js json left length lifetime limit limits location manager max md method methods
    middleware min missing mode name names ok parser path paths pem php policies policy port prefix
    provider providers py realm remaining required result rs scheme schemes scope scopes seconds service
    settings sh size status store suffix timeout toml total ts ttl txt type types uri uris url urls used
    user username users valid validation validator version xml yaml yml
    """
)
#: Exceptions: `InvalidToken: not signed`.
_NOT_THE_THING = _words("bad expired has invalid is missing no unknown without wrong")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def judge(name: str) -> Sensitivity:
    """What `name`, of a header, a field, a variable or a parameter, says of its value."""
    # The end of a name tells; and what is kept stays small, whatever callers send.
    return _judge(name[-_LONGEST_NAME:])


_LONGEST_NAME = 100


@lru_cache(maxsize=4096)
def _judge(name: str) -> Sensitivity:
    words = [word.lower() for word in _WORD.findall(name)]
    # The most common prefix says nothing: X-Auth.
    is_header = "-" in name and len(words) > 1
    if words[:1] == ["x"]:
        del words[0]
    if not words:
        return Sensitivity.HARMLESS
    last = words[-1]
    if last in _ABOUT and len(words) > 1:
        return Sensitivity.HARMLESS
    singular = [word if word.endswith(("ss", "us")) else word.removesuffix("s") for word in words]
    spelled = (*singular, "".join(singular))
    if any(word in _SECRET_WORDS or word.endswith(_ENDINGS) for word in spelled):
        return Sensitivity.DOUBTFUL if words[0] in _NOT_THE_THING else Sensitivity.SECRET
    if singular[-1] == "key" or singular[-2:] == ["key", "id"]:
        before = {*words[:-1], *singular[:-1]}
        if before & _KEYS_TO_NOTHING:
            return Sensitivity.HARMLESS
        # `server.key` is a file.
        if before & _KEYS_TO_SOMETHING and f".{last}" not in name.lower():
            return Sensitivity.SECRET
    if "session" in singular and last == "id":
        return Sensitivity.SECRET
    if is_header and not _PLAIN_IN_HEADERS.isdisjoint(singular):
        return Sensitivity.SECRET
    return Sensitivity.DOUBTFUL if singular[-1] in _DOUBTFUL_WORDS else Sensitivity.HARMLESS


def is_secret_parameter(name: str) -> bool:
    """Whether a parameter of that name, in a query or a form, has a secret value."""
    name, sensitivity = name.lower(), judge(name)
    # A doubtful word is enough here, but for `status_code`, `country_code`.
    is_result = name.endswith(("code", "state"))
    return sensitivity > (Sensitivity.DOUBTFUL if is_result else Sensitivity.HARMLESS) or name in _QUERY_NAMES


def is_plausible(value: str) -> bool:
    """Whether `value` looks made by a machine: what a doubtful name has is then taken for a secret."""
    return _PLAUSIBLE.fullmatch(value) is not None


_PLAUSIBLE = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9_~+/=-]{10,}")


def is_about_no_value(word: str) -> bool:
    """Whether `word`, before a name, says that what follows is no value of it: `invalid token: too short`."""
    return word.lower() in _NOT_THE_THING


def counts(name: str) -> bool:
    """Whether a number of that name would be how many there are: `tokens: 12`."""
    return name.lower().endswith("s")
