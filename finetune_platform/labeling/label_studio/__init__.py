"""Label Studio as the place where experts label: batches go there, annotations come back. Deciding stays here."""
