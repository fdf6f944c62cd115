"""First contact: the keys of a scenario explained, one to begin with, and shell completion."""
