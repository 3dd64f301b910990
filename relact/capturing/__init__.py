"""Model and prompts to a stream of committed blocks. Needs torch.

Order of reading: options (what can be chosen) -> objectives (what of a prompt is attributed) -> prepare
(prompts to what a store starts from) -> pooling (a prompt's tokens to one value) -> transfer (from the device
to a block) -> attributing (a batch forward and back) -> passes (those of a block) -> memory, sizing (what
fits a budget) -> capture (block after block, written while the next is computed) -> forecast (what that will
write and need).
"""
