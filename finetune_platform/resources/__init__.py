"""What assets need: each a ConfigurableResource over one library piece. What they do with it belongs in `assets/`."""
