"""Tokens of people, against a real provider: the right ones open the door, forged and stale ones do not."""

import hmac
import json
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_provider import AUDIENCE, SIGNED_WITH, IdentityProvider, new_key, raw_token
from joserfc.jwk import ECKey, Key, OctKey, RSAKey

from finetune_platform.errors import Unreachable
from finetune_platform.serving import oidc
from finetune_platform.serving.oidc import BadToken, KeysAwaited, People, claim_at, fetch_json, is_safe_address

pytestmark = pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")


@pytest.fixture(scope="module")
def made_keys() -> dict[str, Key]:
    """One key an algorithm, and one that nobody lists: RSA keys take long to make."""
    listed = {algorithm: new_key(algorithm, f"key-{algorithm}") for algorithm in SIGNED_WITH}
    return {**listed, "RS256-other": new_key("RS256", "key-other")}


@pytest.fixture(scope="module")
def running_provider() -> Iterator[IdentityProvider]:
    provider = IdentityProvider()
    yield provider
    provider.stop()


@pytest.fixture
def provider(
    running_provider: IdentityProvider, made_keys: dict[str, Key], monkeypatch: pytest.MonkeyPatch
) -> IdentityProvider:
    """As after its start: one key an algorithm."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running_provider.keys = {f"key-{algorithm}": made_keys[algorithm] for algorithm in SIGNED_WITH}
    running_provider.extra_keys, running_provider.discovery = [], {}
    running_provider.status, running_provider.body, running_provider.paths = 200, None, []
    return running_provider


class Clock:
    """Seconds, by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def people(provider: IdentityProvider, clock: Clock) -> People:
    """With the provider's keys; nothing is fetched unless a test says so."""
    found = People(provider.issuer, AUDIENCE, clock=clock)
    found.refresh()
    provider.paths.clear()
    return found


@pytest.mark.parametrize("algorithm", SIGNED_WITH)
def test_a_right_token_is_a_person(people: People, provider: IdentityProvider, algorithm: str) -> None:
    person = people.recognise(
        provider.token(f"key-{algorithm}", algorithm, preferred_username="somebody", tasks=["tickets"])
    )
    assert (person.actor, person.name, person.roles, person.tasks) == (
        "oidc:u-1",
        "somebody",
        ("operator",),
        ("tickets",),
    )
    again = people.recognise(provider.token(f"key-{algorithm}", algorithm))
    assert again.id == person.id and person.id.startswith("oidc-") and "u-1" not in person.id
    assert again.tasks == ("*",)
    assert people.recognise(provider.token(f"key-{algorithm}", algorithm, sub="u-2")).id != person.id


def refused(people: People, token: str) -> str:
    with pytest.raises(BadToken) as told:
        people.recognise(token)
    return str(told.value)


