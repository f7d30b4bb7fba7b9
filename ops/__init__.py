"""What keeps the service running: commands, health, metrics and the web server's worker."""
