def write_page(results, out): pass
