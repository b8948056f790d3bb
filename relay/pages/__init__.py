"""The gateway's own paths (contract, section 7)."""
