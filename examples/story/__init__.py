"""The whole chain, as a laboratory would go it: from scans to a dataset, a model, HR and tables.

``make story`` runs it. Every step is a command of ``srmri``, and its products are read back the way
the next step reads them, and held against the truth that only the story knows: it simulated the
scans.
"""
