"""Number formats: the ground floor that fake quantization and the exporter share."""
