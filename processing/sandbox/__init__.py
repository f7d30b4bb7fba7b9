"""A child process behind walls: its side, its parent's side, the walls."""
