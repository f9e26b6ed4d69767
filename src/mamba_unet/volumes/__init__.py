"""Images as users have them: files, arrays and images of other libraries to one array with its geometry, and back."""
