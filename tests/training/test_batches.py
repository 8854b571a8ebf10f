"""The plan of a run: every row once an epoch, bounded passes, the same every time."""

from collections import Counter
from statistics import mean, pstdev

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.training.batches import Shape, plan_steps


@settings(max_examples=80, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.integers(41, 300), st.integers(0, 2)).map(lambda it: Shape(it[0], it[1], 20 * it[1])),
        min_size=1,
        max_size=60,
    ),
    epochs=st.sampled_from([0.5, 1, 2, 3]),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 3),
    budget=st.integers(50, 600),
    seed=st.integers(0, 5),
)
def test_a_plan_covers_the_rows_within_its_limits(shapes, epochs, batch_size, accumulation, budget, seed):
    options = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "tokens_per_forward": budget}
    plan = plan_steps(shapes, epochs=epochs, seed=seed, **options)

    assert plan == plan_steps(shapes, epochs=epochs, seed=seed, **options)
    assert abs(plan[-1].epoch - epochs) < 1
    seen = Counter(row for step in plan for batch in step.batches for row in batch)
    if epochs >= 1:
        assert seen == Counter(dict.fromkeys(range(len(shapes)), epochs))
    assert all(step.rows <= batch_size * accumulation for step in plan)
    for batch in (batch for step in plan for batch in step.batches):
        members = [shapes[row] for row in batch]
        assert len({member.family for member in members}) == 1
        own = [m.tokens - m.shared for m in members]
        assert len(batch) == 1 or (sum(own) <= budget and len(batch) * max(own) <= 2 * budget)


def test_a_long_shared_prompt_is_read_once_a_step():
    rows = [Shape(1_830, 0, 1_800)] * 64
    plan = plan_steps(rows, epochs=1, batch_size=32, gradient_accumulation_steps=1, tokens_per_forward=2_048, seed=0)
    assert [len(step.batches) for step in plan] == [1, 1]


def test_another_seed_and_another_epoch_give_another_order():
    def order(seed):
        plan = plan_steps(
            [Shape(length) for length in range(1, 65)],
            epochs=2,
            batch_size=4,
            gradient_accumulation_steps=1,
            tokens_per_forward=10_000,
            seed=seed,
        )
        return [step.batches for step in plan]

    assert order(0) != order(1)
    assert order(0)[:16] != order(0)[16:]
    first, second = (
        {row for step in half for batch in step for row in batch} for half in (order(0)[:16], order(0)[16:])
    )
    assert first == second == set(range(64))


def test_every_step_is_a_random_sample_and_its_passes_are_of_rows_alike():
    """Steps of rows of one length teach worse; within a step it makes no difference who shares a pass."""
    lengths = [10 * (1 + n % 20) for n in range(1600)]
    plan = plan_steps(
        [Shape(length) for length in lengths],
        epochs=1,
        batch_size=8,
        gradient_accumulation_steps=4,
        tokens_per_forward=800,
        seed=0,
    )
    means = [mean(lengths[row] for batch in step.batches for row in batch) for step in plan]
    # Of 32 lengths drawn from 20 that are equally frequent the mean varies by 57.7 / sqrt(32).
    assert 8 < pstdev(means) < 12.5
    padded = sum(len(b) * max(lengths[r] for r in b) for step in plan for b in step.batches)
    assert padded < 1.25 * sum(lengths)


def test_batches_that_are_accumulated_read_what_they_share_once():
    rows = [Shape(130 + n % 20, 0, 100) for n in range(64)]
    plan = plan_steps(rows, epochs=1, batch_size=4, gradient_accumulation_steps=8, tokens_per_forward=2_048, seed=0)
    assert [[len(batch) for batch in step.batches] for step in plan] == [[32], [32]]