def test_no_signature_is_no_proof(people: People, provider: IdentityProvider) -> None:
    for algorithm in ("none", "None", "NONE", "", "nOnE"):
        for kid in ("key-RS256", None):
            header = {"alg": algorithm, "typ": "JWT", **({"kid": kid} if kid else {})}
            whole = raw_token(header, provider.claims())
            assert "algorithm" in refused(people, whole)
            refused(people, whole.rpartition(".")[0] + ".")
    good = provider.token("key-RS256", "RS256")
    refused(people, good.rpartition(".")[0] + ".")
    refused(people, good.rpartition(".")[0])


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_public_key_is_no_secret_to_sign_with(people: People, provider: IdentityProvider, algorithm: str) -> None:
    key = provider.keys["key-RS256"]
    assert isinstance(key, RSAKey)
    for secret in (key.as_pem(private=False), key.as_der(private=False), json.dumps(key.as_dict()).encode()):
        unsigned = raw_token({"alg": algorithm, "kid": "key-RS256"}, provider.claims()).rpartition(".")[0]
        signature = hmac.new(secret, unsigned.encode(), sha256).digest()
        forged = unsigned + "." + raw_token({}, {}, signature).rpartition(".")[2]
        assert "algorithm" in refused(people, forged)
    # Nor does a provider that lists a secret make it one.
    provider.extra_keys = [OctKey.import_key("s" * 40, {"kid": "shared"}).as_dict(private=True)]
    people.refresh()
    refused(people, provider.token("shared", "HS256", key=OctKey.import_key("s" * 40)))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"aud": "another-application"}, "aud"),
        ({"aud": ["another", "third"]}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": AUDIENCE.upper()}, "aud"),
        ({"aud": {AUDIENCE: 1}}, "aud"),
        ({"iss": "https://other.example"}, "iss"),
        ({"iss": None}, "iss"),
        ({"iss": ["x"]}, "iss"),
        ({"sub": None}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": ""}, ""),
        ({"sub": "a\nb"}, "sub"),
        ({"exp": None}, "exp"),
        ({"exp": int(time.time()) - 61}, "Expired"),
        ({"exp": "tomorrow"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": float("nan")}, "exp"),
        ({"nbf": int(time.time()) + 3600}, "not yet valid"),
        ({"nbf": "x"}, "nbf"),
        ({"iat": int(time.time()) + 3600}, "in the future"),
    ],
)
def test_a_token_for_others_or_for_another_time(
    people: People, provider: IdentityProvider, wrong: dict[str, Any], told: str
) -> None:
    assert told in refused(people, provider.token("key-ES256", "ES256", **wrong))


def test_an_issuer_that_only_looks_alike(people: People, provider: IdentityProvider) -> None:
    for issuer in (provider.issuer + "/", provider.issuer.upper(), provider.issuer + "@evil.example"):
        assert "iss" in refused(people, provider.token("key-ES256", "ES256", iss=issuer))


def test_a_minute_of_leeway_for_clocks_that_differ(people: People, provider: IdentityProvider) -> None:
    now = int(time.time())
    people.recognise(provider.token("key-ES256", "ES256", exp=now - 50, nbf=now + 50, iat=now + 50))
    for late in ({"exp": now - 61}, {"nbf": now + 75}, {"iat": now + 75}):
        refused(people, provider.token("key-ES256", "ES256", **late))


def test_one_of_several_audiences_is_enough(people: People, provider: IdentityProvider) -> None:
    people.recognise(provider.token("key-ES256", "ES256", aud=["other", AUDIENCE]))


def test_signed_by_another_key(people: People, provider: IdentityProvider, made_keys: dict[str, Key]) -> None:
    forged = provider.token("key-RS256", "RS256", key=made_keys["RS256-other"])
    assert "BadSignature" in refused(people, forged)


def test_a_changed_claim_breaks_the_signature(people: People, provider: IdentityProvider) -> None:
    head, _, signature = provider.token("key-ES256", "ES256").split(".")
    claims = raw_token({}, provider.claims(roles=["operator", "auditor"])).split(".")[1]
    assert "BadSignature" in refused(people, f"{head}.{claims}.{signature}")


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS512", "ES384", "ES512", "ES256K", "Ed25519", "A128KW"])
def test_algorithms_that_are_not_taken(people: People, provider: IdentityProvider, algorithm: str) -> None:
    assert "algorithm" in refused(people, raw_token({"alg": algorithm, "kid": "key-RS256"}, provider.claims()))


def test_an_algorithm_that_the_key_is_not_made_for(people: People, provider: IdentityProvider, clock: Clock) -> None:
    clock.now_s += 1
    for kid, algorithm in (("key-RS256", "ES256"), ("key-ES256", "RS256"), ("key-EdDSA", "RS256")):
        refused(people, raw_token({"alg": algorithm, "kid": kid}, provider.claims()))
    limited = RSAKey.generate_key(2048, {"kid": "limited", "alg": "RS256"})
    provider.keys["limited"] = limited
    people.refresh()
    people.recognise(provider.token("limited", "RS256"))
    free = RSAKey.import_key({k: v for k, v in limited.as_dict(private=True).items() if k != "alg"})
    refused(people, provider.token("limited", "PS256", key=free))


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/etc/passwd",
        "key-RS256\0",
        "key-rs256",
        "' OR 1=1 --",
        "http://evil.example/k",
        "",
        "x" * 300,
    ],
)
def test_a_key_id_is_a_name_and_nothing_else(people: People, provider: IdentityProvider, kid: str) -> None:
    refused(people, provider.token(kid, "RS256", key=provider.keys["key-RS256"]))
    assert provider.paths == []


@pytest.mark.parametrize("kid", [["key-RS256"], {"a": 1}, 7, True])
def test_a_key_id_that_is_no_text(people: People, provider: IdentityProvider, kid: Any) -> None:
    refused(people, raw_token({"alg": "RS256", "kid": kid}, provider.claims()))


def test_keys_come_from_the_provider_alone(
    people: People, provider: IdentityProvider, made_keys: dict[str, Key]
) -> None:
    other = made_keys["RS256-other"]
    assert isinstance(other, RSAKey)
    attacker = f"{provider.issuer}/attacker"
    for header in (
        {"jku": attacker},
        {"jku": attacker, "kid": "unknown"},
        {"jwk": other.as_dict(private=False)},
        {"jwk": other.as_dict(private=False), "kid": None},
        {"x5u": attacker},
    ):
        refused(people, provider.token("key-RS256", "RS256", header=header, key=other))
    assert provider.paths == []
    people.recognise(provider.token("key-RS256", "RS256", header={"jku": attacker, "nonce": "n"}))
    assert provider.paths == []


