"""What runs in a child process: one lane for each kind of preset."""
