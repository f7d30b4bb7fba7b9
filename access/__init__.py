"""Who may do what: credentials, rate limits and quotas."""
