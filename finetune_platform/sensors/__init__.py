"""When things happen: sensors and schedules, one set a task. What happens belongs in `assets/` and the library."""
