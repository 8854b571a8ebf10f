"""Library: interactions to an alarm. What production looks like beside a frozen reference, with calibrated evidence."""
