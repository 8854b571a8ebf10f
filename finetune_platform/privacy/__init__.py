"""Finding and replacing personal data and secrets in text; curation, logging and reviews share it.

`find` tells where, `redact` and `redact_json` replace. One file a kind of thing finds it, `search.py` decides between
them, `redaction.py` writes the placeholders. What is found and what is not stands in docs/privacy.md. Names of persons
are not searched for here, and what is done with a text before or after is the callers' business.
"""

from finetune_platform.privacy.finding import Finding, Kind
from finetune_platform.privacy.redaction import redact, redact_json
from finetune_platform.privacy.search import find

__all__ = ["Finding", "Kind", "find", "redact", "redact_json"]
