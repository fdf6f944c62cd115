"""How fast the simulator is; not part of the installed package."""
