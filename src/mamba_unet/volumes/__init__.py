"""Scans as users have them: files, arrays and other libraries' images to one array with its geometry, and back."""
