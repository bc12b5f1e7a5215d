"""List the images that a user names (files, folders, lists, archives, data sets) as an InputSet."""
