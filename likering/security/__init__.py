"""Who may call what: certificates, tokens, roles, and one table of every RPC."""
