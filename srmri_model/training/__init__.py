"""The parts a training run is made of; `srmri_model.train` puts them together."""
