"""A package for pytest, so that the browser and the server end with the last of these tests."""
