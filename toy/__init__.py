"""The plane: 2-D data, small nets, distances between samples and plots, used by notebooks 01 to 03."""
