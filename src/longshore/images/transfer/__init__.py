"""Images between the store and registries or archives: pull and push, load and save."""
