"""The root file system of a container: where it is, what it shows, and paths inside it."""
