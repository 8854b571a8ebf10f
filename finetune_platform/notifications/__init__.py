"""library: announcements -> messages that people get."""
