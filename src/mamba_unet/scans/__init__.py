"""Scans as users have them: from files, arrays and images of other libraries to one array with its geometry, and back."""
