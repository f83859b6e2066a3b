"""Parts of `srmri_model.upsample`: the plan, the network on whole volumes, trust, the page."""
