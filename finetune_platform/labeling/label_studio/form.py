"""What a person sees of a row in Label Studio, and what their annotation there says.

Pure values; sending and fetching belong in `push.py` and `pull.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from finetune_platform.identity import canonical_json
from finetune_platform.labeling.answering import MOST_SECONDS, Annotation
from finetune_platform.labeling.batches import Reviewed
from finetune_platform.labeling.items import Decision
from finetune_platform.rows import Message

CONVERSATION, SUGGESTION, ANSWER, RATING, FLAG, REASON = (
    "conversation",
    "suggestion",
    "answer",
    "rating",
    "flag",
    "reason",
)
"""Names of what stands in the form; annotations come back under them, so they never change."""

MODEL_VERSION = "suggestion"
"""Label Studio starts an annotation from predictions of one version alone, so all of a project have the same."""

MOST_IN_SIGHT = 12
"""More labels than this are a list that opens and can be searched."""
STYLE = ".lsf-richtext__line, .lsf-textarea__region p { white-space: pre-wrap }"
"""Indented lines stay indented: answers are often JSON or code."""
HIDDEN = "(not shown for this row)"


def labeling_config(labels: Sequence[str]) -> str:
    """The form, as Label Studio's XML: the conversation, the model's answer, what to answer, a flag with its reason.

    Args:
        labels: Of which one is chosen; a text is written where there are none.
    """
    view = ElementTree.Element("View")
    _add(view, "Style").text = STYLE
    _text(view, CONVERSATION)
    _add(view, "Header", value="The model answered", size="5")
    _text(view, SUGGESTION)
    _add(view, "Rating", name=RATING, toName=SUGGESTION, maxRating="5")
    unflagged = _add(view, "View", visibleWhen="choice-unselected", whenTagName=FLAG)
    _add(unflagged, "Header", value="Your answer", size="5")
    if labels:
        layout = "select" if len(labels) > MOST_IN_SIGHT else "vertical"
        _choices(unflagged, ANSWER, labels, choice="single", layout=layout, **_required("Choose one, or flag the row"))
    else:
        _written(unflagged, ANSWER, rows="4", **_required("Write an answer, or flag the row"))
    _choices(view, FLAG, ["Flag: this row should not be used"], choice="multiple")
    flagged = _add(view, "View", visibleWhen="choice-selected", whenTagName=FLAG)
    _written(flagged, REASON, rows="2", placeholder="What is wrong with it?", **_required("Say what is wrong with it"))
    return ElementTree.tostring(view, encoding="unicode")


def form_of(batch_id: str, row: Reviewed, labels: Sequence[str]) -> dict[str, Any]:
    """A row as a task to import, with the model's answer as its prediction unless people must not see it."""
    shown = row.item.shown_suggestion
    of = {"batch_id": batch_id, "number": row.number}
    task: dict[str, Any] = {
        "data": {
            **of,
            CONVERSATION: conversation_of(row.item.messages),
            SUGGESTION: shown or HIDDEN,
        },
        "meta": of,
    }
    # An answer that is no label cannot be chosen; people read it and choose.
    if shown and (not labels or shown in labels):
        said = {"choices": [shown]} if labels else {"text": [shown]}
        result = {"id": ANSWER, "from_name": ANSWER, "to_name": CONVERSATION, "value": said}
        result["type"] = "choices" if labels else "textarea"
        task["predictions"] = [{"model_version": MODEL_VERSION, "result": [result]}]
    return task


def conversation_of(messages: Sequence[Message]) -> str:
    """What was asked as one text; who speaks stands above every turn where there are several."""
    turns = [message.content or canonical_json(message.tool_calls or []) for message in messages]
    if len(turns) == 1:
        return turns[0]
    return "\n\n".join(f"{message.role.upper()}\n{turn}" for message, turn in zip(messages, turns, strict=True))


def said_in(annotation: Mapping[str, Any], hides_suggestion: bool, external_id: str) -> Annotation:
    """What an annotation says. A flag goes before an answer; one without either is an empty answer.

    Args:
        annotation: As Label Studio's API has it.
        hides_suggestion: There was no answer of the model to rate.
        external_id: What it is called here.
    """
    said = {result["from_name"]: result["value"] for result in annotation["result"] if "from_name" in result}
    decision: Decision = "answer"
    reason = _joined(said.get(REASON, {}).get("text", ())).strip()
    if annotation["was_cancelled"]:
        decision, reason = "skip", reason or "skipped in Label Studio"
    elif said.get(FLAG, {}).get("choices"):
        decision, reason = "flag", reason or "flagged in Label Studio"
    answer = said.get(ANSWER, {})
    rating = None if hides_suggestion else said.get(RATING, {}).get("rating")
    return Annotation(
        decision=decision,
        answer=_joined(answer.get("choices") or answer.get("text") or ()) if decision == "answer" else None,
        reason=reason if decision != "answer" else "",
        rating=int(rating) if rating else None,
        seconds=min(max(float(annotation["lead_time"] or 0.0), 0.0), MOST_SECONDS),
        source="label_studio",
        external_id=external_id,
    )


def _joined(texts: Iterable[str] | str) -> str:
    """The one text of a list; Label Studio writes a single one without the list where it pleases."""
    return texts if isinstance(texts, str) else "\n".join(texts)


def _required(message: str) -> dict[str, str]:
    return {"required": "true", "requiredMessage": message}


def _text(parent: ElementTree.Element, name: str) -> None:
    # Without a valueType, Label Studio may take a text that looks like an address for one and load it.
    _add(parent, "Text", name=name, value=f"${name}", valueType="text")


def _choices(parent: ElementTree.Element, name: str, values: Sequence[str], **options: str) -> None:
    choices = _add(parent, "Choices", name=name, toName=CONVERSATION, **options)
    for value in values:
        _add(choices, "Choice", value=value)


def _written(parent: ElementTree.Element, name: str, **options: str) -> None:
    _add(parent, "TextArea", name=name, toName=CONVERSATION, maxSubmissions="1", editable="true", **options)


def _add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)
