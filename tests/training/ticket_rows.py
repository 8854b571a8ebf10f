"""Rows that the trainer's tests learn from. Fixtures belong in conftest.py."""

from finetune_platform.rows import Example, Message

TASK = "ticket_topics"


def example(prompt: str, answer: str, number: int = 1, **message: float) -> Example:
    """A row of one question and one answer; keywords go to the answer's message."""
    messages = [Message(role="user", content=prompt), Message(role="assistant", content=answer, **message)]
    return Example(messages=messages, source_uri="raw/tickets.jsonl", source_row=number)


def examples(count: int) -> list[Example]:
    """Rows of different lengths."""
    topics = ("card", "transfer between accounts", "login")
    return [example(f"Ticket {n}: " + "please help me " * (n % 7), topics[n % 3], n + 1) for n in range(count)]
