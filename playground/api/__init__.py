"""The management API, for scripts and CI: everything the pages do, by the same modules."""