def test_what_must_be_understood_is_not_passed_over(people: People, provider: IdentityProvider) -> None:
    for header in ({"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": 5}):
        refused(people, raw_token({"alg": "RS256", "kid": "key-RS256", **header}, provider.claims()))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "a.b.c.d.e",
        raw_token(b"[" * 3000, {}),
        raw_token(b'"alg"', {}),
        raw_token(["alg"], {}),
        raw_token(b"\xff\xfe", {}),
        raw_token({"alg": ["RS256"]}, {}),
        raw_token({"alg": {"RS256": 1}}, {}),
        raw_token({"alg": None}, {}),
        raw_token({}, {}),
    ],
)
def test_what_is_no_token_at_all(people: People, provider: IdentityProvider, token: str) -> None:
    refused(people, token)
    assert provider.paths == []


@pytest.mark.parametrize("claims", [b"[" * 2000, b"not json", b"[]", b'"x"', b"\xff", b"null", b"9" * 5000])
def test_a_signature_over_something_that_is_no_claims(
    people: People, provider: IdentityProvider, claims: bytes
) -> None:
    from joserfc import jws

    signed = jws.serialize_compact({"alg": "ES256", "kid": "key-ES256"}, claims, provider.keys["key-ES256"])  # type: ignore[arg-type]
    refused(people, signed)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.lists(st.binary(max_size=30), min_size=3, max_size=3))
def test_any_text_is_refused_in_an_orderly_way(token: str | list[bytes]) -> None:
    people = People("https://issuer.example", AUDIENCE, fetch=lambda url: {})
    text = token if isinstance(token, str) else ".".join(raw_token(part, b"{}").split(".")[0] for part in token)
    refused(people, text)


def test_a_rotated_key_is_fetched_in_the_background(provider: IdentityProvider) -> None:
    people = People(provider.issuer, AUDIENCE)
    people.start()
    try:
        wait_for(people, provider.token("key-ES256", "ES256"))
        people._tried_at -= 60
        old = provider.token("key-ES256", "ES256")
        provider.keys = {"next": new_key("ES256", "next")}
        token = provider.token("next", "ES256")
        with pytest.raises(KeysAwaited):
            people.recognise(token)
        wait_for(people, token)
        refused(people, old)
    finally:
        people.stop()


def wait_for(people: People, token: str) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            people.recognise(token)
        except KeysAwaited:
            assert time.monotonic() < end
            time.sleep(0.01)
        else:
            return


def test_a_flood_of_unknown_keys_asks_the_provider_once_in_ten_seconds(provider: IdentityProvider) -> None:
    clock = Clock()
    people = People(provider.issuer, AUDIENCE, clock=clock)
    people.start()
    try:
        good = provider.token("key-ES256", "ES256")
        wait_for(people, good)
        for round_ in range(3):
            provider.paths.clear()
            clock.now_s += oidc.MIN_INTERVAL_S + 1
            for number in range(200):
                token = raw_token({"alg": "ES256", "kid": f"made-up-{round_}-{number}"}, {})
                with pytest.raises((KeysAwaited, BadToken)):
                    people.recognise(token)
                people.recognise(good)
            wait_until_settled(people)
            assert len(provider.paths) <= 2, "one discovery document and one list of keys"
    finally:
        people.stop()


def wait_until_settled(people: People) -> None:
    end = time.monotonic() + 20
    while people._wanted.is_set():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_last_keys_stay_while_the_provider_is_away_but_not_for_ever(
    people: People, provider: IdentityProvider, clock: Clock
) -> None:
    token = provider.token("key-ES256", "ES256")
    provider.status = 503
    clock.now_s += oidc.MAX_KEYS_AGE_S - 1
    with pytest.raises(Unreachable, match="answers 503"):
        people.refresh()
    people.recognise(token)
    clock.now_s += 20
    with pytest.raises(KeysAwaited):
        people.recognise(token)
    people._wanted.clear()
    provider.status = 200
    people.refresh()
    people.recognise(token)


def test_nobody_waits_for_a_provider_that_is_away() -> None:
    people = People("http://127.0.0.1:9/nothing", AUDIENCE)
    people.start()
    began = time.monotonic()
    with pytest.raises(KeysAwaited):
        people.recognise(raw_token({"alg": "ES256", "kid": "a"}, {}))
    assert time.monotonic() - began < 1
    people.stop()


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("discovery", {"issuer": "https://other.example"}, "OIDC_ISSUER to exactly"),
        ("discovery", {"jwks_uri": "file:///etc/passwd"}, "not an https address"),
        ("discovery", {"jwks_uri": 7}, "not an https address"),
        ("keys", {}, "no signing key"),
        ("status", 302, "answers 302"),
        ("body", b"<html>", "JSONDecodeError"),
        ("body", b"[]", "no JSON object"),
        ("body", b'{"a":"' + b"x" * (1024 * 1024) + b'"}', "more than"),
    ],
)
def test_a_provider_that_answers_wrongly_changes_no_keys(
    people: People,
    provider: IdentityProvider,
    made_keys: dict[str, Key],
    setting: str,
    value: Any,
    told: str,
) -> None:
    setattr(provider, setting, value)
    with pytest.raises(Unreachable, match=told):
        people.refresh()
    provider.keys = {"key-ES256": made_keys["ES256"]}
    people.recognise(provider.token("key-ES256", "ES256"))


