"""The programs that the gateway is compared to."""
