"""Language models: found, loaded, identified, hooked and run. Needs torch and transformers, but for packaged.

Order of reading: packaged (models that are installed as packages, their licences) -> checkpoints (a name to a
folder of safetensors; gguf decodes a file to one) -> loading (a folder to a model in memory) -> fingerprint
(what a model and a tokenizer compute, as a short name) -> hooks (read or replace what flows past a site),
gradients (and what a log-probability owes it) -> batches (which prompts run together) -> forward (run them)
-> targets (answers as tokens) -> cost (what that takes, beforehand); quiet: transformers without its chatter.
"""
