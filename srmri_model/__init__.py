"""Score model, samplers and baselines trained on the datasets of `srmri_data`."""
