"""What tests share: tiny models, small stores, servers, processes that are killed."""
