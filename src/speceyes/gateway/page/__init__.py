"""The page at `/`: what the gateway decides, live."""
