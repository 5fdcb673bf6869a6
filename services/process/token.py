"""Short-lived proof that a request between our own processes is ours (gateway -> ingestor)."""

import time

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

LIFETIME_S = 30
LEEWAY_S = 5  # of clocks between machines


def sign(key: str, audience: str) -> str:
    """A JWT for one audience: the stream or action that the request is about."""
    claims = {"aud": audience, "exp": int(time.time()) + LIFETIME_S}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(key))


def is_ours(key: str, audience: str, token: str) -> bool:
    try:
        claims = jwt.decode(token, OctKey.import_key(key), algorithms=["HS256"]).claims
    except (JoseError, ValueError):
        return False
    fresh = isinstance(claims.get("exp"), int) and claims["exp"] + LEEWAY_S >= time.time()
    return fresh and claims.get("aud") == audience
