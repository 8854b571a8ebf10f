"""Openings are found among prompts, kept by adapter, and cover at most what the prompt has."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.inference.shared_prefixes import SharedPrefixes

SYSTEM = list(range(100, 120))


def keys_values(adapter: float, prompt: list[int]):  # type: ignore[no-untyped-def]
    """A stand-in for the cache: the "keys" of a token are the adapter's number and the token's."""
    return lambda n: torch.tensor([[adapter, token] for token in prompt[:n]]).T.reshape(1, 2, 1, n, 1)


def test_an_opening_is_known_from_the_second_prompt_on_and_for_each_adapter_by_its_own_keys() -> None:
    prefixes = SharedPrefixes(1000)
    first, second, third = ([*SYSTEM, user, user + 1] for user in (1, 5, 9))
    assert prefixes.find("a", first) is None
    prefixes.learn("a", first, keys_values(1, first))
    assert prefixes.find("a", second) is None
    prefixes.learn("a", second, keys_values(1, second))
    found = prefixes.find("a", third)
    assert found is not None and found[0, 0, 0, :, 0].tolist() == [1] * 20 and found[0, 1, 0, :, 0].tolist() == SYSTEM
    assert prefixes.find("b", third) is None
    prefixes.learn("b", third, keys_values(2, third))  # another adapter's prompts opened alike
    found = prefixes.find("b", first)
    assert found is not None and found[0, 0, 0, :, 0].tolist() == [2] * 20
    prefixes.forget("a")
    assert prefixes.find("a", first) is None
    assert prefixes.find("b", first) is not None


def test_a_repeated_prompt_leaves_one_token_to_compute() -> None:
    prefixes = SharedPrefixes(1000)
    for _ in range(2):
        prefixes.learn(None, SYSTEM, keys_values(0, SYSTEM))
    found = prefixes.find(None, SYSTEM)
    assert found is not None and found.shape[3] == len(SYSTEM) - 1


@given(
    prompts=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", None]),
            st.tuples(st.integers(0, 2), st.integers(0, 25), st.lists(st.integers(0, 3), min_size=1, max_size=12)),
        ),
        max_size=40,
    )
)
def test_whatever_comes_openings_are_the_prompts_own_and_within_the_limit(
    prompts: list[tuple[str | None, tuple[int, int, list[int]]]],
) -> None:
    numbers = {"a": 1.0, "b": 2.0, None: 0.0}
    prefixes = SharedPrefixes(60)
    for adapter, (kind, shared, rest) in prompts:
        prompt = [10 + kind] * shared + rest
        found = prefixes.find(adapter, prompt)
        if found is not None:
            length = found.shape[3]
            assert 8 <= length < len(prompt)
            assert torch.equal(found, keys_values(numbers[adapter], prompt)(length))
        prefixes.learn(adapter, prompt, keys_values(numbers[adapter], prompt))
        assert prefixes._size() <= 60