def test_only_signing_keys_of_the_right_kind_and_size_are_taken(people: People, provider: IdentityProvider) -> None:
    weak: Key = RSAKey.generate_key(1024, {"kid": "weak"})
    curve = ECKey.generate_key("P-384", {"kid": "curve"})
    sealing = ECKey.generate_key("P-256", {"kid": "sealing", "use": "enc"})
    provider.extra_keys = [
        *(key.as_dict(private=False) for key in (weak, curve, sealing)),
        {"kty": "AKP", "kid": "tomorrow"},
        {"kty": "EC", "crv": "P-256", "kid": "off", "x": "AAAA", "y": "AAAA"},
        {"kty": "RSA"},
        "no key",
        {"kid": ["a"]},
    ]
    people.refresh()
    unmarked = ECKey.import_key({k: v for k, v in sealing.as_dict(private=True).items() if k != "use"})
    for key, algorithm in ((weak, "RS256"), (unmarked, "ES256")):
        refused(people, provider.token(str(key.kid), algorithm, key=key))
    for algorithm in SIGNED_WITH:
        people.recognise(provider.token(f"key-{algorithm}", algorithm))


def test_a_lone_key_needs_no_name(people: People, provider: IdentityProvider) -> None:
    nameless = provider.token("x", "ES256", header={"kid": None}, key=provider.keys["key-ES256"])
    refused(people, nameless)
    provider.keys = {"key-ES256": provider.keys["key-ES256"]}
    people.refresh()
    people.recognise(nameless)


@pytest.mark.parametrize(
    ("path", "claims", "roles"),
    [
        ("roles", {"roles": ["operator", "admin", "caller"]}, ("caller", "operator")),
        ("roles", {"roles": "auditor reviewer"}, ("reviewer", "auditor")),
        ("roles", {"roles": None}, ()),
        ("roles", {"roles": {"operator": True}}, ()),
        ("roles", {"roles": ["operator", 7]}, ()),
        ("realm_access.roles", {"realm_access": {"roles": ["operator"]}}, ("operator",)),
        ("realm_access.roles", {"realm_access": "roles"}, ()),
        ("https://example.org/roles", {"https://example.org/roles": ["auditor"]}, ("auditor",)),
        ("groups", {"roles": ["operator"]}, ()),
    ],
)
def test_roles_stand_where_the_setting_says(
    provider: IdentityProvider, path: str, claims: dict[str, Any], roles: tuple[str, ...]
) -> None:
    people = People(provider.issuer, AUDIENCE, path)
    people.refresh()
    assert people.recognise(provider.token("key-ES256", "ES256", **claims)).roles == roles


@pytest.mark.parametrize(
    ("claim", "tasks"), [(["a", "b"], ("a", "b")), ("a b", ("a", "b")), ([], ()), (7, ()), ([7], ()), (["*"], ("*",))]
)
def test_a_claim_may_narrow_the_tasks(
    people: People, provider: IdentityProvider, claim: Any, tasks: tuple[str, ...]
) -> None:
    assert people.recognise(provider.token("key-ES256", "ES256", tasks=claim)).tasks == tasks


def test_long_and_odd_names_fit_the_audit_log(people: People, provider: IdentityProvider) -> None:
    longest = [people.recognise(provider.token("key-ES256", "ES256", sub="x" * 300 + end)) for end in "ab"]
    assert longest[0].actor != longest[1].actor and all(len(person.actor) <= 128 for person in longest)
    odd = people.recognise(provider.token("key-ES256", "ES256", preferred_username="ev\x1b[2Jil\n" + "y" * 300))
    assert odd.name.isprintable() and len(odd.name) == 128


def test_a_path_that_leads_nowhere() -> None:
    assert claim_at({"a": {"b": 1}}, "a.b") == 1 and claim_at({"a.b": 2, "a": {"b": 1}}, "a.b") == 2
    assert claim_at({"a": 1}, "a.b") is None and claim_at({}, "") is None


def test_keys_travel_safely() -> None:
    assert is_safe_address("https://a/keys", "https://a") and is_safe_address("http://b", "http://127.0.0.1:1")
    assert not is_safe_address("http://a/keys", "https://a") and not is_safe_address("ftp://a", "http://a")
    with pytest.raises(Unreachable, match=r"OIDC_ISSUER"):
        fetch_json("http://127.0.0.1:9/")
