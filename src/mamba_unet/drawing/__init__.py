"""What people look at: colours, overlays, charts, HTML."""
