"""Turn scans of one animal at two resolutions into paired, reviewed slices."""
