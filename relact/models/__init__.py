"""Language models: found, loaded, identified, hooked and run. Needs torch and transformers."""
