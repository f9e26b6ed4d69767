"""What a run gave, to look at: figures and one self-contained HTML page."""
