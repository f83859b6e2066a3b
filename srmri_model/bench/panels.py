def write_panels(results, out): pass
