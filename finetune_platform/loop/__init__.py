"""The whole cycle of a task at one glance: where it stands, what it waits for, what it costs."""
