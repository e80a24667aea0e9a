"""The plane: 2-D data, small nets, distances between samples and plots, filled by notebooks 01 to 03."""
